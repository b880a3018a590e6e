"""Parity with published diffusion code: schedules, posteriors, chains, losses, guided steps (tests/golden/README.md)."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk import nets
from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import paths
from qchunk.actors.diffusion import diffusion
from qchunk.actors.paths import decode
from qchunk.improve import best_of_n, diffuser
from qchunk.losses.cloning import bc
from qchunk.sampling import sample
from qchunk.target_networks import ema
from qchunk.types import Chunk, Kernel, Plan, Policy, Vars

pytestmark = pytest.mark.accelerator

GOLDEN = Path(__file__).parent / "golden"
SMALL = DiffusionConfig((24, 24, 24), time_features=8)


def load(name):
    return dict(np.load(GOLDEN / f"{name}.npz"))


def dense(g, name):
    return {"kernel": jnp.asarray(g[f"{name}.weight"].T), "bias": jnp.asarray(g[f"{name}.bias"])}


def head(g, name, out):
    return {"head_kernel": jnp.asarray(g[f"{name}.weight"].T), "head_bias": jnp.asarray(g[f"{name}.bias"].reshape(out))}


def residual(g, prefix, out=(4, 3)):
    """DPPO's residual network (and its gradients) in our names."""
    body = f"{prefix}/mlp_mean.layers"
    net = {"dense_0": dense(g, f"{body}.0"), "dense_1": dense(g, f"{body}.1.l1"), "dense_2": dense(g, f"{body}.1.l2")}
    for i in (1, 2):
        if f"{body}.1.norm{i}.weight" in g:
            scale, bias = (jnp.asarray(g[f"{body}.1.norm{i}.{n}"]) for n in ("weight", "bias"))
            net[f"norm_{i}"] = {"scale": scale, "bias": bias}
    time = {f"time_{i}": dense(g, f"{prefix}/time_embedding.{n}") for i, n in ((0, 1), (1, 3))}
    return {**time, "net": {**net, **head(g, f"{body}.2", out)}}


def plain(g, prefix, body, time, last, out):
    net = {f"dense_{i}": dense(g, f"{prefix}/{name}") for i, name in enumerate(body)}
    times = {f"time_{i}": dense(g, f"{prefix}/{time}.{n}") for i, n in ((0, 1), (1, 3))}
    return {**times, "net": {**net, **head(g, f"{prefix}/{last}", out)}}


def reading(params):
    return Vars({"actor": params}, {}, {}, {})


