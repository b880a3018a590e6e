"""Ensembles, coherent choices and real-time chunking: against published arrays, slow loops, and worked by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from tiers import as_users_compile

from qchunk import coherence, envs, improve, sampling
from qchunk.actor_configs import DiffusionConfig, FlowConfig, GaussianConfig
from qchunk.actors import actor, paths
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.config import ChunkConfig, OptimConfig
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.offline import OfflineSettings
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import State, wrap
from qchunk.envs.probes import bandit
from qchunk.play import collecting, on_device
from qchunk.play.execute import parse
from qchunk.play.on_device import rollout
from qchunk.play.program import reads
from qchunk.play.schemes import soft_mask
from qchunk.sampling import emit_step
from qchunk.seeds import one
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Old, Plan, Policy, Pull, Spec, Vars, view

GOLDEN = np.load(Path(__file__).parent / "golden" / "temporal_ensemble.npz")
H, A, NO_VARS = 6, 2, collecting.NO_VARS
SPEC = Spec(3, A, H)
ACTORS = {"flow": FlowConfig((16,), steps=3), "diffusion": DiffusionConfig((16,), steps=3)}
S = OfflineSettings(offline_steps=1, batch=4, episodes=3)
C = BC(ChunkConfig(H), ACTORS["flow"], OptimConfig(1e-3))


def seen(obs):
    return State(None, obs, jnp.zeros(obs.shape[0]), jnp.zeros(obs.shape[0]))


def told(chunks):
    """Plans chunks[t] [T, H, A] in every environment; the observation is t."""

    def plan(vars, noise, obs, old):
        return Plan(jnp.asarray(chunks)[obs[..., 0].astype(int)])

    return Policy(lambda vars, key, obs: (), plan, emit_step)


def along(scheme, obs, fresh=(), vars=NO_VARS):
    """What a scheme plays along observations [T, E, O], by the player of the device; ``fresh`` decisions begin episodes."""
    player, decisions = on_device.player(scheme, vars), range(0, len(obs), scheme.steps)
    keys = jax.random.split(jax.random.key(0), len(obs) + 1)
    carry, actions, alive = scheme.init(vars, keys[-1], seen(obs[0])), [], jnp.ones(obs.shape[1], bool)
    decide, act = jax.jit(player.decide), jax.jit(player.act)
    for t in decisions:
        new = jnp.full(obs.shape[1], t in fresh)
        carry, plan = decide(keys[t], seen(obs[t]), new, carry)
        actions += [act(i, seen(obs[min(t + i, len(obs) - 1)]), plan, alive) for i in range(scheme.steps)]
    return np.asarray(actions)[: len(obs)]


def clock(steps, envs=2):
    return jnp.broadcast_to(jnp.arange(float(steps))[:, None, None], (steps, envs, 1))


@pytest.mark.parametrize(
    ("chunks", "action", "name"),
    [
        ("T4/chunks", "T4/action", "ensemble:0.01"),
        ("T8_gain0.5/chunks", "T8_gain0.5/action", "ensemble:0.5"),
        ("T4_every3/chunks", "T4_every3/action", "ensemble:0.01,3"),
        ("act/chunks", "act/action", "ensemble:0.01"),
        ("act/chunks", "lerobot/coeff0.0/action", "ensemble:0"),
        ("act/chunks", "lerobot/coeff-0.1/action", "ensemble:-0.1"),
    ],
)
def test_temporal_ensembles_of_published_code(chunks, action, name):
    chunks = GOLDEN[chunks] / 8  # policies plan within [-1, 1]; a mean scales along
    scheme = parse(name, chunks.shape[1]).scheme(told(chunks))
    found = along(scheme, clock(len(chunks)))
    for e in range(2):
        np.testing.assert_allclose(8 * found[:, e], GOLDEN[action], atol=2e-6)


def test_an_ensemble_keeps_what_is_0_and_forgets_at_an_episodes_end():
    """A predicted 0 counts; at step 4 an episode begins, and no older plan is heard. Against a loop over plans."""
    rng = np.random.default_rng(0)
    chunks = rng.uniform(-1, 1, (9, H, A)) * (rng.random((9, H, A)) < 0.5)
    found = along(parse("ensemble:0.3", H).scheme(told(chunks)), clock(9), fresh=(0, 4))
    for t in range(9):
        first = max(t - H + 1, 4 if t >= 4 else 0)
        said = np.stack([chunks[made][t - made] for made in range(first, t + 1)])
        weight = np.exp(-0.3 * np.arange(len(said)))
        np.testing.assert_allclose(found[t, 0], weight @ said / weight.sum(), atol=1e-6)


def test_the_coherent_choice_against_a_loop():
    """Of 5 samples the nearest to what is left of the last plan, by BID's weights; the first where nothing is left."""
    rng = np.random.default_rng(1)
    noise = rng.uniform(-1, 1, (3, 5, H, A)).astype(np.float32)  # [E, N, H, A]
    policy = Policy(lambda vars, key, obs: None, lambda vars, z, obs, old: Plan(z, {"first": z[..., 0, 0]}), emit_step)
    near = coherence.coherent(policy, 5, 0.5)
    old = rng.uniform(-1, 1, (3, H, A)).astype(np.float32)
    left = np.asarray([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6], np.float32)
    plan = near.plan(NO_VARS, jnp.asarray(noise), jnp.zeros((3, 1)), Old(Plan(jnp.asarray(old)), jnp.asarray(left)))
    for e in range(3):
        costs = []
        for n in range(5):
            weight = [0.5**i for i in range(H) if left[e, i]]
            apart = [np.sqrt(np.sum((noise[e, n, i] - old[e, i]) ** 2)) for i in range(H) if left[e, i]]
            costs.append(np.dot(weight, apart) / sum(weight) if weight else 0.0)
        np.testing.assert_array_equal(plan.action[e], noise[e, np.argmin(costs)])
        assert plan.extras["first"][e] == noise[e, np.argmin(costs), 0, 0]


