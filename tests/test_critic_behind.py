"""What puts a critic behind an actor, by hand: noise estimates, leaning and matching, one member's ascent, climbed chunks, weights of what was played."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.actor_configs import DiffusionConfig, FlowConfig, RegressionConfig
from qchunk.actors import actor, paths
from qchunk.actors.one_step import one_step
from qchunk.algorithms.drwr import DRWR, drwr
from qchunk.algorithms.idql import IDQL, idql
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.improve import guide
from qchunk.losses.cloning import bc, climbed, told_weight
from qchunk.losses.noised import OneStepEstimate, draw_level, estimating, lean, match, noised
from qchunk.losses.proposals import Proposal, ascend, ascend_one
from qchunk.losses.returns import lambda_returns, returns_to_go
from qchunk.sampling import act
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Critic, Learner, Module, Spec, Vars, view

LEVELS = np.asarray([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
MODULE = Module("actor", lambda key, spec: jnp.zeros(1), None)
NONE = Vars({}, {}, {}, {})


def constant(levels=LEVELS):
    """An actor whose estimate of the clean chunk is its one parameter, whatever it sees."""
    denoise = lambda vars, obs, x, k: jnp.broadcast_to(vars.params["actor"], x.shape)  # noqa: E731
    return paths.denoiser_kernel(MODULE, levels, 0.0, denoise, lambda key, chunk: (), None)


def value(vars, obs, x, level):
    return jnp.sum(jnp.asarray([1.0, -3.0]) * x[..., 0], axis=-1)  # of chunks of 2 actions; its gradient is (1, -3)


def chunk_of(action, **more):
    rows = len(action)
    one = jnp.ones((rows, 1))
    made = Chunk(
        jnp.zeros((rows, 2)), action, jnp.ones(action.shape[:2]), one, one, jnp.zeros((rows, 1, 2)), one, one[:, 0], {}
    )
    return made._replace(**more)


ACTION = jnp.asarray([[[0.5], [-0.5]]])
EPS = jnp.asarray([[[1.0], [2.0]]])
READS = Vars({"actor": jnp.asarray(0.25)}, {}, {}, {})


def test_leaning_and_matching_by_hand():
    """x = 0.6 a + 0.8 eps = (1.1, 1.3); with 0.25 for a clean chunk the noise is (x - 0.15) / 0.8 = (1.1875, 1.4375)."""
    pi, chunk, noise = constant(), chunk_of(ACTION), (EPS, jnp.asarray([[1]]))
    made = estimating(pi, []).shared(READS, noise, chunk)
    np.testing.assert_allclose(made.x[0, :, 0], [1.1, 1.3], rtol=1e-6)
    np.testing.assert_allclose(made.predicted[0, :, 0], [1.1875, 1.4375], rtol=1e-6)
    leans = lean(pi, value).fn(READS, made, chunk)[0]
    np.testing.assert_allclose(leans, 0.8 * (1.1875 - 3 * 1.4375) / 2, rtol=1e-6)
    matched = match(pi, value, 2.0).fn(READS, made, chunk)[0]
    np.testing.assert_allclose(matched, ((1.1875 + 1.6) ** 2 + (1.4375 - 4.8) ** 2) / 2, rtol=1e-6)
    published = match(pi, value, 2.0, by_level=False).fn(READS, made, chunk)[0]
    np.testing.assert_allclose(published, ((1.1875 + 2) ** 2 + (1.4375 - 6) ** 2) / 2, rtol=1e-6)
    climbs = ascend(pi, lambda vars, obs, a: value(vars, obs, a, None)).fn(READS, made, chunk)[0]
    np.testing.assert_allclose(climbs, -(0.25 - 0.75), rtol=1e-6)  # EDP: Q of the estimate


@pytest.mark.parametrize("levels", [paths.linear(4), paths.variance_preserving(paths.signal("vp", 4), np.arange(4)[::-1])], ids=["flow", "diffusion"])  # fmt: skip
def test_leaning_beside_imitation_is_guidance(levels):
    """Where alpha |eps - predicted|^2 + lean is least, the clean estimate is that of ``guide`` with weight 1 / (2 alpha)."""
    alpha, pi, k = 3.0, constant(levels), 2
    knows = pi._replace(denoise=lambda vars, obs, x, k: ACTION)  # the data hold one chunk
    x, at = noised(pi, (EPS, jnp.asarray([[k]])), ACTION)
    guided = guide(knows, value, 1 / (2 * alpha)).denoise(READS, jnp.zeros((1, 2)), x, k)

    def loss(clean):
        made = OneStepEstimate(EPS, clean, x, at)
        return alpha * jnp.mean(jnp.square(made.predicted - EPS)) + lean(pi, value).fn(READS, made, chunk_of(ACTION))[0]

    np.testing.assert_allclose(jax.grad(loss)(guided), jnp.zeros((1, 2, 1)), atol=1e-5)
    assert float(jnp.abs(jax.grad(loss)(ACTION)).max()) > 0.05


@pytest.mark.parametrize(
    "c", [FlowConfig((16,), steps=3), DiffusionConfig((16,), steps=4, ddim=2)], ids=["flow", "ddim"]
)
def test_noise_estimates_follow_from_the_networks(c):
    """Of a flow x - t v, of a diffusion the network's own output, on the levels that the sampler walks."""
    pi = actor(c)
    vars = Vars({"actor": pi.modules[0].init(jax.random.key(0), Spec(2, 1, 2))}, {}, {}, {})
    chunk = chunk_of(jnp.zeros((3, 2, 1)))
    draw_key, obs_key = jax.random.split(jax.random.key(1))
    chunk = chunk._replace(obs=jax.random.normal(obs_key, (3, 2)))
    noise = estimating(pi, []).draw(draw_key, chunk)
    made = estimating(pi, []).shared(vars, noise, chunk)
    assert int(noise[1].max()) < len(pi.levels) - 1
    k = noise[1].astype(jnp.float32)
    told = k / 3 if c.kind == "flow" else 2 - 2 * k  # DDIM walks noising steps 2 and 0 of 4
    net = pi.modules[0].apply(vars.params["actor"], chunk.obs, made.x, told)
    wanted = made.x - told[..., None] * net if c.kind == "flow" else net
    np.testing.assert_allclose(made.predicted, wanted, atol=1e-5)


