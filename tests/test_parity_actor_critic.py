"""Parity with the published code of QC-FQL, RLPD, IFQL and ReBRAC: same inputs, same noise, same numbers (tests/golden/README.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import CLOSE, WIDTHS, A, assert_parameters, chunk_of, counting_zeros, load, mlp_params, unflat
from tiers import slow_but

from qchunk.actor_configs import FlowConfig, OneStepConfig, RegressionConfig, TanhGaussianConfig
from qchunk.actors.flow import flow
from qchunk.actors.gaussian import regression
from qchunk.actors.one_step import one_step_actor
from qchunk.actors.tanh_gaussian import tanh_gaussian
from qchunk.compose import learner, reading, run_terms
from qchunk.config import CriticConfig, OptimConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, minimum, opinion
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n, smoothed
from qchunk.losses.cloning import advantage_weight, bc
from qchunk.losses.implicit_q import behaviour_value, expectile, td_of_state
from qchunk.losses.proposals import ascend, distil, entropy, proposing, temperature
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.sampling import sample
from qchunk.target_networks import target_view, with_target
from qchunk.types import Learner, Spec, Together, Vars

pytestmark = pytest.mark.accelerator


def key():
    """A fresh one for each use: the suite forbids using one twice."""
    return jax.random.key(0)


PESSIMISTIC = {"members": 3, "aggregate": "pessimistic:0.5"}


def kept(share):
    """The published mean over all windows, of a term that is ours over those that count."""
    return lambda term: counting_zeros(term, share)


def every(chunk):
    """The chunk with every step and window counted, as some published terms do."""
    return chunk._replace(mask=jnp.ones_like(chunk.mask), weight=jnp.ones_like(chunk.weight))


def whole(chunk):
    """The chunk whose steps count only together, as the QAM code weighs imitation."""
    return chunk._replace(mask=jnp.broadcast_to(chunk.weight, chunk.mask.shape))


def on(look, term):
    """The term, shown ``look(chunk)``."""
    return term._replace(fn=lambda vars, noise, chunk: term.fn(vars, noise, look(chunk)))


def drawing(term, noise):
    """The term, or terms together, on this noise."""
    return term._replace(draw=lambda key, chunk: noise)


def noisy(policy, noise):
    """The policy on this noise."""
    return policy._replace(draw=lambda vars, key, obs: noise)


def losses_of(terms, vars, chunk):
    """The loss of every term, in order."""
    groups = [t if isinstance(t, Together) else Together(t.draw, (t,)) for t in terms]

    @jax.jit  # op by op it compiles longer
    def run(vars, chunk):
        return [loss for g in groups for loss, _ in run_terms(g, vars, key(), chunk, jnp.zeros((), jnp.int32))]

    return run(vars, chunk)


def assert_gradients(terms, vars, chunk, expected, look=lambda grads: grads):
    """The gradient of the sum of the terms, of the modules in ``expected``."""
    grads = look(jax.jit(jax.grad(lambda p: sum(losses_of(terms, vars._replace(params=p), chunk))))(vars.params))
    for name, theirs in expected.items():
        for a, b in zip(jax.tree.leaves(grads[name]), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(b).max())), err_msg=name)


def assert_update(parts, act, terms, vars, chunk, expected, targets, clip=None):
    """Parameters and target networks after one update."""
    made = learner(parts, act, terms, OptimConfig(1e-3), clip=clip)
    fresh = made.init(key(), Spec(7, A, 4), {})
    state, metrics = jax.jit(made.update)(
        Learner(vars.params, vars.targets, {}, fresh.opt, jnp.zeros((), jnp.int32)), {}, key(), chunk
    )
    assert_parameters({n: state.params[n] for n in expected}, expected)
    assert_parameters({n: state.targets[n] for n in targets}, targets)
    return metrics["loss"]


def nets_of(g, prefix, **shapes):
    """Parameters by our names, from the fixture's: name=(theirs, shape of the output)."""
    return {ours: mlp_params(g, f"{prefix}/{theirs}", out) for ours, (theirs, out) in shapes.items()}


FQL = {"actor": ("actor_bc_flow", (4, A)), "student": ("actor_onestep_flow", (4, A)), "critic": ("critic", ())}


def fql(g, draws, q, look=lambda c: c, candidates=1):
    pi, mu = flow(FlowConfig(WIDTHS, steps=4)), one_step_actor(OneStepConfig(WIDTHS), "student")
    act = sample(mu) if candidates == 1 else best_of_n(sample(mu), opinion(q, mean), candidates)
    act = noisy(act, unflat(g[f"{draws}/next_noises"]))
    clone = drawing(bc(pi), (unflat(g[f"{draws}/x_0"]), jnp.asarray(g[f"{draws}/t"])))
    improve = proposing(mu, [weighed(distil(mu, sample(pi)), 10.0), ascend(mu, opinion(q, mean))])
    terms = [
        on(look, kept(lambda c: jnp.mean(c.mask))(clone)),
        drawing(improve, (unflat(g[f"{draws}/noises"]), None)),
        kept(lambda c: jnp.mean(c.weight))(td(q, act)),
    ]
    return [pi, mu, q], act, terms


