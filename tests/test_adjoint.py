"""Adjoint matching: against automatic differentiation, in closed form on a linear flow, and its optimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.actor_configs import FlowConfig, RegressionConfig
from qchunk.actors.flow import flow
from qchunk.actors.gaussian import regression
from qchunk.actors.paths import decode, memoryless, memoryless_std
from qchunk.losses.adjoint import adjoint_matching, adjoints, apart, ascend_path, matching_within, path
from qchunk.losses.proposals import noise_of, temperature
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Vars

NO_VARS = Vars({}, {}, {}, {})
K = 4


def field(velocity, name="actor"):
    """A flow of K steps whose velocity is this function of (x, t)."""
    kernel = flow(FlowConfig((16,), steps=K), name)
    t = np.asarray(kernel.levels)[:, 0]

    def denoise(vars, obs, x, k):
        return x + (1 - jnp.asarray(t)[k]) * velocity(x, jnp.asarray(t)[k])

    def step(vars, obs, x, k):
        return kernel.advance(x, denoise(vars, obs, x, k), k)

    return kernel._replace(denoise=denoise, step=step, velocity=lambda vars, obs, x, t: velocity(x, t[..., None]))


def noise(key, rows=3):
    start, steps = jax.random.split(jax.random.key(key))
    return jax.random.normal(start, (rows, 2, 1)), jax.random.normal(steps, (rows, K, 2, 1))


OBS = jnp.zeros((3, 2))
CHUNK = Chunk(OBS, jnp.zeros((3, 2, 1)), jnp.ones((3, 2)), *[None] * 5, {})


def test_the_paths_of_a_flow_against_a_slow_loop():
    """The memoryless SDE of the fast flow, whose last step is the slow one's."""
    fast, slow = field(lambda x, t: jnp.sin(x) + t), field(lambda x, t: -x * t, "slow")
    start, steps = noise(0)
    states, end = path(fast, slow, NO_VARS, OBS, (start, steps))
    x, d = np.asarray(start, np.float64), 1 / K
    for i in range(K):
        np.testing.assert_allclose(states[i], x, rtol=1e-5, atol=1e-5)
        t = i * d
        sigma = np.sqrt(2 * (1 - t + d) / (t + d))
        if i < K - 1:
            x = x + d * (2 * (np.sin(x) + t) - x / (t + d)) + np.sqrt(d) * sigma * np.asarray(steps[:, i])
    np.testing.assert_allclose(end, x + d * (-x * (K - 1) * d), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        apart(fast, slow, NO_VARS, OBS, states)[2], np.sin(states[2]) + 0.5 + states[2] * 0.5, rtol=1e-5, atol=1e-5
    )


def test_the_memoryless_sde_keeps_the_marginals():
    """A flow to N(m, s^2): its velocity is known, and with many steps the SDE ends there, too."""
    m, s, many = 0.4, 0.5, 400
    kernel = flow(FlowConfig((16,), steps=many))
    t = jnp.asarray(np.asarray(kernel.levels)[:, 0], jnp.float32)

    def denoise(vars, obs, x, k):  # E[a | x_t] of a ~ N(m, s^2), x_t = t a + (1 - t) z
        c = t[k] ** 2 * s**2 + (1 - t[k]) ** 2
        return m + t[k] * s**2 / c * (x - t[k] * m)

    kernel = kernel._replace(denoise=denoise)
    sde = memoryless(kernel)
    start, steps = (
        jax.random.normal(jax.random.key(0), (4000, 1, 1)),
        jax.random.normal(jax.random.key(1), (4000, many, 1, 1)),
    )
    x = decode(sde, NO_VARS, OBS, start, steps, last=many - 1)
    assert abs(float(x.mean()) - m) < 0.03 and abs(float(x.std()) - s) < 0.03
    assert abs(float(jnp.corrcoef(x.ravel(), start.ravel())[0, 1])) < 0.05  # the end tells nothing of the start
    assert memoryless_std(many)[0] > 20 > memoryless_std(many)[-1]


