"""Parity with published code of consistency models, shortcut models, reflow and EDM's sampler (tests/golden/README.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import load
from test_parity_diffusion import dense, head, residual

from qchunk.actors import paths
from qchunk.actors.consistency import consistency_kernel, karras
from qchunk.actors.flow import flow_kernel
from qchunk.actors.flow_map import shortcut_kernel
from qchunk.actors.paths import decode
from qchunk.nets import Denoiser, ResidualMLP, apply, flatten_chunk, mish, sinusoid
from qchunk.types import Chunk, Module, Vars

pytestmark = pytest.mark.accelerator

WEIGHTS = ("W1", "b1", "W2", "b2")


def chunk_of(obs, action):
    lead = action.shape[:-2]
    ones = jnp.ones((*lead, 1))
    mask = jnp.ones(action.shape[:-1])
    return Chunk(jnp.asarray(obs), jnp.asarray(action), mask, ones, ones, obs, ones, jnp.zeros(lead), {})


def small(params, obs, x, level):
    """The reference's own network around its conditioning: cosines, then sines, of the level."""
    angle = level * 10000.0 ** (-jnp.arange(4) / 4)
    level = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
    level = jnp.broadcast_to(level, (*x.shape[:-2], 8))
    y = jnp.tanh(jnp.concatenate([flatten_chunk(x), level, obs], -1) @ params["W1"] + params["b1"])
    return (y @ params["W2"] + params["b2"]).reshape(x.shape)


def weights(g, prefix):
    return {n: jnp.asarray(g[f"{prefix}/{n}"]) for n in WEIGHTS}


def shaped(kernel):
    return kernel._replace(shape=lambda vars: (2, 3))


def steps_of(g):
    """(chunks, conditions) of the reference's six numbers as two actions of three."""
    return jnp.asarray(g["x0"]).reshape(-1, 2, 3), jnp.asarray(g["cond"])


def same_slope(ours, theirs):
    """Asserts that gradients are equal, leaf by leaf, by the size of the largest number of each."""
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4 * float(jnp.abs(y).max()))


def student(g, steps):
    kernel = shaped(consistency_kernel(Module("actor", None, small), steps, 10))
    return kernel, Vars({"actor": weights(g, "net")}, {}, {}, {})


def test_consistency_from_data():
    g = load("consistency")
    kernel, vars = student(g, 1)
    action, obs = steps_of(g)
    ladder = karras(10)[::-1]
    np.testing.assert_allclose(ladder, g["cm/curriculum/k0/sigmas"], rtol=1e-5)
    np.testing.assert_allclose(karras(40)[::-1], g["cm/karras_sigmas_ascending_N40"], rtol=1e-5)
    # the middle of each level's share of a uniform draw
    edges = np.concatenate([[0.0], np.cumsum(g["cm/curriculum/k0/p_sigmas"])])
    share = ((edges[:-1] + edges[1:]) / 2)[g["cm/loss/idx"]]
    noise = jnp.asarray(g["cm/loss/noise"]).reshape(action.shape), jnp.asarray(share, jnp.float32)[:, None]
    loss = lambda params: jnp.mean(kernel.loss(Vars({"actor": params}, {}, {}, {}), noise, chunk_of(obs, action)))  # noqa: E731
    found, slope = jax.jit(jax.value_and_grad(loss))(vars.params["actor"])
    np.testing.assert_allclose(found, g["cm/loss/loss"], rtol=2e-4)
    for name in WEIGHTS:
        expected = g[f"cm/loss/grad/{name}"]
        np.testing.assert_allclose(slope[name], expected, atol=1e-3 * np.abs(expected).max())


def test_the_levels_that_consistency_learns_from():
    """Their shares are the reference's: of a fine even spread of draws as many fall to each."""
    g = load("consistency")
    kernel, vars = student(g, 1)
    action, obs = steps_of(g)
    even = jnp.asarray((np.arange(2000) + 0.5) / 2000, jnp.float32)[:, None, None]
    chunk = chunk_of(jnp.broadcast_to(obs[:1], (2000, 1, 4)), jnp.broadcast_to(action[:1], (2000, 1, 2, 3)))
    losses = kernel.loss(vars, (jnp.ones((2000, 1, 2, 3)), even), chunk)[:, 0]
    _, counts = np.unique(np.round(np.asarray(losses), 5), return_counts=True)
    assert len(counts) == 10
    expected = np.sort(g["cm/curriculum/k0/p_sigmas"])
    np.testing.assert_allclose(np.sort(counts) / 2000, expected, atol=1.1 / 2000)