def test_every_level_that_is_denoised_from_is_drawn():
    _, level = draw_level(constant(paths.linear(4)))(jax.random.key(0), chunk_of(jnp.zeros((100, 2, 1))))
    np.testing.assert_array_equal(np.unique(level), np.arange(4))
    learns = actor(DiffusionConfig((16,), steps=6, ddim=2))  # from all noising steps, not only those it acts by
    _, level = learns.draw(jax.random.key(0), chunk_of(jnp.zeros((100, 2, 1))))
    np.testing.assert_array_equal(np.unique(level), np.arange(6))


def test_an_actor_of_one_step_has_no_noise_to_lean_on():
    pi = actor(RegressionConfig((16,)))
    for term in (lean, lambda pi, value: match(pi, value, 1.0)):
        with pytest.raises(UserError, match="makes chunks in one step"):
            term(pi, value)
    with pytest.raises(UserError, match="makes chunks in one step"):
        lean(actor(FlowConfig((16,), steps=1)), value)


def test_one_member_is_climbed_and_the_other_measures():
    members = jnp.asarray([[2.0, 4.0], [-10.0, 20.0]])  # means 3 and 5, sizes 3 and 15
    q = Critic((), lambda vars, obs, a, *level: members * jnp.mean(a), None, None)  # of chunks clipped to 1
    step = lambda vars, obs, x, k: (x, 0.0)  # noqa: E731
    pi = one_step(MODULE, lambda params: (1, 1), step, False, None)
    for first, wanted in ((-0.1, -3 / 15), (0.1, -5 / 3)):
        made = Proposal(jnp.asarray([[[first]], [[5.0]]]), jnp.full((2, 1, 1), 3.0), None)
        np.testing.assert_allclose(
            ascend_one(pi, q).fn(READS, made, chunk_of(jnp.zeros((2, 1, 1))))[0], wanted, rtol=1e-6
        )
    single = q._replace(values=lambda vars, obs, a, *level: members[:1])
    np.testing.assert_allclose(ascend_one(pi, single).fn(READS, made, chunk_of(jnp.zeros((2, 1, 1))))[0], -1.0)