def test_adjoints_against_automatic_differentiation():
    """A velocity that does not ask for the time: the adjoint is the gradient through the slow flow's own drift."""
    slow = field(lambda x, t: jnp.sin(2 * x))
    start, steps = noise(1)
    d, later = 1 / K, jnp.arange(1, K + 1) / K
    slope_of = lambda x: jnp.sum(jnp.cos(x))  # noqa: E731

    def move(x, i):
        return x + d * (2 * jnp.sin(2 * x) - x / later[i]) + jnp.sqrt(d) * memoryless_std(K)[i] * steps[:, i]

    states = [start]
    for i in range(K - 1):
        states.append(move(states[-1], i))

    def from_state(x, i):
        for j in range(i, K):
            x = move(x, j)
        return slope_of(x)

    end = move(states[-1], K - 1)
    found = adjoints(slow, NO_VARS, OBS, jnp.stack(states), jax.grad(slope_of)(end))
    for i in range(K):
        np.testing.assert_allclose(found[i], jax.grad(from_state)(states[i], i), rtol=1e-4, atol=1e-5)


def test_adjoints_of_a_linear_flow_in_closed_form():
    """v = a x: g_i = g_K prod_{j >= i} (1 + d (2 a - 1 / t_{j+1}))."""
    a, d = 0.7, 1 / K
    slope = jnp.asarray([[[1.0], [-2.0]]])
    found = adjoints(field(lambda x, t: a * x), NO_VARS, OBS[:1], jnp.ones((K, 1, 2, 1)), slope)
    factors = 1 + d * (2 * a - 1 / (np.arange(1, K + 1) * d))
    for i in range(K):
        np.testing.assert_allclose(found[i], np.prod(factors[i:]) * slope, rtol=1e-5)


def test_the_loss_by_hand():
    """Flows that differ by a constant c and a critic whose slope is b: sum over steps and numbers of (2 c / sigma + sigma g)^2."""
    c, b, weight = 0.3, 0.5, 2.0
    fast, slow = field(lambda x, t: 0 * x + c), field(lambda x, t: 0 * x, "slow")
    term = adjoint_matching(fast, slow, lambda vars, obs, action: b * jnp.sum(action, (-2, -1)), weight)
    start = jnp.zeros((3, 2, 1))  # and no noise: paths stay inside [-1, 1], where the critic has its slope
    loss, metrics = term.fn(NO_VARS, (start, jnp.zeros((3, K, 2, 1))), CHUNK)
    d, g = 1 / K, -weight * b
    expected = 0.0
    for i in reversed(range(K)):
        g = g * (1 - d / ((i + 1) * d))
        sigma = memoryless_std(K)[i]
        expected += 2 * (2 * c / sigma + sigma * g) ** 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["slope"], weight * b, rtol=1e-6)
    far = term.fn(NO_VARS, (start, jnp.full((3, K, 2, 1), 50.0)), CHUNK)  # outside, where a clipped chunk has no slope
    np.testing.assert_allclose(far[1]["slope"], 0.0)
    drift = sum(2 / K * 2 * c**2 / memoryless_std(K)[i] ** 2 for i in range(K - 1))
    climb = ascend_path(fast, slow, lambda vars, obs, action: b * jnp.sum(action, (-2, -1)), weight)
    loss, metrics = climb.fn(NO_VARS, (start, jnp.zeros((3, K, 2, 1))), CHUNK)
    np.testing.assert_allclose(metrics["drift"], drift, rtol=1e-5)
    np.testing.assert_allclose(loss, K * drift - weight * metrics["q"], rtol=1e-5)


def test_what_paths_differ_by_is_the_divergence_of_their_steps():
    """Of both terms, in nats: KL(N(m, s^2) || N(m', s^2)) = (m - m')^2 / (2 s^2) summed over steps; the last step of a path is the slow flow's."""
    fast, slow = field(lambda x, t: 0.5 * x + t), field(lambda x, t: -x, "slow")
    score, drawn, nats = lambda vars, obs, action: jnp.sum(action, (-2, -1)), noise(5), []
    states, _ = path(fast, slow, NO_VARS, OBS, drawn)
    for i in range(K):
        (m, s), (other, _) = (memoryless(k).step(NO_VARS, OBS, states[i], i) for k in (fast, slow))
        nats.append(jnp.mean(jnp.sum((m - other) ** 2 / (2 * s**2), (-2, -1))))
    told = [term(fast, slow, score, 2.0).fn(NO_VARS, drawn, CHUNK) for term in (adjoint_matching, ascend_path)]
    np.testing.assert_allclose([metrics["drift"] for _, metrics in told], [sum(nats), sum(nats[:-1])], rtol=1e-4)
    (loss, metrics) = told[1]
    np.testing.assert_allclose(loss, K * sum(nats[:-1]) - 2.0 * metrics["q"], rtol=1e-4)


