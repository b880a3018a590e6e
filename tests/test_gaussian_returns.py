"""Returns as Gaussians and the entropy of samples: against a loop, in closed form, and by what they learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qchunk.config import CriticConfig
from qchunk.critics.gaussian_q import gaussian_q
from qchunk.losses import mixtures
from qchunk.losses.gaussian_td import td_gaussian
from qchunk.losses.mixtures import regulate
from qchunk.losses.proposals import temperature
from qchunk.sampling import emit_step
from qchunk.types import Chunk, Plan, Policy, Spec, Vars

SPEC, B = Spec(1, 1, 2), 5
entropy = jax.jit(mixtures.entropy, static_argnums=1)
NEXT = Policy(
    lambda vars, key, obs: None, lambda vars, noise, obs, old: Plan(jnp.full((*obs.shape[:-1], 2, 1), 0.3)), emit_step
)


def setting(reward, members=2):
    q, outlook = gaussian_q(CriticConfig((16,), members=members, aggregate="min"))
    (module,) = q.modules
    params, slow = module.init(jax.random.key(0), SPEC), module.init(jax.random.key(1), SPEC)
    size = len(reward)
    action = jax.random.uniform(jax.random.key(2), (size, 2, 1), minval=-1.0)
    obs = jax.random.normal(jax.random.key(3), (size, 1))
    ones = jnp.ones((size, 1))
    weight = ones.at[-1].set(0.0)
    chunk = Chunk(
        obs, action, jnp.ones((size, 2)), reward[:, None], 0.9 * ones, 1.0 + obs[:, None], weight, ones[:, 0], {}
    )
    return q, outlook, Vars({"critic": params}, {"critic": slow}, {}, {}), chunk


def test_the_loss_of_means_and_deviations_equals_a_loop():
    q, outlook, vars, chunk = setting(jnp.asarray([1.0, -3.0, 0.5, 200.0, 7.0]))
    bias = vars.targets["critic"]["head_bias"]  # one member of the target networks says a deviation of 4
    vars.targets["critic"]["head_bias"] = bias.at[0, ..., 1].set(4.0)
    term = td_gaussian(q, outlook, NEXT, huber=2.0)
    key, drawn = term.draw(jax.random.key(4), chunk)
    noise = key, drawn.at[:2].set(jnp.asarray([5.0, -4.0]))  # further than any bound
    z, slow = np.clip(noise[1], -3, 3), vars._replace(params=vars.targets)
    after, plan = chunk.next_obs[:, 0], jnp.full((B, 2, 1), 0.3)
    m, s, m2, s2 = (
        np.asarray(x, np.float64)
        for found in (outlook(vars, chunk.obs, chunk.action), outlook(slow, after, plan))
        for x in found
    )
    np.testing.assert_array_equal(m, q.values(vars, chunk.obs, chunk.action))
    np.testing.assert_array_equal(m.min(axis=0), q.score(vars, chunk.obs, chunk.action))
    typical = np.asarray(outlook(slow, chunk.obs, chunk.action)[1]).mean(axis=1)

    def huber(e):
        return 0.5 * e**2 if abs(e) <= 2.0 else 2.0 * (abs(e) - 1.0)

    total, slope = 0.0, np.zeros((2, B, 2))
    for b in range(B - 1):  # the last window counts nothing
        low = int(np.argmin(m2[:, b]))
        y = float(chunk.reward[b, 0]) + 0.9 * m2[low, b]
        drawn = y + 0.9 * z[b] * s2[low, b]
        for i in range(2):
            ratio = np.clip(typical[i] ** 2 / (s[i, b] ** 2 + 0.1), 0.1, 10)
            near = m[i, b] + np.clip(drawn - m[i, b], -3 * typical[i], 3 * typical[i])
            pull = (s[i, b] ** 2 - 2 * huber(m[i, b] - near)) / (s[i, b] + 0.1)
            total += ratio * (huber(m[i, b] - y) + s[i, b] * pull) / 8
            slope[i, b] = ratio * np.clip(m[i, b] - y, -2, 2) / 8, ratio * pull / 8
    found, metrics = jax.jit(term.fn)(vars, noise, chunk)
    np.testing.assert_allclose(found, total, rtol=2e-5)
    assert metrics["q"].shape == metrics["deviation"].shape == ()

    # the gradient, through a small change of both outputs of every member
    def moved(by):
        shift = jnp.asarray(by)

        def both(vars, obs, action):
            return tuple(x + shift[..., i] * vars.params["on"] for i, x in enumerate(outlook(vars, obs, action)))

        seen = vars._replace(params={**vars.params, "on": 1.0}, targets={**vars.targets, "on": 0.0})
        return td_gaussian(q, both, NEXT, huber=2.0).fn(seen, noise, chunk)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(moved))(jnp.zeros((2, B, 2))), slope, rtol=1e-4, atol=1e-6)


def test_means_and_deviations_of_noisy_rewards_are_learned():
    """Rewards of 2 +- 1.5 that end their episode: the mean and the deviation are found, the latter whole."""
    reward = 2.0 + 1.5 * jax.random.normal(jax.random.key(5), (1024,))
    q, outlook, vars, chunk = setting(reward)
    chunk = chunk._replace(discount=0 * chunk.discount, obs=0 * chunk.obs, action=0 * chunk.action)
    term, tx = td_gaussian(q, outlook, NEXT, huber=50.0), optax.adam(1e-2)

    def step(state, key):
        params, slow, opt = state
        loss = lambda p: term.fn(Vars({"critic": p}, {"critic": slow}, {}, {}), term.draw(key, chunk), chunk)[0]  # noqa: E731
        updates, opt = tx.update(jax.grad(loss)(params), opt)
        params = optax.apply_updates(params, updates)
        return (params, optax.incremental_update(params, slow, 0.05), opt), None

    start = (vars.params["critic"], vars.targets["critic"], tx.init(vars.params["critic"]))
    params = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(6), 300)))(start)[0][0]
    learned = vars._replace(params={"critic": params})
    mean, std = outlook(learned, chunk.obs[:1], chunk.action[:1])
    np.testing.assert_allclose(mean, 2.0, atol=0.1)
    np.testing.assert_allclose(std, 1.5, atol=0.1)


def test_the_entropy_of_gaussian_samples():
    x = 0.3 * jax.random.normal(jax.random.key(0), (4, 1000, 4))
    exact = 4 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.3))
    np.testing.assert_allclose(jnp.mean(entropy(x, 3)), exact, atol=0.06)
    spread = np.stack([np.cov(rows.T, bias=True) for rows in np.asarray(x)])  # one Gaussian is fitted in closed form
    np.testing.assert_allclose(
        entropy(x, 1), 2 * np.log(2 * np.pi * np.e) + 0.5 * np.linalg.slogdet(spread)[1], atol=1e-3
    )


def test_the_entropy_of_modes_that_are_apart():
    """Of three narrow ones log 3 and their own; a single Gaussian would say 2.6 nats more. Samples that are all equal have a finite one."""
    which = jax.random.randint(jax.random.key(0), (8, 600, 1), 0, 3) - 1.0
    x = 5.0 * which + 0.1 * jax.random.normal(jax.random.key(1), (8, 600, 2))
    exact = np.log(3) + 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.1))
    np.testing.assert_allclose(entropy(x, 3), exact, atol=0.15)
    assert jnp.all(entropy(x, 1) > exact + 1.5)
    assert jnp.isfinite(entropy(jnp.ones((1, 20, 2)), 3)).all()


@pytest.mark.parametrize(("far", "std"), [(5.0, 0.1), (2.0, 0.4)])
def test_the_entropy_of_unequal_modes(far, std):
    """One has a tenth of the samples, and where they overlap each weighs what belongs to it: minus the mean of the true log-density."""
    rng = np.random.default_rng(0)
    x = np.where(np.arange(2000) % 10 == 0, far, 0.0) + std * rng.normal(size=2000)
    near, there = (np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)) for mean in (0.0, far))
    exact = -np.log(0.9 * near + 0.1 * there).mean()
    np.testing.assert_allclose(entropy(jnp.asarray(x, jnp.float32)[:, None], 2), exact, atol=0.01)


@pytest.mark.parametrize(("std", "sign"), [(0.02, -1), (0.6, 1)])
def test_the_temperature_rises_where_actions_are_too_alike(std, sign):
    _, _, _, chunk = setting(jnp.zeros(B))
    heat = temperature(first=2.0)
    draw = lambda vars, key, obs: jax.random.normal(key, (*obs.shape[:-1], 2, 2))  # noqa: E731
    grown = lambda vars: std / 2.0 * jnp.exp(vars.params["temperature"])  # noqa: E731
    policy = Policy(draw, lambda vars, noise, obs, old: Plan(grown(vars) * noise), emit_step)  # no gradient through it
    term = regulate(policy, heat, -0.9, 100, 3)
    vars = Vars({"temperature": heat.init(jax.random.key(0), SPEC)}, {}, {}, {})
    key = term.draw(jax.random.key(1), chunk)
    slope, metrics = jax.jit(jax.grad(lambda v: term.fn(v, key, chunk), has_aux=True))(vars)
    exact = 0.5 * np.log(2 * np.pi * np.e) + np.log(std)
    np.testing.assert_allclose(metrics["entropy"], exact, atol=0.1)
    np.testing.assert_allclose(metrics["temperature"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(slope.params["temperature"], metrics["entropy"] + 0.9, rtol=1e-5)
    assert np.sign(slope.params["temperature"]) == sign
