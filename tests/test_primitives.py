"""Movement primitives: parity with published code, exact boundaries, and algorithms whose chunks are weights (tests/golden/README.md)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import load

from qchunk import envs
from qchunk.actor_configs import FlowConfig, GaussianConfig, RegressionConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.algorithms.qc_prefix import PrefixQC, qc_prefix
from qchunk.algorithms.sear import SEAR, sear
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, RolloutConfig
from qchunk.data import chunks
from qchunk.drivers import train
from qchunk.drivers.common import assemble, init
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.play.on_device import rollout
from qchunk.play.program import reads
from qchunk.primitives import ProDMP, ProMP, codec, encoded
from qchunk.runs.prior import sizes
from qchunk.seeds import one
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Old, Plan

CASES = ("A_tau2_N5", "B_tau2_N8_auto_scale0.3", "C_tau0.8_N3_relgoal_delay")


def published(case):
    """(arrays of the case, our constants, times since the motion begins, whether it has begun)."""
    g = {k.removeprefix(f"prodmp/{case}/"): v for k, v in load("movement_primitives").items() if case in k}
    tau, delay, n, bandwidth, spring, decay, dt, w, goal, relative, auto = (
        float(x) for x in g["config_tau_delay_N_bw_alpha_alphaphase_dt_wscale_gscale_relgoal_autoscale"]
    )
    p = ProDMP(round(n), tau, bandwidth, spring, decay, (w, goal), bool(auto), bool(relative), round(tau / dt))
    times = np.round(g["times"].astype(np.float64), 6)
    return g, p, times - delay, times >= delay


def weights(flat):
    """[B, A * W], number after number -> [B, W, A]."""
    return jnp.swapaxes(jnp.asarray(flat).reshape(len(flat), 3, -1), 1, 2)


@pytest.mark.parametrize("case", CASES)
def test_prodmp(case):
    g, p, times, begun = published(case)
    y, slope, scale = p.columns(times[begun])
    np.testing.assert_allclose(scale, g["f64/weights_goal_scale"], rtol=2e-4)
    np.testing.assert_allclose(y[:, 2:], g["f64/basis_raw"][begun], atol=5e-6)
    np.testing.assert_allclose(slope[:, 2:], g["f64/vel_basis_raw"][begun], atol=1e-4)
    np.testing.assert_allclose(y[:, :2], np.stack([g["f64/y1"], g["f64/y2"]], 1)[begun], atol=1e-8)
    position, velocity = p.trajectory(times[begun])
    args = weights(g["params"]), jnp.asarray(g["init_pos"]), jnp.asarray(g["init_vel"])
    np.testing.assert_allclose(position(*args), g["f64/pos"][:, begun], rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(velocity(*args), g["f64/vel"][:, begun], rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_new_plan_goes_on_from_the_old_one(case):
    g, p, times, _ = published(case)
    first = int(g["replan/boundary_index"])
    position, velocity = p.trajectory(times[first:], times[first])
    args = weights(g["replan/params"]), jnp.asarray(g["replan/boundary_pos"]), jnp.asarray(g["replan/boundary_vel"])
    np.testing.assert_allclose(position(*args), g["f64/replan_pos"], rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(velocity(*args), g["f64/replan_vel"], rtol=1e-4, atol=5e-4)
    np.testing.assert_allclose(position(*args)[:, 0], args[1], atol=1e-6)  # exact, not nearly
    np.testing.assert_allclose(velocity(*args)[:, 0], args[2], atol=1e-5)


def test_prodmp_against_direct_integration():
    """y'' = alpha (alpha / 4 (g - y) - y') + x f(x), step by step (Runge and Kutta), in float64."""
    p, w, goal, y, v = ProDMP(4, 2.0), np.asarray([300.0, -200.0, 100.0, 400.0]), 0.7, -0.4, 0.9
    centres = np.exp(-3 * np.arange(5) / 3)

    def slope(s, state):
        x = np.exp(-3 * s)
        bumps = np.exp(-0.5 * 3.0 * ((x - centres[:-1]) / np.diff(centres)) ** 2)
        force = x * (bumps / bumps.sum()) @ w
        return np.asarray([state[1], 10 * (2.5 * (goal - state[0]) - state[1]) + force])

    state, h, along = np.asarray([y, v * 2.0]), 1 / 2000, [y]
    for i in range(2000):
        k1 = slope(i * h, state)
        k2 = slope((i + 0.5) * h, state + h / 2 * k1)
        k3 = slope((i + 0.5) * h, state + h / 2 * k2)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope((i + 1) * h, state + h * k3))
        along += [state[0]] if (i + 1) % 100 == 0 else []
    position = p.trajectory(np.linspace(0, 2, 21))[0]
    ours = position.weights @ np.append(w, goal) + position.position * y + position.velocity * v
    np.testing.assert_allclose(ours, along, atol=1e-4)  # of trajectories that reach 3
    assert np.abs(along).max() > 1


