"""TOP-ERL: its actor, its critic of segments, losses against slow loops, its trust region while it learns."""

from __future__ import annotations

import dataclasses
import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import keep, kept, same

from qchunk import envs
from qchunk.actor_configs import FullGaussianConfig
from qchunk.actors.full_gaussian import full_gaussian, full_gaussian_of
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.rlpd import RLPD, rlpd
from qchunk.algorithms.top_erl import TOPERL, top_erl
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.prefix import PrefixConfig, prefix_q
from qchunk.data import buffer, chunks
from qchunk.data.buffer import Source
from qchunk.data.segments import BEGIN, STEPS, draw_segments, published_lengths
from qchunk.drivers import train
from qchunk.drivers.from_scratch import FromScratchSettings
from qchunk.drivers.online import OnlineSettings
from qchunk.losses.episodic import ascend_segments, at_step, stay_in_region, td_of_segments, timed
from qchunk.primitives import codec, going_on
from qchunk.sampling import act, sample
from qchunk.target_networks import target_view
from qchunk.trust_region import FLOOR, TrustRegionConfig, entropy, entropy_of_std, trusted, w2_parts
from qchunk.types import Chunk, Plan, Policy, Spec, Vars, view

O, A, H = 3, 2, 6
SPEC, GAMMA = Spec(O, A, H), 0.9
LENGTHS = (2, 4)
M = max(LENGTHS)
ACTOR = FullGaussianConfig((16,))
CRITIC = PrefixConfig((16,), heads=2, members=2, aggregate="min")
POINTS = tuple(range(M + 1))


def correlated(seed=0, spec=SPEC):
    """Variables of an actor whose covariance is a full one."""
    params = full_gaussian(ACTOR).modules[0].init(jax.random.key(seed), spec)
    noise = 0.2 * jax.random.normal(jax.random.key(seed + 1), params["root"].shape)
    net = {**params["net"], "head_kernel": 50 * params["net"]["head_kernel"]}
    return Vars({"actor": {"net": net, "root": params["root"] + noise}}, {}, {}, {})


# the actor


def test_its_density_is_that_of_the_joint_gaussian():
    vars, obs, pi = correlated(), jax.random.normal(jax.random.key(3), (5, O)), full_gaussian(ACTOR)
    z = jax.random.normal(jax.random.key(4), (5, H, A))
    g = full_gaussian_of(ACTOR)[1](vars, obs)
    chunk = act(sample(pi)._replace(draw=lambda *a: z), vars, jax.random.key(0), obs).action
    wanted = g.mean + jnp.einsum("ij,bj->bi", g.root, z.reshape(5, -1))
    np.testing.assert_allclose(chunk.reshape(5, -1), jnp.clip(wanted, -1, 1), atol=1e-6)
    each = pi.density(vars, obs, z)
    joint = distrax.MultivariateNormalTri(g.mean, g.root)
    np.testing.assert_allclose(each.sum((-2, -1)), joint.log_prob(wanted), rtol=1e-5)
    numbers = pi.step(vars, obs, z, 0)[0]
    batch = Chunk(obs, numbers, jnp.ones((5, H)), None, None, None, None, None, {})
    np.testing.assert_allclose(-pi.loss(vars, (), batch) * H * A, joint.log_prob(wanted), rtol=1e-5)
    # of a chunk of which two steps lie inside the episode, the density of these two alone
    masked = batch._replace(mask=jnp.arange(H) < jnp.full((5, 1), 2))
    cov = (g.root @ g.root.T)[: 2 * A, : 2 * A]
    first = distrax.MultivariateNormalFullCovariance(g.mean[:, : 2 * A], cov).log_prob(wanted[:, : 2 * A])
    np.testing.assert_allclose(-pi.loss(vars, (), masked) * H * A, first, rtol=1e-4)


def test_it_begins_near_0_with_independent_numbers():
    """A head a hundredth as large as others' (2410.09536); deviations are the configuration's."""
    gaussian = full_gaussian_of(ACTOR)[1]
    params = jax.jit(lambda key: full_gaussian(ACTOR).modules[0].init(key, SPEC))(jax.random.key(0))
    found = gaussian(Vars({"actor": params}, {}, {}, {}), jax.random.normal(jax.random.key(1), (64, O)))
    assert 0 < float(jnp.abs(found.mean).max()) < 0.05
    np.testing.assert_allclose(found.root, ACTOR.std * np.eye(H * A), rtol=1e-5)


