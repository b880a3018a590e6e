"""brax's environment interface, our three wrappers, and scripted behaviour.

An environment is a brax ``Env``: ``reset(key) -> State`` and ``step(State, action) -> State``, for ONE environment.
``wrap`` stands the three wrappers on it: episode limit (terminal and truncation kept apart), vmap, auto-reset.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import trees
from qchunk.types import PyTree, Spec


@contextlib.contextmanager
def quiet():
    """Keeps brax's notices (warp is missing, brax is in maintenance) from users, who can do nothing about them."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def without_warp() -> Iterator[None]:
    """MJX finds no warp in it: to import that takes as long as all else together, for an implementation that nothing here asks for.

    ``MJX_GPU_DEFAULT_WARP``, with which MJX itself is asked for it, leaves it be.
    """
    if "warp" in sys.modules or "MJX_GPU_DEFAULT_WARP" in os.environ:
        yield
        return
    sys.modules["warp"] = None  # type: ignore[assignment] # so says Python's reference: an import then fails
    try:
        yield
    finally:
        del sys.modules["warp"]


with quiet(), without_warp():
    from brax.envs.base import Env, State, Wrapper

__all__ = [
    "AutoReset",
    "Behaviour",
    "Env",
    "EpisodeLimit",
    "History",
    "State",
    "Vmap",
    "Wrapper",
    "aimed",
    "called",
    "finite",
    "goal_count",
    "obs_like",
    "obs_spec",
    "quiet",
    "reset_in_turn",
    "spec_of",
    "where",
    "wrap",
]


class Behaviour(NamedTuple):
    """A scripted way to act in ONE environment; vmapped by whoever collects."""

    init: Callable  # (key, State) -> carry, at an episode's start
    act: Callable  # (key, State, carry) -> (action [A], carry)


def called(env: Any) -> str:
    """What messages call an environment; one that a program of the user's gives may have no ``data_name``."""
    return getattr(env, "data_name", type(env).__name__)


def obs_spec(env: Any) -> PyTree:
    """The sizes of an environment's observations, on the device or the host: O, or a tree of them such as {"state": 12}.

    Raises:
        UserError: a leaf that is not flat.
    """
    return trees.declared(env.observation_size, called(env))


def obs_like(env: Any) -> PyTree:
    """What ONE observation looks like: a tree of anything with a shape [O] and a type."""
    if hasattr(env, "no_obs"):  # a host environment
        return env.no_obs
    return jax.eval_shape(env.reset, jax.random.key(0)).obs


def spec_of(env: Any, horizon: int) -> Spec:
    """The sizes that networks need for chunks of ``horizon`` actions in an environment."""
    return Spec(obs_spec(env), env.action_size, horizon)


def finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite, bool []."""
    found = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.stack(found)) if found else jnp.asarray(True)


def where(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Leaf by leaf ``yes`` where ``condition`` [E] holds, else ``no``; works for typed keys too."""

    def pick(a, b):
        if a is b:  # such as a key that a step hands on: a select would count as a use of it
            return a
        return jnp.where(condition.reshape(condition.shape + (1,) * (jnp.ndim(a) - condition.ndim)), a, b)

    return jax.tree.map(pick, yes, no)


class EpisodeLimit(Wrapper):
    """Ends an episode after ``limit`` steps.

    Adds to ``info``: ``key`` (for the next reset), ``steps`` (int32, steps done), ``terminal`` (1.0 where the environment
    itself ended: no bootstrap) and ``truncation`` (1.0 where only the limit ended it: bootstrap from the final
    observation). ``done`` is either.

    What is not a number is never good: where an action or an observation is not finite the reward is NaN and success 0.
    """

    def __init__(self, env: Env, limit: int):
        super().__init__(env)
        self.limit = limit

    def reset(self, rng: jax.Array) -> State:
        reset_key, key = jax.random.split(rng)
        state = self.env.reset(reset_key)
        zero = jnp.zeros((), jnp.float32)
        info = {**state.info, "key": key, "steps": jnp.zeros((), jnp.int32), "terminal": zero, "truncation": zero}
        return state.replace(info=info, reward=zero, done=zero)

    def step(self, state: State, action: jax.Array) -> State:
        steps, key = state.info["steps"] + 1, state.info["key"]
        state = self.env.step(state, action)
        sane = finite(action) & finite(state.obs)
        terminal = (jnp.asarray(state.done) > 0).astype(jnp.float32)  # NaN would never end
        truncation = jnp.where(steps >= self.limit, 1.0 - terminal, 0.0)
        info = {**state.info, "key": key, "steps": steps, "terminal": terminal, "truncation": truncation}
        reward = jnp.where(sane, jnp.asarray(state.reward, jnp.float32), jnp.nan)
        metrics = dict(state.metrics)
        if (success := metrics.get("success")) is not None:
            metrics["success"] = jnp.where(sane & (success > 0), success, jnp.zeros_like(success))
        done = jnp.maximum(terminal, truncation)
        return state.replace(info=info, reward=reward, done=done, metrics=metrics)


