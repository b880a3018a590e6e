"""Probes with exact values, for tests: what a critic must find is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.envs.base import Env, State


class Rules(NamedTuple):
    """A probe: (step number before the action, memory, action [1]) -> (reward, done, memory)."""

    advance: Callable
    episode_length: int


def _constant(t, memory, action):
    return 1.0, 0.0, memory  # Q = 1 / (1 - gamma): the limit is a time-out, which bootstraps


def _delayed(t, memory, action):
    return jnp.where(t == 4, 1.0, 0.0), jnp.where(t == 4, 1.0, 0.0), memory  # Q(s_t) = gamma^(4 - t)


def _two_step(t, memory, action):
    # The second action must equal the first one's sign: only a critic of chunks can tell at the first step.
    first = jnp.where(t == 0, jnp.sign(action[0]), memory)
    hit = (t == 1) & (jnp.sign(action[0]) == memory)
    return jnp.where(hit, 1.0, 0.0), jnp.where(t == 1, 1.0, 0.0), first


def _flag(t, memory, action):
    return jnp.where(action[0] > 0, 1.0, -1.0), 1.0, memory  # one step: reward is the action's sign


PROBES = {
    "constant": Rules(_constant, 10),
    "delayed": Rules(_delayed, 5),
    "two-step": Rules(_two_step, 2),
    "flag": Rules(_flag, 1),
}


class Probe(Env):
    """Observation [2]: the step number / 10, and a memory that starts at 0. One action in [-1, 1]."""

    def __init__(self, name: str):
        self.rules = PROBES[name]
        self.data_name = f"probe/{name}"
        self.episode_length = self.rules.episode_length

    def reset(self, rng) -> State:
        zero = jnp.zeros(())
        state = {"t": zero, "memory": zero}
        return State(state, self._obs(state), zero, zero, {"success": zero})

    def step(self, state: State, action: jax.Array) -> State:
        t, memory = state.pipeline_state["t"], state.pipeline_state["memory"]
        reward, done, memory = self.rules.advance(t, memory, action)
        after = {"t": t + 1, "memory": memory}
        done = jnp.asarray(done, jnp.float32)
        success = done * (jnp.asarray(reward) > 0) * jnp.isfinite(action[0])
        return state.replace(
            pipeline_state=after,
            obs=self._obs(after),
            reward=jnp.asarray(reward, jnp.float32),
            done=done,
            metrics={"success": success},
        )

    @staticmethod
    def _obs(state: dict) -> jax.Array:
        return jnp.stack([state["t"] / 10, state["memory"]])

    observation_size = property(lambda self: 2)  # type: ignore[assignment]
    action_size = property(lambda self: 1)  # type: ignore[assignment]
    backend = property(lambda self: "probe")  # type: ignore[assignment]
