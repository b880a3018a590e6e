"""Copying the last action: experts pause, and who sees what was done last learns to do it again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.envs.base import Behaviour, Env, State
from qchunk.envs.probes.timed import Timed
from qchunk.types import Array, PyTree

GO, STOP = 0.1, 0.04  # chances a step that a resting expert sets out, and that a moving one rests


class Pause(Timed):
    """A cart from 0 to 1, held by friction: an action above 0.5 moves it by 0.05, one below -0.5 back, others not at all.

    Experts act 1 or rest (0), by chance alone: a resting one sets out with probability 0.1 a step, a moving one rests with 0.04,
    and every episode begins at rest. So nothing tells what comes next but the last move, which is nearly always repeated. Reward
    -1 a step, 0 at the end of the track, which is a success and ends the episode, as 100 steps do.

    The mean of what experts do i steps after a rest is m_i = 5/7 (1 - 0.86^(i + 1)). A policy of one step that sees the last move
    and has learned it exactly, by mean squared error, answers a rest with m_0 = 0.1, which moves nothing: it never starts. A chunk
    of 8 or more contains steps with m_i > 0.5 and starts; so does a policy of one step that does not see its last move (5/7).
    What is shown is the move and not the action: 0.1 is no rest of the data's, and what a network makes of it is anyone's guess.

    Observation [2]: position, the last move (-1, 0, 1). Action [1].
    """

    data_name = "probe/pause"
    episode_length = 100
    observation_size = 2
    action_size = 1

    def begin(self, key: Array) -> PyTree:
        del key
        return {"x": jnp.zeros(()), "last": jnp.zeros(())}

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        del key, t
        moves = jnp.where(jnp.abs(action[0]) > 0.5, jnp.sign(action[0]), 0.0)
        x = jnp.maximum(world["x"] + 0.05 * moves, 0.0)
        there = (x > 0.999).astype(jnp.float32)
        return {"x": x, "last": moves}, there - 1.0, there, {"success": there}

    def see(self, t: Array, world: PyTree) -> Array:
        return jnp.stack([world["x"], world["last"]])

    @property
    def behaviours(self) -> dict:
        """expert: moves and rests, in turn and by chance."""
        return {"expert": by_chance}


def by_chance(env: Env) -> Behaviour:
    """Sets out and rests by chance; carries whether it moves."""
    del env

    def act(key, state: State, moving: Array) -> tuple[Array, Array]:
        moving = jax.random.bernoulli(key, jnp.where(moving, 1 - STOP, GO))
        return moving.astype(jnp.float32)[None], moving

    return Behaviour(lambda key, state: jnp.zeros((), bool), act)