def test_a_trust_region_sets_the_weight_by_hand():
    """3 lambda times ``adjoint_matching`` with weight 1 / (3 lambda); lambda moves by what the paths differ by, per action."""
    c, lam, bound = 0.3, 0.4, 0.05
    fast, slow = field(lambda x, t: 0 * x + c), field(lambda x, t: 0 * x, "slow")
    score, heat = lambda vars, obs, action: 0.5 * jnp.sum(action, (-2, -1)), temperature()
    drawn = jnp.zeros((3, 2, 1)), jnp.zeros((3, K, 2, 1))
    term = matching_within(fast, slow, score, heat, bound)
    at = lambda log: term.fn(NO_VARS._replace(params={"temperature": log}), drawn, CHUNK)  # noqa: E731
    alone = adjoint_matching(fast, slow, score, 1 / (3 * lam)).fn(NO_VARS, drawn, CHUNK)[0]
    drift = sum(2 / K * 2 * c**2 / memoryless_std(K)[i] ** 2 for i in range(K)) / 2  # of two numbers, by two actions
    loss, metrics = at(jnp.log(lam))
    np.testing.assert_allclose(metrics["drift"], drift, rtol=1e-5)
    most = min(drift, 2 * bound)
    np.testing.assert_allclose(loss, 3 * lam * alone + np.log(lam) * (bound - most), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda x: at(x)[0])(jnp.log(lam)), bound - most, rtol=1e-5)
    moved = fast._replace(velocity=lambda vars, obs, x, t: 0 * x + vars.params["c"])
    terms = matching_within(moved, slow, score, heat, bound), adjoint_matching(moved, slow, score, 1 / (3 * lam))
    told = lambda c: NO_VARS._replace(params={"temperature": jnp.log(lam), "c": c})  # noqa: E731
    within, alone = (jax.grad(lambda c, term=term: term.fn(told(c), drawn, CHUNK)[0])(jnp.asarray(c)) for term in terms)
    np.testing.assert_allclose(within, 3 * lam * alone, rtol=1e-5)  # what moves lambda does not move the flow


@pytest.mark.parametrize(
    ("lam", "bound", "stays"), [(0.002, 9.0, True), (0.002, 1e-3, False), (500.0, 1e-3, True), (500.0, 9.0, False)]
)
def test_a_weight_stays_within_its_range(lam, bound, stays):
    """Beyond an end of it the weight is the end's, and lambda moves no further out, but back."""
    end = min(max(lam, 0.01), 100.0)
    fast, slow = field(lambda x, t: 0 * x + 0.3), field(lambda x, t: 0 * x, "slow")
    score, drawn = (
        lambda vars, obs, action: 0.5 * jnp.sum(action, (-2, -1)),
        (jnp.zeros((3, 2, 1)), jnp.zeros((3, K, 2, 1))),
    )
    term = matching_within(fast, slow, score, temperature(), bound)
    at = lambda log: term.fn(NO_VARS._replace(params={"temperature": log}), drawn, CHUNK)  # noqa: E731
    (loss, metrics), slope = at(jnp.log(lam)), jax.grad(lambda x: at(x)[0])(jnp.log(lam))
    moved = 0.0 if stays else bound - min(float(metrics["drift"]), 2 * bound)
    np.testing.assert_allclose(slope, moved, rtol=1e-5)
    alone = adjoint_matching(fast, slow, score, 1 / (3 * end)).fn(NO_VARS, drawn, CHUNK)[0]
    np.testing.assert_allclose(loss, 3 * end * alone + moved * np.log(lam), rtol=1e-4)


def test_what_is_no_flow_is_refused():
    one, other = flow(FlowConfig((16,), steps=K)), flow(FlowConfig((16,), steps=3), "fast")
    for kernel in (regression(RegressionConfig((16,)), "fast"), other):
        with pytest.raises(UserError, match="take --actor.kind flow|same number of steps"):
            adjoint_matching(kernel, one, lambda *a: 0.0, 1.0)


def test_noise_of_a_path_is_drawn_once_for_each_step():
    kernel = flow(FlowConfig((16,), steps=K))
    start, steps = noise_of(memoryless(kernel))(jax.random.key(1), CHUNK)
    assert start.shape == (3, 2, 1) and steps.shape == (3, K, 2, 1)
    assert not np.allclose(start[:, None], steps[:, :1])