@pytest.mark.slow
def test_other_methods_take_it():
    """Cloning finds means and a correlation; soft actor-critic takes its density."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=400) * 0.3
    action = np.stack([first, first + 0.1 * rng.normal(size=400), np.zeros(400)], 1).reshape(-1, 1)  # and a last row
    end = np.arange(1200) % 3 == 2
    data = chunks.dataset(np.zeros((1200, 2)), np.clip(action, -0.99, 0.99), np.zeros(1200), np.zeros(1200), end)
    env, c = envs.make("probe/two-step"), ChunkConfig(2, starts="episode")
    s = OnlineSettings(offline_steps=400, log_every=400, episodes=2, batch=256)
    *_, saved = train(bc, BC(c, ACTOR, OptimConfig(1e-2)), env=env, data=data, settings=s)
    learned = jax.tree.map(lambda x: x[0], view(saved.learner, {}))
    g = full_gaussian_of(ACTOR)[1](learned, jnp.zeros(2))
    np.testing.assert_allclose(g.root @ g.root.T, np.cov(action.reshape(-1, 3)[:, :2].T), atol=0.015)
    made = rlpd(RLPD(ChunkConfig(H), ACTOR, CriticConfig((16,), members=2)))
    learner = made.init(jax.random.key(0), SPEC)
    batch = batch_of(plans=False)
    after, metrics = jax.jit(lambda state: made.update(state, {}, jax.random.key(1), batch))(learner)
    assert np.isfinite(metrics["entropy/entropy"])
    assert (np.abs(after.params["actor"]["root"] - learner.params["actor"]["root"]) > 0).any()


# the critic


@pytest.mark.parametrize("network", ["transformer", "masked"])
def test_the_value_of_no_action_is_that_of_the_state(network):
    """Asked alone it is the same number, whatever the chunk; and prefixes do not see what comes after them."""
    c = dataclasses.replace(CRITIC, network=network)
    q, v = (prefix_q(c, M, POINTS, read=read) for read in (None, (0,)))
    vars = Vars({"critic": q.modules[0].init(jax.random.key(0), SPEC)}, {}, {}, {})
    obs, one, two = (jax.random.normal(jax.random.key(i), s) for i, s in ((1, (5, O)), (2, (5, M, A)), (3, (5, M, A))))
    values = jax.jit(q.values)
    both = [values(vars, obs, chunk) for chunk in (one, one.at[:, 2:].set(two[:, 2:]))]
    assert both[0].shape == (2, 5, M + 1)
    np.testing.assert_allclose(both[0][..., :3], both[1][..., :3], atol=1e-6)
    assert (np.abs(both[0][..., 3:] - both[1][..., 3:]) > 1e-4).any()
    np.testing.assert_allclose(v.values(vars, obs, two), both[0][..., :1], atol=1e-6)
    np.testing.assert_allclose(v.score(vars, obs, two), both[0][..., 0].min(axis=0), atol=1e-6)


# segments


def test_segments_of_plans_against_a_slow_loop():
    """Episodes of 8 and 9 steps, plans of 6: the second one of each is cut by a time-out, or ends in a success."""
    rng, lengths, ends = np.random.default_rng(0), (8, 9), (0.0, 1.0)
    rows = [(e, t) for e, n in enumerate(lengths) for t in range(n + 1)]
    obs = np.asarray([[e, t, 0.0] for e, t in rows])
    action, reward = rng.uniform(-0.9, 0.9, (len(rows), A)), rng.normal(size=len(rows))
    final = np.asarray([t == lengths[e] for e, t in rows])
    terminal = np.asarray([ends[e] if t == lengths[e] - 1 else 0.0 for e, t in rows])
    steps = np.asarray([t % H for _, t in rows], np.int32)
    data = chunks.dataset(obs, action, reward, terminal, final, {"plan_step": steps})
    c = ChunkConfig(H, gamma=GAMMA, starts="decision")
    draw = jax.jit(lambda key: draw_segments(key, Source(data), c, 64, LENGTHS))
    drawn = jax.tree.map(np.asarray, draw(jax.random.key(0)))
    assert drawn.action.shape == (64, 2, H, A) and drawn.reward.shape == (64, 2, M)
    seen = set()
    for b in range(64):
        e, t0 = (int(x) for x in drawn.obs[b, 0, :2])
        begin, count = int(drawn.extras[BEGIN][b, 1]), int(drawn.extras[STEPS][b, 1])
        assert t0 % H == 0 and 0 <= begin < min(H, lengths[e] - t0) and count in {min(n, H - begin) for n in LENGTHS}
        seen.add((t0, begin, count))
        t, at = t0 + begin, rows.index((e, t0 + begin))
        np.testing.assert_array_equal(drawn.obs[b, 1], obs[at])
        total, alive = 0.0, 1.0
        for j in range(1, M + 1):
            inside = t + j <= lengths[e]
            if inside:
                np.testing.assert_allclose(drawn.action[b, 1, j - 1], action[at + j - 1], atol=1e-6)
                total += GAMMA ** (j - 1) * reward[at + j - 1]
                alive *= 1 - terminal[at + j - 1]
                np.testing.assert_array_equal(drawn.next_obs[b, 1, j - 1], obs[at + j])
            np.testing.assert_allclose(drawn.reward[b, 1, j - 1], total, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(drawn.discount[b, 1, j - 1], GAMMA**j * alive, rtol=1e-5)
            assert drawn.weight[b, 1, j - 1] == (inside or alive == 0)
    assert len({begin for _, begin, _ in seen}) == H and len({t0 for t0, _, _ in seen}) == 2


def test_segments_of_a_ring_are_those_of_a_data_set():
    ring = buffer.empty(2, 12, O, A, {"plan_step": jnp.zeros((), jnp.int32)})
    rng = np.random.default_rng(1)
    shape = lambda *s: jnp.asarray(rng.normal(size=(12, 2, *s)), jnp.float32)  # noqa: E731
    zero, obs = jnp.zeros((12, 2)), shape(O)
    step = jnp.broadcast_to((jnp.arange(12, dtype=jnp.int32) % H)[:, None], (12, 2))
    more = {"alive": zero + 1, "extras": {"plan_step": step}, "success": None}
    out = buffer.Steps(obs, 0.1 * shape(A), shape(), zero, zero.at[11].set(1.0), jnp.roll(obs, -1, 0), **more)
    ring = buffer.write(ring, out)
    c = ChunkConfig(H, gamma=GAMMA, starts="decision")
    draw = jax.jit(lambda key, ring: draw_segments(key, Source(None, ring), c, 32, LENGTHS))
    drawn = jax.tree.map(np.asarray, draw(jax.random.key(0), ring))
    for b in range(32):
        plan, begin = drawn.obs[b, 0], int(drawn.extras[BEGIN][b, 0])
        t, e = (int(x) for x in np.argwhere((np.asarray(obs) == plan).all(-1))[0])
        assert t in (0, H)
        np.testing.assert_array_equal(drawn.obs[b, 1], obs[t + begin, e])
        n = min(M, 12 - t - begin)
        wanted = np.cumsum(GAMMA ** np.arange(n) * np.asarray(out.reward)[t + begin : t + begin + n, e])
        np.testing.assert_allclose(drawn.reward[b, 1, :n], wanted, rtol=1e-5, atol=1e-6)
    assert (drawn.extras["source"] == 1).all()


def test_published_lengths():
    assert published_lengths(2) == (1, 2) and published_lengths(10) == (1, 2, 3, 5, 10)
    assert published_lengths(100)[0] == 4 and published_lengths(100)[-2:] == (50, 100)


@pytest.mark.parametrize(("kind", "size"), [("prodmp", 4), ("promp", 4)])
def test_a_plan_that_goes_on_from_what_was_played(kind, size):
    """Behind step k it is as smooth as before, and with the two actions played before k it is one smooth trajectory."""
    c = ChunkConfig(16, codec=kind, basis=size)
    m = codec(kind, 16, size).decode
    rng = np.random.default_rng(0)
    plan, played = 0.3 * m @ rng.uniform(-0.3, 0.3, (2, 5, size, 2)), None
    plan, played = plan[0], plan[1]
    k = jnp.asarray([0, 1, 2, 5, 9])
    found = np.asarray(going_on(c)(*(jnp.asarray(x, jnp.float32) for x in (plan, played)), k))
    np.testing.assert_allclose(found[0], plan[0], atol=1e-6)
    for b in range(1, 5):
        first = max(int(k[b]) - 2, 0)
        whole = np.concatenate([played[b, first : k[b]], found[b, k[b] :]])
        span = m[first:]
        left = whole - span @ np.linalg.pinv(span) @ whole
        assert np.abs(left).max() < 1e-4, (b, np.abs(left).max())
        assert np.abs(found[b, k[b] :] - plan[b, k[b] :]).max() > 1e-4


# losses


def batch_of(plans=True):
    """A batch [B, 2, ...] of numbers that stand for plans and segments; or [B, ...] with one backup point."""
    keys = iter(jax.random.split(jax.random.key(8), 10))
    lead, points = ((7, 2), M) if plans else ((7,), 1)
    normal = lambda *s: jax.random.normal(next(keys), (*lead, *s))  # noqa: E731
    begin = jnp.asarray([0, 1, 2, 3, 4, 5, 0])
    counts = jnp.minimum(jnp.asarray([4, 2, 4, 4, 4, 2, 2]), H - begin)
    extras = {BEGIN: begin, STEPS: counts}
    weight = jnp.ones((*lead, points)).at[..., 2:].set(0.0) if plans else jnp.ones((*lead, points))
    return Chunk(
        obs=normal(O),
        action=jnp.tanh(normal(H, A)),
        mask=jnp.ones((*lead, H)),
        reward=normal(points),
        discount=GAMMA ** (1.0 + jnp.arange(points)) * jnp.ones(lead)[..., None],
        next_obs=normal(points, O),
        weight=weight.at[0].set(1.0),
        last=jnp.zeros(lead),
        extras={n: jnp.stack([x, x], 1) for n, x in extras.items()} if plans else {},
    )


def fixed_policy(plan):
    """It plans this, whatever it sees."""
    return Policy(lambda vars, key, obs: (), lambda vars, noise, obs, old: Plan(plan), None)


def test_the_time_of_a_plan_is_the_share_that_is_over():
    told = at_step(jnp.ones((4, O)), jnp.asarray([0, 3, H, H + 1]), H)
    np.testing.assert_allclose(told["time"][:, 0], [0, 3 / H, 0, 1 / H])


@pytest.fixture(scope="module")
def critics():
    q, v = (timed(prefix_q(CRITIC, M, POINTS, read=read)) for read in (None, (0,)))
    params, target = ({"critic": q.modules[0].init(jax.random.key(i), SPEC)} for i in range(2))
    return q, v, Vars(params, target, {}, {})


def value(q, vars, obs, action, step):
    """min of the members' values [M + 1] of ONE observation and chunk [<= M, A] at a step of its plan."""
    padded = np.zeros((M, A), np.float32)
    padded[: len(action)] = action
    return np.asarray(valued(q, vars, np.asarray(obs), padded, step))


