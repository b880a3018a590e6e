"""How a data set is to be read: which observations, what ends an episode, units of actions, episodes left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from qchunk import trees
from qchunk.data.faults import TOLERATED, unusable
from qchunk.system.errors import UserError, unknown
from qchunk.types import PyTree

STORED, REWARD, NONE = "stored", "reward", "none"  # kinds of terminals
SCALE = "action_scale"  # of ``about``: {"low": [A], "high": [A]}, the recorded units that became -1 and 1


class EndsDoubted(UserError):
    """A doubt of which ends of episodes are terminals, by the columns that a file has for both."""


class Reading(NamedTuple):
    """What is asked of a reader."""

    env: Any = None  # the environment that judges the rows, where it does
    reader: str = ""  # a name of ``names.READERS``; by default the first that claims the file
    obs_keys: tuple[str, ...] = ()  # parts of observations, in this order; by default all that are vectors or numbers
    tree: bool = False  # keep the parts as a dictionary; also done where ``env`` has dictionaries
    names: tuple[tuple[str, str], ...] = ()  # (ours, the file's) of arrays
    terminals: str = STORED  # as the file has them, where the reward is above 0, or nowhere
    episode_length: int | None = None  # steps after which episodes were cut, for files that do not mark it
    cut_gaps: bool = False  # an episode ends, cut, where steps are missing
    scale_actions: bool = False  # to [-1, 1] by the declared bounds, or else by the lowest and highest
    action_range: tuple[float, float] | None = None  # recorded units that become -1 and 1, of every action
    drop: tuple[int, ...] = ()  # episodes to leave out, counted from 0
    drop_bad: bool = False  # leave out episodes with what is not finite


def as_tree(reading: Reading) -> bool:
    """Whether observations are to be a dictionary."""
    return reading.tree or isinstance(getattr(reading.env, "observation_size", None), Mapping)


def picked(parts: Mapping[str, np.ndarray], reading: Reading) -> PyTree:
    """The parts [N, ...] that are asked for, joined in that order [N, O], or as a dictionary of leaves [N, O].

    Images (parts of more than two axes) are taken where they are asked for by name, into a dictionary, flat.

    Raises:
        UserError: no such part, or an image that is to be joined with others.
    """
    check_keys(parts, reading)
    keys = reading.obs_keys or tuple(n for n, x in parts.items() if x.ndim <= 2)
    found = {n: parts[n].reshape(len(parts[n]), -1) for n in keys}
    if as_tree(reading):  # an observation without parts stays one
        return found["obs"] if set(found) == {"obs"} else trees.unnamed({f"obs/{n}": x for n, x in found.items()})
    if images := [n for n in keys if parts[n].ndim > 2]:
        raise UserError(f"{images[0]} is an image, which cannot be joined with numbers", "add --tree, or leave it out")
    return np.concatenate(list(found.values()), axis=1) if len(found) != 1 else found[keys[0]]


def check_keys(parts: Mapping, reading: Reading) -> None:
    """Refuses parts of observations that there are none of."""
    if odd := [key for key in reading.obs_keys if key not in parts]:
        raise unknown("part of the observations", odd[0], parts, f"--obs-keys {' '.join(parts)} takes all")


def check_own(reading: Reading, path: Any) -> None:
    """Refuses, of a data set of our own format, other names of its arrays and other places where episodes end. Raises UserError."""
    asked = {"--names": reading.names, "--episode-length": reading.episode_length, "--cut-gaps": reading.cut_gaps}
    if odd := [flag for flag, given in asked.items() if given]:
        raise UserError(f"{path} is of qchunk's own format, which {odd[0]} does not change", "leave it out")


def stored_obs(obs: PyTree, reading: Reading) -> PyTree:
    """Observations of our own format, of which parts may be asked for; they stay as they are where none is.

    Raises:
        UserError: see ``picked``.
    """
    if not (reading.obs_keys or reading.tree):
        return obs
    return picked({n.removeprefix("obs/"): x for n, x in trees.named(obs).items()}, reading)


def as_played(obs: PyTree, env: Any, where: Any) -> PyTree:
    """Observations in the types in which the environment shows them: networks take bytes for images, and divide them by 255.

    Raises:
        UserError: its bytes are no bytes here, or they stay on disk.
    """
    like = getattr(env, "no_obs", None)  # of environments on the host
    if like is None:
        if not any(x.dtype == np.uint8 for x in jax.tree.leaves(obs)):
            return obs  # on the device nearly all show floats, and asking takes a trace
        like = jax.eval_shape(env.reset, jax.random.key(0)).obs

    def one(name: str, x: np.ndarray, byte: bool) -> np.ndarray:
        if byte == (x.dtype == np.uint8):
            return x
        kind = np.uint8 if byte else np.float32
        with np.errstate(invalid="ignore"):
            made = x.astype(kind)
        unit = byte and x.dtype.kind == "f" and 0 < np.max(x, initial=0) <= 1  # 0 to 1 or 0 to 255: nobody knows
        if isinstance(x, np.memmap) or unit or not np.array_equal(made, x):
            line = f"{where}: {name} holds {x.dtype}, and the environment shows {np.dtype(kind)}"
            raise UserError(line, f"save it as {np.dtype(kind)}, in the environment's units")
        return made

    shown = {n: x.dtype == np.uint8 for n, x in trees.named(like).items()}
    return trees.unnamed({n: one(n, x, shown[n]) for n, x in trees.named(obs).items()})


def terminals(reading: Reading, reward: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """Which transitions [N] reach a success or failure, after which nothing is to come, as ``reading`` asks for it."""
    if reading.terminals == STORED:
        return terminal
    return reward > 0 if reading.terminals == REWARD else np.zeros_like(terminal)


def adapted(rows: Any, reading: Reading, about: Mapping, where: str) -> tuple[Any, dict, tuple[UserError, ...]]:
    """The rows without the episodes that are to be dropped and in the units that are asked for, what the data's description shall
    say of that, and what is wrong with the units.

    Raises:
        UserError: no episode is left, there is none of such a number, or units that are none.
    """
    if reading.drop or reading.drop_bad:
        rows = without(rows, reading)
    if reading.scale_actions or reading.action_range:
        rows, scale = scaled(rows, reading, about.get("action_bounds"))
        return rows, {SCALE: recorded_units(scale, about.get(SCALE))}, ()
    low, high = (np.asarray(x) for x in about.get("action_bounds", (-1.0, 1.0)))
    inside = np.abs(rows.action[~rows.end]).max(initial=0.0) <= 1.0
    if not inside or (np.allclose(low, -1.0) and np.allclose(high, 1.0)):
        return rows, {}, ()  # what lies outside of [-1, 1] says so itself
    problem = f"{where}: actions are in units of [{low.min():.4g}, {high.max():.4g}], though all lie within [-1, 1]"
    return rows, {}, (UserError(problem, "rescale them to [-1, 1]: qchunk data convert --scale-actions"),)


def scaled(rows: Any, reading: Reading, bounds: Any = None) -> tuple[Any, dict[str, list[float]]]:
    """The rows with actions in [-1, 1], and the recorded units that became -1 and 1: {"low": [A], "high": [A]}.

    An action that never changes becomes 0.

    Args:
        bounds: (low, high) that the file declares.

    Raises:
        UserError: an empty range, bounds of another number of actions, or actions that lie outside.
    """
    action, inside = rows.action.astype(np.float64), ~rows.end
    known = action[inside & np.isfinite(action).all(axis=1)]
    if reading.action_range:
        if not reading.action_range[0] < reading.action_range[1]:
            raise UserError(f"--action-range {reading.action_range} is empty", "give the lowest and the highest")
        low, high = (np.full(action.shape[1], x) for x in reading.action_range)
    elif bounds is not None:
        low, high = (np.asarray(x, float).ravel() for x in bounds)
        if not {low.size, high.size} <= {1, action.shape[1]}:
            problem = f"bounds of {low.size} numbers are declared, and actions have {action.shape[1]}"
            raise UserError(problem, "say what becomes -1 and 1: --action-range LOW HIGH")
        low, high = (np.broadcast_to(x, action.shape[1]) for x in (low, high))
    else:
        low, high = known.min(axis=0, initial=np.inf), known.max(axis=0, initial=-np.inf)
        low, high = (np.where(np.isfinite(x), x, 0.0) for x in (low, high))
    refuse_outside(known, low, high, reading)
    with np.errstate(over="ignore", invalid="ignore"):
        unit = np.where(high > low, 2 * (action - low) / np.where(high > low, high - low, 1.0) - 1, 0.0)
    unit = np.where(inside[:, None], unit, 0.0).astype(np.float32)
    return rows._replace(action=unit), {"low": low.tolist(), "high": high.tolist()}


def refuse_outside(action: np.ndarray, low: np.ndarray, high: np.ndarray, reading: Reading) -> None:
    """Refuses finite actions [M, A] that would lie outside of [-1, 1] in the units that were given or declared.

    Args:
        low, high: [A], what becomes -1 and 1; an action whose two are equal becomes 0.
    """
    slack = TOLERATED / 2 * (high - low)
    if not np.any((high > low) & ((action < low - slack) | (action > high + slack))):
        return
    given = f"--action-range {reading.action_range[0]:g} {reading.action_range[1]:g}" if reading.action_range else ""
    declared = f"the range [{low.min():.4g}, {high.max():.4g}] that the file declares"
    problem = f"{given or declared} is too narrow: actions reach from {action.min():.4g} to {action.max():.4g}"
    raise UserError(problem, "say what becomes -1 and 1: --action-range LOW HIGH, wide enough for all of them")


def recorded_units(
    scale: Mapping[str, list[float]], before: Mapping[str, list[float]] | None
) -> dict[str, list[float]]:
    """The recorded units that became -1 and 1 by ``scale``, where the actions had been scaled ``before``."""
    if before is None:
        return dict(scale)
    low, high = (np.asarray(before[n], np.float64) for n in ("low", "high"))
    return {n: (low + (np.asarray(x) + 1) / 2 * (high - low)).tolist() for n, x in scale.items()}


def without(rows: Any, reading: Reading) -> Any:
    """The rows of the episodes that stay.

    Raises:
        UserError: none is left, or there is none of such a number.
    """
    episode = np.concatenate([[0], np.cumsum(rows.end[:-1])])
    gone = np.zeros(episode[-1] + 1, bool)
    if odd := [n for n in reading.drop if not 0 <= n < len(gone)]:
        raise UserError(f"there is no episode {odd[0]} to drop", f"give 0 to {len(gone) - 1}")
    gone[list(reading.drop)] = True
    if reading.drop_bad:
        for bad in unusable(rows).values():
            gone[episode[bad]] = True
    if gone.all():
        raise UserError("no episode is left", "drop fewer, or record again")
    keep = ~gone[episode]
    return jax.tree.map(lambda x: x[keep], rows)
