"""An environment, looked at once when it is made: what reset, step and behaviours return, by their shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import trees
from qchunk.envs.base import AutoReset, Env, EpisodeLimit, State, Vmap, Wrapper, obs_spec
from qchunk.system import tracebacks
from qchunk.system.errors import UserError, shaped

_TESTED = ("qchunk", "brax")  # each is played in tests, and brax's physics take seconds to trace
_SEEN: weakref.WeakSet = weakref.WeakSet()


def check(env: Any, name: str) -> None:
    """Refuses an environment that no run could use. Nothing is computed: functions are traced. A second look costs nothing.

    Args:
        name: what it is called in messages.

    Raises:
        UserError: says which of its parts returns what, and what is expected; or where its own code raised.
    """
    while isinstance(env, Wrapper):
        if isinstance(env, EpisodeLimit | Vmap | AutoReset):
            raise UserError(
                f"{name} is wrapped in {type(env).__name__}", "give ONE environment: runs wrap it themselves"
            )
        env = env.env
    if type(env).__module__.partition(".")[0] in _TESTED or env in _SEEN:
        return
    if not isinstance(env, Env):
        raise UserError(f"{name} is a {type(env).__name__}", "give a brax Env: class Mine(qchunk.envs.base.Env)")
    for part, text in (("episode_length", "steps of an episode"), ("action_size", "A, numbers of an action")):
        value = getattr(env, part, None)
        if value is None:
            raise UserError(f"{name} has no {part}", f"give the class {part}: {text}")
        if type(value) is not int or value < 1:
            raise UserError(f"{name}: {part} is {value!r}", f"give the class {part}, a whole number from 1 on: {text}")
    wanted = obs_spec(env)
    start = _traced(f"{name}: reset", env.reset, jax.random.key(0))
    _check_state(start, wanted, f"{name}: reset")
    action = jnp.zeros(env.action_size, jnp.float32)
    after = _traced(f"{name}: step", env.step, start, action)
    _check_state(after, wanted, f"{name}: step")
    _check_same(start, after, name)
    if hasattr(env, "goal_of"):
        _check_goals(env, start.obs, wanted, name)
    for title, behaviour in dict(getattr(env, "behaviours", {})).items():
        _check_behaviour(env, behaviour, start, f"{name}: behaviour {title}")
    _SEEN.add(env)


def _traced(what: str, fn: Callable, *args: Any) -> Any:
    """Shapes and types of what a function returns; what code of the user's raises passes, with its frames."""
    try:
        return jax.eval_shape(fn, *args)
    except UserError:
        raise
    except Exception as e:
        if tracebacks.own_frames(e):
            raise
        raise UserError(f"{what} cannot be traced: {tracebacks.told(e)}", "write it with jax.numpy, from what it is given alone") from e  # fmt: skip


def _check_state(state: Any, wanted: Any, what: str) -> None:
    if not isinstance(state, State):
        raise UserError(f"{what} returns a {type(state).__name__}", "return a State(pipeline_state, obs, reward, done, metrics, info)")  # fmt: skip
    leaves = trees.named(state.obs)
    if odd := [n for n, x in leaves.items() if not hasattr(x, "shape") or len(x.shape) != 1]:
        raise UserError(f"{what}: {odd[0]} is no vector: {_told(leaves[odd[0]])}", "return vectors, one for each leaf")
    if (found := trees.sizes(state.obs)) != wanted:
        raise UserError(f"{what} returns observations of size {found}, and observation_size is {wanted}", "make them the same")  # fmt: skip
    if odd := [n for n, x in leaves.items() if np.dtype(x.dtype).kind not in "fiub"]:
        raise UserError(f"{what}: {odd[0]} is of type {leaves[odd[0]].dtype}", "return numbers")
    for part in ("reward", "done"):
        shaped(getattr(state, part), (), f"{what}: {part}", "return one number")


def _check_same(start: State, after: State, name: str) -> None:
    """``lax`` loops carry the state, so a step returns the structure and the shapes that it was given."""
    for part in ("pipeline_state", "obs", "metrics", "info"):
        before, then = (jax.tree.map(_told, getattr(s, part)) for s in (start, after))
        if before != then:
            problem = f"{name}: step returns {part} {_short(then)}, and reset {_short(before)}"
            raise UserError(problem, "return the same structure, shapes and types from both")


def _check_goals(env: Any, obs: Any, wanted: Any, name: str) -> None:
    if not isinstance(wanted, dict) or not {"state", "goal"} <= wanted.keys():
        raise UserError(f"{name} has goal_of, and observations of size {wanted}", 'return {"state": ..., "goal": ...}')
    found = _traced(f"{name}: goal_of", env.goal_of, obs)
    if getattr(found, "shape", None) != (wanted["goal"],):
        problem = f"{name}: goal_of returns the shape {getattr(found, 'shape', None)}"
        raise UserError(problem, f"return a goal as observations show it: ({wanted['goal']},)")


def _check_behaviour(env: Env, make: Callable, start: State, what: str) -> None:
    behaviour, key = make(env), jax.random.key(0)
    carry = _traced(f"{what}, init", behaviour.init, key, start)
    action, after = _traced(f"{what}, act", behaviour.act, key, start, carry)
    if getattr(action, "shape", None) != (env.action_size,):
        raise UserError(f"{what} acts with the shape {getattr(action, 'shape', None)}", f"return action_size numbers: ({env.action_size},)")  # fmt: skip
    if jax.tree.map(_told, carry) != jax.tree.map(_told, after):
        raise UserError(f"{what}: act returns another carry than init", "return the same structure, shapes and types from both")  # fmt: skip


def _told(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else type(x).__name__


def _short(x: Any) -> str:
    text = str(x)
    return text if len(text) < 80 else text[:77] + "..."
