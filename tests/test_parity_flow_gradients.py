"""Parity with the published code of ReinFlow and FPO: paths, probabilities, objectives and gradients (tests/golden/README.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import load
from test_parity_diffusion import dense, residual
from test_parity_few_steps import clipped, velocity

from qchunk.actors.exploring import with_noise
from qchunk.actors.flow import flow_kernel
from qchunk.actors.paths import decode
from qchunk.losses.flow_ratio import END, PAIRS, averaged, of_flow
from qchunk.losses.joint_path import of_path, path_entropy
from qchunk.losses.ppo_path import ppo, surrogate
from qchunk.losses.terms import module_names
from qchunk.nets import flatten_chunk, mish, sinusoid
from qchunk.sampling import sample_path
from qchunk.types import Chunk, Module, Vars

pytestmark = pytest.mark.accelerator


def chunk_of(obs, action, extras):
    lead = action.shape[:-2]
    ones = jnp.ones((*lead, 1))
    return Chunk(
        jnp.asarray(obs),
        jnp.asarray(action),
        jnp.ones(action.shape[:-1]),
        ones,
        ones,
        obs,
        ones,
        jnp.zeros(lead),
        extras,
    )


def noise(params, obs, t):
    """The reference's: it sees the actor's embedding of the time, without a gradient."""
    times = jax.lax.stop_gradient(params["times"])
    t = mish(sinusoid(t, 8) @ times["time_0"]["kernel"] + times["time_0"]["bias"])
    t = t @ times["time_1"]["kernel"] + times["time_1"]["bias"]
    y = jnp.concatenate([jnp.broadcast_to(t, (*jnp.broadcast_shapes(t.shape[:-1], obs.shape[:-1]), 8)), obs], -1)
    for layer in params["layers"][:-1]:
        y = jnp.tanh(y @ layer["kernel"] + layer["bias"])
    y = y @ params["layers"][-1]["kernel"] + params["layers"][-1]["bias"]
    return y.reshape(*y.shape[:-1], 4, 3)


def read(g, prefix):
    actor = residual({k.replace(f"{prefix}/policy.", f"{prefix}/"): v for k, v in g.items()}, prefix)
    layers = [dense(g, f"{prefix}/explore_noise_net.mlp_logvar.moduleList.{i}.linear_1") for i in range(3)]
    return {"actor": actor, "noise": {"layers": layers, "times": {k: v for k, v in actor.items() if k != "net"}}}


def flow_of(grid):
    return flow_kernel(Module("actor", None, lambda p, obs, x, t: velocity(p, obs, x, t * grid)), 4)


def walk(grid=1.0):
    module = Module("noise", None, lambda p, obs, t: noise(p, obs, t * grid))
    return with_noise(flow_of(grid)._replace(shape=lambda vars: (4, 3)), module, 0.1, lambda vars: 0.24), module


def vars_of(params):
    return Vars(params, {}, {}, {})


def test_reinflow_paths():
    """The reference samples on the times 0, 1/3, 2/3, 1, and judges on 0, 1/4, 1/2, 3/4; ours have one grid, the latter.

    On the former, too, a path is judged as the reference's sampler judges it.
    """
    g = load("reinflow")
    kernel, _ = walk(4 / 3)
    noise = jnp.asarray(g["sampler/x0_noise"]), jnp.moveaxis(jnp.asarray(g["sampler/noise"]), 0, 1)
    plan = sample_path(kernel).plan(vars_of(read(g, "actor_ft_old")), noise, jnp.asarray(g["state"][:, 0]), None)
    path = plan.extras["path"].at[:, -1].set(plan.action)  # the reference keeps the end clipped
    np.testing.assert_allclose(path, g["sampler/chain"], atol=2e-5)
    np.testing.assert_allclose(plan.action, g["sampler/action"], atol=2e-5)
    chunk = chunk_of(g["state"][:, 0], g["sampler/action"], {"path": jnp.asarray(g["sampler/chain"])})
    found = of_path(kernel)(vars_of(read(g, "actor_ft_old")), chunk)
    np.testing.assert_allclose(found[:, 0], g["sampler/logprob_normalised"], atol=2e-5)


def test_reinflow_without_noise():
    """The reference clips the chunk after every step, ours at the end."""
    g = load("reinflow")
    vars, obs = vars_of(read(g, "actor_ft_old")), jnp.asarray(g["state"][:, 0])
    found = decode(clipped(flow_of(4 / 3)), vars, obs, jnp.asarray(g["sampler/x0_noise"]))
    np.testing.assert_allclose(found, g["eval/action"], atol=2e-5)


@pytest.mark.parametrize("band", [(0.1, 0.24), (0.05, 0.12)])
def test_reinflow_deviations(band):
    g = load("reinflow")
    least, most = band
    still = Module("actor", None, lambda p, obs, x, t: 0 * x)
    said = Module("noise", None, lambda p, obs, t: jnp.asarray(g["noise_net/u"])[:, None, None])
    kernel = with_noise(flow_kernel(still, 4), said, least, lambda vars: most)
    found = kernel.step(vars_of({"actor": {}, "noise": {}}), jnp.zeros((17, 1)), jnp.zeros((17, 1, 1)), 0)[1]
    np.testing.assert_allclose(found[:, 0, 0], g[f"noise_net/std_{least}_{most}"], rtol=1e-5)


@pytest.mark.parametrize("which", ["old", "new"])
def test_reinflow_probabilities(which):
    g = load("reinflow")
    kernel, _ = walk()
    chunk = chunk_of(g["state"][:, 0], g["sampler/action"], {"path": jnp.asarray(g["sampler/chain"])})
    found = of_path(kernel)(vars_of(read(g, f"actor_ft_{which}")), chunk)
    np.testing.assert_allclose(found[:, 0], g[f"logprob/{which}/norm_init"], atol=2e-5)


def test_reinflow_objective():
    g = load("reinflow")
    kernel, module = walk()
    extras = {"path": jnp.asarray(g["sampler/chain"]), "advantage": jnp.asarray(g["loss/advantages"])}
    extras["log_prob"] = jnp.asarray(g["loss/old_logprobs"])[:, None]
    chunk = chunk_of(g["state"][:, 0], g["sampler/action"], extras)
    policy = ppo(module_names(kernel), of_path(kernel), lambda new, old, a: surrogate(new, old, a[:, None], 0.01))
    entropy = path_entropy(kernel, module, 0.03)

    def loss(params):
        held = {"actor": jax.lax.stop_gradient(params["actor"]), "noise": params["noise"]}
        one, two = policy.fn(vars_of(params), (), chunk), entropy.fn(vars_of(held), (), chunk)
        return one[0] + two[0], (one, two)

    (_, ((surrogate_loss, metrics), (bonus, more))), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        read(g, "actor_ft_new")
    )
    np.testing.assert_allclose(surrogate_loss, g["loss/main/pg_loss"], atol=1e-5)
    np.testing.assert_allclose(metrics["approx_kl"], g["loss/main/approx_kl"], atol=1e-6)
    np.testing.assert_allclose(-more["entropy"], g["loss/main/entropy_loss"], atol=1e-5)
    np.testing.assert_allclose(bonus, 0.03 * g["loss/main/entropy_loss"], atol=1e-6)
    known = read(g, "loss/main/grad_actor")
    for part, name in ((known["actor"], "actor"), (known["noise"]["layers"], "noise")):
        mine = slope["actor"] if name == "actor" else slope["noise"]["layers"]
        for ours, theirs in zip(jax.tree.leaves(mine), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-3 * float(jnp.abs(theirs).max()) + 1e-7)


def fpo_kernel(g):
    """The reference's network: its time is 1 at the noise, its velocity the other way round, its output a quarter."""
    see = lambda obs: (obs - g["obs_stats/mean"]) / g["obs_stats/std"]  # noqa: E731

    def network(params, obs, x, t):
        t = 1 - t
        angle = t * 2.0 ** jnp.arange(4)
        y = [see(obs), flatten_chunk(x), jnp.cos(angle), jnp.sin(angle)]
        lead = jnp.broadcast_shapes(*(part.shape[:-1] for part in y))
        y = jnp.concatenate([jnp.broadcast_to(part, (*lead, part.shape[-1])) for part in y], -1)
        for layer in params[:-1]:
            y = jax.nn.silu(y @ layer["kernel"] + layer["bias"])
        return -0.25 * (y @ params[-1]["kernel"] + params[-1]["bias"]).reshape(x.shape)

    return flow_kernel(Module("actor", None, network), 10)


