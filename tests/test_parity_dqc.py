"""Parity with the published code of decoupled Q-chunking: same inputs, same noise, same numbers (tests/golden/README.md)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import CLOSE, A, assert_parameters, load, mlp_params, unflat

from qchunk.actor_configs import FlowConfig
from qchunk.actors.flow import flow
from qchunk.algorithms import dqc as method
from qchunk.compose import seeing, shortened
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.chance import chance
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import chunks, goals
from qchunk.data.goals import Draws, GoalConfig
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.reaching import UnevenConfig, away
from qchunk.sampling import sample
from qchunk.types import Chunk, Learner, Spec, Vars

pytestmark = pytest.mark.accelerator

SPEC = Spec({"state": 7, "goal": 3}, A, 4)
C = method.DQC(
    ChunkConfig(4, gamma=0.99, starts="whole"),
    1,
    actor=FlowConfig((32, 32), layer_norm=True, steps=4),
    critic=CriticConfig((32, 32), tau=0.1),
    distil=UnevenConfig("expectile", 0.8),
    backup=UnevenConfig("quantile", 0.9),
    optim=OptimConfig(1e-3),
    n=5,
)
CASES = {
    "A": C,
    "B": dataclasses.replace(
        C,
        act_horizon=2,
        critic=dataclasses.replace(C.critic, aggregate="min"),
        distil=UnevenConfig("quantile", 0.7),
        backup=UnevenConfig("expectile", 0.93),
    ),
    "C": dataclasses.replace(C, act_horizon=4, decoupled=False, backup=UnevenConfig("quantile", 0.7)),
    "D": C,
}
MODULES = {"actor": "actor_bc", "critic": "action_critic", "chunk_critic": "chunk_critic", "value": "value"}


def goal_first(params):
    """The published networks read [state, goal, ...], ours the leaves in the order of their names."""
    kernel = params["dense_0"]["kernel"]
    rows = jnp.concatenate([kernel[..., 7:10, :], kernel[..., :7, :], kernel[..., 10:, :]], axis=-2)
    return {**params, "dense_0": {**params["dense_0"], "kernel": rows}}


def module(g, prefix, name, length):
    if name == "actor_bc":
        return mlp_params(g, f"{prefix}/{name}", (length, A))
    if name == "value":  # published without an axis of members
        g = {k: v[None] for k, v in g.items() if k.startswith(f"{prefix}/value/")}
    return goal_first(mlp_params(g, f"{prefix}/{name}", ()))


def read_vars(g, case, prefix="params0"):
    prefix, c = f"{prefix}_{'A' if case == 'D' else case}", CASES[case]
    names = {n: m for n, m in MODULES.items() if c.decoupled or n != "chunk_critic"}
    params = {n: module(g, prefix, m, c.act_horizon) for n, m in names.items()}
    return Vars(params, {"critic": module(g, prefix, "target_action_critic", c.act_horizon)}, {}, {})


def chunk_of(g, case):
    b = {k.partition("/")[2]: jnp.asarray(v) for k, v in g.items() if k.startswith(f"batch{'D' * (case == 'D')}/")}
    goal, n, at = b["high_value_goals"], b["high_value_backup_horizon"], CASES[case].act_horizon - 1
    return Chunk(
        obs={"state": b["observations"], "goal": goal},
        action=unflat(b["high_value_action_chunks"]),
        mask=b["valids"],
        reward=b["high_value_rewards"][:, None],
        discount=(0.99**n * b["high_value_masks"])[:, None],
        next_obs={"state": b["high_value_next_observations"][:, None], "goal": goal[:, None]},
        weight=b["valids"][:, at : at + 1],
        last=jnp.zeros(8),
        extras={},
    )


def algorithm_of(g, case, monkeypatch, c=None):
    """The method itself; its imitation draws the fixture's noise."""
    noise = unflat(g[f"draws_{case}/x_0"]), jnp.asarray(g[f"draws_{case}/t"])
    monkeypatch.setattr(method, "bc", lambda pi: bc(pi)._replace(draw=lambda key, chunk: noise))
    return method.dqc(c or CASES[case])


