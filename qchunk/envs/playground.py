"""MuJoCo Playground's environments (2502.08844) behind our interface: its control suite as it comes, its robots once their models are there.

Physics are MJX's in JAX (``impl="jax"``), which run on every device, vmapped and inside loops; by itself Playground would take Warp's.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

from qchunk import env_names, trees
from qchunk.envs.base import Env, State, quiet
from qchunk.system.errors import UserError
from qchunk.types import Array

FETCH = "from mujoco_playground._src.mjx_env import ensure_menagerie_exists as fetch; fetch()"


class Playground(Env):
    """An environment of Playground, whose own state is our ``pipeline_state``.

    Observation [O], or a dictionary of such. Action [A] in [-1, 1]. No notion of success. The limit of its configuration is
    ``episode_length``; its ``done`` is a true terminal.
    """

    def __init__(self, env: Any, episode_length: int, name: str):
        self.env = env
        self.episode_length = episode_length
        self.data_name = name

    def reset(self, rng: Array) -> State:
        inner = self.env.reset(jax.random.key_data(rng))  # as its own examples do: it splits some keys twice
        return State(inner, inner.obs, jnp.asarray(inner.reward), jnp.asarray(inner.done), {}, {})

    def step(self, state: State, action: Array) -> State:
        inner = self.env.step(state.pipeline_state, action)
        return state.replace(pipeline_state=inner, obs=inner.obs, reward=inner.reward, done=inner.done)

    @functools.cached_property
    def observation_size(self) -> Any:
        """Traced: a reset takes seconds to compile."""
        return trees.sizes(jax.eval_shape(self.reset, jax.random.key(0)).obs)

    @property
    def action_size(self) -> int:
        return self.env.action_size

    @property
    def backend(self) -> str:
        return "playground"


def make(name: str) -> Playground:
    """``CheetahRun``, with Playground's own configuration.

    Raises:
        UserError: unknown, Playground is not installed, or a robot's model is not there.
    """
    env_names.check_env(f"playground/{name}")
    try:
        with quiet():
            registry = importlib.import_module("mujoco_playground").registry
            base = importlib.import_module("mujoco_playground._src.mjx_env")
    except ImportError as e:
        raise UserError(f"playground/ needs a package that is not installed ({e.name})", "pip install 'qchunk[playground]'") from e  # fmt: skip
    if name not in env_names.PLAYGROUND and not base.MENAGERIE_PATH.exists():
        fix = f'fetch them once: {sys.executable} -c "{FETCH}"'
        raise UserError(f"playground/{name} needs models of robots that are not in {base.MENAGERIE_PATH}", fix)
    with quiet():
        config = registry.get_default_config(name)
        env = registry.load(name, config_overrides={"impl": "jax"})
    return Playground(env, int(config.episode_length), f"playground/{name}")