class History(Wrapper):
    """Observations become the last ``history`` ones, oldest first [history * O]; a reset repeats its first one."""

    def __init__(self, env: Env, history: int):
        super().__init__(env)
        self.history = history

    @property
    def observation_size(self) -> Any:
        """Numbers in all ``history`` observations."""
        return jax.tree.map(lambda n: self.history * n, obs_spec(self.env))

    def newest(self, obs: PyTree) -> PyTree:
        """The last of the ``history`` observations [*B, O]."""
        return jax.tree.map(lambda x: x[..., -(x.shape[-1] // self.history) :], obs)

    @property
    def goal_of(self) -> Callable:
        """The goal that a history reaches with its newest observation, as often as it shows goals; where the environment has goals."""
        inner = self.env.goal_of
        return lambda obs: jnp.tile(inner(self.newest(obs)), self.history)

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        return state.replace(obs=jax.tree.map(lambda x: jnp.tile(x, self.history), state.obs))

    def step(self, state: State, action: jax.Array) -> State:
        seen = state.obs
        state = self.env.step(state.replace(obs=self.newest(seen)), action)
        along = lambda old, new: jnp.concatenate([old[new.shape[-1] :], new])  # noqa: E731
        return state.replace(obs=jax.tree.map(along, seen, state.obs))


class Vmap(Wrapper):
    """E environments at once: ``reset(keys [E])``, ``step(state, action [E, A])``."""

    def reset(self, rng: jax.Array) -> State:
        return jax.vmap(self.env.reset)(rng)

    def step(self, state: State, action: jax.Array) -> State:
        return jax.vmap(self.env.step)(state, action)


class AutoReset(Wrapper):
    """Starts finished environments of a batch again, each from a FRESH start state.

    After ``step``, ``reward``, ``done``, ``metrics`` and ``info["terminal" | "truncation"]`` describe the step just
    taken and ``info["final_obs"]`` its true next observation, while ``obs`` may already be a new episode's first one.
    """

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        return state.replace(info={**state.info, "final_obs": state.obs})

    def step(self, state: State, action: jax.Array) -> State:
        running = _without(state, "final_obs").replace(done=jnp.zeros_like(state.done))  # some never write it
        state = self.env.step(running, action)
        fresh = self.reset_done(state)
        kept = {k: state.info[k] for k in ("terminal", "truncation")}
        info = {**fresh.info, **kept, "final_obs": state.obs}
        return fresh.replace(reward=state.reward, done=state.done, metrics=state.metrics, info=info)

    def reset_done(self, state: State) -> State:
        """A state of the wrapped environment in which every environment with ``done`` has been reset.

        Nothing is computed while no environment of the batch is done: resets are dear in articulated environments.
        """

        done = state.done > 0
        key = jax.vmap(jax.random.fold_in)(state.info["key"], state.info["steps"])  # everybody's, outside the select

        def reset(state: State) -> State:
            fresh = self.env.reset(jax.vmap(lambda k: jax.random.fold_in(k, 2**31))(key))
            return where(done, _without(fresh, "key"), state)

        state = jax.lax.cond(jnp.any(done), reset, lambda s: s, _without(state, "key"))
        return state.replace(info={**state.info, "key": key})


def aimed(env: Any, goal: Any) -> Any:
    """The environment, whatever wraps it, whose episodes have the goal of this number (it may be traced), from 0 on.

    Of environments that say how many goals evaluations take in turn, ``goal_count``, and read the next one from ``aim``.
    """
    made = copy.copy(env)
    if isinstance(env, Wrapper):
        made.env = aimed(env.env, goal)
    else:
        made.aim = goal
    return made


def reset_in_turn(env: AutoReset, keys: jax.Array) -> State:
    """E environments at their start, of which one with several goals has them in turn: number i that of i modulo their count."""
    if not (count := goal_count(env)):
        return env.env.reset(keys)
    goals = jnp.arange(len(keys)) % count
    return jax.vmap(lambda key, goal: aimed(env.env.env, goal).reset(key))(keys, goals)


def goal_count(env: Any) -> int:
    """How many goals evaluations take in turn; 0 where an environment has none, or one."""
    return getattr(env, "goal_count", 0)


def _without(state: State, name: str) -> State:
    return state.replace(info={k: v for k, v in state.info.items() if k != name})


def wrap(env: Env, limit: int | None = None) -> AutoReset:
    """The three wrappers. ``limit`` is in environment steps, by default the environment's own."""
    return AutoReset(Vmap(EpisodeLimit(env, limit or env.episode_length)))
