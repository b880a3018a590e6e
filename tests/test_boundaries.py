"""Critics of prefixes, schemes that set the ends of their plans themselves, and how episodes were played."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_named_schemes import NO_VARS, along, clock, seen
from tiers import slow_but

from qchunk import envs, normalise, registry, sampling
from qchunk.actor_configs import FlowConfig, TanhGaussianConfig
from qchunk.actors.flow import flow
from qchunk.actors.lengths import CHUNK, LOG_PROB, with_length
from qchunk.algorithms.learned_k import LearnedK, learned_k
from qchunk.algorithms.qc_prefix import PrefixQC
from qchunk.algorithms.sear import SEAR, sear
from qchunk.config import ChunkConfig, OptimConfig, RolloutConfig, ValueConfig, validate
from qchunk.critics.ensemble import mean, minimum
from qchunk.critics.prefix import PrefixConfig, prefix_q
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.common import assemble, evaluate
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.envs.base import where, wrap
from qchunk.losses.gae import gae, gae_of_plans
from qchunk.losses.plan_length import of_plans, ppo_length
from qchunk.losses.ppo_path import value_mse
from qchunk.losses.td import td_of_prefixes
from qchunk.play import on_device
from qchunk.play.boundaries import where_due
from qchunk.play.execute import parse
from qchunk.sampling import at_random, emit_step, uniform
from qchunk.seeds import for_each
from qchunk.system.errors import UserError
from qchunk.target_networks import target_view
from qchunk.types import LENGTH, PLAN_STEP, Choice, Chunk, Critic, Learner, Module, Plan, Policy, Spec, Vars, view

H, POINTS, N, MEMBERS = 6, (1, 2, 4, 6), 3, 2


def made(network, members=MEMBERS):
    q = prefix_q(PrefixConfig((16,), members=members, network=network, heads=2), H, POINTS)
    params = jax.jit(lambda key: q.modules[0].init(key, Spec(3, 2, H)))(jax.random.key(0))
    return q._replace(values=jax.jit(q.values)), Vars({"critic": params}, {}, {}, {})


@pytest.mark.parametrize("network", ["transformer", "masked"])
def test_a_prefix_is_valued_by_its_own_actions(network):
    q, vars = made(network)
    obs, action = jax.random.normal(jax.random.key(1), (5, 3)), jax.random.uniform(jax.random.key(2), (5, H, 2))
    values = q.values(vars, obs, action)
    assert values.shape == (MEMBERS, 5, len(POINTS))
    for j, n in enumerate(POINTS):
        found = q.values(vars, obs, action.at[:, n:].set(0.7))
        np.testing.assert_allclose(found[..., : j + 1], values[..., : j + 1], rtol=1e-5, atol=1e-6)
        assert (np.abs(found - values)[..., j + 1 :] > 1e-6).all()
    np.testing.assert_allclose(q.score(vars, obs, action), values.min(axis=0)[:, -1], rtol=1e-6)
    many = q.values(vars, obs[:, None], jnp.stack([action, -action], axis=1))  # candidates share the observation
    np.testing.assert_allclose(many[:, :, 0], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", ["transformer", "masked"])
def test_a_shorter_chunk_is_valued_as_the_beginning_of_a_longer_one(network):
    q, vars = made(network)
    short = prefix_q(PrefixConfig((16,), members=MEMBERS, network=network, heads=2), H, POINTS, read=(1, 2))
    obs, action = jax.random.normal(jax.random.key(1), (5, 3)), jax.random.uniform(jax.random.key(2), (5, H, 2))
    found, values = short.values(vars, obs, action[:, :2]), q.values(vars, obs, action)
    np.testing.assert_allclose(found, values[..., :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(short.score(vars, obs, action[:, :2]), values.min(axis=0)[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [None, 2])
def test_targets_under_a_soft_actor_are_of_what_it_plans(length):
    """Every prefix of the data's chunk is worth y_k = R_k + gamma^k m_k Qtarget_h(s_{t+k}, a'), a' the h actions that are planned."""
    critic = PrefixConfig((16,), members=MEMBERS, network="masked")
    c = SEAR(ChunkConfig(H, POINTS), TanhGaussianConfig((16,)), critic, act_horizon=length)
    algorithm, h = sear(c), length or H

    def of_length_alone(p):  # Q of a prefix that depends on nothing but how long it is
        kernel = p["dense_0"]["kernel"].at[:, : 3 + 2 * H].set(0.0)
        return {**p, "dense_0": {**p["dense_0"], "kernel": kernel}}

    learner = jax.jit(lambda key: algorithm.init(key, Spec(3, 2, H), {}))(jax.random.key(0))
    learner = learner._replace(targets={"critic": of_length_alone(learner.targets["critic"])})
    obs = jax.random.normal(jax.random.key(1), (4, 3))
    plan = sampling.act(algorithm.act, view(learner, {}), jax.random.key(2), obs)
    assert plan.action.shape == (4, h, 2) and algorithm.act.length == h
    choice = algorithm.act.choice
    assert choice.points == tuple(n for n in POINTS if n <= h)
    values = choice.values(target_view(view(learner, {})), obs, plan.action)
    assert np.ptp(values, axis=1).max() < 1e-6 and np.ptp(values[:, 0], axis=1).min() > 1e-3
    rng = np.random.default_rng(0)
    reward, discount, weight = (
        rng.normal(size=(4, 4)),
        0.9 * (rng.random((4, 4)) < 0.7),
        1.0 * (rng.random((4, 4)) < 0.7),
    )
    zeros = jnp.zeros((4, 4, 3))
    chunk = Chunk(
        obs, rng.uniform(-1, 1, (4, H, 2)), jnp.ones((4, H)), reward, discount, zeros, weight, jnp.zeros(4), {}
    )
    metrics = jax.jit(algorithm.update)(learner, {}, jax.random.key(3), jax.tree.map(jnp.asarray, chunk))[1]
    target = reward + discount * float(values[:, 0, -1].min())
    np.testing.assert_allclose(metrics["td/target"], np.sum(weight * target) / np.sum(weight), rtol=1e-5)


