"""Parity with the published Q-chunking code: same inputs, same noise, same numbers (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.actor_configs import FlowConfig
from qchunk.actors.flow import flow
from qchunk.actors.paths import decode
from qchunk.compose import learner
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.data.chunks import dataset, windows
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.sampling import sample
from qchunk.types import Chunk, Learner, Spec, Vars

pytestmark = pytest.mark.accelerator

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
A, WIDTHS = 3, (32, 32)


def load(name):
    return dict(np.load(GOLDEN / f"{name}.npz"))


def mlp_params(arrays, prefix, out):
    """The fixture's names -> ours; ``out`` is the shape that the head's bias keeps."""
    layers = sorted({k.split("/")[-2] for k in arrays if k.startswith(f"{prefix}/layer")})
    params = {
        f"dense_{i}": {n: jnp.asarray(arrays[f"{prefix}/{layer}/{n}"]) for n in ("kernel", "bias")}
        for i, layer in enumerate(layers[:-1])
    }
    for i in range(len(layers) - 1):
        if f"{prefix}/ln{i}/scale" in arrays:
            params[f"norm_{i}"] = {n: jnp.asarray(arrays[f"{prefix}/ln{i}/{n}"]) for n in ("scale", "bias")}
    bias = arrays[f"{prefix}/{layers[-1]}/bias"]
    params["head_kernel"] = jnp.asarray(arrays[f"{prefix}/{layers[-1]}/kernel"])
    params["head_bias"] = jnp.asarray(bias.reshape(*bias.shape[:-1], *out))
    return params


def read_vars(arrays, prefix, horizon):
    actor = mlp_params(arrays, f"{prefix}/actor_bc_flow", (horizon, A))
    critic, target = (mlp_params(arrays, f"{prefix}/{n}", ()) for n in ("critic", "target_critic"))
    return Vars({"actor": actor, "critic": critic}, {"critic": target}, {}, {})


def unflat(x):
    return jnp.asarray(x.reshape(*x.shape[:-1], -1, A))


ACTOR, CRITIC = FlowConfig(WIDTHS, steps=4), CriticConfig(WIDTHS, tau=0.1)


@pytest.mark.parametrize("name", ["mlp", "mlp_ln"])
def test_flow_field(name):
    g = load("net_flow_field")
    params = mlp_params(g, f"params/{name}", (4, A))
    kernel = flow(FlowConfig(WIDTHS, layer_norm=name == "mlp_ln"))
    v = kernel.modules[0].apply(params, jnp.asarray(g["observations"]), unflat(g["x"]), jnp.asarray(g["t"]))
    np.testing.assert_allclose(v.reshape(8, 12), g[f"out/{name}/velocity"], **CLOSE)


@pytest.mark.parametrize(("name", "norm"), [("critic", True), ("critic_noln", False)])
def test_value_ensemble(name, norm):
    g = load("net_value_ensemble")
    vars = Vars({"critic": mlp_params(g, f"params/{name}", ())}, {}, {}, {})
    q = chunk_q(CriticConfig(WIDTHS, layer_norm=norm))
    values = q.values(vars, jnp.asarray(g["observations"]), unflat(g["actions"]))
    np.testing.assert_allclose(values, g[f"out/{name}"], **CLOSE)
    if norm:
        values = q.values(vars, jnp.asarray(g["observations_bn"]), unflat(g["actions_bn"]))
        np.testing.assert_allclose(values, g["out/critic_bn"], **CLOSE)


def test_euler():
    g = load("qc_euler")
    vars = Vars({"actor": mlp_params(g, "params/actor_bc_flow", (4, A))}, {}, {}, {})
    kernel, x, obs = flow(ACTOR), unflat(g["noises"]), jnp.asarray(g["observations"])
    np.testing.assert_allclose(decode(kernel, vars, obs, x).reshape(8, 12), g["out/states"][-1], **CLOSE)
    plan = sample(kernel).plan(vars, x, obs, None)
    np.testing.assert_allclose(plan.action.reshape(8, 12), g["out/actions"], **CLOSE)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("slice_rows", [0, 10])
def test_best_of_n(aggregate, slice_rows):
    g = load("qc_best_of_n")
    params = {"actor": mlp_params(g, "params/actor_bc_flow", (4, A)), "critic": mlp_params(g, "params/critic", ())}
    vars, q = Vars(params, {}, {}, {}), chunk_q(CriticConfig(WIDTHS, aggregate=aggregate))
    policy = best_of_n(sample(flow(ACTOR)), q.score, 5, slice_rows)
    obs = jnp.asarray(g["observations"])
    noise = policy.draw(vars, jax.random.wrap_key_data(jnp.asarray(g["key"])), obs)
    np.testing.assert_allclose(noise.reshape(8, 5, 12), g["noises"], **CLOSE)  # drawn as the published sampler does
    plan = policy.plan(vars, noise, obs, None)
    np.testing.assert_allclose(plan.action.reshape(8, 12), g[f"out/{aggregate}/actions"], **CLOSE)


def chunk_of(g, prefix, horizon, gamma=0.99):
    """The fixture's batch as a Chunk. The published masks of a window are those of its last step."""
    b = {k.removeprefix(f"{prefix}/"): jnp.asarray(v) for k, v in g.items() if k.startswith(f"{prefix}/")}
    n = b["rewards"].shape[1]
    return Chunk(
        obs=b["observations"],
        action=b["actions"][:, :horizon],
        mask=b["valid"][:, :horizon],
        reward=b["rewards"][:, -1:],
        discount=gamma**n * b["masks"][:, -1:],
        next_obs=b["next_observations"][:, -1:],
        weight=b["valid"][:, -1:],
        last=jnp.zeros(8),
        extras={},
    )