@pytest.mark.parametrize("name", ["qc_fql_update", "qam_fql"])
def test_qc_fql(name):
    g = load(name)
    qam = name == "qam_fql"
    q = chunk_q(CriticConfig(WIDTHS, tau=0.1, **(PESSIMISTIC if qam else {})))
    parts, act, terms = fql(g, "draws0", q, whole if qam else lambda c: c, 2 if qam else 1)
    vars = Vars(nets_of(g, "params0", **FQL), nets_of(g, "params0", critic=("target_critic", ())), {}, {})
    chunk = chunk_of(g, "batch0", 4)
    clone, distilled, climbed, critic = losses_of(terms, vars, chunk)
    out = {k: g[f"out0/{k}"] for k in ("bc_flow_loss", "distill_loss", "q_loss", "critic_loss", "total_loss")}
    for ours, theirs in ((clone, "bc_flow_loss"), (distilled / 10, "distill_loss"), (climbed, "q_loss")):
        np.testing.assert_allclose(ours, out[theirs], **CLOSE)
    np.testing.assert_allclose(critic, out["critic_loss"], **CLOSE)
    np.testing.assert_allclose(clone + distilled + climbed + critic, out["total_loss"], **CLOSE)
    have = {n: v for n, v in FQL.items() if f"grads/{v[0]}/layer0/kernel" in g}
    assert_gradients(terms, vars, chunk, nets_of(g, "grads", **have))
    if not qam:
        after = nets_of(g, "params1", **FQL), nets_of(g, "params1", critic=("target_critic", ()))
        loss = assert_update(parts, act, terms, vars, chunk, *after)
        np.testing.assert_allclose(loss, out["total_loss"], **CLOSE)


@pytest.mark.parametrize("case", ["nstep_fql", "h1_fql"])
def test_fql_without_chunks(case):
    g = load("qc_nstep_h1")
    shapes = {n: (theirs, (1, A) if out else ()) for n, (theirs, out) in FQL.items()}
    q = chunk_q(CriticConfig(WIDTHS, tau=0.1))
    _, _, terms = fql(g, f"draws0_{case}", q, every if case == "nstep_fql" else lambda c: c)
    vars = Vars(nets_of(g, "params0", **shapes), nets_of(g, "params0", critic=("target_critic", ())), {}, {})
    chunk = chunk_of(g, "batch_nstep" if case == "nstep_fql" else "batch_h1", 1)
    np.testing.assert_allclose(sum(losses_of(terms, vars, chunk)), g[f"out0_{case}/total_loss"], **CLOSE)
    if case == "nstep_fql":
        assert_gradients(terms, vars, chunk, nets_of(g, "grads_nstep_fql", **shapes))


def tanh_params(g, prefix):
    """The two heads of the published actor as the last axis of ours."""
    kinds = ("kernel", "bias")
    layers = range(sum(k.startswith(f"{prefix}/layer") and k.endswith("kernel") for k in g))
    params = {f"dense_{i}": {n: jnp.asarray(g[f"{prefix}/layer{i}/{n}"]) for n in kinds} for i in layers}
    kernel, bias = (np.stack([g[f"{prefix}/{h}/{n}"] for h in ("mean", "log_std")], -1) for n in kinds)
    params["head_kernel"] = jnp.asarray(kernel.reshape(kernel.shape[0], -1))
    params["head_bias"] = jnp.asarray(bias.reshape(4, A, 2))
    return params


RLPD = [
    ("rlpd_update", "alpha/log_temp", {"activation": "relu", "norm_first": True, "members": 3}, every),
    ("qam_rlpd", "alpha/log_value", PESSIMISTIC, whole),
]