def test_the_masked_perceptron_against_a_loop():
    q, vars = made("masked", 1)
    obs, action = np.random.default_rng(0).normal(size=(3,)), np.random.default_rng(1).uniform(-1, 1, (H, 2))
    p = jax.tree.map(lambda x: np.asarray(x[0], np.float64), vars.params["critic"])
    for j, n in enumerate(POINTS):
        shown = np.where(np.arange(H)[:, None] < n, action, 0.0)
        x = np.concatenate([obs, shown.reshape(-1), np.eye(len(POINTS))[j]]) @ p["dense_0"]["kernel"]
        x = np.asarray([0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x])
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        found = q.values(vars, jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32))[0, j]
        np.testing.assert_allclose(found, x @ p["head_kernel"][:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_targets_of_prefixes_against_a_loop(joint):
    """y_k = R_k + gamma^k m_k V(s_{t+k}) at every backup point; V is the best of N whole chunks, or of their prefixes."""
    rng, batch, points = np.random.default_rng(0), 4, (1, 3)
    w, target_w = rng.normal(size=(2, MEMBERS, 2))
    obs, next_obs = rng.normal(size=(batch, 1)), rng.normal(size=(batch, 2, 1))
    action, candidates = rng.uniform(-1, 1, (batch, 3, 1)), rng.uniform(-1, 1, (N, 3, 1))
    reward, discount = rng.normal(size=(batch, 2)), 0.9 * (rng.random((batch, 2)) < 0.7)
    weight = (rng.random((batch, 2)) < 0.7) * 1.0

    def number(w, o, a, j):  # Q of member's weights w [2]: of the state and of the sum of the prefix
        return w[j] * np.sum(a[: points[j]]) + o * (j + 1)

    def values(vars, obs, action=None, level=None):
        w = vars.params["critic"]
        sums = jnp.stack([jnp.sum(action[..., :n, :], axis=(-2, -1)) for n in points], axis=-1)
        return w.reshape(MEMBERS, *(1,) * (sums.ndim - 1), 2) * sums + obs[..., :1] * jnp.arange(1, 3)

    longest = lambda *args: jnp.min(values(*args), axis=0)[..., -1]  # noqa: E731
    critic = Critic((Module("critic", None, None),), values, minimum, longest)
    draw = lambda vars, key, obs: jnp.broadcast_to(jnp.arange(N), obs.shape[:-1])  # noqa: E731
    policy = Policy(draw, lambda vars, z, obs, old: Plan(jnp.asarray(candidates, jnp.float32)[z]), emit_step)
    term = td_of_prefixes(critic, policy, N, joint)
    vars = Vars({"critic": jnp.asarray(w)}, {"critic": jnp.asarray(target_w)}, {}, {})
    chunk = Chunk(obs, action, None, reward, discount, next_obs, weight, None, {})
    loss, _ = term.fn(vars, term.draw(jax.random.key(0), chunk), jax.tree.map(jnp.asarray, chunk))

    def v(o):
        each = [[min(number(m, o, c, j) for m in target_w) for j in range(2)] for c in candidates]
        return max(max(q) for q in each) if joint else max(q[-1] for q in each)

    total = count = 0.0
    for b in range(batch):
        for j in range(2):
            y = reward[b, j] + discount[b, j] * v(next_obs[b, j, 0])
            total += weight[b, j] * sum((number(m, obs[b, 0], action[b], j) - y) ** 2 for m in w)
            count += weight[b, j] * MEMBERS
    assert float(loss) == pytest.approx(total / count, rel=1e-4)


RNG = np.random.default_rng(5)
PLANS = RNG.uniform(-1, 1, (20, N, H, 1)).astype(np.float32)  # by time
VALUES = RNG.normal(size=(20, MEMBERS, N, len(POINTS))).astype(np.float32)
GAMMA = 0.8


def chooser(aggregate=mean, table=VALUES):
    """Plans and values of a table of times, the observation being the time."""

    def draw(vars, key, obs):
        return jnp.broadcast_to(jnp.arange(obs.shape[-2]) % N, obs.shape[:-1])

    def values(vars, obs, action=None, level=None):
        return jnp.moveaxis(jnp.asarray(table)[obs[:, 0, 0].astype(int)], 1, 0)

    one = Policy(draw, lambda vars, z, obs, old: Plan(jnp.asarray(PLANS)[obs[..., 0].astype(int), z]), emit_step)
    return one._replace(choice=Choice(one, N, values, aggregate, POINTS, GAMMA))


def longest_safe(q, tolerance, cost, pessimism):
    best = int(np.argmax(q.mean(axis=0)[:, -1]))
    sure = [q[:, best, j].mean() - pessimism * q[:, best, j].std() for j in range(len(POINTS))]
    near = max(sure) - tolerance * q.mean(axis=0)[:, -1].std() - cost
    return best, max(j for j in range(len(POINTS)) if sure[j] >= near)


def highest(score):
    found = [(score[n, j], n, j) for n in range(N) for j in range(len(POINTS))]
    return max(found)[1:]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("argmax-k", lambda q: highest(q.mean(axis=0))),
        (
            "advantage-k",
            lambda q: highest((q.mean(axis=0) - q.mean(axis=0).mean(axis=0)) / GAMMA ** np.asarray(POINTS)),
        ),
        ("longest-safe:0.3,0.1,0.7", lambda q: longest_safe(q, 0.3, 0.1, 0.7)),
        ("longest-safe:0,0,0", lambda q: longest_safe(q, 0.0, 0.0, 0.0)),
        ("longest-safe:1e9", lambda q: (int(np.argmax(q.mean(axis=0)[:, -1])), len(POINTS) - 1)),
    ],
)
def test_boundaries_by_a_critic_against_a_loop(name, rule):
    """In two environments, whose second begins a new episode at step 9."""
    found = along(parse(name, H).scheme(chooser()), clock(20), fresh=(9,))[:, 0, 0]
    wanted, t = [], 0
    while t < 20:
        n, j = rule(VALUES[t].astype(np.float64))
        end = min(t + POINTS[j], 9 if t < 9 else 20)
        wanted += list(PLANS[t, n, : end - t, 0])
        t = end
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["argmax-k", "advantage-k", "longest-safe:0.3,0.1,0.7", "sampled-k"])
def test_a_candidate_without_a_value_is_not_there(name):
    """One prefix of candidate 1 is worth NaN: it is never played, and the others are as if the first one were drawn twice."""
    lost, twice = VALUES.copy(), VALUES.copy()
    lost[:, 1, 1, 2] = np.nan
    twice[:, :, 1] = VALUES[:, :, 0]
    found, wanted = (along(parse(name, H).scheme(chooser(table=t)), clock(20)) for t in (lost, twice))
    np.testing.assert_array_equal(found, wanted)


