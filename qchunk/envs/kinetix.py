"""Kinetix's levels (2410.23208) behind our interface: rigid bodies with motors and thrusters, in JAX.

The package asks for a jax of before ours and for all that its trainer imports. Its environment needs neither, so it is installed without
what it asks for (``INSTALL``), and the ``__init__`` files of its packages, which import the trainer, are passed by.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import env_names
from qchunk.envs.base import Env, State, quiet
from qchunk.system.errors import UserError
from qchunk.types import Array

INSTALL = "pip install --no-deps kinetix-env==3.0.2 jax2d==1.0.2 jaxgl==1.0.1 imageio safetensors"
NOISE = 0.1  # of @noisy: what real-time chunking's benchmark adds to actions (2506.07339, section 4.1)
_PACKAGES = ("kinetix", *(f"kinetix.{name}" for name in ("environment", "render", "util")))
_UNUSED = "wandb"  # imported beside the reader of levels, for the trainer's uploads


class Kinetix(Env):
    """A level, which begins the same in every episode.

    Observation [O]: all bodies, joints and thrusters, as the package's flat symbolic view lists them. Action [A] in [-1, 1]: motors, then
    thrusters, which push with what is above 0. An episode ends, with 1 or -1, where a green shape touches a blue one or a red one; the
    first is ``metrics["success"]``. What green and blue come nearer in a step is added, times 0.1, as by the package itself.

    Args:
        env: the package's, of this level.
        params: the package's, of this level, but for the limit, which is ``episode_length``.
        level: its start.
        noise: standard deviation of what is added to every action.
    """

    def __init__(self, env: Any, params: Any, level: Any, name: str, noise: float = 0.0):
        self.env, self.level, self.noise = env, level, noise
        self.params = params.replace(max_timesteps=2**30)
        self.data_name, self.episode_length = name, int(params.max_timesteps)
        self._size = int(env.action_space(params).shape[0])

    def reset(self, rng: Array) -> State:
        zero, inner = jnp.zeros(()), jax.tree.map(jnp.asarray, self.level)
        inner = inner.replace(timestep=jnp.int32(0), last_distance=jnp.float32(-1.0))
        return State(inner, self.env.get_obs(inner), zero, zero, {"success": zero}, {"noise": rng})

    def step(self, state: State, action: Array) -> State:
        inner = state.pipeline_state
        if self.noise:
            key = jax.random.fold_in(state.info["noise"], inner.timestep)
            action = action + self.noise * jax.random.normal(key, action.shape)
        obs, inner, reward, done, info = self.env.step_env(None, inner, action, self.params)
        told = {"success": jnp.asarray(info["GoalR"], jnp.float32)}
        return state.replace(
            pipeline_state=inner, obs=obs, reward=reward, done=jnp.asarray(done, jnp.float32), metrics=told
        )

    def pictures(self, worlds: list[Any]) -> list[np.ndarray]:
        """What the level looks like in these states (``pipeline_state``), each [250, 250, 3] uint8."""
        renderer = importlib.import_module("kinetix.render.renderer_pixels")
        static = self.env.static_env_params.replace(screen_dim=(500, 500), downscale=2)
        draw = jax.jit(renderer.make_render_pixels(self.params, static))
        return [np.asarray(draw(world)).round().astype(np.uint8).swapaxes(0, 1)[::-1] for world in worlds]

    @functools.cached_property
    def observation_size(self) -> int:
        return int(jax.eval_shape(self.env.get_obs, self.level).shape[0])

    @property
    def action_size(self) -> int:
        return self._size

    @property
    def backend(self) -> str:
        return "kinetix"


@contextlib.contextmanager
def _without_trainer() -> Iterator[None]:
    """The package's modules can be imported one by one, and what none of them needs here is taken for there."""
    for name in _PACKAGES:
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(name=name)
            sys.modules[name] = importlib.util.module_from_spec(spec)  # its __init__ is not run
    lacks = _UNUSED not in sys.modules and importlib.util.find_spec(_UNUSED) is None
    if lacks:
        sys.modules[_UNUSED] = types.ModuleType(_UNUSED)
    try:
        yield
    finally:
        if lacks:
            del sys.modules[_UNUSED]


def make(name: str) -> Kinetix:
    """``l/h17_unicycle``, or ``l/h17_unicycle@noisy``.

    Raises:
        UserError: unknown, or the package is not installed.
    """
    env_names.check_env(f"kinetix/{name}")
    base, _, noisy = name.partition("@")
    try:
        with quiet(), _without_trainer():
            environment = importlib.import_module("kinetix.environment.env")
            spaces = importlib.import_module("kinetix.environment.spaces")
            saving = importlib.import_module("kinetix.util.saving")
    except ImportError as e:
        raise UserError(f"kinetix/ needs a package that is not installed ({e.name})", INSTALL) from e
    with quiet():
        level, static, params = saving.load_from_json_file(base)
        kinds = spaces.ActionType.CONTINUOUS, spaces.ObservationType.SYMBOLIC_FLAT
        env = environment.make_kinetix_env(*kinds, None, params, static, auto_reset=False)
    return Kinetix(env, params, level, f"kinetix/{name}", NOISE if noisy else 0.0)
