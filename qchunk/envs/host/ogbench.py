"""OGBench's manipulation tasks: their names, and what a data set of theirs looks like.

``ogbench/cube-single-play-singletask-task1-v0`` is task 1 of cube-single, to be learned from the play data. OGBench's own id
of the environment has no "play" in it; its data set is ``cube-single-play-v0``. ``@sparse`` after a name gives -1 for every
step before success, as the Q-chunking paper has it for scene and puzzle-3x3.

Since ogbench 1.2 the single-task environments judge the state BEFORE the action (``success_timing="pre"``), in agreement
with the relabelled data: an episode lasts one step longer than its success, and success on the last step is not seen.

``ogbench/cube-double-play-oraclerep-v0`` has any of the scene's five tasks as its goal, in OGBench's oracle representation (where
the cubes are, what state the buttons are in); the same data serve it, and it judges the state after the action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from qchunk import env_names
from qchunk.data import ogbench_files as data
from qchunk.data.formats import Rows
from qchunk.envs.host.pool import HostEnv
from qchunk.envs.host.worker import hushed

CUBES = {"cube-single": 1, "cube-double": 2, "cube-triple": 3, "cube-quadruple": 4, "cube-octuple": 8, "scene": 1}
ROBOT, PER_CUBE, PER_BUTTON = (
    19,
    9,
    4,
)  # numbers of an observation; a cube's begin with its place, a button's with its state
SCALE, SUCCESS = 10.0, 0.04  # of places in observations; metres, of a cube to its goal
TOLERANCES = {"scene": (0.0, 0.0, 18 * 0.04, 15 * 0.04)}  # of buttons, drawer and window, in the units of goals


class OGBench(HostEnv):
    """A task of a scene, with the rewards of its own rule in data sets of OGBench's format."""

    def __init__(self, name: str, scene: str, kind: str, task: str, sparse: bool):
        self.scene, self.kind = scene, kind
        made = {"id": f"{scene}-singletask{task}-v0", "modules": ["ogbench"], "sparse": sparse}
        super().__init__(name, made, f"ogbench/{scene}-{kind}-v0")

    def read(self, path: Path) -> tuple[Rows, dict[str, Any]]:
        """A data set in OGBench's format, with the rewards and ends of this task."""
        with hushed():  # OGBench relabels by stepping its environment
            return data.read(path, self)


class Goals(OGBench):
    """A scene whose observations hold a goal: {"state": ..., "goal": ...}; reward 1 where it is reached, else 0."""

    goal_count = 5  # OGBench's tasks, which evaluations take in turn

    def __init__(self, name: str, scene: str, kind: str):
        self.scene, self.kind = scene, kind
        made = {"id": f"{scene}-v0", "modules": ["ogbench"], "kwargs": {"use_oracle_rep": True}}
        HostEnv.__init__(self, name, {**made, "goals": self.goal_count}, f"ogbench/{scene}-{kind}-v0")

    def goal_of(self, obs: Any) -> Any:
        """The goal [..., G] that an observation reaches, read from its state [..., O]."""
        return goal_in(obs["state"], self.scene)

    def relabel(self, obs: Any, action: Any, next_obs: Any) -> tuple[Any, Any]:
        """Reward and terminal [...] of transitions, from what they reached and the goal that they had."""
        off = jnp.abs(self.goal_of(next_obs) - next_obs["goal"])
        cubes = 3 * CUBES.get(self.scene, 0)
        places = off[..., :cubes].reshape(*off.shape[:-1], cubes // 3, 3)
        near = jnp.all(jnp.sum(jnp.square(places), axis=-1) <= (SCALE * SUCCESS) ** 2, axis=-1)  # False for NaN
        rest = jnp.all(off[..., cubes:] <= np.asarray(TOLERANCES.get(self.scene, 0.0)), axis=-1)
        reached = (near & rest).astype(jnp.float32)
        return reached, reached


def goal_in(state: Any, scene: str) -> Any:
    """OGBench's oracle representation [..., G] of a state [..., O]: where the cubes are, the buttons' states, drawer and window."""
    cubes, at = CUBES.get(scene, 0), ROBOT
    found = [state[..., at + PER_CUBE * i : at + PER_CUBE * i + 3] for i in range(cubes)]
    at += PER_CUBE * cubes
    if scene.startswith("cube"):
        return jnp.concatenate(found, axis=-1)
    buttons = (state.shape[-1] - at) // PER_BUTTON - (scene == "scene")
    pressed = state[..., at : at + PER_BUTTON * buttons].reshape(*state.shape[:-1], buttons, PER_BUTTON)
    found.append(jnp.argmax(pressed[..., :2], axis=-1).astype(jnp.float32))
    at += PER_BUTTON * buttons
    if scene == "scene":
        found += [state[..., at : at + 1], state[..., at + 2 : at + 3]]  # each is followed by its velocity
    return jnp.concatenate(found, axis=-1)


def make(name: str) -> OGBench:
    """``cube-single-play-singletask-task1-v0``, without a task OGBench's default one; ``...-v0@sparse``; ``cube-single-play-oraclerep-v0``.

    Raises:
        UserError: unknown, or ogbench is missing.
    """
    found = env_names.ogbench(f"ogbench/{name}") or {}
    if found["goals"]:
        return Goals(f"ogbench/{name}", found["scene"], found["kind"])
    return OGBench(f"ogbench/{name}", found["scene"], found["kind"], found["task"], bool(found["sparse"]))
