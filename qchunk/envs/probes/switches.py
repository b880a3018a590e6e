"""A sparse task of adjustable length, with play data: n lamps, each behind a button that is pressed in passing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.envs.base import Behaviour, Env, State
from qchunk.envs.probes.timed import Timed
from qchunk.types import Array, PyTree

STEPS = {2: 69, 4: 108, 6: 150, 8: 183}  # lamps -> limit of an episode, three times what a greedy expert takes
SPEED, REACH, APART = (
    0.04,
    0.06,
    0.22,
)  # a step of a whole action; from where a button is pressed; least distance of lamps
PLAY_STEPS, PAUSE = 400, 7  # of an episode of play; its longest rest after a button
KEEP, NOISE = 0.85, 0.15  # of the play's Ornstein-Uhlenbeck noise


def lamps_of(n: int) -> np.ndarray:
    """Where the lamps are, the same for each n: [n, 2] in [0.1, 0.9]."""
    rng, found = np.random.default_rng(n), list[np.ndarray]()
    while len(found) < n:
        at = rng.uniform(0.1, 0.9, 2)
        if all(np.linalg.norm(at - other) >= APART for other in found):
            found.append(at)
    return np.asarray(found, np.float32)


class Switch(Timed):
    """Switch on all of n lamps; a button switches off, too.

    p' = clip(p + 0.04 a_xy) in the unit square; a third action that rises above 0.5 within 0.06 of a lamp toggles it. Starts
    anywhere with all lamps off. Reward -1 a step, 0 where all are on, which ends the episode.

    Observation [3 + n]: position, the last third action, a bit per lamp. Action [3].
    """

    action_size = 3

    def __init__(self, n: int, task: bool = True):
        self.lamps, self.task = lamps_of(n), task
        self.data_name = f"probe/switch-{n}"
        self.episode_length = STEPS[n] if task else PLAY_STEPS
        self.observation_size = 3 + n

    @property
    def scene(self) -> Switch:
        """The same lamps without a task, on or off at the start: reward 0, never done; for collecting."""
        return Switch(len(self.lamps), False)

    @property
    def behaviours(self) -> dict:
        """play: one button after the other, at random, with rests and correlated noise. expert: the nearest lamp that is off."""
        return {"play": play, "expert": greedy}

    def begin(self, key: Array) -> PyTree:
        place_key, lamp_key = jax.random.split(key)
        on = jax.random.bernoulli(lamp_key, shape=(len(self.lamps),)).astype(jnp.float32) * (not self.task)
        return {"p": jax.random.uniform(place_key, (2,)), "press": jnp.zeros(()), "on": on}

    def move(self, key: Array, t: Array, world: PyTree, action: Array) -> tuple[PyTree, Array, Array, dict]:
        del key, t
        p = jnp.clip(world["p"] + SPEED * action[:2], 0.0, 1.0)
        rises = (action[2] > 0.5) & ~(world["press"] > 0.5)
        hit = rises & (jnp.linalg.norm(p - self.lamps, axis=-1) < REACH)
        world = {"p": p, "press": action[2], "on": jnp.where(hit, 1 - world["on"], world["on"])}
        obs = self.see(jnp.zeros(()), world)
        reward, done = self.relabel(obs, action, obs)
        return world, reward, done, {"success": done}

    def see(self, t: Array, world: PyTree) -> Array:
        del t
        return jnp.concatenate([world["p"], world["press"][None], world["on"]])

    def relabel(self, obs: Array, action: Array, next_obs: Array) -> tuple[Array, Array]:
        """Reward and terminal [...] of transitions, from what they reached: next_obs [..., O]."""
        if not self.task:
            zero = jnp.zeros(next_obs.shape[:-1])
            return zero, zero
        done = jnp.all(next_obs[..., 3:] > 0.5, axis=-1).astype(jnp.float32)
        return done - 1.0, done


def towards(obs: Array, lamp: Array, noise: Array | float = 0.0) -> tuple[Array, Array]:
    """The action [3] to a lamp [2] and onto its button, and whether that is pressed by it."""
    way = jnp.clip((lamp - obs[:2]) / SPEED + noise, -1.0, 1.0)
    there = jnp.linalg.norm(jnp.clip(obs[:2] + SPEED * way, 0.0, 1.0) - lamp) < REACH
    presses = there & (obs[2] <= 0.5)
    return jnp.append(way, jnp.where(presses, 1.0, -1.0)), presses


def greedy(env: Env) -> Behaviour:
    """To the nearest lamp that is off, again and again."""

    def act(key, state: State, carry: tuple) -> tuple[Array, tuple]:
        away = jnp.linalg.norm(env.lamps - state.obs[:2], axis=-1)
        aim = jnp.argmin(jnp.where(state.obs[3:] > 0.5, jnp.inf, away))
        return towards(state.obs, jnp.asarray(env.lamps)[aim])[0], carry

    return Behaviour(lambda key, state: (), act)


def play(env: Env) -> Behaviour:
    """To any lamp, on or off; then a rest of 0 to 7 steps."""
    n = len(env.lamps)

    def init(key, state: State) -> tuple[Array, Array, Array]:
        return jax.random.randint(key, (), 0, n), jnp.zeros((), jnp.int32), jnp.zeros(2)

    def act(key, state: State, carry: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        aim, rest, noise = carry
        noise_key, next_key, rest_key = jax.random.split(key, 3)
        noise = KEEP * noise + NOISE * jax.random.normal(noise_key, (2,))
        action, presses = towards(state.obs, jnp.asarray(env.lamps)[aim], noise)
        resting = rest > 0
        action = jnp.where(resting, jnp.append(jnp.clip(noise, -1.0, 1.0), -1.0), action)
        presses = presses & ~resting
        aim = jnp.where(presses, jax.random.randint(next_key, (), 0, n), aim)
        rest = jnp.where(presses, jax.random.randint(rest_key, (), 0, PAUSE + 1), jnp.maximum(rest - 1, 0))
        return action, (aim, rest, noise)

    return Behaviour(init, act)
