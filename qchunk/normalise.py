"""Units: observations and actions as an algorithm sees them. The statistics live in ``Learner.stats`` and travel with
every checkpoint; outside of ``normalised`` everything is in the environment's own units."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.data.chunks import Dataset
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Chunk, Learner, Old, Plan, Policy, Vars

KINDS = ("none", "min-max", "standard")
STATS = "units"  # the entry of Learner.stats


class Affine(NamedTuple):
    """Units of a vector of n numbers: x -> (x - shift) / scale."""

    kind: Array  # [] int32, an index of KINDS
    shift: Array  # [n]
    scale: Array  # [n]


def apply(a: Affine, x: Array) -> Array:
    """The numbers x [..., n] in the algorithm's units."""
    return (x - a.shift) / a.scale


def invert(a: Affine, x: Array) -> Array:
    """The numbers x [..., n] of the algorithm in the environment's units: the inverse of ``apply``."""
    return x * a.scale + a.shift


def identity(size: int) -> Affine:
    """Units of ``size`` numbers that change nothing."""
    return Affine(jnp.zeros((), jnp.int32), jnp.zeros(size), jnp.ones(size))


def fit(x: Array, kind: str, bounded: bool = False) -> Affine:
    """The units of data x [R, n].

    - min-max: each number's range becomes [-1, 1];
    - standard: mean 0 and standard deviation 1. Actions are ``bounded``: policies choose within [-1, 1], so all their numbers
      are divided once more, by the largest normalised value, and have equal standard deviations inside of that range.

    A number that never changes keeps its scale.
    """
    x = np.asarray(x, np.float64)
    if kind == "none":
        return identity(x.shape[1])
    low, high = x.min(axis=0), x.max(axis=0)
    shift, scale = ((low + high) / 2, (high - low) / 2) if kind == "min-max" else (x.mean(axis=0), x.std(axis=0))
    scale = np.where(high > low, scale, 1.0)
    if bounded and kind == "standard":
        scale = scale * np.max(np.abs((x - shift) / scale))
    return Affine(
        jnp.asarray(KINDS.index(kind), jnp.int32), jnp.asarray(shift, jnp.float32), jnp.asarray(scale, jnp.float32)
    )


class Moments(NamedTuple):
    """Mean and spread of all observations so far."""

    rows: Array  # []
    mean: Array  # [n]
    square: Array  # [n] sum of squared distances to the mean


def no_moments(size: int) -> Moments:
    """The moments of ``size`` numbers before any observation."""
    return Moments(jnp.zeros(()), jnp.zeros(size), jnp.zeros(size))


def seen(m: Moments, x: Array) -> Moments:
    """The moments with the observations x [R, n] added (Chan, Golub and LeVeque 1979)."""
    more, mean = x.shape[0], jnp.mean(x, axis=0)
    rows, apart = m.rows + more, mean - m.mean
    square = m.square + jnp.sum((x - mean) ** 2, axis=0) + apart**2 * m.rows * more / rows
    return Moments(rows, m.mean + apart * more / rows, square)


def of_moments(m: Moments) -> Affine:
    """Units of mean 0 and standard deviation 1 from moments. A number that has never changed keeps its scale."""
    std = jnp.sqrt(m.square / jnp.maximum(m.rows, 1.0))
    varies = std > 1e-5 * jnp.abs(m.mean)  # less is rounding
    return Affine(jnp.asarray(KINDS.index("standard"), jnp.int32), m.mean, jnp.where(varies, std, 1.0))


def of_data(data: Dataset, obs: str, action: str) -> dict[str, Affine]:
    """The units of a data set: every observation, and the actions that were played."""
    return {"obs": fit(data.obs, obs), "action": fit(data.action[data.left > 0], action, bounded=True)}


def as_dict(units: dict[str, Affine]) -> dict[str, dict]:
    """Units as nested dictionaries, the form in which a later stage is given them."""
    return {name: affine._asdict() for name, affine in units.items()}


def of_given(given: dict) -> dict[str, Affine]:
    """The units that an earlier stage was trained in; copied, for a learner is donated."""
    return {name: Affine(**jax.tree.map(jnp.copy, affine)) for name, affine in given[STATS].items()}


def normalised(algorithm: Algorithm) -> Algorithm:
    """The same algorithm, seeing observations and actions in the units that its learner holds.

    Chunks are converted in ``prepare``, observations and actions where a policy meets them.
    """

    def init(key, spec, given=None) -> Learner:
        made = algorithm.init(key, spec, given)
        return made._replace(stats={**made.stats, STATS: {"obs": identity(spec.obs), "action": identity(spec.action)}})

    def prepare(learner: Learner, given: dict, key, chunk: Chunk):
        units = learner.stats[STATS]
        chunk = chunk._replace(
            obs=apply(units["obs"], chunk.obs),
            next_obs=apply(units["obs"], chunk.next_obs),
            action=apply(units["action"], chunk.action),
        )
        return algorithm.prepare(learner, given, key, chunk)

    return algorithm._replace(
        init=init, prepare=prepare, act=_normalised(algorithm.act), explore=_normalised(algorithm.explore)
    )


def _normalised(policy: Policy) -> Policy:
    def inside(vars: Vars, obs: Any) -> Any:
        return apply(vars.stats[STATS]["obs"], obs)

    def draw(vars: Vars, key, obs):
        return policy.draw(vars, key, inside(vars, obs))

    def plan(vars: Vars, noise, obs, old: Old | None) -> Plan:
        return policy.plan(vars, noise, inside(vars, obs), old)

    def emit(vars: Vars, plan: Plan, i, obs):
        return invert(vars.stats[STATS]["action"], policy.emit(vars, plan, i, inside(vars, obs)))

    return Policy(draw, plan, emit, policy.length)


@functools.cache
def wrapping(build: Callable) -> Callable:
    """The same builder with ``normalised`` around what it builds; equal for equal builders, so programs are shared."""
    return lambda c: normalised(build(c))


def check(learner: Learner, obs: str, action: str) -> None:
    """Refuses a learner whose units are of other kinds than the run's settings say.

    Raises:
        UserError: names both.
    """
    for name, wanted in (("obs", obs), ("action", action)):
        units = learner.stats.get(STATS)
        got = KINDS[int(np.max(units[name].kind))] if units else "none"
        if got != wanted:
            raise UserError(
                f"the checkpoint's {name} units are {got}, its configuration says {wanted}",
                "restore the run's own config.json, or take its own checkpoint",
            )