@pytest.mark.parametrize("steps", [5, 10, 20, 100])
@pytest.mark.parametrize(
    ("file", "prefix", "schedule"), [("dppo_schedule", "K", "cosine"), ("dql_schedule", "vp_K", "vp")]
)
def test_schedules(file, prefix, schedule, steps):
    """bar-alpha in float64, and the posterior that DDPM steps with (eta = 1 along all levels)."""
    g = load(file)
    known = {k.split("/")[-1]: v for k, v in g.items() if k.startswith(f"{prefix}{steps}/f64/")}
    np.testing.assert_allclose(paths.signal(schedule, steps), known["alphas_cumprod"], rtol=1e-12)
    levels = paths.variance_preserving(paths.signal(schedule, steps), np.arange(steps)[::-1])
    backwards = jnp.arange(steps)[::-1]  # the fixtures count from the cleanest step
    step = lambda x, clean: [y[:, 0, 0] for y in paths.transition(levels)(x, clean, backwards, 1.0)]  # noqa: E731
    (of_clean, std), (of_x, _) = step(0.0, 1.0), step(1.0, 0.0)
    variance = known["ddpm_var" if schedule == "cosine" else "posterior_variance"]
    name = "ddpm_mu_coef" if schedule == "cosine" else "posterior_mean_coef"
    np.testing.assert_allclose(of_clean, known[f"{name}1"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(of_x, known[f"{name}2"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(std**2, variance, rtol=2e-5, atol=1e-9)


def test_posterior_and_noising():
    g = load("dppo_posterior")
    levels = paths.variance_preserving(paths.signal("cosine", 20), np.arange(20)[::-1])
    for name, clip in (("clip1", True), ("noclip", False), ("x0mode_clip1", True)):
        for i in range(20):
            k, x, out = 19 - i, jnp.asarray(g["x"][i]), jnp.asarray(g["eps"][i])
            alpha, sigma = levels[k]
            clean = out if name.startswith("x0") else (x - sigma * out) / alpha
            mean, std = paths.transition(levels, clip)(x, clean, k, 1.0)
            scale = max(1.0, np.abs(g[f"{name}/mean"]).max())
            np.testing.assert_allclose(mean, g[f"{name}/mean"][i], atol=1e-5 * scale)
            np.testing.assert_allclose(std, g[f"{name}/std"][i], rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("eta", [0, 1])
@pytest.mark.parametrize(("steps", "count"), [(100, 5), (20, 10)])
def test_ddim_steps(steps, count, eta):
    g = load("dppo_posterior")
    name = f"ddim_K{steps}_S{count}_eta{eta}"
    times = g[f"{name}/t"]
    levels = paths.variance_preserving(paths.signal("cosine", steps), times)
    np.testing.assert_allclose(diffusion(DiffusionConfig(steps=steps, ddim=count)).levels, levels)
    for k in range(count):
        x, eps = (jnp.asarray(g[f"{name}/{n}"][k]) for n in ("x", "eps"))
        mean, std = paths.transition(levels, clip=True)(x, (x - levels[k, 1] * eps) / levels[k, 0], k, float(eta))
        np.testing.assert_allclose(mean, g[f"{name}/mean"][k], atol=2e-5)
        np.testing.assert_allclose(std, g[f"{name}/sigma"][k], atol=2e-5)


@pytest.mark.parametrize("file", ["ddpm_K20", "ddpm_K100", "ddim_K100_S10_eta0", "ddim_K100_S5_eta1"])
def test_an_independent_scheduler(file):
    g = {k.removeprefix(f"{file}/"): v for k, v in load("hf_schedulers").items() if k.startswith(f"{file}/")}
    steps, times = int(file.split("_")[1][1:]), g["t"] if "t" in g else g["timesteps"]
    grid = times if file.startswith("ddim") else np.arange(steps)[::-1]
    levels = paths.variance_preserving(paths.signal("cosine", steps), grid)
    for i, t in enumerate(times):
        k = int(np.flatnonzero(grid == t)[0])
        x, eps, noise = (jnp.asarray(g[n][i]) for n in ("x", "eps", "noise"))
        eta = 0.0 if file.endswith("eta0") else 1.0
        mean, std = paths.transition(levels, clip=True)(x, (x - levels[k, 1] * eps) / levels[k, 0], k, eta)
        np.testing.assert_allclose(mean + std * noise, g["x_prev"][i], atol=5e-5)


def test_networks():
    g = load("dppo_networks")
    x, t = jnp.asarray(g["x"].reshape(6, 12)), jnp.asarray(g["t"][:, None], jnp.float32)
    cases = {
        "mlp_relu": (nets.Denoiser((24, 24), (4, 3), False, False, "relu", 8), g["state_To1"]),
        "resmlp_mish_layernorm": (nets.Denoiser((16,) * 3, (4, 3), True, True, "mish", 16), g["state_To2"]),
    }
    for name, (net, obs) in cases.items():
        body = [f"mlp_mean.moduleList.{i}.linear_1" for i in (0, 1)]
        params = (
            residual(g, f"{name}/params")
            if name.startswith("res")
            else plain(g, f"{name}/params", body, "time_embedding", "mlp_mean.moduleList.2.linear_1", (4, 3))
        )
        out = nets.apply(net, params, x, t, jnp.asarray(obs.reshape(6, -1)))
        np.testing.assert_allclose(out, g[f"{name}/eps"], atol=3e-6)
        np.testing.assert_allclose(nets.sinusoid(t, net.features), g[f"{name}/sinusoid"], atol=2e-5)


def chain(kernel, params, g, name, steps=None):
    noise = None if steps is None else jnp.moveaxis(jnp.asarray(np.clip(steps, -3, 3)), 0, 1)  # clipped, as there
    start, obs = jnp.asarray(g[f"{name}/x_init"]), jnp.asarray(g["state"][:, 0])
    return decode(kernel, reading(params), obs, start, noise)


def test_a_ddpm_chain_with_its_noise():
    g = load("dppo_ddpm_chain")
    out = chain(diffusion(SMALL), residual(g, "base"), g, "bc_eval", g["bc_eval/noise"])
    np.testing.assert_allclose(out, g["bc_eval/action"], atol=2e-5)


def test_a_ddim_chain():
    g = load("dppo_ddim_chain")
    kernel = diffusion(DiffusionConfig((24, 24, 24), time_features=8, steps=100, ddim=5))
    out = chain(kernel, residual(g, "ft"), g, "K100_S5_eta0")
    np.testing.assert_allclose(out, g["K100_S5_eta0/action"], atol=3e-5)


def test_a_vp_chain_with_its_noise():
    """Diffusion-QL's sampler, whose network is a plain perceptron."""
    g = load("dql_diffusion")
    kernel = diffusion(DiffusionConfig((16, 16, 16), residual=False, time_features=8, steps=5, schedule="vp"))
    params = plain(g, "actor", [f"mid_layer.{i}" for i in (0, 2, 4)], "time_mlp", "final_layer", (1, 3))
    steps = jnp.moveaxis(jnp.asarray(g["sample/noise"]), 0, 1)[:, :, None]
    policy = sample(kernel)
    noise = jnp.asarray(g["sample/x_init"])[:, None], steps
    out = policy.plan(reading(params), noise, jnp.asarray(g["state"]), None).action
    np.testing.assert_allclose(out[:, 0], g["sample/action_clipped"], atol=1e-5)


def chunk_of(action, obs):
    one = jnp.ones((len(action), 1))
    return Chunk(obs, action, jnp.ones(action.shape[:2]), one, one, obs[:, None], one, one[:, 0], {})


@pytest.mark.parametrize(("name", "predict"), [("eps", "noise"), ("x0mode", "clean")])
def test_loss_and_gradients(name, predict):
    g = load("dppo_eps_loss")
    kernel = diffusion(DiffusionConfig((24, 24, 24), time_features=8, predict=predict))
    chunk = chunk_of(jnp.asarray(g["x0"]), jnp.asarray(g["state"][:, 0]))
    noise = jnp.asarray(g["noise"]), jnp.asarray(g["t"][:, None])
    loss, grads = jax.value_and_grad(lambda p: bc(kernel).fn(reading(p), noise, chunk)[0])(residual(g, "params"))
    np.testing.assert_allclose(loss, g[f"{name}/loss"], rtol=1e-5)
    if f"{name}/grad/time_embedding.1.weight" in g:
        wanted = residual(g, f"{name}/grad")
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "scale", "repeats", "stop"),
    [("quad_scale0.1", 0.1, 2, 2), ("mlp_scale0.1", 0.1, 2, 2), ("mlp_scale1_stop4_n1", 1.0, 1, 4)],
)
def test_diffuser_steps(name, scale, repeats, stop):
    """Diffuser overwrites the observation of time 0; here it is held by a value that does not see it."""
    g = {k: jnp.asarray(v) for k, v in load("diffuser_guidance").items()}
    held = jnp.zeros((4, 5)).at[0, 2:].set(1.0)

    def value(vars, obs, x, level):
        x = jnp.where(held > 0, g["step/x"], x)
        if name.startswith("quad"):
            return -0.5 * jnp.sum(g["value_quadratic/h"] * (x - g["value_quadratic/g"]) ** 2, (-2, -1))
        i = 19 - jnp.argmin(jnp.abs(levels[:-1, 0] - level[0]))
        hidden = x.reshape(6, 20) @ g["value_mlp/W1"] + g["value_mlp/b1"] + i / 20 * g["value_mlp/wt"]
        return (jnp.tanh(hidden) @ g["value_mlp/w2"])[:, 0]

    def denoise(vars, obs, x, k):
        hidden = x.reshape(6, 20) @ g["denoiser/W1"] + g["denoiser/b1"] + (19 - k) / 20 * g["denoiser/wt"]
        return (jnp.tanh(hidden) @ g["denoiser/W2"]).reshape(6, 4, 5)

    levels = paths.variance_preserving(paths.signal("cosine", 20), np.arange(20)[::-1])
    advance = functools.partial(paths.transition(levels, clip=True), eta=1.0)
    kernel = Kernel((), levels, None, denoise, advance, paths.step_of(denoise, advance), True, None, None)
    step = diffuser(kernel, value, scale, repeats, stop).step
    for row, t in enumerate(np.asarray(g["step/t"])):
        mean, std = step(Vars({}, {}, {}, {}), None, g["step/x"], 19 - int(t))
        np.testing.assert_allclose(mean[row], g[f"step/{name}/model_mean"][row], atol=1e-5)
        out = mean + std * g[f"step/{name}/noise"]
        np.testing.assert_allclose(out[row], g[f"step/{name}/x_next"][row], atol=1e-5)


def test_moving_average_of_weights():
    g = load("diffusion_policy_misc")
    for case in (0, 1):
        power, most = g[f"ema/case{case}/power_max"]
        if (power, most) != (0.75, 0.9999):
            continue
        ours = [1 - float(ema(True).rate(jnp.asarray(n))) for n in g["ema/step"]]
        np.testing.assert_allclose(ours, g[f"ema/case{case}/decay_f64"], atol=1e-6)
        return
    pytest.fail("the fixture has no case of Diffusion Policy's own power and bound")


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 10.0])
def test_reranking(beta):
    """Candidates that are their own index, valued by the fixture, chosen with its Gumbel noise."""
    g = load("vgps_rerank_formula")
    q = jnp.asarray(g["q_f64"], jnp.float32)
    index = jnp.broadcast_to(jnp.arange(10.0)[:, None, None], (6, 10, 1, 1))
    fixed = Policy(lambda v, k, o: index, lambda v, z, o, old: Plan(z), lambda v, p, i, o: p.action[..., i, :])
    score = lambda vars, obs, a: jnp.take_along_axis(q, a[..., 0].astype(int), -1)[..., 0]  # noqa: E731
    policy = best_of_n(fixed, score, 10, temperature=beta)
    noise = index, jnp.asarray(g["gumbel_f64"], jnp.float32)
    chosen = policy.plan(reading({}), noise, jnp.zeros((6, 1)), None).action[:, 0, 0]
    wanted = g["beta0/argmax"] if beta == 0 else g[f"beta{beta}/gumbel_max_index"]
    np.testing.assert_array_equal(chosen, wanted)
