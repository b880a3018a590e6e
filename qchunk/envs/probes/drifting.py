"""Compounding errors: a clone's small errors take it where no expert was, and what it does there takes it further."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.envs.base import Behaviour, Env, State
from qchunk.envs.probes.timed import Timed
from qchunk.types import Array, PyTree

WAVES = 8  # of the course: x follows the cosines and sines of 1 to 8 times its phase
SPEED, KEEP = 2 * jnp.pi / 40, 0.8  # of the phase a step; of a deviation, a step without feedback
PUSH = 1.189  # what a whole action adds: the course asks for 0.9 of it at most
NEAR = 0.25
SHAKE = 0.1  # standard deviation of the actions of experts that are shaken


class Drift(Timed):
    """Sixteen joints on springs follow a closed course that only exact experts have shown.

    x' = 0.8 x + 1.189 a. The course is x(p) = (cos p, ..., cos 8p, sin p, ..., sin 8p), once around in 40 steps from a random phase.
    Reward 1/100 for each step that ends within 0.25 of it, a success where the last does. Experts never leave it, so that data do not
    say what to do beside it: what a network answers there is its own guess, and a clone's errors lead there. A policy that looks at
    every step feeds that guess back, and deviations grow; between looks they shrink by 0.8 a step, so that a long chunk holds
    (2507.09061: chunks help where the dynamics are stable without feedback; so do data of experts that are shaken).

    Observation [16]: x. Action [16].
    """

    data_name = "probe/drift"
    episode_length = 100
    observation_size = 2 * WAVES
    action_size = 2 * WAVES

    def begin(self, key: Array) -> PyTree:
        return course(jax.random.uniform(key, maxval=2 * jnp.pi))

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        del key
        x = KEEP * world + PUSH * action
        near = beside(x) < NEAR
        last = t + 1 == self.episode_length
        return x, near / self.episode_length, jnp.zeros(()), {"success": near & last}

    def see(self, t: Array, world: PyTree) -> Array:
        return world

    @property
    def behaviours(self) -> dict:
        """expert: follows the course exactly; shaken: the same actions with noise, which are recorded."""
        return {"expert": expert, "shaken": shaken}


def course(phase: Array) -> Array:
    """The states [..., 16] of phases [...]."""
    waves = jnp.arange(1, WAVES + 1) * phase[..., None]
    return jnp.concatenate([jnp.cos(waves), jnp.sin(waves)], axis=-1)


def beside(x: Array) -> Array:
    """How far a state [16] is from the course; NaN for what is not a number."""
    phases = jnp.linspace(0, 2 * jnp.pi, 1000)  # 0.03 apart on the course
    return jnp.sqrt(jnp.min(jnp.sum((x - course(phases)) ** 2, axis=-1)))


def expert(env: Env, noise: float = 0.0) -> Behaviour:
    """Sees where it begins, and then pushes as the course asks, without another look."""
    del env

    def init(key, state: State) -> Array:
        return jnp.arctan2(state.obs[WAVES], state.obs[0])

    def act(key, state: State, phase: Array) -> tuple[Array, Array]:
        push = (course(phase + SPEED) - KEEP * course(phase)) / PUSH
        return jnp.clip(push + noise * jax.random.normal(key, push.shape), -1.0, 1.0), phase + SPEED

    return Behaviour(init, act)


def shaken(env: Env) -> Behaviour:
    """An expert whose actions are noisy."""
    return expert(env, SHAKE)