def counting_zeros(term, share):
    """The published normalisation, which leaves masked entries in the denominator: our mean times their share."""

    def fn(vars, noise, chunk):
        loss, metrics = term.fn(vars, noise, chunk)
        return loss * share(chunk), metrics

    return term._replace(fn=fn)


def assemble(g, draws, tau=0.1, lr=1e-3, aggregate="mean", unmasked=False):
    """QC whose every draw is the fixture's."""
    pi, q = flow(ACTOR), chunk_q(CriticConfig(WIDTHS, tau=tau, aggregate=aggregate))
    noise, z = unflat(g[f"{draws}/next_noises"]), unflat(g[f"{draws}/x_0"])
    act = best_of_n(sample(pi), q.score, 5)._replace(draw=lambda vars, key, obs: noise)
    clone = bc(pi)._replace(draw=lambda key, chunk: (z, jnp.asarray(g[f"{draws}/t"])))
    if unmasked:
        whole = clone.fn
        clone = clone._replace(fn=lambda v, n, c: whole(v, n, c._replace(mask=jnp.ones_like(c.mask))))
    else:
        clone = counting_zeros(clone, lambda c: jnp.mean(c.mask))
    terms = [clone, counting_zeros(td(q, act), lambda c: jnp.mean(c.weight))]
    return learner([pi, q], act, terms, OptimConfig(lr)), terms


def begin(algorithm, vars, horizon):
    fresh = algorithm.init(jax.random.key(0), Spec(7, A, horizon), {})
    return Learner(vars.params, vars.targets, {}, fresh.opt, jnp.zeros((), jnp.int32))


def test_qc_losses_and_target():
    g = load("qc_update")
    vars, chunk = read_vars(g, "params0", 4), chunk_of(g, "batch0", 4)
    _, (clone, critic) = assemble(g, "draws0")
    key = jax.random.key(0)
    np.testing.assert_allclose(clone.fn(vars, clone.draw(key, chunk), chunk)[0], g["out0/bc_flow_loss"], **CLOSE)
    np.testing.assert_allclose(critic.fn(vars, key, chunk)[0], g["out0/critic_loss"], **CLOSE)
    _, (_, critic) = assemble(g, "draws0", aggregate="min")
    np.testing.assert_allclose(critic.fn(vars, key, chunk)[0], g["out0_min/critic_loss"], **CLOSE)


def test_qc_parameters_after_one_and_three_updates():
    g = load("qc_update")
    state = None
    for i in range(3):
        algorithm, _ = assemble(g, f"draws{i}")
        state = begin(algorithm, read_vars(g, "params0", 4), 4) if state is None else state
        state, metrics = jax.jit(algorithm.update)(state, {}, jax.random.key(i), chunk_of(g, f"batch{i}", 4))
        np.testing.assert_allclose(metrics["loss"], g[f"out{i}/total_loss"], **CLOSE)
        if i != 1:
            expected = read_vars(g, f"params{i + 1}", 4)
            for ours, theirs in ((state.params, expected.params), (state.targets, expected.targets)):
                assert_parameters(ours, theirs)