@functools.partial(jax.jit, static_argnums=0)
def valued(q, vars, obs, action, step):
    return q.values(vars, at_step(obs, step, H), action)


def test_temporal_differences_of_segments_against_a_slow_loop(critics):
    q, v, vars = critics
    chunk, c = batch_of(), ChunkConfig(H, codec="promp", basis=4)
    fresh = 0.3 * jnp.tanh(jax.random.normal(jax.random.key(5), (7, H, A)))
    term = td_of_segments(q, v, fixed_policy(fresh), going_on(c))
    loss, metrics = jax.jit(lambda: term.fn(vars, jax.random.key(0), chunk))()
    moved = np.asarray(going_on(c)(fresh, chunk.action[:, 0], chunk.extras[BEGIN][:, 0]))
    chunk = jax.tree.map(np.asarray, chunk)
    total = count = targets = 0.0
    for b in range(7):
        k, steps = int(chunk.extras[BEGIN][b, 0]), int(chunk.extras[STEPS][b, 0])
        obs, played = chunk.obs[b, 1], chunk.action[b, 1, :steps]
        aims = [value(q, target_view(vars), obs, moved[b, k : k + steps], k).min(0)[steps]]
        weights = [1.0]
        for j in range(1, steps + 1):
            later = value(q, target_view(vars), chunk.next_obs[b, 1, j - 1], played[:0], (k + j) % H).min(0)[0]
            aims.append(chunk.reward[b, 1, j - 1] + chunk.discount[b, 1, j - 1] * later)
            weights.append(float(chunk.weight[b, 1, j - 1]))
        ours = value(q, vars, obs, played, k)
        for j, (aim, weight) in enumerate(zip(aims, weights, strict=True)):
            total += weight * float(((ours[:, j] - aim) ** 2).sum())
            count, targets = count + weight, targets + weight * float(aim)
    np.testing.assert_allclose(loss, total / (2 * count), rtol=1e-4)
    np.testing.assert_allclose(metrics["target"], targets / count, rtol=1e-4)


