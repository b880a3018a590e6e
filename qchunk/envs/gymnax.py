"""gymnax's continuous-action environments behind our interface.

gymnax's own ``step`` resets by itself and adds its time limit; ``step_env``, which we call, does neither, and its end is a true
terminal (gymnax 1.0.1 keeps the two apart). The limit becomes ``episode_length``: EpisodeLimit makes it a truncation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import env_names
from qchunk.envs.base import Env, State, quiet
from qchunk.system.errors import UserError
from qchunk.types import Array, PyTree

REACHES = ("MountainCarContinuous-v0",)  # environments that end at their goal and nowhere else


class Gymnax(Env):
    """A gymnax environment with its parameters, registered with gymnax or of a user's own.

    Observation [O]: gymnax's, flattened. Action [A] in [-1, 1], mapped to the environment's box; beyond it is clipped.
    Where a step is random it draws from ``info["key"]``. ``metrics["success"]`` where the end is the goal.

    Raises:
        UserError: actions that are no bounded box.
    """

    def __init__(self, env: Any, params: Any, name: str):
        box = env.action_space(params)
        low, high = (np.asarray(getattr(box, side, np.inf), np.float32) for side in ("low", "high"))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise UserError(f"{name} has the actions {box}, no bounded box", "take one with continuous actions")
        low, high = np.broadcast_to(low, box.shape), np.broadcast_to(high, box.shape)
        self.centre, self.half = (low + high) / 2, (high - low) / 2
        self.env, self.params = env, params
        self.data_name = name
        self.episode_length = int(params.max_steps_in_episode)
        self._reaches = name.removeprefix("gymnax/") in REACHES
        shape = jax.eval_shape(lambda: flat(env.reset_env(jax.random.key(0), params)[0])).shape
        self._sizes = int(shape[0]), int(np.prod(box.shape))

    def reset(self, rng: Array) -> State:
        reset_key, key = jax.random.split(rng)
        obs, inner = self.env.reset_env(reset_key, self.params)
        zero = jnp.zeros(())
        return State(strong(inner), flat(obs), zero, zero, self._metrics(zero), {"key": key})

    def step(self, state: State, action: Array) -> State:
        inner = state.pipeline_state
        key = jax.random.fold_in(state.info["key"], jnp.asarray(inner.time, jnp.int32))
        action = self.centre + self.half * jnp.clip(action, -1.0, 1.0).reshape(self.half.shape)
        obs, inner, reward, terminal, _ = self.env.step_env(key, inner, action, self.params)
        done = jnp.asarray(terminal, jnp.float32)
        reward = jnp.asarray(reward, jnp.float32)
        return state.replace(
            pipeline_state=strong(inner), obs=flat(obs), reward=reward, done=done, metrics=self._metrics(done)
        )

    def _metrics(self, done: Array) -> dict[str, Array]:
        return {"success": done} if self._reaches else {}

    @property
    def observation_size(self) -> int:
        return self._sizes[0]

    @property
    def action_size(self) -> int:
        return self._sizes[1]

    @property
    def backend(self) -> str:
        return "gymnax"


def flat(obs: PyTree) -> Array:
    """An observation as one vector [O], float32."""
    return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(obs)])


def strong(tree: PyTree) -> PyTree:
    """The same values as arrays whose types do not depend on what they meet: gymnax starts clocks as Python numbers."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x)), tree)


def make(name: str) -> Gymnax:
    """``Pendulum-v1``, with gymnax's default parameters.

    Raises:
        UserError: unknown, or with discrete actions.
    """
    env_names.check_env(f"gymnax/{name}")
    with quiet():
        import gymnax

        env, params = gymnax.make(name)
    return Gymnax(env, params, f"gymnax/{name}")
