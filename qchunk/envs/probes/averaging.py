"""Probes whose data have two modes and nothing between them: a policy that averages fails."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.envs.base import Behaviour, Env, State
from qchunk.envs.probes.timed import Timed
from qchunk.types import Array, PyTree

SPEED, JITTER = 0.05, 0.005  # units per step of a whole action; standard deviation of a step's noise
POLE, GOAL, REACH = 0.3, (1.0, 0.0), 0.1  # radius of the pole at the origin, the goal and its radius
WAYPOINT = 0.5  # where experts pass: (0, 0.5) or (0, -0.5)
KEEP, NOISE = 0.85, 0.15  # of the experts' Ornstein-Uhlenbeck noise


class Pole(Timed):
    """A car drives from (-1, about 0) to (1, 0) around a pole at the origin; experts pass left or right.

    Observation [2]: the position. Action [2] in [-1, 1]: the velocity in 0.05 a step. Reward -1 a step, 0 at the goal, -100
    at the pole; both end the episode, and so do 100 steps.
    """

    data_name = "probe/pole"
    episode_length = 100
    observation_size = 2
    action_size = 2

    def begin(self, key: Array) -> PyTree:
        return jnp.stack([-jnp.ones(()), jax.random.uniform(key, minval=-0.03, maxval=0.03)])

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        del t
        p = world + SPEED * action + JITTER * jax.random.normal(key, (2,))
        hit = jnp.linalg.norm(p) < POLE
        there = jnp.linalg.norm(p - jnp.asarray(GOAL)) < REACH
        return p, jnp.where(there, 0.0, jnp.where(hit, -100.0, -1.0)), hit | there, {"success": there}

    def see(self, t: Array, world: PyTree) -> Array:
        return world

    @property
    def behaviours(self) -> dict:
        """expert: full speed to one of the waypoints, then to the goal, with correlated noise."""
        return {"expert": expert}


def expert(env: Env) -> Behaviour:
    """Chooses its side once an episode."""
    del env

    def init(key, state: State) -> tuple[Array, Array]:
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0), jnp.zeros(2)

    def act(key, state: State, carry: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        side, noise = carry
        aim = jnp.where(state.obs[0] < 0, jnp.stack([jnp.zeros(()), WAYPOINT * side]), jnp.asarray(GOAL))
        way = aim - state.obs
        noise = KEEP * noise + NOISE * jax.random.normal(key, (2,))
        return jnp.clip(way / (jnp.linalg.norm(way) + 1e-6) + noise, -1.0, 1.0), (side, noise)

    return Behaviour(init, act)


class Fork(Env):
    """One step: two good actions, s / 5 - 0.8 and s / 5 + 0.8, for a number s ~ U(-1, 1) that is seen.

    Reward exp(-d^2 / 0.02), d the distance to the nearer one; a success where d < 0.1. The mean of both earns nothing.
    """

    data_name = "probe/fork"
    episode_length = 1
    observation_size = property(lambda self: 1)  # type: ignore[assignment]
    action_size = property(lambda self: 1)  # type: ignore[assignment]
    backend = property(lambda self: "probe")  # type: ignore[assignment]

    def reset(self, rng: Array) -> State:
        zero = jnp.zeros(())
        return State(None, jax.random.uniform(rng, (1,), minval=-1.0), zero, zero, {"success": zero})

    def step(self, state: State, action: Array) -> State:
        d = jnp.abs(jnp.abs(action[0] - 0.2 * state.obs[0]) - 0.8)
        success = (d < 0.1).astype(jnp.float32)
        return state.replace(reward=jnp.exp(-(d**2) / 0.02), done=jnp.ones(()), metrics={"success": success})

    @property
    def behaviours(self) -> dict:
        """expert: one of the good actions, with standard deviation 0.05."""
        return {"expert": chooser}


def chooser(env: Env) -> Behaviour:
    """Takes either good action."""
    del env

    def act(key, state: State, carry: tuple) -> tuple[Array, tuple]:
        side_key, noise_key = jax.random.split(key)
        good = 0.2 * state.obs + jnp.where(jax.random.bernoulli(side_key), 0.8, -0.8)
        return jnp.clip(good + 0.05 * jax.random.normal(noise_key, (1,)), -1.0, 1.0), carry

    return Behaviour(lambda key, state: (), act)