def test_chunks_climb_at_the_rate_of_adam():
    """Up a slope of any size, for Adam divides by it: by 0.1 a step, and no further than the bounds."""
    action = jnp.asarray([[[0.5], [-0.5]], [[0.95], [0.0]]])
    found = climbed(lambda vars, obs, a, level: value(vars, obs, a, level), 3, 0.1)(NONE, chunk_of(action))
    np.testing.assert_allclose(found[..., 0], [[0.8, -0.8], [1.0, -0.3]], atol=1e-5)
    seen = []
    pi = constant()._replace(loss=lambda vars, noise, chunk: seen.append(chunk.action) or jnp.zeros(2), shape=None)
    bc(pi, aim=lambda vars, chunk: found).fn(READS, (), chunk_of(action))
    np.testing.assert_array_equal(seen[0], found)


def test_weights_of_what_was_played():
    told = chunk_of(jnp.zeros((4, 1, 1)), extras={"advantage": jnp.asarray([0.0, 0.2, 9.0, 9.0])})
    told = told._replace(weight=jnp.asarray([[1.0], [1.0], [1.0], [0.0]]))
    np.testing.assert_allclose(told_weight(5.0)(NONE, told), [1.0, np.e, 100.0, 0.0], rtol=1e-5)


def standard(x):
    return (x - x.mean()) / (x.std(ddof=1) + 1e-8)


def test_returns_to_go_equal_a_slow_loop():
    """What the rollout's end cuts off counts nothing, also not in the mean and the deviation of the others."""
    rng = np.random.default_rng(0)
    reward, last = rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 3))
    last[3:, 0] = 0
    discount = np.where(rng.integers(0, 2, (5, 3)) & last, 0.0, 0.9)  # some ends are time-outs
    slow, whole = np.zeros((5, 3)), np.ones((5, 3))
    for e in range(3):
        for t in range(5):
            gain, i = 1.0, t
            while True:
                slow[t, e] += gain * reward[i, e]
                if last[i, e]:
                    break
                if i == 4:
                    whole[t, e] = 0.0
                    break
                gain, i = gain * discount[i, e], i + 1
    rollout = chunk_of(
        jnp.zeros((5, 3, 1, 1)), reward=jnp.asarray(reward)[..., None], last=jnp.asarray(last, jnp.float32)
    )
    rollout = rollout._replace(discount=jnp.asarray(discount)[..., None], weight=jnp.ones((5, 3, 1)))
    _, found = returns_to_go()(None, {}, jax.random.key(0), rollout)
    assert 0 < whole.sum() < whole.size
    np.testing.assert_array_equal(found.weight[..., 0], whole)
    kept = whole > 0
    np.testing.assert_allclose(found.extras["advantage"][kept], standard(slow[kept]), atol=1e-5)