def begin(algorithm, vars):
    fresh = algorithm.init(jax.random.key(0), SPEC, {})
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, vars.params)
    return Learner(vars.params, vars.targets, {}, fresh.opt, jnp.zeros((), jnp.int32))


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_losses(case, monkeypatch):
    g = load("dqc_losses")
    algorithm = algorithm_of(g, case, monkeypatch)
    _, found = jax.jit(algorithm.update)(begin(algorithm, read_vars(g, case)), {}, jax.random.key(0), chunk_of(g, case))
    theirs = {n: float(g[f"out_{case}/{n}_loss"]) for n in ("action_critic", "value", "bc_flow", "total")}
    ours = {"action_critic": found["distil/loss" if case != "C" else "td/loss"], "value": found["value/loss"]}
    if case != "C":
        np.testing.assert_allclose(found["chunk/loss"], g[f"out_{case}/chunk_critic_loss"], **CLOSE)
    else:  # published with a weight of 1/2 on either side of the value
        theirs["total"], theirs["action_critic"] = (
            theirs["total"] + theirs["action_critic"],
            2 * theirs["action_critic"],
        )
    ours |= {"bc_flow": found["bc/loss"], "total": found["loss"]}
    for name, loss in ours.items():
        np.testing.assert_allclose(loss, theirs[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize(("step", "out"), [(0, "derived_D"), (2, "out_D")])
def test_weights_of_windows(step, out, monkeypatch):
    """Defect 6: windows weigh what the last step that is played does, of which ``derived_D`` tells (index h_a - 1 = 0); the published
    code takes index h_a A - 1 = 2. Its means count zeros."""
    g = load("dqc_losses")
    chunk, algorithm = chunk_of(g, "D"), algorithm_of(g, "D", monkeypatch)
    counts = chunk.mask[:, step : step + 1]
    if step == 0:
        np.testing.assert_array_equal(chunk.weight, counts)
        assert not np.allclose(g["derived_D/value_loss"], g["out_D/value_loss"], rtol=1e-3)
    chunk = chunk._replace(weight=counts, mask=jnp.broadcast_to(counts, chunk.mask.shape))
    _, found = jax.jit(algorithm.update)(begin(algorithm, read_vars(g, "D")), {}, jax.random.key(0), chunk)
    for ours, theirs in (("distil", "action_critic"), ("value", "value"), ("bc", "bc_flow")):
        np.testing.assert_allclose(float(counts.mean()) * found[f"{ours}/loss"], g[f"{out}/{theirs}_loss"], **CLOSE)


def test_gradient(monkeypatch):
    """By one step of plain gradient descent."""
    g, vars = load("dqc_losses"), None
    vars = read_vars(g, "A")
    plain = dataclasses.replace(C, optim=OptimConfig(1.0, kind="sgd"))
    algorithm = algorithm_of(g, "A", monkeypatch, plain)
    after, _ = jax.jit(algorithm.update)(begin(algorithm, vars), {}, jax.random.key(0), chunk_of(g, "A"))
    for ours, theirs in MODULES.items():
        expected = module(g, "grads_A", theirs, 1)
        found = jax.tree.map(lambda a, b: a - b, vars.params[ours], after.params[ours])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=ours), found, expected)


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_gradient_norms(case, monkeypatch):
    g, vars = load("dqc_losses"), read_vars(load("dqc_losses"), case)
    algorithm = algorithm_of(g, case, monkeypatch, dataclasses.replace(CASES[case], optim=OptimConfig(1.0, kind="sgd")))
    after, _ = jax.jit(algorithm.update)(begin(algorithm, vars), {}, jax.random.key(0), chunk_of(g, case))
    for ours in vars.params:
        both = zip(jax.tree.leaves(vars.params[ours]), jax.tree.leaves(after.params[ours]), strict=True)
        norm = np.sqrt(sum(float(jnp.sum((a - b) ** 2)) for a, b in both))
        halved = 0.5 if case == "C" and ours == "critic" else 1.0
        np.testing.assert_allclose(halved * norm, g[f"grad_norm_{case}/{MODULES[ours]}"], rtol=1e-3, err_msg=ours)


def test_parameters_after_an_update(monkeypatch):
    g = load("dqc_losses")
    algorithm = algorithm_of(g, "A", monkeypatch)
    after, _ = jax.jit(algorithm.update)(begin(algorithm, read_vars(g, "A")), {}, jax.random.key(0), chunk_of(g, "A"))
    assert_parameters(after.params["value"], module(g, "params1_A", "value", 1))
    assert_parameters(after.targets["critic"], module(g, "params1_A", "target_action_critic", 1))
    assert set(after.targets) == {"critic"}, "neither V nor the critic of whole chunks has a target network"


@pytest.mark.parametrize("case", ["A", "B"])
def test_best_of_n(case):
    """The published code takes the best by aggregated logits; by the lowest member that is the method's own choice."""
    g, c = load("dqc_losses"), CASES[case]
    vars, b = read_vars(g, case), chunk_of(g, case)
    pi, q = shortened(seeing(flow(c.actor), "state"), c.act_horizon), shortened(chunk_q(c.critic), c.act_horizon)
    act = method.dqc(c).act if case == "B" else best_of_n(sample(pi), q.score, 5)
    noise = jnp.swapaxes(unflat(g[f"sample_{case}/noises"]), 0, 1)  # [B, N, h_a, A]
    plan = act.plan(vars, noise, b.obs, None)
    np.testing.assert_allclose(plan.action.reshape(8, -1), g[f"sample_{case}/actions"], **CLOSE)


def test_one_space_in_targets_and_in_acting():
    """Defect 7: the best chunk is the one whose probability, as targets aggregate it, is the highest."""
    values = jnp.asarray(
        [[6.0, 1.0], [-2.0, 0.0]]
    )  # of two members: by mean logit the first is best, by mean chance the second
    critic = chunk_q(CriticConfig((16,)))._replace(values=lambda vars, obs, action=None, level=None: values)
    assert jnp.argmax(critic.aggregate(values)) == 0
    assert jnp.argmax(chance(critic).score(None, None)) == 1


