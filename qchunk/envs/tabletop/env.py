"""The tasks as brax environments."""

from __future__ import annotations

from typing import Any

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

PLAY_STEPS = 1000  # of an episode without a task, as in OGBench's play data (2410.20092)
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
        self.episode_length = PLAY_STEPS if task is None else self.parts.episode_length
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
        start = None if self.task is None else np.asarray(self.parts.tasks[self.task - 1].start, np.float32)
        world, zero = self.begin(rng, start), jnp.zeros(())
        return State(world, observe(world), zero, zero, {"success": zero})

    def begin(self, rng: Array, start: Array | np.ndarray | None) -> World:
        """A world at an episode's start, with the cubes near ``start`` [n, 3], or anywhere."""
        n = self.parts.cubes
        arm_key, yaw_key, cube_key = jax.random.split(rng, 3)
        arm = jax.random.uniform(arm_key, (3,), minval=np.asarray(ARM_START[0]), maxval=np.asarray(ARM_START[1]))
        yaws = jax.random.uniform(yaw_key, (n + 1,), minval=-np.pi, maxval=np.pi)
        if start is None:
            xy = jax.random.uniform(cube_key, (n, 2), minval=np.asarray(OBJECTS[0]), maxval=np.asarray(OBJECTS[1]))
            cubes = jnp.concatenate([xy, jnp.full((n, 1), REST)], axis=1)
        else:
            noise = jax.random.uniform(cube_key, (n, 2), minval=-START_NOISE, maxval=START_NOISE)
            cubes = jnp.asarray(start).at[:, :2].add(noise)
        return World(arm, yaws[0], jnp.zeros(()), cubes, yaws[1:], jnp.zeros(n))

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
        return judged(cubes_of(next_obs), self.goal)

    def goal_shown(self, obs: Any) -> np.ndarray | None:
        """Where the cubes shall be [n, 3], in metres, by an observation; None where they need not be anywhere."""
        return self.goal

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


def judged(cubes: Array, goal: Array | np.ndarray) -> tuple[Array, Array]:
    """Reward and terminal [...] of cubes [..., n, 3] that shall be at ``goal`` [..., n, 3], in metres."""
    there = jnp.sum(jnp.square(cubes - goal), axis=-1) <= SUCCESS**2  # False for NaN
    missing = jnp.sum(1.0 - there.astype(jnp.float32), axis=-1)
    return -missing, (missing == 0).astype(jnp.float32)


class GoalTabletop(Tabletop):
    """A scene with a goal in each observation, {"state": [7 + 5 n], "goal": [3 n]}: where each cube shall be, centred and times 10.

    An episode draws one of the scene's five tasks: its start and its goal. Reward and success as of a task. With ``bare``, for
    collecting: cubes anywhere, a goal that nobody judges, never done.
    """

    goal_count = 5  # of the scene, which evaluations take in turn
    aim: Array | None = None  # which of them the next episode has, from 0 on; None draws one: see ``envs.base.aimed``

    def __init__(self, name: str, bare: bool = False):
        super().__init__(name, None)
        self.data_name, self.state_data, self.bare = f"tabletop/{name}-goal", f"tabletop/{name}", bare
        self.episode_length = PLAY_STEPS if bare else self.parts.episode_length
        self.tasks = [np.asarray([getattr(t, n) for t in self.parts.tasks], np.float32) for n in ("start", "goal")]

    @property
    def scene(self) -> GoalTabletop:
        """The bare scene."""
        return GoalTabletop(self._name, bare=True)

    def reset(self, rng: Array) -> State:
        task_key, rng = jax.random.split(rng)
        task = jax.random.randint(task_key, (), 0, self.goal_count) if self.aim is None else self.aim
        start, goal = (jnp.asarray(x)[task] for x in self.tasks)
        world, zero = self.begin(rng, None if self.bare else start), jnp.zeros(())
        obs = {"state": observe(world), "goal": shown(goal)}
        return State(world, obs, zero, zero, {"success": zero})

    def step(self, state: State, action: Array) -> State:
        world = advance(state.pipeline_state, action)
        obs = {"state": observe(world), "goal": state.obs["goal"]}
        reward, terminal = (0.0 * x if self.bare else x for x in self.relabel(state.obs, action, obs))
        return state.replace(pipeline_state=world, obs=obs, reward=reward, done=terminal, metrics={"success": terminal})

    def relabel(self, obs: Any, action: Array, next_obs: Any) -> tuple[Array, Array]:
        """Reward and terminal [...] of transitions, from what they reached and the goal that they had."""
        return judged(cubes_of(next_obs["state"]), self.goal_shown(next_obs))

    def goal_of(self, obs: Any) -> Array:
        """The goal [..., 3 n] that an observation reaches: where its cubes are."""
        return shown(cubes_of(obs["state"]))

    def goal_shown(self, obs: Any) -> Any:
        goal = obs["goal"][..., -3 * self.parts.cubes :]  # the newest one, where a history is shown
        return goal.reshape(*goal.shape[:-1], -1, 3) / SCALE + np.asarray(CENTRE, np.float32)

    @property
    def observation_size(self) -> dict[str, int]:
        return {"state": super().observation_size, "goal": 3 * self.parts.cubes}


def shown(places: Array) -> Array:
    """Places [..., n, 3] in metres, as observations hold them: [..., 3 n]."""
    return ((places - np.asarray(CENTRE, np.float32)) * SCALE).reshape(*places.shape[:-2], -1)


def make(name: str) -> Tabletop:
    """``cube-double-task2``, ``cube-double-goal``, or ``cube-double``: the bare scene.

    Raises:
        UserError: no such scene or task.
    """
    if (scene := name.removesuffix("-goal")) != name and scene in SCENES:
        return GoalTabletop(scene)
    scene, dash, task = name.partition("-task")
    if scene not in SCENES:
        raise unknown("scene", scene, SCENES)
    if dash and task not in ("1", "2", "3", "4", "5"):
        raise UserError(f"unknown task {task!r} of tabletop/{scene}", "its tasks are task1 to task5")
    return Tabletop(scene, int(task) if dash else None)