def test_lambda_returns_equal_a_slow_loop():
    """V(o) is o's first number; the third chunk of the fourth row is cut by a time-out, so that the return ends before it; the last row's first is."""
    rng = np.random.default_rng(1)
    rows, count, lam = 5, 3, 0.8
    reward, v, after = (rng.normal(size=(rows, count)) for _ in range(3))
    last = np.asarray([[0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1]])
    discount = np.where(last * (np.arange(rows) == 2)[:, None], 0.0, 0.9)
    weight = np.ones((rows, count))
    weight[1, 2] = weight[2, 1:] = weight[3, 2] = weight[4] = 0.0  # absent, or cut

    def total(b, u):
        ends = last[b, u] or u == count - 1 or weight[b, u + 1] == 0
        mixed = after[b, u] if ends else (1 - lam) * after[b, u] + lam * total(b, u + 1)
        return reward[b, u] + discount[b, u] * mixed

    # behind a chunk that is not its episode's last stands the next one's start
    for b in range(rows):
        for u in range(count - 1):
            after[b, u] = after[b, u] if last[b, u] else v[b, u + 1]
    state = Critic((), None, None, lambda vars, obs, *rest: obs[..., 0])
    pad = lambda x: jnp.asarray(np.stack([x, np.zeros_like(x)], -1), jnp.float32)  # noqa: E731
    chunk = Chunk(
        obs=pad(v),
        action=jnp.zeros((rows, count, 1, 1)),
        mask=jnp.ones((rows, count, 1)),
        reward=jnp.asarray(reward, jnp.float32)[..., None],
        discount=jnp.asarray(discount, jnp.float32)[..., None],
        next_obs=pad(after)[:, :, None],
        weight=jnp.asarray(weight, jnp.float32)[..., None],
        last=jnp.asarray(last, jnp.float32),
        extras={},
    )
    given = Learner({}, {}, {}, (), jnp.zeros((), jnp.int32))
    _, found = lambda_returns(state, lam)(given, {}, jax.random.key(0), chunk)
    slow = np.asarray([total(b, 0) for b in range(rows)])
    assert found.action.shape == (rows, 1, 1)
    np.testing.assert_allclose(found.extras["return"], slow, atol=1e-5)
    gain = (slow - v[:, 0])[:4]  # what is cut counts nowhere, in the advantages' units neither
    np.testing.assert_allclose(found.extras["advantage"][:4], standard(gain), atol=1e-5)


@pytest.mark.slow
def test_exploring_draws_by_the_expectile():
    """Of 16 candidates those above V are taken with weight 0.7 each, the others with 0.3."""
    c = IDQL(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), n=16, expectile=0.7)
    algorithm, q, v = idql(c), chunk_q(c.critic), state_v(c.critic)
    state = algorithm.init(jax.random.key(0), Spec(2, 1, 2), {})
    obs, vars = jax.random.normal(jax.random.key(1), (2,)), view(state, {})
    noise, _ = algorithm.explore.draw(vars, jax.random.key(2), obs)
    worth = lambda a: q.values(vars, obs, a).min(axis=0)  # noqa: E731
    explored = jax.jit(
        jax.vmap(lambda v, g: algorithm.explore.plan(v, (noise, g), obs, None).action, in_axes=(None, 0))
    )
    candidates = explored(vars, 99.0 * jnp.eye(16))
    gap = (
        jnp.median(worth(candidates)) - 1e-6 - v.score(vars, obs)
    )  # V between the candidates, of which it leaves 8 above it
    shifted = {**vars.params["state_value"], "head_bias": vars.params["state_value"]["head_bias"] + gap}
    vars = vars._replace(params={**vars.params, "state_value": shifted})
    above = lambda a: worth(a) > v.score(vars, obs)  # noqa: E731
    n = int(above(candidates).sum())
    assert 0 < n < 16
    plans = explored(vars, jax.random.gumbel(jax.random.key(3), (4000, 16)))
    assert float(above(plans).mean()) == pytest.approx(0.7 * n / (0.7 * n + 0.3 * (16 - n)), abs=0.03)
    best = algorithm.act.plan(vars, noise, obs, None).action
    np.testing.assert_array_equal(best, candidates[jnp.argmax(q.values(vars, obs, candidates).min(axis=0))])


def test_a_moving_average_starts_at_the_prior_too():
    c = DRWR(FlowConfig((16,), steps=2, ema=True), ChunkConfig(2))
    given = {"actor": actor(c.tuned).modules[0].init(jax.random.key(9), Spec(2, 1, 2))}
    state = drwr(c).init(jax.random.key(0), Spec(2, 1, 2), given)
    for held in (state.params, state.targets):
        jax.tree.map(np.testing.assert_array_equal, held["actor"], given["actor"])
    plan = act(drwr(c).act, view(state, given), jax.random.key(1), jnp.zeros(2))
    assert plan.action.shape == (2, 1)
