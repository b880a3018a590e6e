"""The kinematic model: what a gripper and cubes do, and what the tasks say of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import rows_of
from tiers import slow_but

from qchunk import envs
from qchunk.envs.base import wrap
from qchunk.envs.tabletop import oracles
from qchunk.envs.tabletop.env import cubes_of, observe
from qchunk.envs.tabletop.physics import World, advance
from qchunk.envs.tabletop.tasks import CUBE, REST, SCENES, WORKSPACE
from qchunk.play import collecting
from qchunk.play.execute import scripted
from qchunk.play.on_device import episodes, rollout

STILL, CLOSE, OPEN, UP = np.zeros(5), np.eye(5)[4], -np.eye(5)[4], np.eye(5)[2]
step = jax.jit(advance)


def world(cubes, gripper=(0.4, 0.0, REST), yaw=0.0, turned=0.0, closing=0.0, held=None):
    cubes = jnp.asarray(cubes, jnp.float32)
    held = jnp.zeros(len(cubes)) if held is None else jnp.asarray(held, jnp.float32)
    turned = jnp.broadcast_to(jnp.asarray(turned, jnp.float32), (len(cubes),))
    return World(jnp.asarray(gripper, jnp.float32), jnp.asarray(yaw), jnp.asarray(closing), cubes, turned, held)


def run(w, *actions):
    for action in actions:
        w = step(w, jnp.asarray(action, jnp.float32))
    return w


@pytest.mark.parametrize(("yaw", "grasps"), [(0.0, 1), (np.pi / 2, 1), (-np.pi + 0.2, 1), (np.pi / 4, 0), (0.5, 0)])
def test_a_grasp_needs_a_fitting_yaw(yaw, grasps):
    """A cube looks alike every 90 degrees; at 45 degrees the jaws do not fit."""
    w = run(world([[0.4, 0.0, REST]], yaw=yaw), CLOSE, UP, UP)
    assert float(w.held[0]) == grasps
    np.testing.assert_allclose(w.cubes[0, 2], REST + 0.1 * grasps, atol=1e-6)


@pytest.mark.parametrize("off", [(0.03, 0, 0), (0, 0.03, 0), (0, 0, 0.035)])
def test_a_grasp_needs_the_cube_between_the_jaws(off):
    w = run(world([[0.4, 0.0, REST]], gripper=np.asarray([0.4, 0.0, REST]) + off), CLOSE)
    assert float(w.held[0]) == 0.0


def test_a_closed_gripper_grasps_nothing():
    """Only closing grasps: the jaws of a closed gripper are in the way."""
    w = run(world([[0.4, 0.0, REST]], closing=1.0), CLOSE, UP)
    assert float(w.held[0]) == 0.0 and float(w.cubes[0, 2]) == pytest.approx(REST)


def test_a_held_cube_moves_and_turns_along():
    w = run(world([[0.41, 0.0, REST]], yaw=0.2), CLOSE)
    assert float(w.turned[0]) == pytest.approx(0.2), "the jaws turn it to their own yaw"
    w = run(w, UP, [1, -1, 0, 0.5, 0])
    np.testing.assert_allclose(w.cubes[0], [0.46, -0.05, REST + 0.05], atol=1e-6)
    assert float(w.turned[0]) == pytest.approx(0.2 + 0.15)


def test_release_falls_to_the_table():
    w = run(world([[0.4, 0.0, REST]]), CLOSE, UP, UP, UP, OPEN)
    heights = [float(w.cubes[0, 2])]
    for _ in range(4):
        w = run(w, STILL)
        heights.append(float(w.cubes[0, 2]))
    assert float(w.held[0]) == 0.0 and heights[0] > heights[1] > heights[2]
    assert heights[-1] == pytest.approx(REST)


def test_release_stacks_on_a_cube():
    low, high = [0.5, 0.1, REST], [0.4, 0.0, REST]
    w = run(world([low, high]), CLOSE, UP, UP, [1, 1, 0, 0, 0], [1, 1, 0, 0, 0])
    w = run(w, OPEN, *[STILL] * 5)
    np.testing.assert_allclose(w.cubes[0], low, atol=1e-6)
    np.testing.assert_allclose(w.cubes[1], [0.5, 0.1, REST + CUBE], atol=1e-5)


def test_a_covered_cube_cannot_be_grasped():
    """The one on top can: at its own height, and between the two."""
    low, high = [0.4, 0.0, REST], [0.41, 0.0, REST + CUBE]
    assert float(run(world([low, high]), CLOSE).held.sum()) == 0.0
    for height in (REST + CUBE / 2, REST + CUBE):
        w = run(world([low, high], gripper=(0.4, 0.0, height)), CLOSE, UP)
        np.testing.assert_array_equal(w.held, [0.0, 1.0])
        np.testing.assert_allclose(w.cubes[0], low, atol=1e-6)


def test_a_held_cube_climbs_onto_another_instead_of_entering_it():
    w = run(world([[0.4, 0.0, REST], [0.5, 0.0, REST]]), CLOSE, [1, 0, 0, 0, 0], [1, 0, 0, 0, 0])
    assert float(w.cubes[0, 2]) == pytest.approx(REST + CUBE) and float(w.cubes[1, 2]) == pytest.approx(REST)
    assert float(w.gripper[2]) == pytest.approx(REST + CUBE)


def test_workspace():
    low, high = np.asarray(WORKSPACE)
    for action, corner in ((np.ones(5), high), (-np.ones(5), low)):
        w = run(world([[0.4, 0.0, REST]]), *[action] * 20)
        np.testing.assert_allclose(w.gripper, corner, atol=1e-6)


@pytest.mark.parametrize("scene", slow_but(["cube-double"], sorted(SCENES)))
def test_observations_tell_the_reward(scene):
    """Along oracle trajectories: cubes are read back from observations, and relabelling equals what the steps gave."""
    env = envs.make(f"tabletop/{scene}-task1")
    play = jax.jit(
        lambda k: rollout(wrap(env), scripted(oracles.commanded(env)), collecting.NO_VARS, k, 180, None, 4)[1]
    )
    s = play(jax.random.key(0))
    reward, terminal = env.relabel(s.obs, s.action, s.next_obs)
    alive = np.asarray(s.alive) > 0
    np.testing.assert_array_equal(np.asarray(reward)[alive], np.asarray(s.reward)[alive])
    np.testing.assert_array_equal(np.asarray(terminal)[alive], np.asarray(s.terminal)[alive])
    assert {0.0, -1.0} <= set(np.asarray(s.reward)[alive].tolist())
    w = env.reset(jax.random.key(1)).pipeline_state
    np.testing.assert_allclose(cubes_of(observe(w)), w.cubes, atol=1e-6)


HARDEST = ["cube-single-task4", "cube-double-task4", "cube-double-task5"]


@pytest.mark.parametrize("name", slow_but(["cube-double-task5"], HARDEST))
def test_the_commanded_oracle_succeeds(name):
    env = envs.make(f"tabletop/{name}")
    e = jax.jit(lambda k: episodes(wrap(env), scripted(oracles.commanded(env)), collecting.NO_VARS, k, 16))(
        jax.random.key(2)
    )
    np.testing.assert_array_equal(e.success, 1.0)
    assert float(e.length.max()) < env.episode_length


@pytest.mark.parametrize("policy", slow_but(["play"], ["play", "noisy"]))
def test_bare_scenes_are_for_collecting(policy):
    """Never done, no reward, cubes moved and stacked, nothing that is not finite, actions in range."""
    env = envs.make("tabletop/cube-double")
    rows = rows_of(env, policy, 6000, 8, episode_length=750)
    assert not rows.terminal.any() and not rows.reward.any() and np.isfinite(rows.obs).all()
    heights = np.asarray(cubes_of(rows.obs))[..., 2]
    assert heights.min() > REST - 1e-5 and heights.max() > 0.1
    assert np.abs(rows.action).max() <= 1.0 and rows.action.std() > 0.1
    assert rows.obs[:, 6].mean() > 0.2, "it holds a cube much of the time"


def test_extreme_actions_stay_finite():
    env = envs.make("tabletop/cube-double-task1")
    state = env.reset(jax.random.key(0))
    once = jax.jit(env.step)
    for i in range(60):
        state = once(state, 1e6 * jax.random.normal(jax.random.key(i), (5,)))
        assert np.isfinite(state.obs).all()