@pytest.mark.parametrize("form", ["expectile", "quantile"])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_certain_targets_have_finite_losses(form, target):
    """Defect 7: the logit of 0 or 1 is infinite where it is not clipped. What is no number is never weighed as good."""
    loss = lambda v: away(v, jnp.asarray(target), UnevenConfig(form, 0.9))  # noqa: E731
    for value in map(jnp.asarray, (-20.0, 0.0, 20.0)):
        assert np.isfinite(loss(value)) and np.isfinite(jax.grad(loss)(value))
    assert np.isnan(away(jnp.asarray(0.0), jnp.asarray(np.nan), UnevenConfig(form, 0.9)))


# ------------------------------------------------------------------------------------------------------------ goals


H, GAMMA = 4, 0.95
C4 = ChunkConfig(H, gamma=GAMMA, starts="whole")


def goal_data(g):
    """(data, place of each published row). Published trajectories end with the state that their last step but one reaches:
    their final state is left out, which drops the last start of each (defect 8)."""
    d = {k.removeprefix("dataset/"): v for k, v in g.items() if k.startswith("dataset/")}
    last = np.append(d["valids"][1:] == 0, False) & (d["valids"] == 1)  # the last step of a trajectory
    keep = d["valids"] == 1
    place = np.cumsum(keep) - 1
    zeros = np.zeros(keep.sum())
    obs = {"state": d["observations"][keep], "goal": d["oracle_reps"][keep]}
    return chunks.dataset(obs, d["actions"][keep], zeros, zeros, last[keep]), place


def drawn(g, data, start, noise):
    way = goals.in_data(data, jnp.asarray(start), C4)
    return goals.toward(way, noise, C4, GoalConfig(), lambda obs: obs["goal"])


def test_starts():
    """Ours are the published ones and, where the final state is there, one more of each trajectory."""
    g = load("dqc_goal_batches")
    data, place = goal_data(g)
    found = chunks.start_at(data, jnp.arange(int(chunks.count_starts(data, C4))), C4)
    np.testing.assert_array_equal(found, place[g["valid_starts"]])
    d = {k.removeprefix("dataset/"): v for k, v in g.items() if k.startswith("dataset/")}
    zeros = np.zeros(47)
    whole = chunks.dataset(d["observations"], d["actions"], zeros, zeros, d["valids"] == 0)
    found = chunks.start_at(whole, jnp.arange(int(chunks.count_starts(whole, C4))), C4)
    assert set(g["valid_starts"].tolist()) < set(found.tolist()) and len(found) == 27 + 4


def test_goals_of_the_published_sampler():
    g = load("dqc_goal_batches")
    data, place = goal_data(g)
    u = {k.removeprefix("uniform/draws/"): v for k, v in g.items() if k.startswith("uniform/draws/")}
    out = {k.removeprefix("uniform/out/"): v for k, v in g.items() if k.startswith("uniform/out/")}
    kind = np.where(u["u_cur"] < 0.2, 0.1, np.where(u["u_type"] < 0.5 / 0.8, 0.4, 0.9)).astype(np.float32)
    random = u["random_goal_idxs"]
    noise = Draws(*map(jnp.asarray, (kind, u["u_traj"], g["dataset/oracle_reps"][random], place[random])))
    w = drawn(g, data, place[u["starts"]], noise)
    np.testing.assert_allclose(w.obs["goal"], out["goals"])
    np.testing.assert_allclose(w.obs["state"], out["observations"])
    np.testing.assert_allclose(w.next_obs["state"][:, 0], out["next_observations"])
    np.testing.assert_allclose(w.action.reshape(32, -1), out["action_chunks"])
    np.testing.assert_allclose(w.reward[:, 0], out["rewards"], rtol=1e-6)
    np.testing.assert_allclose(w.discount[:, 0], GAMMA ** out["k"] * out["masks"], rtol=1e-6)
    np.testing.assert_array_equal(w.weight, 1.0)


@pytest.mark.parametrize("which", ["explicit", "geometric/out"])
def test_windows_towards_given_goals(which):
    g = load("dqc_goal_batches")
    data, place = goal_data(g)
    start = g["explicit/starts"] if which == "explicit" else g["geometric/draws/starts"]
    whole = g["explicit/flag_truncated"] == 0 if which == "explicit" else np.ones(len(start), bool)
    goal, start = g[f"{which}/goal_idxs"], np.where(whole, start, start[0])
    noise = Draws(
        jnp.full(len(start), 0.9), jnp.zeros(len(start)), jnp.asarray(g["dataset/oracle_reps"][goal]), place[goal]
    )
    w = drawn(g, data, place[start], noise)
    assert whole.sum() >= 20
    np.testing.assert_allclose(w.reward[whole, 0], g[f"{which}/rewards"][whole], rtol=1e-6)
    found, k = w.discount[whole, 0], g[f"{which}/k"][whole]
    np.testing.assert_allclose(found, GAMMA**k * g[f"{which}/masks"][whole], rtol=1e-6)