@pytest.mark.parametrize("case", ["A_tau2_N5", "B_tau1_N8_out1_scale0.5"])
def test_promp(case):
    g = {k.removeprefix(f"promp/{case}/"): v for k, v in load("movement_primitives").items() if case in k}
    tau, _, n, bandwidth, outside, scale = (float(x) for x in g["config_tau_delay_N_bw_outside_wscale"])
    found = ProMP(round(n), tau, bandwidth, round(outside)).columns(g["times"].astype(np.float64))
    np.testing.assert_allclose(found, g["f64/basis"], atol=1e-6)
    np.testing.assert_allclose(scale * found @ weights(g["params"]), g["f64/pos"], atol=1e-5)


@pytest.mark.parametrize("kind", ["prodmp", "promp"])
def test_chunks_by_the_values_at_their_knots(kind):
    made = codec(kind, 16, 6)
    np.testing.assert_allclose(made.decode[made.knots], np.eye(6), atol=1e-8)
    np.testing.assert_allclose(made.encode @ made.decode, np.eye(6), atol=1e-8)
    rng = np.random.default_rng(0)
    chunk, given = made.decode @ rng.uniform(-1, 1, 6), rng.uniform(-1, 1, 2)
    moved = chunk + made.shift @ (given - chunk[:2])
    np.testing.assert_allclose(moved[:2], given, atol=1e-8)
    np.testing.assert_allclose(made.decode @ (made.encode @ moved), moved, atol=1e-7)  # as smooth as before
    line = np.linspace(-0.5, 0.5, 16)
    assert np.abs(made.decode @ (made.encode @ line) - line).max() < 0.1
    told = Chunk(None, jnp.zeros((1, 16, 1)), jnp.arange(16)[None], *[None] * 6)  # a weight counts where its knot does
    np.testing.assert_array_equal(encoded(told, ChunkConfig(16, codec=kind, basis=6)).mask[0], made.knots)


C = ChunkConfig(8, codec="prodmp", basis=4)
SMALL = {"actor": FlowConfig((16,), steps=2), "critic": CriticConfig((16,)), "n": 2}


def played(build, c, env, execute):
    program, x = assemble(build, c, env, OnlineSettings(offline_steps=1, execute=execute), {})
    learner = one(init(program, x), 0)
    scheme = program.scheme(x, "act")
    _, steps = jax.jit(
        lambda: rollout(program.playable({}), scheme, reads(learner, x), jax.random.key(0), 16, None, 3)
    )()
    return learner, steps.action


def test_networks_see_weights_and_the_environment_sees_chunks():
    env = envs.make("tabletop/cube-single-task1")
    learner, action = played(qc, QC(C, **SMALL), env, "open-loop")
    assert learner.params["actor"]["head_bias"].shape == (4, 5)
    assert action.shape[1:] == (3, 5) and np.abs(action).max() <= 1
    made, chunk = codec("prodmp", 8, 4), np.asarray(action[:8, 0])
    inside = np.abs(chunk).max(axis=0) < 1  # a number that was cut off is smooth no more
    np.testing.assert_allclose((made.decode @ made.encode @ chunk)[:, inside], chunk[:, inside], atol=1e-4)