def lengths(name, policy, envs=4000):
    """How far the plans of ``envs`` environments at their start will be played."""
    scheme, obs = parse(name, H).scheme(policy), jnp.zeros((envs, 1))
    carry = scheme.init(NO_VARS, jax.random.key(0), seen(obs))
    carry, plan = jax.jit(scheme.decide)(NO_VARS, jax.random.key(1), seen(obs), carry)
    assert (plan.extras[PLAN_STEP] == 0).all() and (carry.age == 1).all()
    return 1 + np.asarray(carry.old.left.sum(axis=-1)).astype(int)


def test_a_prefix_is_drawn_by_its_value():
    q = VALUES[0].mean(axis=0)
    best = q[np.argmax(q[:, -1])]
    wanted = 0.8 * np.exp(best / 2) / np.exp(best / 2).sum() + 0.2 / len(POINTS)
    found = lengths("sampled-k:2,0.2", chooser())
    np.testing.assert_allclose([(found == n).mean() for n in POINTS], wanted, atol=0.03)
    dice = lengths("random-k", chooser())
    np.testing.assert_allclose([(dice == n).mean() for n in range(1, H + 1)], 1 / H, atol=0.03)
    assert (dice[:256] != dice[256:512]).any(), "blocks of environments draw by themselves"


def test_only_what_is_due_is_worked_on():
    """Blocks of 64 of 300 rows: the same as a select over all, and as many calls as it takes."""
    rows, calls = jnp.arange(300.0), []
    for share in (0.0, 0.1, 0.5, 1.0):
        due = jnp.asarray(np.random.default_rng(0).random(300) < share)
        fn = lambda i, x: (jax.debug.callback(lambda: calls.append(1)), {"a": x**2, "b": -x})[1]  # noqa: E731
        otherwise = {"a": rows, "b": rows}
        calls.clear()
        found = jax.jit(lambda due, fn=fn: where_due(due, fn, rows, otherwise, 64))(due)
        jax.effects_barrier()
        assert len(calls) == -(-int(due.sum()) // 64)
        for name, x in where(due, {"a": rows**2, "b": -rows}, otherwise).items():
            np.testing.assert_array_equal(found[name], x)


def test_experience_says_where_plans_begin():
    env = envs.make("probe/constant")
    policy = Policy(
        lambda vars, key, obs: (),
        lambda vars, z, obs, old: Plan(jnp.zeros((*obs.shape[:-1], H, env.action_size))),
        emit_step,
    )
    scheme = parse("random-k", H).scheme(policy)
    steps = on_device.rollout(wrap(env), scheme, NO_VARS, jax.random.key(0), 60, None, 4)[1]
    at, done = np.asarray(steps.extras[PLAN_STEP]), np.asarray(jnp.maximum(steps.terminal, steps.truncation))
    for e in range(4):
        for t in range(1, 60):
            assert at[t, e] == 0 or (at[t, e] == at[t - 1, e] + 1 and not done[t - 1, e])
    assert at.max() <= H - 1 and 0.1 < (at == 0).mean() < 0.9
    data = formats.to_device(formats.of_steps(jax.tree.map(np.asarray, steps._replace(success=None))))
    assert len(data.decisions) == (at == 0).sum()


def test_a_policy_in_units_is_chosen_in_units():
    """The critic of prefixes sees observations as it learned them; random actions are chosen among, too."""
    policy, seen_obs = chooser(), []
    valued = policy.choice.values
    spy = lambda vars, obs, action=None, level=None: (seen_obs.append(obs), valued(vars, obs * 0, action))[1]  # noqa: E731
    policy = policy._replace(choice=policy.choice._replace(values=spy))
    algorithm = registry.builder("bc")[0](registry.builder("bc")[1](actor=FlowConfig((8,))))._replace(act=policy)
    units = {"obs": normalise.identity(1)._replace(shift=jnp.asarray([3.0])), "action": normalise.identity(1)}
    vars = NO_VARS._replace(stats={normalise.STATS: units})
    choice = normalise.normalised(algorithm).act.choice
    choice.values(vars, jnp.full((2, 1, 1), 5.0), jnp.zeros((2, N, H, 1)))
    np.testing.assert_array_equal(seen_obs[-1], 2.0)
    random = uniform(policy)
    assert random.choice.policy.plan is random.plan and random.choice.values is spy


def test_random_plans_are_from_the_whole_range():
    """Of a policy's form, played as they are, whole, and with nothing in their extras."""
    actor = chooser()
    told = actor._replace(
        plan=lambda vars, z, obs, old: Plan(jnp.zeros((*obs.shape[:-1], H, 1)), {LENGTH: jnp.ones(obs.shape[:-1], int)}),
        emit=None, ends=True, pulled=True, committed=2,
    )  # fmt: skip
    policy, obs = uniform(told), jnp.zeros((200, 1))
    noise = policy.draw(NO_VARS, jax.random.key(0), obs)
    plan = policy.plan(NO_VARS, noise, obs, None)
    assert plan.action.shape == (200, H, 1) and -1 <= plan.action.min() < -0.98 and 0.98 < plan.action.max() <= 1
    np.testing.assert_allclose(plan.action.mean(), 0.0, atol=0.08)
    np.testing.assert_array_equal(plan.extras[LENGTH], 0)
    assert policy.emit is emit_step and not (policy.ends or policy.pulled or policy.committed)


@pytest.mark.parametrize("name", ["argmax-k", "advantage-k", "longest-safe:0.1", "sampled-k"])
def test_a_critic_has_no_say_in_random_plans(name):
    """It likes what is large; of three uniform candidates the best by it would be 0.2 in the mean."""
    one = chooser()
    worth = lambda vars, obs, action: jnp.cumsum(action[..., 0], axis=-1)[None, ..., np.asarray(POINTS) - 1]  # noqa: E731
    one = one._replace(choice=one.choice._replace(values=worth))
    scheme, obs = parse(name, H).scheme(at_random(uniform(one), one)), seen(jnp.zeros((2000, 1)))
    carry = scheme.init(NO_VARS, jax.random.key(0), obs)
    plan = jax.jit(scheme.decide)(NO_VARS, jax.random.key(1), obs, carry)[1]
    np.testing.assert_allclose(plan.action.mean(), 0.0, atol=0.04)


def test_who_has_no_opinion_of_prefixes_says_so():
    plain = chooser()._replace(choice=None)
    for name in ("argmax-k", "longest-safe:0.1", "sampled-k", "advantage-k"):
        with pytest.raises(UserError, match=f"--execute {name.partition(':')[0]} asks a critic of prefixes.*qc-prefix"):
            parse(name, H).scheme(plain)
    with pytest.raises(UserError, match="-1 in --execute longest-safe:-1 is out of range"):
        parse("longest-safe:-1", H)


def test_who_draws_one_candidate_has_none_to_compare():
    """Its advantage over the mean of itself is 0 at every length, so that the shortest was always played."""
    alone = chooser()._replace(choice=chooser().choice._replace(n=1))
    with pytest.raises(UserError, match="--execute advantage-k compares candidates, and this policy draws one"):
        parse("advantage-k", H).scheme(alone)
    for name in ("argmax-k", "longest-safe:0.1", "sampled-k"):
        parse(name, H).scheme(alone)


def test_mistakes_of_a_critic_of_prefixes():
    for c, line in [
        (PrefixQC(ChunkConfig(5, (1, 3))), "--chunk.backup ends at 3. let it end at the horizon, 5"),
        (SEAR(ChunkConfig(5, (1, 3))), "--chunk.backup ends at 3. let it end at the horizon, 5"),
        (
            SEAR(ChunkConfig(5, (1, 5)), act_horizon=2),
            "first 2 actions are not valued. let --act-horizon be one of 1 5",
        ),
        (PrefixQC(critic=PrefixConfig((16, 32))), "--critic.hidden 16 32 does not fit a transformer of 4 heads"),
        (PrefixQC(critic=PrefixConfig((18,))), "give equal multiples of 4, or --critic.network masked"),
        (PrefixQC(critic=PrefixConfig(heads=0)), "--critic.heads 0"),
        (PrefixQC(critic=PrefixConfig(activation="relu")), "--critic.activation relu has no effect: a transformer has"),
        (SEAR(critic=PrefixConfig(norm_first=True)), "--critic.norm-first True .* give --critic.network masked"),
    ]:
        with pytest.raises(UserError, match=line):
            validate(c)
    validate(PrefixQC(critic=PrefixConfig((18, 7), network="masked", activation="relu")))


def test_how_episodes_are_played_against_a_loop():
    """Looks, plans, and changes of the action where plans begin and inside, of receding:2 and of random-k."""
    env = envs.make("probe/pursuit")
    size = env.action_size

    def plan(vars, z, obs, old):
        wave = jnp.sin(jnp.arange(1.0, H * size + 1)).reshape(H, size)
        return Plan(wave * jnp.cos(7 * obs[..., :1])[..., None])

    policy, count = Policy(lambda vars, key, obs: (), plan, emit_step), 3
    for name in ("receding:2", "random-k", "receding:4"):
        scheme = parse(name, H).scheme(policy)
        found = jax.jit(
            lambda scheme=scheme: on_device.episodes(wrap(env), scheme, NO_VARS, jax.random.key(0), count)
        )()
        *first, key = jax.random.split(jax.random.key(0), 3)
        loop = on_device.begin(wrap(env), scheme, NO_VARS, first, count, in_turn=True)
        decisions = -(-100 // scheme.steps)
        keys = jnp.stack([jax.random.fold_in(key, i) for i in range(decisions)])
        sim, player = on_device.simulator(wrap(env), restarts=False), on_device.player(scheme, NO_VARS)
        steps = jax.jit(lambda loop, keys: on_device.playing.rollout(sim, player, keys, loop)[1])(loop, keys)
        at, alive, action = (np.asarray(x) for x in (steps.extras[PLAN_STEP], steps.alive, steps.action))
        for e in range(count):
            changes = {True: [], False: []}
            for t in range(1, len(at)):
                if alive[t, e]:
                    changes[at[t, e] == 0].append(np.abs(action[t, e] - action[t - 1, e]).mean())
            m = jax.tree.map(lambda x, e=e: float(x[e]), found.manner)
            assert m.plans == m.looks == (alive[:, e] * (at[:, e] == 0)).sum()
            assert (m.jumps, m.changes) == (len(changes[True]), len(changes[False]))
            assert m.jump == pytest.approx(sum(changes[True]), rel=1e-4)
            assert m.change == pytest.approx(sum(changes[False]), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "delay"), [("receding:2", 1), ("receding:1", 3), ("supported:2,0.05,1", 2), ("supported:2,0.05,2", 3)]
)
def test_plans_that_are_late_begin_where_they_take_over(name, delay):
    """Every plan says one number all along, so that the action changes where another one takes over, and there alone."""
    env = wrap(envs.make("probe/constant"))  # an observation tells the time, in tenths; episodes of 10 steps

    def plan(vars, z, obs, old):
        t = jnp.round(10 * obs[..., 0])
        return Plan(jnp.broadcast_to((0.2 * jnp.floor(t / 4) + 0.003 * t)[..., None, None], (*t.shape, 8, 1)))

    scheme = parse(name, 8, delay).scheme(Policy(lambda vars, key, obs: jnp.zeros(obs.shape[:-1]), plan, emit_step))
    steps = on_device.rollout(env, scheme, NO_VARS, jax.random.key(0), 10 // scheme.steps, None, 2)[1]
    changes = np.abs(np.diff(steps.action[..., 0], axis=0))
    m = on_device.episodes(env, scheme, NO_VARS, jax.random.key(0), 2).manner
    assert (changes > 0).any() and (m.changes > 0).any()
    np.testing.assert_allclose(m.change, 0.0, atol=1e-6)
    np.testing.assert_array_equal(m.jumps, (changes > 0).sum(axis=0))
    np.testing.assert_array_equal(m.plans, m.jumps + 1)
    np.testing.assert_allclose(m.jump, changes.sum(axis=0), rtol=1e-5)


def test_advantages_of_plans_of_any_length_against_a_loop():
    """Sums over each plan's steps, its product of discounts, and the next plan's advantage; nothing passes an episode's end."""
    rng, t_max, lam = np.random.default_rng(0), 40, 0.8
    reward, value, next_value = rng.normal(size=(3, t_max, 2))
    last = (rng.random((t_max, 2)) < 0.1) * 1.0
    discount = 0.9 * (1 - last * (rng.random((t_max, 2)) < 0.5))
    begins = (rng.random((t_max, 2)) < 0.4) * 1.0
    begins[0] = 1.0
    begins[1:] = np.maximum(begins[1:], last[:-1])
    advantage, target = gae_of_plans(*map(jnp.asarray, (reward, discount, value, next_value, last, begins)), lam)
    for e in range(2):
        after = 0.0
        starts = [t for t in range(t_max) if begins[t, e]]
        for start, end in reversed(list(zip(starts, [*starts[1:], t_max], strict=True))):
            gain, product = 0.0, 1.0
            for t in range(start, end):
                gain, product = gain + product * reward[t, e], product * discount[t, e]
            ended = last[end - 1, e]
            after = gain + product * (next_value[end - 1, e] + lam * (1 - ended) * after) - value[start, e]
            assert float(advantage[start, e]) == pytest.approx(after, rel=1e-4, abs=1e-5)
            assert float(target[start, e]) == pytest.approx(after + value[start, e], rel=1e-4, abs=1e-5)
    ones = jnp.ones((t_max, 2))
    plain = gae(*map(jnp.asarray, (reward, discount, value, next_value, last)), lam)
    found = gae_of_plans(*map(jnp.asarray, (reward, discount, value, next_value, last)), ones, lam)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


LOGITS = np.asarray([[0.3, -0.2, 0.5], [1.0, 0.0, -1.0], [0.1, 0.9, 0.2], [-0.5, 0.4, 0.0]])
HEAD = Module("lengths", None, lambda params, obs, action: params * obs)  # logits are what is seen


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def test_a_plan_comes_with_its_length_and_the_chance_of_it():
    plans = jax.random.uniform(jax.random.key(0), (4, 3, 1))
    prior = Policy(lambda vars, key, obs: (), lambda vars, z, obs, old: Plan(plans), emit_step)
    vars, obs = NO_VARS._replace(params={"lengths": jnp.ones(())}), jnp.asarray(LOGITS)
    for drawn in (False, True):
        policy = with_length(prior, HEAD, drawn)
        noise = policy.draw(vars, jax.random.key(1), obs)
        made = policy.plan(vars, noise, obs, None)
        index = np.argmax(LOGITS + drawn * np.asarray(noise[1]), axis=1)
        np.testing.assert_array_equal(made.extras[LENGTH], index + 1)
        chances = [log_softmax(row)[i] for row, i in zip(LOGITS, index, strict=True)]
        np.testing.assert_allclose(made.extras[LOG_PROB], chances, rtol=1e-5)
        np.testing.assert_array_equal(made.extras[CHUNK], plans)
        assert policy.ends and (made.action == plans).all()
    assert (index != np.argmax(LOGITS, axis=1)).any()


def test_the_surrogate_of_lengths_counts_where_plans_begin():
    """Advantages are standardised, ratios bounded and entropies averaged over the rows in which a plan begins; by a loop."""
    weight, length, old, advantage = [1, 0, 1, 1], [1, 3, 2, 3], [-1.0, -9.0, -1.0, -1.0], [2.0, 50.0, -1.0, 0.5]
    extras = {CHUNK: jnp.zeros((4, 3, 1)), LENGTH: jnp.asarray(length), LOG_PROB: jnp.asarray(old)}
    extras["advantage"] = jnp.asarray(advantage)
    chunk = Chunk(jnp.asarray(LOGITS), *[None] * 5, jnp.asarray(weight, jnp.float32)[:, None], None, extras)
    vars = NO_VARS._replace(params={"lengths": jnp.ones(())})
    loss, metrics = ppo_length(HEAD, 0.2, 0.1).fn(vars, (), chunk)
    rows = [b for b in range(4) if weight[b]]
    mean, std = (f([advantage[b] for b in rows]) for f in (np.mean, lambda x: np.std(x, ddof=1)))
    total = spread = 0.0
    for b in rows:
        chances, a = log_softmax(LOGITS[b]), (advantage[b] - mean) / std
        ratio = np.exp(chances[length[b] - 1] - old[b])
        total += max(-a * ratio, -a * np.clip(ratio, 0.8, 1.2)) / 3
        spread -= (np.exp(chances) * chances).sum() / 3
    np.testing.assert_allclose(loss, total - 0.1 * spread, rtol=1e-5)
    np.testing.assert_allclose((metrics["entropy"], metrics["length"]), (spread, 2.0), rtol=1e-5)


def test_a_look_is_paid_for_and_valued_where_a_plan_begins():
    """Four steps that earn 1 each, plans from the first and from the third on, values of 0: what each plan earns, less its own price."""
    state = Critic(
        (), lambda vars, obs, *rest: jnp.zeros((1, *obs.shape[:-1])), None, lambda vars, obs, *rest: obs[..., 0]
    )
    none, one = jnp.zeros((4, 1)), jnp.ones((4, 1))
    extras = {PLAN_STEP: jnp.asarray([0, 1, 0, 1])[:, None]}
    chunk = Chunk(
        none[..., None], None, None, one[..., None], one[..., None], none[..., None, None], None, none, extras
    )
    learner = Learner({}, {}, {}, (), jnp.zeros((), jnp.int32))
    _, told = of_plans(state, 1.0, 0.5)(learner, {}, jax.random.key(0), chunk)
    begins = np.asarray([0, 2])
    np.testing.assert_allclose(told.extras["advantage"][begins, 0], [3.0, 1.5])
    np.testing.assert_array_equal(told.weight[:, 0, 0], [1, 0, 1, 0])
    loss = value_mse(state).fn(NO_VARS, (), jax.tree.map(lambda x: x[:, 0], told))[0]
    np.testing.assert_allclose(loss, (3.0**2 + 1.5**2) / 4)  # half the squares, a mean over both


def test_lengths_wait_for_the_critic():
    """In the first two of three updates the value of states moves alone."""
    c = LearnedK(FlowConfig((8,), steps=1), ChunkConfig(3), ValueConfig((8,)), ValueConfig((8,)), critic_updates=2)
    algorithm, ones = learned_k(c), jnp.ones(4)
    state = algorithm.init(jax.random.key(0), Spec(3, 1, 3), {})
    extras = {CHUNK: jnp.zeros((4, 3, 1)), LENGTH: jnp.asarray([1, 2, 3, 1]), LOG_PROB: -ones}
    extras |= {"advantage": jnp.asarray([2.0, -1.0, 0.5, 0.0]), "return": 3 * ones}
    chunk = Chunk(jnp.asarray(LOGITS), *[None] * 5, ones[:, None], None, extras)
    update, moved = jax.jit(algorithm.update), []
    for _ in range(3):
        after, _ = update(state, {}, jax.random.key(1), chunk)
        same = {n: jax.tree.map(jnp.array_equal, p, state.params[n]) for n, p in after.params.items()}
        moved.append({n: not all(jax.tree.leaves(found)) for n, found in same.items()})
        state = after
    assert moved == [{"lengths": False, "state_value": True}] * 2 + [{"lengths": True, "state_value": True}]


def test_explained_variance_is_of_what_counts():
    """Of returns 1, 2 and 6 values 1, 3 and 5 leave a variance of 2 / 3 of 14 / 3; a row in which no plan begins has no return."""
    values = jnp.asarray([1.0, 3.0, -70.0, 5.0])
    state = Critic((), lambda vars, obs, *rest: jnp.stack([values - 1, values + 1]), None, None)
    told = {"return": jnp.asarray([1.0, 2.0, 50.0, 6.0])}
    chunk = Chunk(jnp.zeros((4, 1)), *[None] * 5, jnp.asarray([1.0, 1.0, 0.0, 1.0])[:, None], None, told)
    _, metrics = value_mse(state).fn(NO_VARS, (), chunk)
    np.testing.assert_allclose(metrics["explained_variance"], 1 - 2 / 14, rtol=1e-5)


@pytest.mark.parametrize("cost", slow_but([2.0], [0.0, 2.0]))
def test_plans_grow_long_where_looks_have_a_price(cost):
    """A prior that knows nothing: its lengths stay about even where a look is free, and become the longest where it is dear."""
    env, prior = envs.make("probe/pursuit"), FlowConfig((8,), steps=1)
    c = LearnedK(prior, ChunkConfig(4), ValueConfig((16,)), ValueConfig((16,)), cost=cost, optim=OptimConfig(3e-3))
    c = dataclasses.replace(c, rollout=RolloutConfig(32, 32, 4, 4, scale_rewards=False))
    spec = Spec(env.observation_size, env.action_size, 4)
    given = for_each(1, {"actor": flow(prior).modules[0].init(jax.random.key(0), spec)})
    s = OnPolicySettings(online_steps=32 * 32 * 25, log_every=32 * 32 * 5, eval_every=32 * 32 * 25, episodes=8)
    found = list(train(learned_k, c, given=given, env=env, settings=s))
    drawn = [float(e.values["policy/length"][0]) for e in found if e.kind == "train"][-1]
    assert drawn > 3.5 if cost else 1.5 < drawn < 3.4, drawn
    program, x = assemble(learned_k, c, env, s, given)
    figures = evaluate(program, x, s, found[-1].learner)
    np.testing.assert_allclose(figures["looks"], figures["plans"])
    assert cost == 0 or float(figures["length"][0] / figures["plans"][0]) > 3.5