def test_ascent_of_segments_against_a_slow_loop(critics):
    """And its gradient: only actions of the segment have one, and the critic has none but through the policy."""
    q, _, vars = critics
    chunk = batch_of()
    plan = jnp.tanh(jax.random.normal(jax.random.key(6), (7, H, A)))
    term = lambda plan: ascend_segments(q, fixed_policy(plan), ("actor",)).fn(vars, jax.random.key(0), chunk)[0]  # noqa: E731
    loss, slope = jax.jit(jax.value_and_grad(term))(plan)
    chunk, plan, total = jax.tree.map(np.asarray, chunk), np.asarray(plan), 0.0
    for b in range(7):
        k, steps = int(chunk.extras[BEGIN][b, 0]), int(chunk.extras[STEPS][b, 0])
        total += value(q, vars, chunk.obs[b, 1], plan[b, k : k + steps], k).min(0)[1 : steps + 1].sum()
        inside = (np.arange(H) >= k) & (np.arange(H) < k + steps)
        assert (np.abs(slope[b]).max(-1) > 0).tolist() == inside.tolist()
    np.testing.assert_allclose(loss, -total / 7, rtol=1e-4)


@pytest.mark.parametrize("distance", ["w2", "kl"])
def test_regression_on_the_projection(distance):
    """KL(free || projected) by distrax; its gradient reaches the free Gaussian, not what it is held against."""
    c = TrustRegionConfig(distance, mean=0.01, cov=0.001, floor=0.01)
    free = full_gaussian_of(ACTOR)[1]
    near = trusted(free, c)
    vars = correlated(0)._replace(targets=correlated(5).params, stats={FLOOR: jnp.asarray(-10.0)})
    chunk = batch_of()
    loss, metrics = stay_in_region(free, near, ("actor",)).fn(vars, (), chunk)
    p, q = (f(vars, chunk.obs[:, 0]) for f in (free, near))
    joint = lambda g: distrax.MultivariateNormalTri(g.mean, jnp.broadcast_to(g.root, (7, *g.root.shape)))  # noqa: E731
    np.testing.assert_allclose(loss, joint(p).kl_divergence(joint(q)).mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["entropy"], joint(q).entropy().mean(), rtol=1e-4)
    held = lambda at: stay_in_region(free, lambda *a: near(at, chunk.obs[:, 0]), ("actor",)).fn(vars, (), chunk)[0]  # noqa: E731
    assert all((x == 0).all() for x in jax.tree.leaves(jax.grad(held)(vars)))


