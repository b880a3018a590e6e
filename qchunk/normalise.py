"""Units: observations and actions as an algorithm sees them. The statistics live in ``Learner.stats`` and travel with
every checkpoint; outside of ``normalised`` everything is in the environment's own units.

A tree of observations has a tree of units. Leaves of whole numbers, such as uint8 images, are left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.data.chunks import Dataset
from qchunk.system import hosts
from qchunk.system.errors import UserError
from qchunk.types import CLEAN, Algorithm, Array, Chunk, Learner, Old, Plan, Policy, PyTree, Vars

KINDS = ("none", "min-max", "standard")
STATS = "units"  # the entry of Learner.stats
NUMBERS = 2**22  # of data that are read at a time


class Affine(NamedTuple):
    """Units of a vector of n numbers: x -> (x - shift) / scale."""

    kind: Array  # [] int32, an index of KINDS
    shift: Array  # [n]
    scale: Array  # [n]


def over(kind: type, fn: Callable, units: PyTree, *trees: PyTree) -> PyTree:
    """``fn`` on every Affine, or whatever ``kind`` they are of, and the leaves that belong to it."""
    return jax.tree.map(fn, units, *trees, is_leaf=lambda x: isinstance(x, kind))


def apply(units: PyTree, x: PyTree) -> PyTree:
    """The numbers x in the algorithm's units; leaves are [..., n]."""
    return over(Affine, lambda a, x: (x - a.shift) / a.scale if has_units(x) else x, units, x)


def invert(a: Affine, x: Array) -> Array:
    """The numbers x [..., n] of the algorithm in the environment's units: the inverse of ``apply``."""
    return x * a.scale + a.shift