NONE_LEFT, SOME_LEFT = np.zeros((3, H), np.float32), np.asarray([[1, 1, 1, 1, 0, 0]] * 3, np.float32)


@pytest.mark.parametrize("left", [NONE_LEFT, SOME_LEFT], ids=["start", "later"])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", ["coherent", "contrast", "supporter", "unsupported"])
def test_a_plan_that_is_no_number_is_not_among_the_candidates(name, place, left):
    """What is chosen is chosen among the others, and a contrast is to the others of both policies."""
    rng = np.random.default_rng(2)
    strong, weak, old = (rng.uniform(-1, 1, (3, n, H, A)).astype(np.float32) for n in (6, 6, 1))
    policy = Policy(lambda vars, key, obs: None, lambda vars, z, obs, old: Plan(z), emit_step)
    rule = {
        "coherent": lambda n: coherence.coherent(policy, n, 0.5),
        "contrast": lambda n: coherence.contrasted(policy, policy, n, 0.5),
        "supporter": lambda n: coherence.supporter(policy, n, 1.5),
        "unsupported": lambda n: coherence.supporter(policy, n, 1e-3),
    }[name]
    lost = [np.insert(x, place, np.nan, axis=1) for x in (strong, weak)]

    def plan(n, noise):
        noise = jax.tree.map(jnp.asarray, tuple(noise) if name == "contrast" else noise[0])
        return rule(n).plan(NO_VARS, noise, jnp.zeros((3, 1)), Old(Plan(jnp.asarray(old[:, 0])), jnp.asarray(left)))

    np.testing.assert_array_equal(plan(7, lost).action, plan(6, (strong, weak)).action)