def test_the_floor_is_of_each_number():
    """What acts has at least so many nats for each of the plan's numbers, however narrow the Gaussian is."""
    near = trusted(full_gaussian_of(ACTOR)[1], TrustRegionConfig(mean=0.01, cov=0.001))
    vars = correlated(0)._replace(targets=correlated(5).params, stats={FLOOR: jnp.asarray(1.5)})
    found = jax.jit(lambda vars: entropy(near(vars, jnp.ones((1, O))).root))(vars)
    np.testing.assert_allclose(found, 1.5 * H * A, rtol=1e-5)


# the whole


C = TOPERL(
    ChunkConfig(H, codec="prodmp", basis=4, starts="decision"),
    ACTOR,
    CRITIC,
    TrustRegionConfig(mean=0.02, cov=0.002, follow=0.05, floor=0.25, floor_updates=15),
    OptimConfig(1e-2),
    OptimConfig(1e-3),
    LENGTHS,
    every=1,
)
# 10 decisions of 4 environments and 6 steps; updates come from the third on
S = FromScratchSettings(
    seeds=2, batch=8, log_every=6, episodes=4, online_steps=240, envs=4, start_training=72, update_ratio=0.25
)


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/pursuit")


@pytest.fixture(scope="module")
def events(env):
    s = dataclasses.replace(S, online_eval_every=120)
    return kept(train(top_erl, C, env=env, settings=s))


