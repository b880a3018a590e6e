"""Meta-World's tasks as gymnasium environments, registered in a worker process; importing this needs metaworld. No jax here.

A seed says where everything starts, the goal, too: Meta-World's own environments ignore the seed of a reset, and draw from a list
of 50 starts. Here a start is drawn from the whole space that such lists are drawn from, and observations show the goal, as in MT1.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

ID = "qchunk/metaworld-v0"
CORNERS = ("corner", "corner2", "corner3")
LIMIT = 500  # steps of an episode, Meta-World's own


def make(task: str, **kwargs: Any) -> gymnasium.Env:
    """A task such as ``reach-v3``.

    Args:
        kwargs: of Meta-World's environment, such as ``reward_function_version``.
    """
    base: Any = ALL_V3_ENVIRONMENTS[task]

    class Seeded(base):
        """Starts from a seed, and knows the package's own scripted policy."""

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            if seed is not None:
                self.seed(seed)
            self.shown, info = super().reset()
            return self.shown, info

        def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict]:
            self.shown, *rest = super().step(action)
            return (self.shown, *rest)

        def render(self) -> Any:
            """Pictures the right way up: the package's corner cameras hang upside down."""
            picture = super().render()
            return picture[::-1, ::-1] if isinstance(picture, np.ndarray) and self.camera_name in CORNERS else picture

        def expert(self) -> np.ndarray:
            """What the task's scripted policy does now."""
            return ENV_POLICY_MAP[task]().get_action(self.shown)

    env = Seeded(**{"camera_name": "corner2", **kwargs})
    env._partially_observable, env._freeze_rand_vec, env.seeded_rand_vec = False, False, True
    env._set_task_called = True
    vars(env).pop("sawyer_observation_space", None)  # kept from before the goal was shown
    return env


gymnasium.register(ID, entry_point=make, max_episode_steps=LIMIT)