def test_the_contrast_against_a_loop():
    """Of 7 samples the least sum of the distance from the old plan and from one's own two nearest to it, less that from the weaker's two."""
    rng, n = np.random.default_rng(2), 7
    strong, weak = (rng.uniform(-1, 1, (3, n, H, A)).astype(np.float32) for _ in range(2))  # [E, N, H, A]
    policy = Policy(lambda vars, key, obs: None, lambda vars, z, obs, old: Plan(z, {"first": z[..., 0, 0]}), emit_step)
    both = coherence.contrasted(policy, policy, n, 0.5)
    old = rng.uniform(-1, 1, (3, H, A)).astype(np.float32)
    left = np.asarray([[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6], np.float32)
    noise = (jnp.asarray(strong), jnp.asarray(weak))
    norm = lambda x: np.sqrt((x**2).sum(axis=-1))  # noqa: E731
    for known in (Old(Plan(jnp.asarray(old)), jnp.asarray(left)), None):
        plan = both.plan(NO_VARS, noise, jnp.zeros((3, 1)), known)
        for e in range(3):
            weight = 0.5 ** np.arange(H) * (left[e] if known else 0)
            behind = lambda a, e=e, w=weight: (w * norm(a - old[e])).sum(axis=-1) / max(w.sum(), 1e-9)  # noqa: E731
            kept = 2 if known and left[e].any() else n
            near, far = (a[np.argsort(behind(a), kind="stable")[:kept]] for a in (strong[e], weak[e]))
            costs = [
                behind(a) + norm(a - near).mean(axis=-1).mean() - norm(a - far).mean(axis=-1).mean() for a in strong[e]
            ]
            np.testing.assert_array_equal(plan.action[e], strong[e, np.argmin(costs)])
            assert plan.extras["first"][e] == strong[e, np.argmin(costs), 0, 0]


@pytest.mark.parametrize("in_plan", [False, True])
def test_a_contrast_leaves_what_the_weaker_policy_does(in_plan):
    """A policy that says -1 or 1 by chance and a weaker one that says -1 alone: what is played is 1, where a sample has it.

    Which it is depends on what was learned while noise is drawn, or while plans are made.
    """

    def side(vars, u):
        return jnp.where(u < vars.params["low"], -1.0, 1.0)

    def draw(vars, key, obs):
        u = jax.random.uniform(key, obs.shape[:-1])
        return u if in_plan else side(vars, u)

    def plan(vars, z, obs, old):
        said = side(vars, z) if in_plan else z
        return Plan(jnp.broadcast_to(said[..., None, None], (*z.shape, H, 1)))

    coin = Policy(draw, plan, emit_step)
    vars, weaker = (NO_VARS._replace(params={"low": jnp.asarray(p)}) for p in (0.5, 1.0))
    scheme = parse("contrast:16", H).scheme(coin)
    found = along(scheme, clock(6, 8), vars=vars._replace(given={"weaker": weaker}))
    np.testing.assert_array_equal(found, 1.0)
    with pytest.raises(UserError, match="no weaker policy to differ from.*--weaker"):
        along(scheme, clock(6, 8), vars=vars)


def test_without_noise_plans_are_what_noise_0_makes():
    """A plan of the observation and noise; and a Gaussian's best of three, which is its mean."""

    def draw(vars, key, obs):
        return jax.random.normal(key, obs.shape[:-1])

    def plan(vars, noise, obs, old):
        said = obs[..., 0] / 20 + noise
        return Plan(jnp.broadcast_to(said[..., None, None], (*said.shape, H, 1)))

    policy, obs = Policy(draw, plan, emit_step), clock(12, 3)
    found, drawn = (along(parse(name, H).scheme(policy), obs)[..., 0] for name in ("zero-noise", "open-loop"))
    np.testing.assert_allclose(found, np.repeat([[0.0], [6 / 20]], H, axis=0).repeat(3, axis=1), atol=1e-6)
    assert np.std(drawn[0]) > 0.05, "noise counts"
    gaussian = actor(GaussianConfig((8,)))
    vars = Vars({m.name: m.init(jax.random.key(1), SPEC) for m in gaussian.modules}, {}, {}, {})
    best = improve.best_of_n(sampling.sample(gaussian), lambda vars, obs, action: action[..., 0, 0], 3)
    obs = jnp.ones((H, 2, 3))
    found = along(parse("zero-noise", H).scheme(best), obs, vars=vars)
    mean = gaussian.denoise(vars, obs[0], jnp.zeros((2, H, A)), 0)
    np.testing.assert_allclose(found, jnp.swapaxes(mean, 0, 1), atol=1e-6)


def test_coherence_commits_to_one_of_two_modes():
    """Plans of -1 or 1 by chance, looked at again at every step: alone they change, coherent ones never do."""

    def draw(vars, key, obs):
        return jnp.where(jax.random.bernoulli(key, shape=obs.shape[:-1]), 1.0, -1.0)

    coin = Policy(
        draw, lambda vars, z, obs, old: Plan(jnp.broadcast_to(z[..., None, None], (*z.shape, H, 1))), emit_step
    )
    plain, held = (along(parse(s, H).scheme(coin), clock(12, 8)) for s in ("receding:1", "coherent:16"))
    assert (np.diff(plain, axis=0) != 0).any(axis=0).all()
    assert (np.diff(held, axis=0) == 0).all() and len(np.unique(held)) == 2


def test_a_plan_goes_on_while_a_sample_agrees():
    """By a loop over one environment's steps: 4 samples at every second step, agreement within 0.4 over 3 actions."""
    rng = np.random.default_rng(2)
    noise = (
        rng.uniform(-0.3, 0.3, (14, 4, 8, 1)).astype(np.float32)
        + np.sign(np.arange(14) % 5 - 2)[:, None, None, None] / 3
    )

    def plan(vars, z, obs, old):
        return Plan(jnp.asarray(noise)[obs[..., 0].astype(int), z])

    def draw(vars, key, obs):
        return jnp.broadcast_to(jnp.arange(4)[: obs.shape[-2]], obs.shape[:-1])

    found = along(parse("supported:4,0.4,2", 8).scheme(Policy(draw, plan, emit_step)), clock(14), fresh=(0, 8))[:, 0, 0]
    held, played, changes = [], [], 0
    for t in range(0, 14, 2):
        held = [] if t == 8 else held
        apart = [
            max((abs(a - b) for a, b in zip(noise[t, n, :3, 0], held, strict=False)), default=0.0) for n in range(4)
        ]
        agree = [n for n in range(4) if apart[n] <= 0.4]
        if not (agree and len(held) >= 5):
            held, changes = list(noise[t, min(agree, key=lambda n: apart[n]) if agree else 0, :, 0]), changes + 1
        played, held = played + held[:2], held[2:]
    np.testing.assert_allclose(found, played, atol=1e-6)
    assert 2 < changes < 7


def test_a_plan_ends_where_samples_differ():
    """All samples agree on 3 actions: so many are played, then the first sample of that time; at least one always is."""
    rng = np.random.default_rng(3)
    noise = np.repeat(rng.uniform(-1, 1, (9, 1, H, 1)), 4, axis=1).astype(np.float32)
    noise[:, :, 3:] = rng.uniform(-1, 1, (9, 4, H - 3, 1))
    noise[6] = rng.uniform(-1, 1, (4, H, 1))
    policy = Policy(
        lambda vars, key, obs: jnp.broadcast_to(jnp.arange(4)[: obs.shape[-2]], obs.shape[:-1]),
        lambda vars, z, obs, old: Plan(jnp.asarray(noise)[obs[..., 0].astype(int), z]),
        emit_step,
    )
    found = along(parse("dispersion:0.05,4", H).scheme(policy), clock(9))[:, 1, 0]
    wanted = [noise[t, 0, i, 0] for t, i in ((0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (6, 0), (7, 0), (7, 1))]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("tolerance", "steps"), [(0.49, 1), (0.51, H)])
def test_how_much_samples_differ_is_a_root_mean_square(tolerance, steps):
    """Two samples, at -d and d: deviations of 0.1 and 0.7 in the two numbers of every action, 0.5 together."""
    apart = jnp.asarray([[-0.1, -0.7], [0.1, 0.7]])
    policy = Policy(
        lambda vars, key, obs: jnp.broadcast_to(jnp.arange(2)[: obs.shape[-2]], obs.shape[:-1]),
        lambda vars, z, obs, old: Plan(jnp.broadcast_to(apart[z][..., None, :], (*z.shape, H, A))),
        emit_step,
    )
    scheme, obs = parse(f"dispersion:{tolerance},2", H).scheme(policy), seen(jnp.zeros((1, 1)))
    carry = scheme.init(NO_VARS, jax.random.key(0), obs)
    left = scheme.decide(NO_VARS, jax.random.key(1), obs, carry)[0].old.left
    assert 1 + left.sum() == steps


def test_the_soft_mask_by_hand():
    """H = 6, d = 1, s = 3: held, c = 1/2 and 1/3 of an exponential, nothing."""
    c = np.asarray([2 / 3, 1 / 3])
    np.testing.assert_allclose(soft_mask(6, 1, 3), [1, *(c * (np.exp(c) - 1) / (np.e - 1)), 0, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(soft_mask(6, 0, 6), 0.0)
    np.testing.assert_array_equal(soft_mask(6, 3, 3), [1, 1, 1, 0, 0, 0])


@pytest.fixture(scope="module", params=ACTORS)
def made(request):
    """A Kernel, its policy and variables, noise for 4 observations and an old plan."""
    kernel = actor(ACTORS[request.param])
    params = {m.name: m.init(jax.random.key(1), SPEC) for m in kernel.modules}
    vars, policy = Vars(params, {}, {}, {}), sampling.sample(kernel)
    obs = jax.random.normal(jax.random.key(2), (4, 3))
    target = jax.random.uniform(jax.random.key(3), (4, H, A), minval=-0.9, maxval=0.9)
    return kernel, policy, vars, obs, target


def test_a_pull_by_the_papers_formula(made):
    """v + min(beta, (1 - t) / t (t^2 + (1 - t)^2) / (1 - t)^2) J^T W (Y - clean), in a flow, and by finite differences of J."""
    kernel, _, vars, obs, target = made
    weight, beta, x = jnp.asarray(soft_mask(H, 1, 3)), 2.5, jax.random.normal(jax.random.key(4), (4, H, A))
    pulled = paths.pulled(kernel, target, jnp.broadcast_to(weight, (4, H)), jnp.full(4, beta))
    for k in range(sampling.count_steps(kernel)):
        clean = kernel.denoise(vars, obs, x, k)
        error = weight[:, None] * (target - clean)
        slope = jax.grad(lambda x: jnp.vdot(kernel.denoise(vars, obs, x, k), error))(x)
        alpha, sigma = np.asarray(kernel.levels)[k]
        t = alpha / (alpha + sigma)  # of the flow that these levels are, in which x is x / (alpha + sigma)
        gain = min(beta, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2) if t else beta
        moved = clean + (1 - t) * gain * (alpha + sigma) * slope
        np.testing.assert_allclose(pulled.denoise(vars, obs, x, k), moved, rtol=2e-4, atol=2e-5)


def test_the_same_pull_in_a_flow_and_in_a_diffusion():
    """One exact prior, one noisy chunk, as a flow and as a diffusion name them: the same clean estimate."""
    p = bandit.correlated(3)
    bar = np.asarray([0.9, 0.5, 0.1])
    diffusion = np.append(np.sqrt(np.stack([bar[::-1], 1 - bar[::-1]], axis=1)), [[1.0, 0.0]], axis=0)
    flow = diffusion / diffusion.sum(axis=1, keepdims=True)
    x, target = jax.random.normal(jax.random.key(0), (2, 4, 1, 3))
    found = []
    for levels, scale in ((diffusion, 1.0), (flow, diffusion.sum(axis=1))):
        pulled = paths.pulled(bandit.kernel(p, levels, 0.0), target, jnp.ones((4, 1)), jnp.full(4, 5.0))
        found.append([pulled.denoise(NO_VARS, None, x / np.broadcast_to(scale, 4)[k], k) for k in range(3)])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_where_nothing_is_held_the_bits_are_the_samplers(made):
    """Weights of 0 in rows 0 and 2 alone: these rows are as without a pull, others are drawn towards the old plan."""
    _, policy, vars, obs, target = made
    noise = policy.draw(vars, jax.random.key(5), obs)
    weight = jnp.asarray([[0.0] * H, soft_mask(H, 2, 2), [0.0] * H, [1.0] * H])
    old = Old(Plan(target), jnp.ones((4, H)))
    plan = as_users_compile(lambda old: policy.plan(vars, noise, obs, old).action)
    free, held = plan(old), plan(old._replace(pull=Pull(weight, jnp.full(4, 5.0))))
    np.testing.assert_array_equal(held[0::2], free[0::2])
    apart = lambda x: np.sqrt(np.mean((np.asarray(x) - target) ** 2, axis=-1))  # noqa: E731
    for rows, columns in ((3, slice(None)), (1, slice(0, 2))):
        assert apart(held)[rows, columns].mean() < 0.9 * apart(free)[rows, columns].mean()
    assert policy.pulled and improve.best_of_n(policy, lambda *a: 0.0, 2).pulled
    assert not sampling.sample(actor(GaussianConfig((8,)))).pulled


@pytest.mark.parametrize(
    ("name", "weight"), [("rtc:1,2", soft_mask(H, 1, 2)), ("hard-mask:1,2", [1.0, 0, 0, 0, 0, 0]), ("committed:1,2", [1.0, 0, 0, 0, 0, 0])]
)  # fmt: skip
def test_only_what_is_left_of_a_plan_is_held(name, weight):
    """Plans that say how firmly the old one is held: not at all at an episode's start, and by the scheme's mask from then on."""

    def plan(vars, noise, obs, old):
        held = jnp.zeros((len(obs), H)) if old is None else old.pull.weight
        return Plan(jnp.broadcast_to(held, (len(obs), H))[..., None])

    policy = Policy(lambda vars, key, obs: (), plan, emit_step, pulled=True, committed=1)
    scheme, obs = parse(name, H).scheme(policy), seen(jnp.zeros((2, 1)))
    carry, found = scheme.init(NO_VARS, jax.random.key(0), obs), []
    for t in range(3):
        carry, made = scheme.decide(NO_VARS, jax.random.key(t), obs, carry)
        found.append(made.plans.action[:, 0, :, 0])
    np.testing.assert_array_equal(found, np.asarray([np.zeros(H), weight, weight])[:, None] * np.ones((2, 1)))


LEARNED = FlowConfig((32, 32), steps=4, committed=2)


def test_an_actor_that_goes_on_from_given_actions():
    """The actions that are given come back as they are, with none the bits are the sampler's; and what follows fits them."""
    algorithm = bc(BC(ChunkConfig(H), LEARNED, OptimConfig(3e-3)))
    side = jnp.where(jnp.arange(64) % 2, 0.6, -0.6)[:, None, None]
    chunk = Chunk(jnp.zeros((64, 3)), jnp.broadcast_to(side, (64, H, A)), jnp.ones((64, H)), *[None] * 6)
    learner = algorithm.init(jax.random.key(0), SPEC, {})
    step = jax.jit(lambda learner, key: algorithm.update(learner, {}, key, chunk)[0])
    for i in range(400):
        learner = step(learner, jax.random.key(i))
    vars, policy, obs = view(learner, {}), algorithm.act, chunk.obs
    assert policy.committed == 2
    noise = policy.draw(vars, jax.random.key(1), obs)
    old = Old(Plan(chunk.action), jnp.ones((64, H)))
    plan = as_users_compile(lambda old: policy.plan(vars, noise, obs, old).action)
    free = plan(old)
    for d in range(3):
        weight = jnp.broadcast_to((jnp.arange(H) < d).astype(jnp.float32), (64, H))
        made = plan(old._replace(pull=Pull(weight, None)))
        np.testing.assert_array_equal(made[:, :d], chunk.action[:, :d])
        if d == 0:
            np.testing.assert_array_equal(made, free)
            assert 0.2 < (jnp.sign(made[:, -1, 0]) == jnp.sign(side[:, 0, 0])).mean() < 0.8
        else:
            assert (jnp.sign(made[:, d:]) == jnp.sign(side)).mean() > 0.97
    commits, knows = (
        along(parse(f"{s}:2,3", H).scheme(policy), jnp.zeros((12, 50, 3)), vars=vars) for s in ("committed", "async")
    )
    same = [(np.sign(x[5:]) == np.sign(x[4])).mean() for x in (commits, knows)]
    assert same[0] > 0.8 and same[1] < 0.7, f"it commits to a side: {same}"


def test_the_loss_of_given_actions_by_hand():
    kernel, rng = actor(LEARNED), np.random.default_rng(0)
    vars = Vars({"actor": kernel.modules[0].init(jax.random.key(0), SPEC)}, {}, {}, {})
    obs, action, z = rng.normal(size=(1, 3)), rng.uniform(-1, 1, (1, H, A)), rng.normal(size=(1, H, A))
    given, mask, t = np.asarray([[1.0, 1, 0, 0, 0, 0]]), np.asarray([[1.0, 1, 1, 1, 0, 0]]), 0.25
    chunk = Chunk(*(jnp.asarray(x, jnp.float32) for x in (obs, action, mask)), *[None] * 6)
    at = np.where(given[..., None] > 0, action, (1 - t) * z + t * action)  # t is the level of step 1 of 4
    noise = tuple(jnp.asarray(x, jnp.float32) for x in (z, [[t]], given))
    clean = kernel.infill(vars, chunk.obs, jnp.asarray(at, jnp.float32), 1, noise[2])
    error = ((np.asarray(clean) - at) / (1 - t) - (action - z)) * ((1 - given) * mask)[..., None]
    loss = kernel.loss(vars, noise, chunk)
    np.testing.assert_allclose(loss, (error**2).mean(axis=(1, 2)), rtol=1e-4)
    drawn = kernel.draw(jax.random.key(0), jax.tree.map(lambda x: jnp.broadcast_to(x, (900, *x.shape[1:])), chunk))
    np.testing.assert_allclose([(drawn[2].sum(axis=1) == d).mean() for d in range(3)], 1 / 3, atol=0.05)


def played(name, delay=0, c=C, build=bc):
    """The first steps of a run's policy in probe/constant, as it is played under a name: ([T, E, A], program, x, learner)."""
    env = envs.make("probe/constant")
    program, x = assemble(build, c, env, dataclasses.replace(S, execute=name, delay=delay))
    learner = init(program, x)
    scheme, vars = program.scheme(x, "act"), reads(one(learner, 0), x)
    run = jax.jit(lambda: rollout(wrap(env), scheme, vars, jax.random.key(0), 8, None, 2)[1].action)
    return np.asarray(run())


@pytest.mark.slow
def test_real_time_chunking_without_delay_and_mask_is_open_loop():
    """Up to rounding: these are programs of their own, and XLA fuses each its way."""
    same = lambda name, other: np.testing.assert_allclose(played(name), played(other), rtol=0, atol=1e-5)  # noqa: E731
    for name in (f"rtc:0,{H}", f"hard-mask:0,{H}", "async:0"):
        same(name, "open-loop")
    same("hard-mask:0,3", "receding:3")
    assert np.abs(played("rtc:0,3") - played("receding:3")).max() > 1e-3


def test_a_delay_by_hand():
    """Chunks of 6 say 0.1 (t + 1) + 0.01 i at time t: a plan is played from its d-th action on, the old one until then."""
    chunks = 0.1 * np.arange(1, 9)[:, None, None] + 0.01 * np.arange(H)[None, :, None]
    at = lambda made, i: 0.1 * (made + 1) + 0.01 * i  # noqa: E731
    wanted = {
        # two steps a plan, each ready after one: the first waits
        ("receding:2", 1): [at(0, 0), at(0, 1), at(0, 2), at(2, 1), at(2, 2), at(4, 1), at(4, 2), at(6, 1)],
        # a plan at every step, each ready after three: three are under way
        ("receding:1", 3): [at(0, 0), at(0, 1), at(0, 2), at(0, 3), at(1, 3), at(2, 3), at(3, 3), at(4, 3)],
        ("async:2,3", 0): [at(0, 0), at(0, 1), at(0, 2), at(0, 3), at(0, 4), at(3, 2), at(3, 3), at(3, 4)],
        ("async:2", 0): [at(0, 0), at(0, 1), at(0, 2), at(0, 3), at(0, 4), at(0, 5), at(4, 2), at(4, 3)],
    }
    for (name, delay), actions in wanted.items():
        scheme = parse(name, H, delay).scheme(told(chunks))
        np.testing.assert_allclose(along(scheme, clock(8))[:, 1, 0], actions, atol=1e-6, err_msg=name)
    again = along(parse("receding:1", H, 3).scheme(told(chunks)), clock(8), fresh=(0, 5))[:, 0, 0]
    np.testing.assert_allclose(again[5:], [at(5, 0), at(5, 1), at(5, 2)], atol=1e-6)  # nothing survives its episode
    ensemble = along(parse("ensemble:0", H, 1).scheme(told(chunks)), clock(8))[:, 0, 0]
    np.testing.assert_allclose(ensemble[2], (at(0, 2) + at(1, 1)) / 2, atol=1e-6)


def test_floats_of_named_schemes_are_traced():
    env, sizes = envs.make("probe/constant"), []
    for name in ("ensemble:0.1", "ensemble:2", "ensemble:0.5", "rtc:1,3,5", "rtc:1,3,0.5"):
        program, x = assemble(bc, C, env, dataclasses.replace(S, execute=name))
        evaluate(program, x, S, init(program, x))
        sizes.append(on_device.evaluate._cache_size())
    assert sizes[0] == sizes[1] == sizes[2] < sizes[3] == sizes[4]


def test_a_run_with_a_delay_trains_and_is_evaluated():
    s = OnlineSettings(offline_steps=1, batch=4, episodes=3, execute="rtc:2,2")
    env = envs.make("probe/constant")
    rows = random_rows(env, 60, 3)
    *_, last = train(bc, C, env=env, data=formats.to_device(rows), settings=s)
    assert last.kind in ("eval", "checkpoint")


@pytest.mark.parametrize(
    ("name", "delay", "line"),
    [
        ("rtc:1", 0, "missing a required argument: 'steps'"),
        ("rtc:4,2", 0, "a delay of 4 is more than half of a chunk of 6"),
        ("rtc:2,1", 0, "give rtc:2,2 to rtc:2,4"),
        ("rtc:1,3,0", 0, "give a number above 0"),
        ("rtc:1,3", 2, "--execute rtc:1,3 has a delay of its own: 1.*give --delay 0"),
        ("async:1,6", 0, "give async:1,1 to async:1,5"),
        ("ensemble:nan", 0, "not finite"),
        ("async:1,steps=3", 0, "names its numbers. give them in order"),
        ("ensemble:0.1,7", 0, "give ensemble:0.1,1 to ensemble:0.1,6"),
        ("coherent:0", 0, "give a whole number from 1 on"),
        ("coherent:2.5", 0, "2.5 in --execute coherent:2.5 does not fit.*give a whole number"),
        ("coherent:4,1,1.5", 0, "in \\(0, 1\\]"),
        ("committed:4,2", 0, "a delay of 4 is more than half"),
        ("open-loop", 1, "plays 6 of the 6 steps of a plan.*play 5 or fewer"),
        ("receding:2", 6, "plan longer chunks"),
        ("dispersion:0.3", 1, "take a scheme whose plans are of one length"),
        ("argmax-k", 1, "take a scheme whose plans are of one length"),
    ],
)
def test_wrong_numbers_of_named_schemes(name, delay, line):
    with pytest.raises(UserError, match=line):
        parse(name, H, delay)


def test_without_a_delay_nobody_has_to_go_on_from_anything():
    policy, obs = sampling.sample(actor(ACTORS["flow"])), seen(jnp.ones((2, 3)))
    vars = Vars({m.name: m.init(jax.random.key(1), SPEC) for m in actor(ACTORS["flow"]).modules}, {}, {}, {})
    found = [
        along(parse(name, H).scheme(policy), jnp.broadcast_to(obs.obs, (6, 2, 3)), vars=vars)
        for name in ("committed:0,2", "receding:2")
    ]
    np.testing.assert_array_equal(*found)


def test_who_has_not_learned_to_go_on_says_so():
    for c, line in [
        (ACTORS["flow"], "learned none"),
        (LEARNED, "it has learned 2. train a flow with --actor.committed 3"),
    ]:
        with pytest.raises(UserError, match=line):
            parse("committed:3,3", H).scheme(sampling.sample(actor(c)))
    with pytest.raises(UserError, match="--actor.committed 6 leaves nothing of chunks of 6 actions"):
        actor(FlowConfig((8,), committed=6)).modules[0].init(jax.random.key(0), SPEC)
    assert improve.guide(actor(LEARNED), lambda *a: 0.0, 1.0).committed == 0
    diffuser = sampling.sample(improve.diffuser(paths.stochastic(actor(LEARNED)), lambda *a: 0.0, 1.0))
    assert not diffuser.pulled and diffuser.committed == 0, "a pull would leave its rule out"


@pytest.mark.parametrize("name", ["rtc:1,3", "hard-mask:1,3", "committed:1,3"])
def test_who_makes_no_actions_says_that_it_cannot_hold_any(name):
    """Another actor would not help, nor one that has learned to go on from some."""
    c = BC(ChunkConfig(H, codec="prodmp", basis=4), FlowConfig((8,), steps=2))
    program, x = assemble(bc, c, envs.make("probe/constant"), dataclasses.replace(S, execute=name))
    with pytest.raises(
        UserError, match="makes weights of trajectories .--chunk.codec prodmp.. take --execute async:1,3"
    ):
        program.scheme(x, "act")
    program, x = assemble(bc, c, envs.make("probe/constant"), dataclasses.replace(S, execute="async:1,3"))
    assert program.scheme(x, "act").delay == 1


def test_who_cannot_be_pulled_says_so():
    """A Gaussian has no levels; on-policy methods learn from what their own draws did."""
    c = BC(ChunkConfig(H), GaussianConfig((8,)))
    program, x = assemble(bc, c, envs.make("probe/constant"), dataclasses.replace(S, execute="rtc:1,3"))
    with pytest.raises(
        UserError, match="do not denoise along levels.*take a flow or diffusion actor, or --execute async:1,3"
    ):
        program.scheme(x, "act")
    s = OnPolicySettings(online_steps=10, execute="ensemble:0.1")
    with pytest.raises(UserError, match="plays other actions than those whose probabilities"):
        next(train(ppo, PPO(chunk=ChunkConfig(2)), env=envs.make("probe/constant"), settings=s))
