"""Probes of when to look again: commitment before reaction, a goal that moves, information that comes late."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.envs.base import Behaviour, Env, State
from qchunk.envs.probes.timed import Timed
from qchunk.types import Array, PyTree

NOISE = 0.1  # standard deviation of the experts' actions
GATE, OPEN = 40, 0.35  # of fog-gust: the step at which |y| must be at least so much


def noisy(key: Array, action: Array) -> Array:
    """An expert's action, with its noise, in [-1, 1]."""
    return jnp.clip(jnp.clip(action, -1.0, 1.0) + NOISE * jax.random.normal(key, action.shape), -1.0, 1.0)


class FogGust(Timed):
    """Commit blindly, then react: 40 steps of fog, a gate that only a steady push opens, 40 steps of gusts.

    y' = 0.9 y + 0.05 a + N(0, 0.003^2). In the fog y is hidden; after its last step |y| must be at least 0.35, on either side, or
    the episode ends. Then a target in +-0.45 is seen, drawn again with probability ``rate`` a step, and each step that ends within
    0.08 of the target that was seen earns 1/40. Success is to pass the gate; the return is the fraction of gusts that were met.

    Observation [4]: t / 80, phase (1 in the gusts), phase * y, phase * target. Action [1].
    """

    episode_length = 80
    observation_size = 4
    action_size = 1

    def __init__(self, rate: float = 0.1, name: str = "fog-gust"):
        self.rate, self.data_name = rate, f"probe/{name}"

    def begin(self, key: Array) -> PyTree:
        return {"y": jnp.zeros(()), "target": _anywhere(key, 0.45)}

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        noise_key, when_key, where_key = jax.random.split(key, 3)
        y = 0.9 * world["y"] + 0.05 * action[0] + 0.003 * jax.random.normal(noise_key)
        at_gate, passes = t + 1 == GATE, jnp.abs(y) >= OPEN  # False for NaN
        met = (t >= GATE) & (jnp.abs(y - world["target"]) < 0.08)
        drawn = (t >= GATE) & jax.random.bernoulli(when_key, self.rate)
        target = jnp.where(drawn, _anywhere(where_key, 0.45), world["target"])
        return {"y": y, "target": target}, met / 40, at_gate & ~passes, {"success": at_gate & passes}

    def see(self, t: Array, world: PyTree) -> Array:
        gusts = t >= GATE
        return jnp.stack([t / self.episode_length, gusts, gusts * world["y"], gusts * world["target"]])

    @property
    def behaviours(self) -> dict:
        """expert: pushes to one side while in the fog, chosen once an episode, then follows the target."""
        return {"expert": committed}


def _anywhere(key: Array, bound: float, shape: tuple = ()) -> Array:
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def committed(env: Env) -> Behaviour:
    """Chooses its side once an episode."""
    del env

    def init(key, state: State) -> Array:
        return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)

    def act(key, state: State, side: Array) -> tuple[Array, Array]:
        _, gusts, y, target = state.obs
        return noisy(key, jnp.where(gusts > 0, (target - 0.9 * y) / 0.05, side)[None]), side

    return Behaviour(init, act)


class Pursuit(Timed):
    """React: a goal in the square [-1, 1]^2 jumps with probability ``rate`` a step.

    p' = p + 0.1 a + N(0, 0.005^2) from the middle; each step that ends within 0.15 of the goal, as it is then, earns 1.

    Observation [4]: position, goal. Action [2].
    """

    episode_length = 100
    observation_size = 4
    action_size = 2

    def __init__(self, rate: float = 0.02, name: str = "pursuit"):
        self.rate, self.data_name = rate, f"probe/{name}"

    def begin(self, key: Array) -> PyTree:
        return {"p": jnp.zeros(2), "goal": _anywhere(key, 1.0, (2,))}

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        noise_key, when_key, where_key = jax.random.split(key, 3)
        p = world["p"] + 0.1 * action + 0.005 * jax.random.normal(noise_key, (2,))
        jumps = jax.random.bernoulli(when_key, self.rate)
        goal = jnp.where(jumps, _anywhere(where_key, 1.0, (2,)), world["goal"])
        near = jnp.linalg.norm(p - goal) < 0.15
        return {"p": p, "goal": goal}, near.astype(jnp.float32), jnp.zeros(()), {}

    def see(self, t: Array, world: PyTree) -> Array:
        return jnp.concatenate([world["p"], world["goal"]])

    @property
    def behaviours(self) -> dict:
        """expert: straight to the goal."""
        return {"expert": lambda env: memoryless(lambda obs: (obs[2:] - obs[:2]) / 0.1)}


class Catch(Timed):
    """Late information: a glass falls for 16 steps, and a push on the way moves it to another column.

    The glass starts in a column of +-0.5 and falls straight, but before one of the steps 4 ... 11 it is moved by U(-0.5, 0.5). The
    hand starts in the middle and moves by 0.1 a a step; it catches what lands within 0.1 of it, for a reward of 1.

    Who looks every k steps catches it if the first look at or after the push, at step m < 16, leaves enough steps: with
    probability min(1, (0.1 + 0.1 (16 - m)) / 0.5), and where no look is left by waiting where it was, with 0.2. That is 1 for
    k = 1, 2 and 4, 0.7 for k = 8, and 0.2 for a chunk of 16.

    Observation [3]: height (1 to 0), the glass's column, the hand's. Action [1].
    """

    data_name = "probe/catch"
    episode_length = 16
    observation_size = 3
    action_size = 1

    def begin(self, key: Array) -> PyTree:
        column_key, when_key, how_key = jax.random.split(key, 3)
        when = jax.random.randint(when_key, (), 4, 12)
        push = {"when": when, "push": _anywhere(how_key, 0.5)}
        return {"glass": _anywhere(column_key, 0.5), "hand": jnp.zeros(()), **push}

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        del key
        hand = world["hand"] + 0.1 * action[0]
        # seen before step ``when``, so after the one before it
        glass = world["glass"] + jnp.where(t + 1 == world["when"], world["push"], 0.0)
        lands = t + 1 == self.episode_length
        caught = lands & (jnp.abs(glass - hand) <= 0.1)  # False for NaN
        return {**world, "hand": hand, "glass": glass}, caught.astype(jnp.float32), lands, {"success": caught}

    def see(self, t: Array, world: PyTree) -> Array:
        return jnp.stack([1 - t / self.episode_length, world["glass"], world["hand"]])

    @property
    def behaviours(self) -> dict:
        """expert: under the glass, as it falls now."""
        return {"expert": lambda env: memoryless(lambda obs: (obs[1:2] - obs[2:3]) / 0.1)}


def memoryless(aim) -> Behaviour:
    """Acts on what is seen alone: ``aim`` (obs [O]) -> action [A], with the experts' noise."""
    return Behaviour(lambda key, state: (), lambda key, state, carry: (noisy(key, aim(state.obs)), carry))