@pytest.mark.slow
def test_networks_see_weights_or_actions(events):
    params = events[-1].learner.params
    assert params["actor"]["root"].shape[1:] == (8, 8) and params["actor"]["net"]["head_bias"].shape[1:] == (4, 2)
    assert params["critic"]["position"].shape[2:] == (M + 1, 16)
    assert params["critic"]["action"]["kernel"].shape[2:] == (A, 16)
    assert int(events[-1].learner.step) == (240 - 72) // 4


@pytest.mark.slow
def test_an_online_run_resumes_to_the_same_bits(env, events):
    half = next(e for e in events if e.kind == "checkpoint")
    s = dataclasses.replace(S, online_eval_every=120)
    learner, state = keep(half.learner), keep(half.state)
    *_, last = train(top_erl, C, env=env, settings=s, learner=learner, state=state)
    same(last.learner, events[-1].learner)


@pytest.mark.slow
def test_bounds_and_floor_hold_while_it_learns(events):
    """At every observation, after updates with a large step: what acts is in the region, and random enough."""
    free, wide = full_gaussian_of(ACTOR)[1], dataclasses.replace(C.region, floor=1e-3)
    outside = []
    for e in (e for e in events if e.kind in ("train", "checkpoint")):
        vars = jax.tree.map(lambda x: x[1], view(e.learner._replace(step=None), {}))
        obs = 3 * jax.random.normal(
            jax.random.key(0), (32, *vars.params["actor"]["net"]["dense_0"]["kernel"].shape[:1])
        )
        low = vars._replace(stats={FLOOR: jnp.asarray(-20.0)})
        new, old = free(vars, obs), free(target_view(vars), obs)
        near = trusted(free, wide)(low, obs)
        for before, after, bound in zip(w2_parts(new, old), w2_parts(near, old), (0.02, 0.002), strict=True):
            assert (after <= bound * (1 + 1e-3) + 1e-6).all()
            outside.append(bool((before > bound).any()))
        done = max(int(e.learner.step) - 1, 0)  # as the last update saw it
        start, end = (entropy_of_std(x, 1) for x in (ACTOR.std, 0.25))
        floor = end + (start - end) * max(0.0, 1 - done / 15)
        np.testing.assert_allclose(vars.stats[FLOOR], floor, rtol=1e-5)
        assert entropy(trusted(free, C.region)(vars, obs).root) >= 8 * floor - 1e-4
    assert any(outside)


def test_what_acts_is_the_mean_and_what_explores_is_smooth():
    made = top_erl(C)
    spec = Spec(O, A, H)
    vars = view(made.init(jax.random.key(0), spec), {})
    obs = jax.random.normal(jax.random.key(1), (16, O))
    one, two = (act(made.act, vars, jax.random.key(i), obs).action for i in range(2))
    np.testing.assert_array_equal(one, two)
    chunk = np.asarray(act(made.explore, vars, jax.random.key(2), obs).action)
    inside = np.abs(chunk).max(axis=1) < 1
    m = codec("prodmp", H, 4)
    smooth = np.einsum("ij,bja->bia", m.decode @ m.encode, chunk)
    np.testing.assert_allclose(np.swapaxes(smooth, 1, 2)[inside], np.swapaxes(chunk, 1, 2)[inside], atol=1e-4)
    assert inside.sum() > 5 and (np.abs(chunk - np.asarray(one)) > 1e-3).any()
