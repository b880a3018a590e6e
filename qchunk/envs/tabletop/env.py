"""The tasks as brax environments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.envs.base import Env, State
from qchunk.envs.tabletop import oracles
from qchunk.envs.tabletop.physics import World, advance
from qchunk.envs.tabletop.tasks import (
    ARM_START,
    CENTRE,
    GRIPPER_SCALE,
    OBJECTS,
    REST,
    SCALE,
    SCENES,
    START_NOISE,
    SUCCESS,
)
from qchunk.system.errors import UserError, unknown
from qchunk.types import Array

CUBES_AT, PER_CUBE = 7, 5  # where cubes begin in an observation, and how many numbers each has


class Tabletop(Env):
    """One scene with a task (1 to 5), or bare (None): no goal, reward 0, never done, cubes anywhere; for collecting.

    Observation [7 + 5 n], positions centred and times 10: gripper xyz, cos and sin of 4 times its yaw, closing (times 3),
    whether it holds something; per cube xyz, cos and sin of 4 times its yaw relative to the gripper's (everything is alike
    every 90 degrees). Action [5] in [-1, 1]: 5 cm per step in x, y, z, 0.3 rad of
    yaw, closing. Reward after the action: minus the number of cubes farther than 4 cm from their goals. Done (terminal) at
    success, when none is.
    """

    def __init__(self, name: str, task: int | None):
        self.parts, self.task = SCENES[name], task
        self.data_name = f"tabletop/{name}"
        self.episode_length = self.parts.episode_length
        self._name = name
        self.goal = None if task is None else np.asarray(self.parts.tasks[task - 1].goal, np.float32)

    @property
    def scene(self) -> Tabletop:
        """The bare scene."""
        return Tabletop(self._name, None)

    @property
    def behaviours(self) -> dict:
        """Scripted behaviours for collecting; the first is the default."""
        return {"play": oracles.play, "noisy": oracles.noisy}

    def reset(self, rng: Array) -> State:
        n = self.parts.cubes
        arm_key, yaw_key, cube_key = jax.random.split(rng, 3)
        arm = jax.random.uniform(arm_key, (3,), minval=np.asarray(ARM_START[0]), maxval=np.asarray(ARM_START[1]))
        yaws = jax.random.uniform(yaw_key, (n + 1,), minval=-np.pi, maxval=np.pi)
        if self.task is None:
            xy = jax.random.uniform(cube_key, (n, 2), minval=np.asarray(OBJECTS[0]), maxval=np.asarray(OBJECTS[1]))
            cubes = jnp.concatenate([xy, jnp.full((n, 1), REST)], axis=1)
        else:
            noise = jax.random.uniform(cube_key, (n, 2), minval=-START_NOISE, maxval=START_NOISE)
            start = np.asarray(self.parts.tasks[self.task - 1].start, np.float32)
            cubes = jnp.asarray(start).at[:, :2].add(noise)
        zero = jnp.zeros(())
        world = World(arm, yaws[0], zero, cubes, yaws[1:], jnp.zeros(n))
        return State(world, observe(world), zero, zero, {"success": zero})

    def step(self, state: State, action: Array) -> State:
        world = advance(state.pipeline_state, action)
        obs = observe(world)
        reward, terminal = self.relabel(state.obs, action, obs)
        return state.replace(pipeline_state=world, obs=obs, reward=reward, done=terminal, metrics={"success": terminal})

    def relabel(self, obs: Array, action: Array, next_obs: Array) -> tuple[Array, Array]:
        """Reward and terminal [...] of transitions, from what they reached: next_obs [..., O]."""
        if self.goal is None:
            zero = jnp.zeros(next_obs.shape[:-1])
            return zero, zero
        there = jnp.sum(jnp.square(cubes_of(next_obs) - self.goal), axis=-1) <= SUCCESS**2  # False for NaN
        missing = jnp.sum(1.0 - there.astype(jnp.float32), axis=-1)
        return -missing, (missing == 0).astype(jnp.float32)

    @property
    def observation_size(self) -> int:
        return CUBES_AT + PER_CUBE * self.parts.cubes

    @property
    def action_size(self) -> int:
        return 5

    @property
    def backend(self) -> str:
        return "kinematic"


def observe(w: World) -> Array:
    """The observation of a world: [7 + 5 n]."""
    centre = np.asarray(CENTRE, np.float32)
    own = [jnp.cos(4 * w.yaw), jnp.sin(4 * w.yaw), w.closing * GRIPPER_SCALE, jnp.sum(w.held)]
    turned = 4 * (w.turned - w.yaw)
    cubes = [(w.cubes - centre) * SCALE, jnp.cos(turned)[:, None], jnp.sin(turned)[:, None]]
    return jnp.concatenate([(w.gripper - centre) * SCALE, jnp.stack(own), jnp.concatenate(cubes, axis=1).ravel()])


def cubes_of(obs: Array) -> Array:
    """Cube positions [..., n, 3] in metres, from observations [..., O]."""
    cubes = obs[..., CUBES_AT:].reshape(*obs.shape[:-1], -1, PER_CUBE)
    return cubes[..., :3] / SCALE + np.asarray(CENTRE, np.float32)


def make(name: str) -> Tabletop:
    """``cube-double-task2``, or ``cube-double``: the bare scene.

    Raises:
        UserError: no such scene or task.
    """
    scene, dash, task = name.partition("-task")
    if scene not in SCENES:
        raise unknown("scene", scene, SCENES)
    if dash and task not in ("1", "2", "3", "4", "5"):
        raise UserError(f"unknown task {task!r} of tabletop/{scene}", "its tasks are task1 to task5")
    return Tabletop(scene, int(task) if dash else None)