def layers(g, prefix):
    return [{n: jnp.asarray(g[f"{prefix}/{i}/{n}"]) for n in ("kernel", "bias")} for i in range(3)]


def test_fpo_losses():
    """Per pair, of the noise that the velocity says, or of the velocity itself."""
    g = load("fpo")
    pairs = jnp.asarray(g["sample/loss_eps"])[..., None, :], 1 - jnp.asarray(g["sample/loss_t"])
    action = jnp.asarray(g["sample/action"])[:, None]
    chunk = chunk_of(g["sample/obs"], action, {PAIRS: pairs, END: action})
    vars = vars_of({"actor": layers(g, "policy_old")})
    for by_noise, name in ((True, "u_but_supervise_as_eps"), (False, "u")):
        found = -of_flow(fpo_kernel(g), by_noise)(vars, chunk)
        np.testing.assert_allclose(found, g[f"cfm/{name}"], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "clip"), [("main", 0.05), ("u_mode", 0.05), ("noadvnorm_clip0.2", 0.2)])
def test_fpo_objective(variant, clip):
    g = load("fpo")
    kernel = fpo_kernel(g)
    flat = lambda x: jnp.asarray(x).reshape(12, *np.shape(x)[2:])  # noqa: E731
    action = flat(g["loss/action"])[:, None]
    initial = g["loss/u_mode/initial_cfm_loss" if variant == "u_mode" else "loss/initial_cfm_loss"]
    extras = {PAIRS: (flat(g["loss/loss_eps"])[..., None, :], 1 - flat(g["loss/loss_t"])), END: action}
    extras |= {"log_prob": -flat(initial), "advantage": flat(g["gae/advantage"])}
    chunk = chunk_of(flat(g["loss/obs"]), action, extras)
    # the reference's deviation is the population's, ours a sample's; one variant takes advantages as they are
    a = np.asarray(extras["advantage"])
    scale, shift = (a.std(ddof=1), a.mean()) if variant.startswith("noadvnorm") else (a.std(ddof=1) / a.std(), 0.0)
    objective = lambda new, old, advantage: averaged(clip)(new, old, advantage * scale + shift)  # noqa: E731
    term = ppo(("actor",), of_flow(kernel, variant != "u_mode"), objective)
    loss = lambda p: term.fn(vars_of({"actor": p}), (), chunk)[0]  # noqa: E731
    found, slope = jax.jit(jax.value_and_grad(loss))(layers(g, "policy_new"))
    np.testing.assert_allclose(found, g[f"loss/{variant}/policy_loss"], atol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(slope), jax.tree.leaves(layers(g, f"loss/{variant}/grad_policy")), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(jnp.abs(theirs).max()) + 1e-7)
