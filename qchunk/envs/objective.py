"""Any objective: the reward as a weighted sum of functions of a step, such as the task, its energy and its jerk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import names, registry
from qchunk.envs.base import State, Wrapper
from qchunk.system import loading
from qchunk.system.errors import UserError
from qchunk.types import Array, PyTree

GIVEN = "objective"  # the entry of ``given`` that holds a run's weights


class Moment(NamedTuple):
    """One step, or many: every field may have leading axes."""

    obs: PyTree  # [*B, O]
    before: Array  # [*B, A] the action before, 0 at an episode's start
    action: Array  # [*B, A]
    next_obs: PyTree  # [*B, O]
    reward: Array  # [*B] the environment's own


def task(m: Moment) -> Array:
    """The environment's own reward."""
    return m.reward


def energy(m: Moment) -> Array:
    """Minus the squared action, summed over its numbers: at most 0."""
    return -jnp.sum(jnp.square(m.action), axis=-1)


def jerk(m: Moment) -> Array:
    """Minus the squared change of the action, summed over its numbers: at most 0."""
    return -jnp.sum(jnp.square(m.action - m.before), axis=-1)


class Objective(Wrapper):
    """Rewards sum_i weight_i term_i. What each term was, unweighted, is in ``State.info["terms"]``.

    Weights that are given to a run are traced (``settled``): runs that differ in them share one program, and they can be
    vmapped. Episodes end as they did; so a task's success is what it was.

    Args:
        terms: functions of a ``Moment`` by name.
        weights: by the same names.
    """

    def __init__(self, env: Any, terms: Mapping[str, Callable[[Moment], Array]], weights: Mapping[str, Any]):
        super().__init__(env)
        self.terms, self.weights = dict(terms), dict(weights)

    def reset(self, rng: Array) -> State:
        state = self.env.reset(rng)
        zero = jnp.zeros(())
        info = {**state.info, "terms": dict.fromkeys(self.terms, zero), "before": jnp.zeros(self.env.action_size)}
        return state.replace(info=info)

    def step(self, state: State, action: Array) -> State:
        seen, before = state.obs, state.info["before"]
        inner = state.replace(info={k: v for k, v in state.info.items() if k not in ("terms", "before")})
        state = self.env.step(inner, action)
        reward, found = self.judge(Moment(seen, before, action, state.obs, jnp.asarray(state.reward, jnp.float32)))
        return state.replace(reward=reward, info={**state.info, "terms": found, "before": action})

    def judge(self, m: Moment) -> tuple[Array, dict[str, Array]]:
        """(the weighted sum, every term) of a step, or of many."""
        found = {name: _checked(name, term(m), m.reward.shape) for name, term in self.terms.items()}
        return sum((self.weights[n] * x for n, x in found.items()), jnp.zeros_like(m.reward)), found

    def reweighed(self, obs: PyTree, action: Array, reward: Array, end: Array) -> Array:
        """The rewards of rows (data/chunks.py) [R] under this objective."""
        start = jnp.concatenate([jnp.ones(1, bool), jnp.asarray(end[:-1])])
        before = jnp.where(start[:, None], 0.0, jnp.concatenate([action[:1], action[:-1]]))
        after = jax.tree.map(lambda x: jnp.concatenate([x[1:], x[-1:]]), obs)
        return jnp.where(jnp.asarray(end), 0.0, self.judge(Moment(obs, before, action, after, reward))[0])


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """What a term made of steps of this shape; refused where it has another, such as a sum over all of them, or is not real."""
    found = getattr(value, "shape", shape)  # a plain number is that of every step
    if found != shape or jnp.iscomplexobj(value):
        problem = f"the term {name} returns {getattr(value, 'dtype', type(value).__name__)}{list(found)} for steps {list(shape)}"
        raise UserError(problem, "return one real number for each step: reduce over the last axis alone, axis=-1")
    return value


def settled(env: Any, given: dict) -> Any:
    """The environment with the weights that a run is given, in place of its own."""
    if GIVEN not in given:
        return env
    made = copy.copy(env)
    if isinstance(env, Objective):
        made.weights = given[GIVEN]
    else:
        made.env = settled(env.env, given)
    return made


def weights_given(weights: Mapping[str, float]) -> dict[str, dict[str, Array]]:
    """``given`` of a run with these weights; {} without any."""
    return {GIVEN: {short(n): jnp.asarray(w, jnp.float32) for n, w in weights.items()}} if weights else {}


def short(name: str) -> str:
    """What a term is called: a user's own by its function."""
    return loading.short(name)


def parse(texts: tuple[str, ...]) -> dict[str, float]:
    """Weights by name, from "NAME=WEIGHT".

    Raises:
        UserError: not of this form, or a term twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, weight = text.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = float("nan")
        if not name or short(name) in map(short, found) or not jnp.isfinite(value):
            raise UserError(f"--objective {text} is no term with a weight", "write for example task=1 energy=0.1")
        found[name] = value
    return found


def objective(env: Any, weights: Mapping[str, float]) -> Any:
    """The environment under these weights; itself without any.

    Raises:
        UserError: no such term.
    """
    if not weights:
        return env
    terms = {short(n): registry.function(names.TERMS, n, "term", "moment") for n in weights}
    return Objective(env, terms, {short(n): w for n, w in weights.items()})