@pytest.mark.parametrize(
    ("name", "heat_name", "critic", "look"), slow_but(RLPD[1:], RLPD), ids=[name for name, *_ in RLPD]
)
def test_rlpd(name, heat_name, critic, look):
    g = load(name)

    def params(prefix):
        found = nets_of(g, prefix, critic=("critic", ())) | {"actor": tanh_params(g, f"{prefix}/actor")}
        return found | {"temperature": jnp.asarray(g[f"{prefix}/{heat_name}"])}

    pi = tanh_gaussian(TanhGaussianConfig(WIDTHS, activation=critic.get("activation", "gelu")))
    q, heat = chunk_q(CriticConfig(WIDTHS, tau=0.1, **critic)), temperature()
    act = noisy(sample(pi), unflat(g["draws0/next_eps"]))
    climb = drawing(proposing(pi, [ascend(pi, q.score), *entropy(pi, heat)]), (unflat(g["draws0/actor_eps"]), None))
    clone = on(look, kept(lambda c: jnp.mean(c.mask))(weighed(bc(pi, summed=True), 0.01)))
    terms = [climb, clone, kept(lambda c: jnp.mean(c.weight))(td(q, act))]
    vars = Vars(params("params0"), nets_of(g, "params0", critic=("target_critic", ())), {}, {})
    chunk = chunk_of(g, "batch0", 4)
    eps = unflat(g["draws0/actor_eps"])
    np.testing.assert_allclose(jnp.sum(pi.density(vars, chunk.obs, eps), (-2, -1)), g["out0/log_probs"], rtol=2e-5)
    climbed, bonus, heated, cloned, critic_loss = losses_of(terms, vars, chunk)
    np.testing.assert_allclose(climbed + bonus, g["out0/actor_loss"], **CLOSE)
    np.testing.assert_allclose(heated, g["out0/alpha_loss"], **CLOSE)
    np.testing.assert_allclose(cloned, g["out0/bc_loss"], rtol=5e-4)
    np.testing.assert_allclose(critic_loss, g["out0/critic_loss"], **CLOSE)
    expected = {"actor": tanh_params(g, "grads/actor"), "temperature": jnp.asarray(g[f"grads/{heat_name}"])}
    assert_gradients(terms, vars, chunk, expected)
    if name == "rlpd_update":
        assert_gradients(terms, vars, chunk, nets_of(g, "grads", critic=("critic", ())))
        after = params("params1"), nets_of(g, "params1", critic=("target_critic", ()))
        assert_update([pi, q, heat], act, terms, vars, chunk, *after)


def test_the_density_where_tanh_saturates():
    g = load("rlpd_update")
    pi = tanh_gaussian(TanhGaussianConfig((16,)))
    params = pi.modules[0].init(key(), Spec(7, A, 1))
    for row in range(9):  # a network whose output is the probe's: all weights 0 but the head's bias
        probe = {n: jnp.asarray(g[f"probe/{n}"][row]) for n in ("mean", "log_std", "pre_tanh")}
        zeros = jax.tree.map(jnp.zeros_like, params)
        zeros["head_bias"] = jnp.stack([probe["mean"], probe["log_std"]], -1)[None]
        noise = ((probe["pre_tanh"] - probe["mean"]) / jnp.exp(probe["log_std"]))[None]
        found = jnp.sum(pi.density(Vars({"actor": zeros}, {}, {}, {}), jnp.zeros(7), noise))
        np.testing.assert_allclose(found, g["probe/log_prob"][row], rtol=1e-5, atol=1e-4)


