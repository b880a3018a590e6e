"""For what training cannot use rows of experience (``formats.Rows``): all of it, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qchunk import trees
from qchunk.system.errors import UserError
from qchunk.types import PLAN_STEP

UNUSABLE = "NaN or infinite values, or numbers beyond 32 bits"
TOLERATED = 1e-6  # how far beyond [-1, 1] actions may lie: they are rounded
ARRAYS = ("obs", "action", "reward", "terminal", "end")


def arrays_of(rows: Any) -> dict[str, np.ndarray]:
    """The rows as the arrays of a file."""
    plain = {name: getattr(rows, name) for name in ARRAYS[1:]}
    return {**trees.named(rows.obs), **plain, **(trees.named(rows.extras, "extras") if rows.extras else {})}


def faults(rows: Any, where: str) -> Iterator[UserError]:
    """Everything for which training cannot use the rows; where their arrays do not fit, that alone."""
    misfits = list(misshapen(rows, where))
    yield from misfits
    if misfits:
        return
    for name, bad in unusable(rows).items():
        if bad.any():
            yield UserError(
                f"{where}: {name} holds {UNUSABLE} ({int(bad.sum())} rows, the first is {int(bad.argmax())})",
                "remove those episodes (qchunk data convert --drop-bad) or collect again",
            )
    action = rows.action[~rows.end]
    if (high := float(np.abs(action[np.isfinite(action)]).max(initial=0.0))) > 1.0 + TOLERATED:
        fix = "rescale them to [-1, 1]: qchunk data convert --scale-actions"
        yield UserError(f"{where}: actions reach {high:.3g}, outside [-1, 1]", fix)
    if not rows.end[-1]:
        what = "no episode end" if not rows.end.any() else "no episode end on its last row"
        yield UserError(f"{where}: {what}", "set end on each row that holds an episode's final observation")


def misshapen(rows: Any, where: str) -> Iterator[UserError]:
    """What is wrong with the arrays as a whole: their names, or else their shapes, their types, or that there is no transition."""
    if odd := trees.misnamed(rows.obs):
        yield UserError(f"{where} calls a part of its observations {odd[0]!r}", "give it a name without a slash")
        return
    arrays = arrays_of(rows)
    shapes, roots = {n: x.shape for n, x in arrays.items()}, {n: n.split("/")[0] for n in arrays}
    axes = {"obs": 2, "action": 2, "reward": 1, "terminal": 1, "end": 1}
    if any(len(s) != axes.get(roots[n], max(1, len(s))) or s[:1] != shapes["end"][:1] for n, s in shapes.items()):
        fix = "expected obs [R, O], action [R, A], extras [R, ...], and [R] for the rest"
        yield UserError(f"{where}: shapes {shapes} do not fit", fix)
        return
    for name, width in (("observations", trees.total(trees.sizes(rows.obs))), ("actions", rows.action.shape[1])):
        if not width:
            yield UserError(f"{where}: {name} are of no numbers", "name the array that holds them, or record them")
            return
    kinds = {"obs": "fiub", "extras": "fiub", "terminal": "b", "end": "b"}
    if any(x.dtype.kind not in kinds.get(roots[n], "f") for n, x in arrays.items()):
        types = {n: str(x.dtype) for n, x in arrays.items()}
        yield UserError(f"{where}: types {types} do not fit", "expected numbers, and booleans for terminal and end")
        return
    marks = arrays.get(f"extras/{PLAN_STEP}")
    if marks is not None and (marks.ndim != 1 or marks.dtype.kind not in "iu"):
        problem = f"{where}: extras/{PLAN_STEP} is {marks.dtype}{list(marks.shape)}"
        yield UserError(problem, "keep a whole number of each row: which step of its plan it is")
    if len(rows.end) == 0 or not (~rows.end).any():
        yield UserError(f"{where} holds no transition", "collect more steps")


def unusable(rows: Any) -> dict[str, np.ndarray]:
    """Which rows [R] of each array training cannot compute with; of final rows only the observation counts."""
    return {name: ~usable(x) & (~rows.end | (name.split("/")[0] == "obs")) for name, x in arrays_of(rows).items()}


def usable(x: np.ndarray) -> np.ndarray:
    """Which rows [R, ...] are numbers in the types that training computes with, float32 or at most 32 bits: bool [R]."""
    narrow = {"f": "f4", "i": "i4", "u": "u4"}.get(x.dtype.kind)
    if narrow is None or (x.dtype.kind != "f" and x.dtype.itemsize <= 4):
        return np.ones(len(x), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        short = x.astype(narrow)
    return (np.isfinite(short) if narrow == "f4" else short == x).reshape(len(x), -1).all(axis=1)