def has_units(x: Any) -> bool:
    """Whether a leaf holds quantities, not whole numbers."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def identity(size: PyTree) -> PyTree:
    """Units that change nothing, for a tree of sizes."""
    return jax.tree.map(lambda n: Affine(jnp.zeros((), jnp.int32), jnp.zeros(n), jnp.ones(n)), size)


def fit(x: PyTree, kind: str, bounded: bool = False, keep: np.ndarray | None = None) -> PyTree:
    """The units of data x, whose leaves are [..., n], or of such that stay on disk, [R, n].

    - min-max: each number's range becomes [-1, 1];
    - standard: mean 0 and standard deviation 1. Actions are ``bounded``: policies choose within [-1, 1], so all their numbers
      are divided once more, by the largest normalised value, and have equal standard deviations inside of that range.

    A number that never changes keeps its scale.

    Args:
        keep: which rows count, bool [R]; by default all.
    """
    return jax.tree.map(lambda leaf: _fit(leaf, kind, bounded, keep), x)


def _fit(x: Any, kind: str, bounded: bool, keep: np.ndarray | None) -> Affine:
    if kind == "none" or not has_units(x):
        return identity(x.shape[-1])._replace(kind=jnp.asarray(KINDS.index(kind), jnp.int32))
    low, high, total, rows = np.inf, -np.inf, 0.0, 0
    for part in _parts(x, keep):
        low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
        total, rows = total + part.sum(axis=0), rows + len(part)
    shift, scale = (low + high) / 2, (high - low) / 2
    if kind == "standard":
        shift = total / rows
        scale = np.sqrt(sum(np.square(part - shift).sum(axis=0) for part in _parts(x, keep)) / rows)
    scale = np.where(high > low, scale, 1.0)
    if bounded and kind == "standard":
        scale = scale * np.max(np.maximum(np.abs(low - shift), np.abs(high - shift)) / scale)
    return Affine(
        jnp.asarray(KINDS.index(kind), jnp.int32), jnp.asarray(shift, jnp.float32), jnp.asarray(scale, jnp.float32)
    )


def _parts(x: Any, keep: np.ndarray | None) -> Iterator[np.ndarray]:
    """The rows [.., n] that are kept, some at a time and in float64: data may be larger than memory."""
    if isinstance(x, (np.ndarray, jax.Array)):
        x = np.asarray(x).reshape(-1, x.shape[-1])
    rows = max(1, NUMBERS // x.shape[-1])
    for first in range(0, x.shape[0], rows):
        part = x[first : first + rows]
        part = part if keep is None else part[keep[first : first + rows]]
        if len(part):
            yield part.astype(np.float64)


class Moments(NamedTuple):
    """Mean and spread of all observations so far."""

    rows: Array  # []
    mean: Array  # [n]
    square: Array  # [n] sum of squared distances to the mean


def no_moments(size: PyTree) -> PyTree:
    """The moments of a tree of sizes before any observation."""
    return jax.tree.map(lambda n: Moments(jnp.zeros(()), jnp.zeros(n), jnp.zeros(n)), size)


def seen(moments: PyTree, x: PyTree) -> PyTree:
    """The moments with the observations x added, whose leaves are [..., n] (Chan, Golub and LeVeque 1979)."""
    return over(Moments, lambda m, x: _seen(m, x.reshape(-1, x.shape[-1])) if has_units(x) else m, moments, x)


def _seen(m: Moments, x: Array) -> Moments:
    more, mean = x.shape[0], jnp.mean(x, axis=0)
    rows, apart = m.rows + more, mean - m.mean
    square = m.square + jnp.sum((x - mean) ** 2, axis=0) + apart**2 * m.rows * more / rows
    return Moments(rows, m.mean + apart * more / rows, square)


def of_moments(moments: PyTree) -> PyTree:
    """Units of mean 0 and standard deviation 1 from moments. A number that has never changed keeps its scale."""
    return over(Moments, _of_moments, moments)


def _of_moments(m: Moments) -> Affine:
    std = jnp.sqrt(m.square / jnp.maximum(m.rows, 1.0))
    varies = std > 1e-5 * jnp.abs(m.mean)  # less is rounding
    return Affine(jnp.asarray(KINDS.index("standard"), jnp.int32), m.mean, jnp.where(varies, std, 1.0))


def of_data(data: Dataset, obs: str, action: str) -> dict[str, PyTree]:
    """The units of a data set: every observation, and the actions that were played. On the host, where nothing is traced."""
    played = np.asarray(data.left) > 0
    return {"obs": fit(data.obs, obs), "action": fit(data.action, action, bounded=True, keep=played)}


def as_dict(units: dict[str, PyTree]) -> dict[str, dict]:
    """Units as nested dictionaries, the form in which a later stage is given them."""
    return over(Affine, lambda a: a._asdict(), units)


def of_given(given: dict) -> dict[str, PyTree]:
    """The units that an earlier stage was trained in; copied, for a learner is donated."""

    def made(kept: dict) -> PyTree:
        if kept.keys() == set(Affine._fields) and not isinstance(kept["kind"], dict):
            return Affine(**jax.tree.map(jnp.copy, kept))
        return {name: made(part) for name, part in kept.items()}

    return made(given[STATS])


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

    act, explore = _normalised(algorithm.act), _normalised(algorithm.explore)
    first = algorithm.first and _normalised(algorithm.first)
    return algorithm._replace(init=init, prepare=prepare, act=act, explore=explore, first=first)


def _normalised(policy: Policy) -> Policy:
    def inside(vars: Vars, obs: Any) -> Any:
        return apply(vars.stats[STATS]["obs"], obs)

    def draw(vars: Vars, key, obs):
        return policy.draw(vars, key, inside(vars, obs))

    def plan(vars: Vars, noise, obs, old: Old | None) -> Plan:
        return policy.plan(vars, noise, inside(vars, obs), old)

    def emit(vars: Vars, plan: Plan, i, obs):
        return invert(vars.stats[STATS]["action"], policy.emit(vars, plan, i, inside(vars, obs)))

    choice = policy.choice
    if choice is not None:
        valued = choice.values

        def values(vars: Vars, obs, action=None, level=CLEAN) -> Array:
            return valued(vars, inside(vars, obs), action, level)

        choice = choice._replace(policy=_normalised(choice.policy), values=values)
    return policy._replace(draw=draw, plan=plan, emit=emit, choice=choice)


def check(learner: Learner, obs: str, action: str) -> None:
    """Refuses a learner whose units are of other kinds than the run's settings say.

    Raises:
        UserError: names both.
    """
    for name, wanted in (("obs", obs), ("action", action)):
        units = learner.stats.get(STATS)
        kinds = (
            [np.max(hosts.read(a.kind)) for a in jax.tree.leaves(units[name], is_leaf=lambda x: isinstance(x, Affine))]
            if units
            else [0]
        )
        got = KINDS[int(max(kinds))]
        if got != wanted:
            raise UserError(
                f"the checkpoint's {name} units are {got}, its configuration says {wanted}",
                "restore the run's own config.json, or take its own checkpoint",
            )
