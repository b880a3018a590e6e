"""Parity with the published code of QAM and its kin, FEdit, DSRL and CGQL: same inputs, same noise, same numbers (tests/golden/README.md)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import CLOSE, WIDTHS, A, chunk_of, load, unflat
from test_parity_actor_critic import (
    PESSIMISTIC,
    assert_gradients,
    assert_update,
    drawing,
    kept,
    losses_of,
    nets_of,
    noisy,
    on,
    tanh_params,
    whole,
)
from tiers import slow_but

from qchunk.actor_configs import FlowConfig, OneStepConfig, TanhGaussianConfig
from qchunk.actors.editor import beside, editor
from qchunk.actors.flow import flow
from qchunk.actors.one_step import one_step_actor
from qchunk.actors.tanh_gaussian import tanh_gaussian
from qchunk.algorithms.qam import QAM, flows
from qchunk.compose import reading
from qchunk.config import CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import as_clean, mean, opinion, scaled
from qchunk.critics.noisy_value import noisy_value
from qchunk.improve import best_of_n, edited, started, tilt
from qchunk.losses.adjoint import adjoint_matching, adjoints, ascend_path, path
from qchunk.losses.cloning import bc
from qchunk.losses.noise_value import noise_value
from qchunk.losses.proposals import ascend, distil, editing, entropy, proposing, temperature
from qchunk.losses.start_value import start_value
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.sampling import sample
from qchunk.target_networks import target_view
from qchunk.types import Vars

pytestmark = pytest.mark.accelerator

FLOW, ONE_STEP, TANH = FlowConfig(WIDTHS, steps=4), OneStepConfig(WIDTHS), TanhGaussianConfig(WIDTHS)
CRITIC = CriticConfig(WIDTHS, tau=0.1, **PESSIMISTIC)
QAM_NETS = {"actor": ("actor_slow", (4, A)), "fast": ("actor_fast", (4, A)), "critic": ("critic", ())}


def cloning(g, pi):
    """The published imitation: a chunk counts where all of its steps do."""
    clone = drawing(bc(pi), (unflat(g["draws0/x_0"]), jnp.asarray(g["draws0/t"])))
    return on(whole, kept(lambda c: jnp.mean(c.mask))(clone))


def learning(q, act):
    return kept(lambda c: jnp.mean(c.weight))(td(q, act))


def next_noise(g):
    return unflat(g["draws0/next_noises"])[:, 0]


def walk_noise(g):
    return unflat(g["draws0/sde_x0"]), jnp.moveaxis(unflat(g["draws0/sde_noise"]), 0, 1)


def qam_vars(g, **more):
    targets = nets_of(g, "params0", actor=("target_actor_slow", (4, A)), critic=("target_critic", ()))
    return Vars(nets_of(g, "params0", **QAM_NETS) | more, targets, {}, {})


def qam_terms(g, parts, act, weight=2.0):
    match = adjoint_matching(parts.fast, parts.held, opinion(reading(parts.critic, target_view), mean), weight)
    return [cloning(g, parts.slow), drawing(match, walk_noise(g)), learning(parts.critic, act)]


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found).reshape(np.shape(expected)), expected, rtol=2e-5, atol=2e-5)


def test_qam():
    g = load("qam_qam")
    parts = flows(QAM(actor=FLOW, critic=CRITIC))
    vars, chunk = qam_vars(g), chunk_of(g, "batch0", 4)
    act = noisy(sample(parts.fast), next_noise(g))
    terms = qam_terms(g, parts, act)
    states, end = path(parts.fast, parts.held, vars, chunk.obs, walk_noise(g))
    close(states, g["out0/xs"])
    close(end, g["out0/x_final"])
    close(adjoints(parts.held, vars, chunk.obs, states, unflat(g["out0/adj_final"])), g["out0/adjs"])
    for ours, theirs in zip(losses_of(terms, vars, chunk), ("flow_loss", "adj_loss", "critic_loss"), strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    assert_gradients(terms, vars, chunk, nets_of(g, "grads", **QAM_NETS))
    after = nets_of(g, "params1", **QAM_NETS)
    targets = nets_of(g, "params1", actor=("target_actor_slow", (4, A)), critic=("target_critic", ()))
    loss = assert_update([parts.slow, parts.fast, parts.critic], act, terms, vars, chunk, after, targets, clip=1.0)
    np.testing.assert_allclose(loss, g["out0/total_loss"], **CLOSE)


@pytest.mark.slow
def test_qam_e():
    g = load("qam_qam_edit")
    parts, e, heat = flows(QAM(actor=FLOW, critic=CRITIC)), editor(TANH), temperature()
    alike = {"editor": "edit_actor"}
    more = {ours: tanh_params(g, f"params0/{theirs}") for ours, theirs in alike.items()}
    vars = qam_vars(g, **more, temperature=jnp.asarray(g["params0/edit_alpha/log_value"]))
    chunk, q = chunk_of(g, "batch0", 4), parts.critic
    fast = sample(parts.fast)
    act = noisy(edited(fast, e, 0.3), (next_noise(g), unflat(g["draws0/next_eps"])[:, 0]))
    climb = editing(e, noisy(fast, unflat(g["draws0/noises"])), 0.3, [ascend(e, opinion(q, mean)), *entropy(e, heat)])
    draw = lambda key, chunk: (key, unflat(g["draws0/edit_eps"]))  # noqa: E731
    terms = [*qam_terms(g, parts, act), climb._replace(draw=draw)]
    found = losses_of(terms, vars, chunk)
    expected = ("flow_loss", "adj_loss", "critic_loss", "edit_q_loss", "edit_entropy_loss", "edit_alpha_loss")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    np.testing.assert_allclose(sum(found), g["out0/total_loss"], **CLOSE)
    grads = {"editor": tanh_params(g, "grads/edit_actor"), "temperature": jnp.asarray(g["grads/edit_alpha/log_value"])}
    assert_gradients(terms, vars, chunk, grads)


@pytest.mark.slow
def test_qam_f():
    g = load("qam_qam_fql")
    parts, mu = flows(QAM(actor=FLOW, critic=CRITIC)), one_step_actor(ONE_STEP, "student")
    vars = qam_vars(g, **nets_of(g, "params0", student=("one_step_actor", (4, A))))
    chunk, q = chunk_of(g, "batch0", 4), parts.critic
    improve = proposing(mu, [weighed(distil(mu, sample(parts.fast)), 3.0), ascend(mu, opinion(q, mean))])
    improve = drawing(improve, (unflat(g["draws0/noises"]), None))
    terms = [*qam_terms(g, parts, noisy(sample(mu), next_noise(g))), improve]
    found = losses_of(terms, vars, chunk)
    np.testing.assert_allclose(found[3] / 3, g["out0/fql_distill_loss"], **CLOSE)
    np.testing.assert_allclose(found[4], g["out0/fql_q_loss"], **CLOSE)
    np.testing.assert_allclose(sum(found), g["out0/total_loss"], **CLOSE)
    assert_gradients(terms, vars, chunk, nets_of(g, "grads", student=("one_step_actor", (4, A))))


@pytest.mark.slow
def test_bam():
    g = load("qam_bam")
    parts = flows(QAM(actor=FLOW, critic=CRITIC))
    vars, chunk = qam_vars(g), chunk_of(g, "batch0", 4)
    close(path(parts.fast, parts.held, vars, chunk.obs, walk_noise(g))[1], g["out0/x_final"])
    climb = drawing(ascend_path(parts.fast, parts.held, parts.critic.score, 3.0), walk_noise(g))
    act = noisy(sample(parts.fast), next_noise(g))
    terms = [cloning(g, parts.slow), climb, learning(parts.critic, act)]
    for ours, theirs in zip(losses_of(terms, vars, chunk), ("flow_loss", "bam_loss", "critic_loss"), strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    assert_gradients(terms, vars, chunk, nets_of(g, "grads", fast=QAM_NETS["fast"]))


@pytest.mark.slow
def test_fedit():
    g = load("qam_fedit")
    pi, e, q, heat = flow(FLOW), editor(TANH), chunk_q(CRITIC), temperature()
    nets = nets_of(g, "params0", actor=("actor_bc_flow", (4, A)), critic=("critic", ()))
    nets |= {"editor": tanh_params(g, "params0/edit_actor"), "temperature": jnp.asarray(g["params0/alpha/log_value"])}
    vars, chunk = Vars(nets, nets_of(g, "params0", critic=("target_critic", ())), {}, {}), chunk_of(g, "batch0", 4)
    base = sample(pi)
    act = noisy(
        best_of_n(edited(base, e, 0.3), opinion(q, mean), 2),
        tuple(unflat(g[f"draws0/next_{n}"]) for n in ("noises", "eps")),
    )
    close(act.plan(vars, act.draw(vars, None, None), chunk.next_obs[:, 0], None).action, g["out0/next_actions"])
    climb = editing(e, noisy(base, unflat(g["draws0/noises"])), 0.3, [ascend(e, opinion(q, mean)), *entropy(e, heat)])
    climb = climb._replace(draw=lambda key, chunk: (key, unflat(g["draws0/edit_eps"])))
    terms = [cloning(g, pi), climb, learning(q, act)]
    expected = ("bc_flow_loss", "edit_q_loss", "edit_entropy_loss", "edit_alpha_loss", "critic_loss")
    found = losses_of(terms, vars, chunk)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    seen = beside(chunk.obs, unflat(g["out0/flow_actions"]))
    close(jnp.sum(e.density(vars, seen, unflat(g["draws0/edit_eps"])), (-2, -1)), g["out0/edit_log_probs"])
    grads = {"editor": tanh_params(g, "grads/edit_actor"), "temperature": jnp.asarray(g["grads/alpha/log_value"])}
    assert_gradients(terms, vars, chunk, grads)


def test_dsrl():
    g = load("qam_dsrl")
    pi, steer, q, heat = flow(FLOW), tanh_gaussian(TANH, "steer"), chunk_q(CRITIC), temperature()
    z, base = chunk_q(CRITIC, "start_critic", target=False), sample(reading(pi, target_view))
    nets = nets_of(g, "params0", actor=("actor_bc_flow", (4, A)), critic=("critic", ()), start_critic=("z_critic", ()))
    nets |= {"steer": tanh_params(g, "params0/actor"), "temperature": jnp.asarray(g["params0/alpha/log_value"])}
    targets = nets_of(g, "params0", actor=("target_actor_bc_flow", (4, A)), critic=("target_critic", ()))
    vars, chunk = Vars(nets, targets, {}, {}), chunk_of(g, "batch0", 4)
    act = noisy(started(base, sample(steer), 1.2), unflat(g["draws0/next_eps"])[:, 0])
    close(act.plan(vars, act.draw(vars, None, None), chunk.next_obs[:, 0], None).action, g["out0/next_actions"])
    score = scaled(opinion(z, mean), 1.2)
    climb = drawing(
        proposing(steer, [ascend(steer, score), *entropy(steer, heat)]), (unflat(g["draws0/actor_eps"]), None)
    )
    terms = [cloning(g, pi), drawing(start_value(z, q, base), unflat(g["draws0/noises"])), climb, learning(q, act)]
    cloned, valued, climbed, bonus, heated, critic = losses_of(terms, vars, chunk)
    for ours, theirs in ((cloned, "flow_loss"), (valued, "distill_loss"), (climbed + bonus, "actor_loss")):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    np.testing.assert_allclose(heated, g["out0/alpha_loss"], **CLOSE)
    np.testing.assert_allclose(critic, g["out0/critic_loss"], **CLOSE)
    grads = {"steer": tanh_params(g, "grads/actor"), "temperature": jnp.asarray(g["grads/alpha/log_value"])}
    assert_gradients(terms, vars, chunk, grads | nets_of(g, "grads", start_critic=("z_critic", ())))


def timed(nets, name="critic"):
    """The published critic sees the time alone, ours (alpha, sigma): a row of zeros for the latter."""
    kernel = nets[name]["dense_0"]["kernel"]
    padded = jnp.concatenate([kernel, jnp.zeros_like(kernel[:, :1])], axis=1)
    return nets | {name: {**nets[name], "dense_0": {**nets[name]["dense_0"], "kernel": padded}}}


def levels_at(kernel, t):
    """The Kernel whose first levels are those of these times, for a loss that draws levels by their number."""
    t = np.asarray(t).reshape(-1)
    return kernel._replace(levels=np.concatenate([np.stack([t, 1 - t], axis=1), [[1.0, 0.0]]]))


@pytest.mark.parametrize("mode", slow_but(["linex"], ["simple", "mse", "linex"]))
def test_cgql(mode):
    g = load("qam_cgql")
    pi, q = flow(FLOW), noisy_value(CRITIC, "critic")
    nets = timed(nets_of(g, "params0", actor=("actor", (4, A)), critic=("critic", ())))
    targets = timed(nets_of(g, "params0", actor=("target_actor", (4, A)), critic=("target_critic", ())))
    vars, chunk = Vars(nets, targets, {}, {}), chunk_of(g, "batch0", 4)
    steer = opinion(q, mean)
    value = as_clean(steer) if mode == "simple" else steer
    kernel = tilt(reading(pi, lambda v: v._replace(params=v.params | {"actor": v.targets["actor"]})), value, 2.0, 0.5)
    x, t = unflat(g["guide/x"]), np.asarray(g["guide/t"]).reshape(-1)
    for i in range(8):
        clean = kernel.denoise(vars, chunk.obs[i], x[i], round(float(t[i]) * 4))
        close((clean - x[i]) / (1 - t[i]), g[f"guide/{mode}/velocity"][i])
    draws = f"draws0_{mode}"
    act = noisy(sample(kernel), unflat(g[f"{draws}/next_noises"])[:, 0])
    close(act.plan(vars, act.draw(vars, None, None), chunk.next_obs[:, 0], None).action, g[f"out0_{mode}/next_actions"])
    clone = drawing(bc(pi), (unflat(g[f"{draws}/x_0"]), jnp.asarray(g[f"{draws}/t"])))
    terms = [on(whole, kept(lambda c: jnp.mean(c.mask))(clone)), learning(q, act)]
    found = losses_of(terms, vars, chunk)
    np.testing.assert_allclose(found[0], g[f"out0_{mode}/flow_loss"], **CLOSE)
    np.testing.assert_allclose(found[1], g[f"out0_{mode}/td_loss"], **CLOSE)
    if mode == "simple":
        return
    at = levels_at(pi, g[f"{draws}/noisy_t"])
    noise = unflat(g[f"{draws}/noisy_noise"]), jnp.arange(8)[:, None]
    aim = drawing(noise_value(q, q.values, at, 2.0 if mode == "linex" else None), noise)
    if mode == "mse":
        terms.append(on(whole, kept(lambda c: jnp.mean(c.weight))(weighed(aim, 0.3))))
        np.testing.assert_allclose(losses_of(terms, vars, chunk)[2] / 0.3, g["out0_mse/noisy_loss"], **CLOSE)
        expected = timed(nets_of(g, "grads_mse", critic=("critic", ())))
        assert_gradients(terms, vars, chunk, expected, without_sigma)
        return
    delta = g[
        "out0_linex/delta"
    ]  # ours leaves the published loss where that jumps, above 5: the rows below are compared
    below, w = np.all(delta <= 5.0, axis=0), 2.0
    rows = chunk._replace(mask=jnp.where(below[:, None], whole(chunk).mask, 0.0))
    ours = losses_of([aim], vars, rows)[0] * w**2 / 2 + 1
    counts = np.where(below, np.asarray(chunk.weight)[:, 0], 0.0)
    theirs = np.exp(delta) + w * g["out0_linex/noisy_q"] - w * g["out0_linex/noisy_target_q"]
    np.testing.assert_allclose(ours, (theirs * counts).sum() / (3 * counts.sum()), rtol=1e-4)


def without_sigma(grads):
    """Gradients with 0 for the row that the published critic lacks."""
    critic = grads["critic"]
    kernel = critic["dense_0"]["kernel"].at[:, -1].set(0.0)
    return grads | {"critic": {**critic, "dense_0": {**critic["dense_0"], "kernel": kernel}}}