def test_consistency_of_a_teacher():
    """Its levels are the reference's 18 of EDM, from 80 down to 0.002; a step is Euler's."""
    g = load("consistency")
    kernel, vars = student(g, 1)
    action, obs = steps_of(g)
    noises = karras(18)
    scale = np.sqrt(1 + noises**2)
    levels = np.stack([1 / scale, noises / scale], axis=1)

    def denoise(vars, obs, x, k):
        sigma, grown = paths.numbers(np.stack([noises, scale], axis=1), k)
        size, x = jnp.sqrt(0.25 + sigma**2), grown * x
        out = small(vars.params["teacher"], obs, x / size, jnp.log(sigma[..., 0]) / 4)
        return 0.25 / size**2 * x + 0.5 * sigma / size * out

    teacher = paths.denoiser_kernel(Module("teacher", None, small), levels, 0.0, denoise, None, None)
    vars = vars._replace(params={**vars.params, "teacher": weights(g, "edm_teacher_ema")})
    share = (17 - g["cm/distill/idx"] + 0.5) / 18  # the reference counts from the cleanest
    noise = jnp.asarray(g["cm/distill/noise"]).reshape(action.shape), jnp.asarray(share, jnp.float32)[:, None]
    # the reference noises a chunk by sigma alone; ours is scaled, chunk and noise alike
    found = jnp.mean(kernel.follow(teacher)(vars, noise, chunk_of(obs, action)))
    np.testing.assert_allclose(found, g["cm/distill/loss"], rtol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_consistency_samples(steps):
    g = load("consistency")
    kernel, vars = student(g, steps)
    obs = jnp.asarray(g["cond"])
    noise = jnp.asarray(g[f"cm/sample{steps}/noise"]).reshape(steps, 5, 2, 3)
    start = noise[0] * 80 / np.sqrt(1 + 80.0**2)  # the reference leaves the scaled chunk's own share out
    after = jnp.concatenate([noise[1:], noise[:1]])  # of the step that it follows
    found = decode(kernel, vars, obs, start, jnp.moveaxis(after, 0, -3))
    np.testing.assert_allclose(flatten_chunk(found), g[f"cm/sample{steps}/x"], atol=2e-5)


def test_edm_sampler_is_our_rule_of_a_step():
    """Euler's on EDM's levels, clean estimates clipped (2206.00364, algorithm 1); its Heun steps are not ours."""
    g = load("edm")
    noises = karras(5)
    levels = np.stack([np.ones_like(noises), noises], axis=1)

    def denoise(vars, obs, x, k):
        (sigma,) = paths.numbers(noises[:, None], k)
        size = jnp.sqrt(0.25 + sigma**2)
        out = small(vars.params["actor"], obs, x / size, jnp.log(sigma[..., 0]) / 4)
        return 0.25 / size**2 * x + 0.5 * sigma / size * out

    kernel = paths.denoiser_kernel(Module("actor", None, small), levels, 0.0, denoise, None, None, clip=True)
    start = 80 * jnp.asarray(g["sample_euler5/noise"]).reshape(-1, 2, 3)
    found = decode(kernel, Vars({"actor": weights(g, "net")}, {}, {}, {}), jnp.asarray(g["cond"]), start)
    np.testing.assert_allclose(flatten_chunk(jnp.clip(found, -1, 1)), g["sample_euler5/x"], atol=1e-4)


def jumps(g):
    """The reference's network of two times, and its parameters in the names of its own layers."""

    def network(params, obs, x, t, jump):
        lead = x.shape[:-2]
        times = [jnp.broadcast_to(sinusoid(y, 8), (*lead, 8)) for y in (t, jump)]
        time = mish(jnp.concatenate(times, -1) @ params["time"][0]["kernel"] + params["time"][0]["bias"])
        time = time @ params["time"][1]["kernel"] + params["time"][1]["bias"]
        see = mish(obs @ params["see"][0]["kernel"] + params["see"][0]["bias"])
        see = see @ params["see"][1]["kernel"] + params["see"][1]["bias"]
        parts = jnp.concatenate([flatten_chunk(x), time, jnp.broadcast_to(see, (*lead, see.shape[-1]))], -1)
        return apply(ResidualMLP((24, 24, 24), (4, 3)), params["net"], parts)

    return network, named(g, "net")


def named(g, prefix):
    body = f"{prefix}/vel_head.layers"
    net = {"dense_0": dense(g, f"{body}.0"), "dense_1": dense(g, f"{body}.1.l1"), "dense_2": dense(g, f"{body}.1.l2")}
    see = [dense(g, f"{prefix}/cond_emb.moduleList.{i}.linear_1") for i in (0, 1)]
    return {
        "time": [dense(g, f"{prefix}/t_emb.{i}") for i in (0, 2)],
        "see": see,
        "net": {**net, **head(g, f"{body}.2", (4, 3))},
    }


def test_shortcut():
    g = load("shortcut")
    network, params = jumps(g)
    kernel = shortcut_kernel(Module("actor", None, network), 1, 128)
    order = np.asarray([2, 3, 4, 0, 5, 6, 7, 1])  # the reference's first two rows jump, here every fourth
    chunk = chunk_of(g["state"][order, 0], g["x1"][order])
    few = lambda x: jnp.concatenate([jnp.asarray(x), jnp.ones(6)])[:, None]  # noqa: E731
    z = jnp.concatenate([jnp.asarray(g["sc/x0"]), jnp.asarray(g["fm/x0"])])
    t = jnp.concatenate([jnp.zeros(2), jnp.asarray(g["fm/t"])])[:, None]
    jump = 0.5 ** jnp.asarray(g["sc/d_exponent"], jnp.float32)
    start = jnp.asarray(g["sc/t_index"]) * jump
    noise = tuple(x[order] for x in (z, t, few(start), few(jump)))
    loss = lambda p: jnp.mean(kernel.loss(Vars({"actor": p}, {}, {}, {}), noise, chunk))  # noqa: E731
    found, slope = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(found, g["loss"], rtol=5e-5)  # whose paths end at the data plus 1e-5 of the noise
    same_slope(slope, named(g, "grad"))


def clipped(kernel):
    """The Kernel whose chunk is clipped after every step."""

    def step(vars, obs, x, k):
        return jnp.clip(kernel.step(vars, obs, x, k)[0], -1.0, 1.0), 0.0

    return kernel._replace(step=step)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_shortcut_samples(steps):
    """The reference clips the chunk after every jump."""
    g = load("shortcut")
    network, params = jumps(g)
    kernel = shortcut_kernel(Module("actor", None, network), steps, 128)

    vars, obs = Vars({"actor": params}, {}, {}, {}), jnp.asarray(g["state"][:, 0])
    found = decode(clipped(kernel), vars, obs, jnp.asarray(g["sample/z"]))
    np.testing.assert_allclose(found, g[f"sample/euler{steps}"], atol=2e-5)


def velocity(params, obs, x, t):
    t = jnp.broadcast_to(t, (*x.shape[:-2], 1))
    return apply(Denoiser((24, 24, 24), (4, 3), features=8), params, flatten_chunk(x), t, obs)


def test_a_flow_on_given_pairs():
    """Reflow's loss is a flow's on the pairs that it is given."""
    g = load("reinflow_reflow")
    kernel = flow_kernel(Module("actor", None, velocity), 4)
    noise = jnp.asarray(g["x0"]), jnp.asarray(g["t"])[:, None]
    chunk = chunk_of(g["state"][:, 0], g["x1"])
    loss = lambda p: jnp.mean(kernel.loss(Vars({"actor": p}, {}, {}, {}), noise, chunk))  # noqa: E731
    found, slope = jax.jit(jax.value_and_grad(loss))(residual(g, "policy"))
    np.testing.assert_allclose(found, g["loss"], rtol=2e-5)
    same_slope(slope, residual(g, "grad"))


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_reflow_samples(steps):
    """The last time of the reference's sampler is 1, where ours has no step to make: its times are ours, stretched."""
    g = load("reinflow_reflow")
    stretch = steps / max(steps - 1, 1)
    kernel = flow_kernel(Module("actor", None, lambda p, obs, x, t: velocity(p, obs, x, stretch * t)), steps)
    vars, obs = Vars({"actor": residual(g, "policy")}, {}, {}, {}), jnp.asarray(g["state"][:, 0])
    found = jnp.clip(decode(kernel, vars, obs, jnp.asarray(g["sample/z"])), -1, 1)
    np.testing.assert_allclose(found, g[f"sample/euler{steps}_linspace01_noclipmid"], atol=2e-5)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_rectified_flow(steps):
    """The reference's time runs from 1 to 0, and its velocity points the same way."""
    g = load("rectified_flow")
    kernel = flow_kernel(Module("actor", None, lambda p, obs, x, t: small(p, obs, x, 1 - t)), steps)
    vars = Vars({"actor": weights(g, "net")}, {}, {}, {})
    action, obs = steps_of(g)
    start = jnp.asarray(g["x1"]).reshape(action.shape)
    np.testing.assert_allclose(
        flatten_chunk(decode(kernel, vars, obs, start)), g[f"continuous/euler{steps}/x"], atol=2e-5
    )
    noise = start, 1 - jnp.asarray(g["continuous/loss/t_draw"])[:, None]
    found = jnp.mean(kernel.loss(vars, noise, chunk_of(obs, action)))
    np.testing.assert_allclose(found, g["continuous/loss/loss"], rtol=2e-5)
