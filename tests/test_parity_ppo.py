"""Parity with the published DPPO code: advantages, reward scales, rates, path probabilities, the loss and its gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity_diffusion import SMALL, load, reading, residual

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors.diffusion import diffusion
from qchunk.actors.paths import stochastic, with_min_std
from qchunk.compose import frozen
from qchunk.config import OptimConfig
from qchunk.drivers.reward_scale import no_scale, scaled
from qchunk.losses import ppo_path as ppo
from qchunk.losses.gae import gae
from qchunk.optimisers import rate_of
from qchunk.sampling import log_prob, sample_path
from qchunk.types import Vars

pytestmark = pytest.mark.accelerator


def names(g, prefix):
    return sorted({k.split("/")[0] for k in g if k.startswith(prefix)})


@pytest.mark.parametrize("case", range(4))
def test_advantages(case):
    g = load("dppo_gae")
    gamma, lam, scale = (float(x) for x in g[f"case{case}/gamma_lambda_rewardscale"])
    reward, value = (jnp.asarray(g[f"{n}_f64"], jnp.float32) for n in ("reward", "value"))
    last = jnp.asarray(g["terminated"])
    after = jnp.concatenate([value[1:], jnp.asarray(g["next_value_f64"], jnp.float32)[None]])
    advantage, target = gae(scale * reward, gamma * (1 - last), value, after, last, lam)
    np.testing.assert_allclose(advantage, g[f"case{case}/advantage_f64"], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(target, g[f"case{case}/return_f64"], rtol=1e-4, atol=2e-5)


def test_reward_scale():
    g, state = load("dppo_reward_scaling"), no_scale(3)
    for i in range(4):
        state, out = scaled(state, jnp.asarray(g[f"call{i}/reward_f64"].T, jnp.float32), g[f"call{i}/first"].T)
        np.testing.assert_allclose(out.T, g[f"call{i}/scaled_f64"], rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(state.returns, g[f"call{i}/last_ret_f64"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.var, g[f"call{i}/var_f64"], rtol=2e-4)


@pytest.mark.parametrize("case", range(3))
def test_learning_rates(case):
    """Until the end of the cycle, from which on the reference starts again and we stay."""
    g = load("dppo_lr_schedule")
    cycle, high, low, warmup = (float(x) for x in g[f"case{case}/cycle_max_min_warmup"])
    rate = rate_of(OptimConfig(high, low, int(warmup), int(cycle)))
    ours = [float(rate(i)) for i in range(int(cycle) + 5)]
    known = g[f"case{case}/lr_f64"]
    np.testing.assert_allclose(ours[: int(cycle) + 1], known[: int(cycle) + 1], rtol=1e-5)
    np.testing.assert_allclose(ours[int(cycle) :], low, rtol=1e-5)


@pytest.mark.parametrize("case", range(7))
def test_clip_bounds(case):
    """Tight for the noisiest step, whole for the last."""
    g = load("dppo_clip_discount")
    tuned, base, clip, rate = (float(x) for x in g[f"clip/case{case}/Kp_base_clip_rate"])
    ours = ppo.clip_bounds(int(tuned), clip, base, rate)
    np.testing.assert_allclose(ours, g[f"clip/case{case}/eps"], rtol=1e-4, atol=1e-7)
    assert ours[0] <= ours[-1]


@pytest.mark.parametrize(("file", "config", "floor"), [("ddpm", SMALL, 0.1), ("ddim_K100_S5", None, 0.1)])
def test_log_probabilities(file, config, floor):
    g = load("dppo_logprob")
    c = config or DiffusionConfig((24, 24, 24), time_features=8, steps=100, ddim=5)
    kernel = diffusion(c)
    kernel = with_min_std(kernel if kernel.noisy else stochastic(kernel), floor)
    obs, path = jnp.asarray(g["state"][:, 0]), jnp.asarray(g[f"{file}/chain"])
    for which in ("old", "new"):
        vars = reading(residual(g, f"ft_{which}"))
        known = np.clip(g[f"{file}/logprob_{which}"], -5, 2)
        for mask, expected in ((4, known.mean((2, 3))), (2, known[:, :, :2].mean((2, 3)))):
            weight = (jnp.arange(4) < mask).astype(jnp.float32) * jnp.ones((4, 1))
            np.testing.assert_allclose(log_prob(kernel, vars, obs, path, weight), expected, rtol=1e-5, atol=3e-5)
    if file == "ddpm":
        far = log_prob(kernel, vars, obs, jnp.asarray(g["ddpm/chain_far"]), jnp.ones((4, 4)))
        np.testing.assert_allclose(far, g["ddpm/logprob_new_far_clamped_mean"], rtol=1e-5, atol=3e-5)


def test_paths():
    """A frozen Kernel for the first ten of twenty steps, a tuned one for the last ten, noise bounded, stds bounded from below."""
    g = load("dppo_ddpm_chain")
    kernel = with_min_std(diffusion(SMALL), 0.1)
    vars = Vars({"actor": residual(g, "ft")}, {}, {}, {"actor": residual(g, "base")})
    noise = jnp.asarray(g["ft10/x_init"]), jnp.moveaxis(jnp.asarray(g["ft10/noise"]), 0, 1)
    plan = sample_path(kernel, frozen(kernel), 10).plan(vars, noise, jnp.asarray(g["state"][:, 0]), None)
    np.testing.assert_allclose(plan.extras["path"], g["ft10/chain"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(plan.action, np.clip(g["ft10/chain"][:, -1], -1, 1), rtol=2e-5, atol=2e-5)


VARIANTS = {
    "main": {"clip": 0.01, "base": 0.001, "rate": 3.0, "gamma": 0.95, "mask": 4, "normal": True},
    "rh2": {"clip": 0.1, "base": 0.1, "rate": 1.0, "gamma": 0.99, "mask": 2, "normal": True},
    "nonorm": {"clip": 0.01, "base": 0.001, "rate": 3.0, "gamma": 0.95, "mask": 4, "normal": False},
    "wideclip": {"clip": 0.2, "base": 0.2, "rate": 3.0, "gamma": 0.95, "mask": 4, "normal": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_and_its_gradients(variant):
    """The reference draws (decision, step) pairs; we take one step of each decision's path through the public pieces."""
    g, v = load("dppo_ppo_loss"), VARIANTS[variant]
    kernel, at = with_min_std(diffusion(SMALL), 0.1), jnp.asarray(g["denoising_inds"])  # 0 is the noisiest of 10
    pair = jnp.stack([jnp.asarray(g["chains_prev"]), jnp.asarray(g["chains_next"])], axis=1)
    obs, mask = jnp.asarray(g["state"][:, 0]), jnp.broadcast_to((jnp.arange(4) < v["mask"]) * 1.0, (8, 4))
    advantage = jnp.asarray(g["advantages"])
    advantage = (ppo.standardised(advantage) if v["normal"] else advantage) * v["gamma"] ** (9 - at)
    bound = ppo.clip_bounds(10, v["clip"], v["base"], v["rate"])[at]

    def probability(params):
        def one(pair, obs, mask, at):  # a path of one step, at its place among twenty
            here = kernel._replace(
                levels=kernel.levels[:2], step=lambda vars, obs, x, k: kernel.step(vars, obs, x, 10 + at)
            )
            return log_prob(here, reading(params), obs, pair, mask)[0]

        return jax.vmap(one)(pair, obs, mask, at)

    old = jnp.mean(jnp.clip(jnp.asarray(g["old_logprobs"])[:, : v["mask"]], -5, 2), axis=(1, 2))

    def loss(params):
        return ppo.surrogate(probability(params), old, advantage, bound)

    params = residual(g, "ft_new")
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(probability(params), g[f"{variant}/logprob_new"], rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(value, g[f"{variant}/pg_loss"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["approx_kl"], g[f"{variant}/approx_kl"], atol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"], g[f"{variant}/clipfrac"], atol=1e-6)
    known = residual(g, f"{variant}/grad_actor")
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(known))
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest + 1e-7)


@pytest.mark.parametrize("case", range(5))
def test_denoising_discount(case):
    """The factor of the last step is 1, that of the noisiest gamma^(K' - 1)."""
    g = load("dppo_clip_discount")
    tuned, gamma = (float(x) for x in g[f"gamma/case{case}/Kp_gamma"])
    ours = ppo.denoising_discounts(int(tuned), gamma)
    np.testing.assert_allclose(ours, g[f"gamma/case{case}/discount"], rtol=1e-5)
