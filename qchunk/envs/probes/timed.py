"""What probes share: steps are counted, and each draws its noise from its episode's seed and its number."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qchunk.envs.base import Env, State
from qchunk.types import Array, PyTree


class Timed(Env):
    """An environment as three functions: where its world begins, how that moves, and what is seen of it."""

    data_name: str
    episode_length: int
    observation_size: int = 0
    action_size: int = 0
    backend: str = "probe"

    def begin(self, key: Array) -> PyTree:
        """The world at an episode's start."""
        raise NotImplementedError

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        """One step, number ``t`` from 0 on: (world, reward [], whether the episode ends [], metrics)."""
        raise NotImplementedError

    def see(self, t: Array, world: PyTree) -> Array:
        """The observation [O] after ``t`` steps."""
        raise NotImplementedError

    def reset(self, rng: Array) -> State:
        start_key, seed_key = jax.random.split(rng)
        world, zero, t = self.begin(start_key), jnp.zeros(()), jnp.zeros((), jnp.int32)
        # a number and not a key: states are selected between, which would count as a second use of one
        seed = jax.random.bits(seed_key, (), jnp.uint32)
        like = jax.eval_shape(self.move, jax.random.key(0), t, world, jnp.zeros(self.action_size))[3]
        metrics: dict[str, Any] = {name: jnp.zeros(x.shape) for name, x in like.items()}
        return State({"seed": seed, "t": t, "world": world}, self.see(t, world), zero, zero, metrics)

    def step(self, state: State, action: Array) -> State:
        seed, t = state.pipeline_state["seed"], state.pipeline_state["t"]
        key = jax.random.fold_in(jax.random.key(seed), t)
        world, reward, done, metrics = self.move(key, t, state.pipeline_state["world"], action)
        return state.replace(
            pipeline_state={"seed": seed, "t": t + 1, "world": world},
            obs=self.see(t + 1, world),
            reward=jnp.asarray(reward, jnp.float32),
            done=jnp.asarray(done, jnp.float32),
            metrics={name: jnp.asarray(x, jnp.float32) for name, x in metrics.items()},
        )