@pytest.mark.parametrize("replan", ["free", "smooth"])
def test_a_plan_goes_on_from_the_old_one_where_it_is_to(replan):
    env, chunk = envs.make("tabletop/cube-single-task1"), dataclasses.replace(C, replan=replan)
    program, x = assemble(qc, QC(chunk, **SMALL), env, OnlineSettings(offline_steps=1), {})
    vars, policy = reads(one(init(program, x), 0), x), program.algorithm(x.c).act
    obs = jnp.zeros((3, env.observation_size))
    left = jnp.arange(8) < jnp.asarray([[5], [0], [1]])  # of one action there is no velocity to go on with
    old = Old(Plan(jnp.full((3, 8, 5), 0.25)), left.astype(jnp.float32))
    noise = policy.draw(vars, jax.random.key(1), obs)
    going, fresh = (policy.plan(vars, noise, obs, o).action for o in (old, None))
    np.testing.assert_array_equal(going[1:], fresh[1:])
    assert not policy.pulled
    if replan == "free":
        np.testing.assert_array_equal(going[0], fresh[0])
        return
    np.testing.assert_allclose(going[0, :2], 0.25, atol=1e-5)
    assert (np.abs(going[0] - fresh[0]) > 1e-3).any()


def test_it_learns_and_what_it_imitates_is_smooth():
    """Regression in three weights on noise around a bow: the bow comes out, the noise does not."""
    rng = np.random.default_rng(0)
    bow = np.sin(np.linspace(0, np.pi, 8))
    action = np.clip(0.7 * np.tile(np.append(bow, 0.0), 40)[:, None] + rng.normal(size=(360, 1)) * 0.2, -1, 1)
    end = np.arange(360) % 9 == 8
    data = chunks.dataset(np.zeros((360, 2)), action, np.zeros(360), np.zeros(360), end)
    env = envs.make("probe/two-step")
    c = BC(ChunkConfig(8, codec="promp", basis=3, starts="episode"), RegressionConfig((16,)), OptimConfig(1e-2))
    s = OnlineSettings(offline_steps=200, eval_every=0, log_every=200, episodes=2, batch=64)
    *_, saved = train(bc, c, env=env, data=data, settings=s)
    program, x = assemble(bc, c, env, s, {})
    vars = reads(one(saved.learner, 0), x)
    found = program.algorithm(c).act.plan(vars, jnp.zeros((1, 3, 1)), jnp.zeros((1, 2)), None).action[0, :, 0]
    assert np.abs(np.asarray(found) - 0.7 * bow).max() < 0.12


@pytest.mark.slow
def test_policy_gradients_on_weights():
    env = envs.make("tabletop/cube-single-task1")
    c = PPO(chunk=C, tuned=GaussianConfig((16,)), rollout=RolloutConfig(4, 4, 1, 2))
    s = OnPolicySettings(online_steps=256, episodes=2)
    *_, saved = train(ppo, c, env=env, settings=s)
    assert saved.learner.params["actor"]["head_bias"].shape[-3:-1] == (4, 5) and int(saved.learner.step) > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.learner.params))


def test_a_stage_has_the_primitives_of_its_prior():
    assert sizes(ChunkConfig(5, (1,)), C) == dataclasses.replace(C, backup=(1,))


def test_what_does_not_fit_is_refused():
    env = envs.make("tabletop/cube-single-task1")
    s = OnlineSettings(offline_steps=1)
    for build, c, why in (
        (qc, QC(dataclasses.replace(C, basis=3)), "--chunk.basis 3 does not fit"),
        (qc, QC(dataclasses.replace(C, basis=9)), "--chunk.basis 9 does not fit"),
        (qc_prefix, PrefixQC(C), "beginnings of chunks"),
        (sear, SEAR(C), "beginnings of chunks"),
    ):
        with pytest.raises(UserError, match=why):
            program, x = assemble(build, c, env, s, {})
            program.algorithm(x.c)