def assert_parameters(ours, theirs):
    off = [jnp.ravel(jnp.abs(a - b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)]
    off = np.concatenate(off)
    assert np.mean(off > 1e-5) <= 1e-3, f"{np.mean(off > 1e-5):.2%} of the parameters are off, by up to {off.max():.2g}"
    assert off.max() <= 1e-3


@pytest.mark.parametrize(("case", "batch"), [("nstep_bon", "batch_nstep"), ("h1_bon", "batch_h1")])
def test_without_chunks(case, batch):
    g = load("qc_nstep_h1")
    algorithm, (clone, critic) = assemble(g, f"draws0_{case}", unmasked=case.startswith("nstep"))
    vars, chunk = read_vars(g, "params0", 1), chunk_of(g, batch, 1)
    key = jax.random.key(0)
    np.testing.assert_allclose(
        clone.fn(vars, clone.draw(key, chunk), chunk)[0], g[f"out0_{case}/bc_flow_loss"], **CLOSE
    )
    np.testing.assert_allclose(critic.fn(vars, key, chunk)[0], g[f"out0_{case}/critic_loss"], **CLOSE)
    _, metrics = algorithm.update(begin(algorithm, vars, 1), {}, key, chunk)
    np.testing.assert_allclose(metrics["loss"], g[f"out0_{case}/total_loss"], **CLOSE)


def test_gradient():
    g = load("qc_update")
    vars, chunk = read_vars(g, "params0", 4), chunk_of(g, "batch0", 4)
    _, terms = assemble(g, "draws0")

    def objective(params):
        total = 0.0
        for term in terms:
            mine = {n: p if n in term.wrt else jax.lax.stop_gradient(p) for n, p in params.items()}
            total += term.fn(vars._replace(params=mine), term.draw(jax.random.key(0), chunk), chunk)[0]
        return total

    grads = jax.grad(objective)(vars.params)
    expected = read_vars(
        {**g, **{k.replace("grads/critic", "grads/target_critic"): v for k, v in g.items()}}, "grads", 4
    )
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(theirs).max())))


def test_windows():
    """Equal to the published sampler wherever that one is right; its known defects are flagged in the fixture."""
    g = load("windows_qc")
    d = {k.removeprefix("dataset/"): v for k, v in g.items() if k.startswith("dataset/")}
    rows, place, at = [], {}, 0
    for t in range(len(d["rewards"])):  # our layout has one more row per episode, for its final observation
        place[t] = at
        rows.append((d["observations"][t], d["actions"][t], d["rewards"][t], 1 - d["masks"][t], 0.0))
        if d["terminals"][t]:
            rows.append((d["next_observations"][t], np.zeros(A), 0.0, 0.0, 1.0))
        at = len(rows)
    obs, action, reward, terminal, end = (np.asarray(x) for x in zip(*rows, strict=True))
    starts = np.asarray([place[int(s)] for s in g["starts"]])
    w = windows(dataset(obs, action, reward, terminal, end), jnp.asarray(starts), ChunkConfig(4, (), 0.9))
    crosses, success = g["flag/crosses_episode_end"] == 1, g["flag/usable_success"] == 1
    np.testing.assert_array_equal(w.weight[:, 0], (~crosses | success).astype(np.float32))
    np.testing.assert_allclose(w.mask, g["out/valid"])
    plain = ~crosses
    np.testing.assert_allclose(w.discount[plain, 0], 0.9**4 * g["out/masks"][plain, -1], rtol=1e-6)
    np.testing.assert_allclose(
        w.reward[plain | success, 0], g["derived/return_stop_at_success"][plain | success], **CLOSE
    )
    untouched = plain & (g["flag/reward_after_success"] == 0)
    assert untouched.sum() >= 5
    np.testing.assert_allclose(w.reward[untouched, 0], g["out/rewards"][untouched, -1], **CLOSE)
    np.testing.assert_allclose(w.next_obs[plain, 0], g["out/next_observations"][plain, -1])
    np.testing.assert_array_equal(w.discount[success, 0], 0.0)