def test_ifql():
    g = load("qam_ifql")
    pi, q, v = (
        flow(FlowConfig(WIDTHS, steps=4)),
        chunk_q(CriticConfig(WIDTHS, **PESSIMISTIC)),
        state_v(CriticConfig(WIDTHS)),
    )

    def one(prefix):  # an ensemble of one
        return mlp_params({k: v[None] for k, v in g.items() if k.startswith(f"{prefix}/value")}, f"{prefix}/value", ())

    nets = nets_of(g, "params0", actor=("actor_flow", (4, A)), critic=("critic", ()))
    vars = Vars({**nets, "state_value": one("params0")}, nets_of(g, "params0", critic=("target_critic", ())), {}, {})
    chunk = chunk_of(g, "batch0", 4)
    clone = drawing(bc(pi), (unflat(g["draws0/x_0"]), jnp.asarray(g["draws0/t"])))
    terms = [
        on(every, expectile(v, q, 0.9)),
        kept(lambda c: jnp.mean(c.weight))(td_of_state(q, v)),
        on(whole, kept(lambda c: jnp.mean(c.mask))(clone)),
    ]
    for ours, theirs in zip(losses_of(terms, vars, chunk), ("value_loss", "critic_loss", "actor_loss"), strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    assert_gradients(terms, vars, chunk, {"state_value": one("grads")})
    act = best_of_n(sample(pi), opinion(q, minimum), 5)
    plan = act.plan(vars, unflat(g["sample/noises"]), chunk.obs[0], None)
    np.testing.assert_allclose(plan.action.reshape(-1), g["sample/actions"], **CLOSE)


def test_rebrac():
    g = load("qam_rebrac")

    def actor_of(prefix, name="actor"):
        flat = {k.replace("/mean/", "/layer2/"): v for k, v in g.items()}
        return mlp_params(flat, f"{prefix}/{name}", (4, A))

    q = with_target(chunk_q(CriticConfig(WIDTHS, tau=0.1, **PESSIMISTIC)), every=2)
    pi = with_target(regression(RegressionConfig(WIDTHS)), rate=0.1, every=2, acts=False, lagged=True)
    act = sample(reading(pi, target_view))
    act = noisy(smoothed(act, 0.2, 0.5), (jnp.zeros((8, 4, A)), unflat(g["draws0/next_noise"])))
    clone = weighed(bc(pi, summed=True), 0.1)
    terms = [
        drawing(proposing(pi, [ascend(pi, q.score, relative=True)]), (jnp.zeros((8, 4, A)), None)),
        on(whole, kept(lambda c: jnp.mean(c.mask))(clone)),
        kept(lambda c: jnp.mean(c.weight))(td(q, act)),
    ]
    nets = nets_of(g, "params0", critic=("critic", ())) | {"actor": actor_of("params0")}
    targets = nets_of(g, "params0", critic=("target_critic", ())) | {"actor": actor_of("params0", "target_actor")}
    vars, chunk = Vars(nets, targets, {}, {}), chunk_of(g, "batch0", 4)
    plan = act.plan(vars, act.draw(vars, key(), None), chunk.next_obs[:, 0], None)
    np.testing.assert_allclose(plan.action.reshape(8, 12), g["out0/next_actions"], **CLOSE)
    for ours, theirs in zip(losses_of(terms, vars, chunk), ("actor_loss", "bc_loss", "critic_loss"), strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    assert_gradients(terms, vars, chunk, {"actor": actor_of("grads")})


FLOW = {"actor": ("actor_flow", (4, A)), "critic": ("critic", ())}


def test_fbrac():
    g = load("qam_fbrac")
    pi, q = flow(FlowConfig(WIDTHS, steps=4)), chunk_q(CriticConfig(WIDTHS, tau=0.1, **PESSIMISTIC))
    act = noisy(sample(pi), unflat(g["draws0/next_noises"])[:, 0])
    climb = proposing(pi, [weighed(ascend(pi, opinion(q, mean)), 1 / 3.0)])
    clone = drawing(bc(pi), (unflat(g["draws0/x_0"]), jnp.asarray(g["draws0/t"])))
    terms = [
        on(whole, kept(lambda c: jnp.mean(c.mask))(clone)),
        drawing(climb, (unflat(g["draws0/noises"]), None)),
        kept(lambda c: jnp.mean(c.weight))(td(q, act)),
    ]
    vars = Vars(nets_of(g, "params0", **FLOW), nets_of(g, "params0", critic=("target_critic", ())), {}, {})
    chunk = chunk_of(g, "batch0", 4)
    cloned, climbed, critic = losses_of(terms, vars, chunk)
    np.testing.assert_allclose(cloned, g["out0/bc_flow_loss"], **CLOSE)
    np.testing.assert_allclose(climbed * 3, g["out0/q_loss"], **CLOSE)
    np.testing.assert_allclose(critic, g["out0/critic_loss"], **CLOSE)
    np.testing.assert_allclose(cloned + climbed + critic, g["out0/total_loss"], **CLOSE)
    assert_gradients(terms, vars, chunk, nets_of(g, "grads", actor=FLOW["actor"]))


def test_fawac():
    g = load("qam_fawac")
    pi, q, v = (
        flow(FlowConfig(WIDTHS, steps=4)),
        chunk_q(CriticConfig(WIDTHS, tau=0.1, **PESSIMISTIC)),
        state_v(CriticConfig(WIDTHS)),
    )

    def one(prefix):  # an ensemble of one
        return mlp_params({k: v[None] for k, v in g.items() if k.startswith(f"{prefix}/value")}, f"{prefix}/value", ())

    nets = nets_of(g, "params0", actor=("actor", (4, A)), critic=("critic", ())) | {"state_value": one("params0")}
    vars, chunk = Vars(nets, nets_of(g, "params0", critic=("target_critic", ())), {}, {}), chunk_of(g, "batch0", 4)
    weight = advantage_weight(opinion(q, mean), v, 1.5)
    np.testing.assert_allclose(weight(vars, chunk), g["out0/weight"], rtol=1e-4)
    clone = drawing(bc(pi, weight=weight), (unflat(g["draws0/x_0"]), jnp.asarray(g["draws0/t"])))
    terms = [
        on(whole, kept(lambda c: jnp.mean(c.mask))(clone)),
        kept(lambda c: jnp.mean(c.weight))(behaviour_value(v, q)),
        kept(lambda c: jnp.mean(c.weight))(td(q, noisy(sample(pi), unflat(g["draws0/next_noises"])))),
    ]
    for ours, theirs in zip(losses_of(terms, vars, chunk), ("actor_loss", "value_loss", "critic_loss"), strict=True):
        np.testing.assert_allclose(ours, g[f"out0/{theirs}"], **CLOSE)
    expected = nets_of(g, "grads", actor=("actor", (4, A))) | {"state_value": one("grads")}
    assert_gradients(terms, vars, chunk, expected)
