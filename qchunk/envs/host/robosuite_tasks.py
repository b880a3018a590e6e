"""robosuite's tasks as gymnasium environments, registered in a worker process; importing this needs robosuite. No jax here.

As robomimic's data of states show them: a Panda arm moved by its operational space controller at 20 Hz, observations under robomimic's names, and the
sparse reward moved by -1, so that a step costs 1 until the task is done, which ends the episode.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import robosuite
from robosuite.controllers import load_composite_controller_config

ID = "qchunk/robosuite-v0"
LIMIT = 400  # steps of an episode, as robomimic evaluates
KEYS = {  # robomimic's name -> robosuite's
    "object": "object-state",
    "robot0_eef_pos": "robot0_eef_pos",
    "robot0_eef_quat": "robot0_eef_quat",
    "robot0_gripper_qpos": "robot0_gripper_qpos",
}
PIXELS = 256  # of a picture


class Robomimic(gymnasium.Env):
    """A task such as ``Lift``, without images.

    Args:
        render_mode: "rgb_array", or none.
        kwargs: of robosuite.make.
    """

    def __init__(self, task: str, render_mode: str | None = None, **kwargs: Any):
        self.render_mode = render_mode
        controller = load_composite_controller_config(controller="BASIC", robot="Panda")
        own = {"robots": "Panda", "controller_configs": controller, "control_freq": 20, "reward_shaping": False}
        seen = {"has_renderer": False, "has_offscreen_renderer": render_mode is not None, "use_camera_obs": False}
        # a hard reset builds the model anew, 1.5 s; the same seed gives the same bits without it, too
        run = {"use_object_obs": True, "ignore_done": True, "hard_reset": False, "seed": 0}
        self.inner = robosuite.make(task, **{**own, **seen, **run, **kwargs})
        low, high = self.inner.action_spec
        self.action_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        sizes = {name: len(x) for name, x in self._named(self.inner.reset()).items()}
        box = {name: gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float64) for name, n in sizes.items()}
        self.observation_space = gymnasium.spaces.Dict(box)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """The same seed gives the same start: the task's samplers share this generator, so it is set and not replaced."""
        super().reset(seed=seed)
        if seed is not None:
            self.inner.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
            np.random.seed(seed)
        return self._named(self.inner.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Reward -1, and 0 in the step that does the task."""
        obs, reward, _, info = self.inner.step(action)
        success = bool(self.inner._check_success())
        return self._named(obs), float(reward) - 1.0, success, False, {**info, "success": success}

    def render(self) -> np.ndarray:
        """The view from the front, [PIXELS, PIXELS, 3]."""
        return self.inner.sim.render(camera_name="agentview", height=PIXELS, width=PIXELS)[::-1]

    def close(self) -> None:
        """Ends the simulator."""
        self.inner.close()

    def _named(self, obs: dict) -> dict[str, np.ndarray]:
        return {name: np.asarray(obs[theirs], np.float64) for name, theirs in KEYS.items()}


gymnasium.register(ID, entry_point=Robomimic, max_episode_steps=LIMIT)
