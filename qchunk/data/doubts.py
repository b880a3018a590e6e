"""What is probably a mistake in rows of experience, though training could use them; each with its fix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qchunk import trees
from qchunk.data.adapting import EndsDoubted
from qchunk.data.formats import Rows
from qchunk.system.errors import UserError

FAR, FEW = 1e4, 1e-3  # a spike lies so many times the usual deviation away, and is so small a share of the rows
WEAK = 0.05  # actions that never reach it are probably in other units than [-1, 1]
SAME_LENGTH, FROZEN = 3, 5  # episodes, steps, from which on sameness is no chance
SHOWN = 6  # episodes that a line names


def bounds_of(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """The first row and the row of the final observation of each episode: two [E]."""
    ends = np.flatnonzero(rows.end)
    return np.append(0, ends[:-1] + 1)[: len(ends)], ends


def doubts(rows: Rows, about: Mapping[str, Any], where: str, told: Sequence[UserError] = ()) -> Iterator[UserError]:
    """Everything that is probably a mistake.

    Args:
        rows: whose arrays fit (``faults.misshapen``).
        about: what the file says of itself: of data by ``qchunk collect``, not everything is to be doubted.
        told: what a reader has doubted already, from columns that the rows no longer have.
    """
    yield from _of_rows(rows, where)
    yield from _copies(rows, where)
    yield from _spikes(rows, where)
    if "policy" not in about:  # an environment of ours knows what ends its episodes, and is seen as it is
        if not any(isinstance(e, EndsDoubted) for e in told):  # it named the columns: rows would say less of the same
            yield from _of_ends(rows, where)
        yield from _frozen(rows, where)
        yield from _of_actions(rows, where)


def _some(numbers: np.ndarray) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"episode{'s' * (len(numbers) > 1)} {' '.join(map(str, numbers[:SHOWN]))}{more}"


def _dropping(numbers: np.ndarray) -> str:
    more = " ..." * (len(numbers) > SHOWN)
    return f"leave them out: qchunk data convert --drop {' '.join(map(str, numbers[:SHOWN]))}{more}"


def _of_rows(rows: Rows, where: str) -> Iterator[UserError]:
    starts, ends = bounds_of(rows)
    if (empty := np.flatnonzero(starts == ends)).size:
        yield UserError(f"{where}: {_some(empty)} without a step", _dropping(empty))
    if (odd := np.flatnonzero(rows.terminal & rows.end)).size:
        line = f"{where}: {len(odd)} rows of final observations are marked terminal (first {odd[0]})"
        yield UserError(line, "mark the transition before, whose action led there")


def _copies(rows: Rows, where: str) -> Iterator[UserError]:
    seen: dict[bytes, int] = {}
    copies = []
    arrays = [*trees.named(rows.obs).values(), rows.action]
    for number, (start, end) in enumerate(zip(*bounds_of(rows), strict=True)):
        mark = hashlib.sha256(b"".join(np.ascontiguousarray(x[start:end]).tobytes() for x in arrays)).digest()
        if end > start and seen.setdefault(mark, number) != number:
            copies.append(number)
    if copies:
        line = f"{where}: {_some(np.asarray(copies))} repeat an earlier one step by step"
        yield UserError(line, _dropping(np.asarray(copies)))


def _spikes(rows: Rows, where: str) -> Iterator[UserError]:
    episode = np.cumsum(rows.end) - rows.end
    for name, x in trees.named(rows.obs).items():  # rewards may be rare and large
        if x.dtype.kind != "f":
            continue
        x = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
        known = x[~np.isnan(x).any(axis=1)]
        if not len(known):
            continue
        middle = np.median(known, axis=0)
        usual = np.quantile(np.abs(known - middle), 0.95, axis=0)
        far = (np.abs(x - middle) > FAR * np.maximum(usual, 1e-3 * np.maximum(1.0, np.abs(middle)))).any(axis=1)
        if 0 < far.sum() <= max(3, FEW * len(far)):
            line = f"{where}: {name} reaches {np.nanmax(np.abs(x)):.3g} on {int(far.sum())} rows, {FAR:.0e} times the usual"
            yield UserError(line, _dropping(np.unique(episode[far])))


def _of_ends(rows: Rows, where: str) -> Iterator[UserError]:
    starts, ends = bounds_of(rows)
    stepped = ends > starts
    starts, ends = starts[stepped], ends[stepped]
    ended, lengths = rows.terminal[ends - 1], ends - starts
    before = rows.reward[~rows.end & ~np.isin(np.arange(len(rows.end)), ends - 1)]
    paid = len(before) and rows.reward[ends - 1].min(initial=np.inf) > before.max()  # as a success pays
    if len(ends) >= SAME_LENGTH and ended.all() and len(set(lengths)) == 1 and lengths[0] > 1 and not paid:
        line = (
            f"{where}: all {len(ends)} episodes end at a terminal after {lengths[0]} steps, as a limit of time would do"
        )
        yield UserError(line, "if it was one: qchunk data convert --terminals none")
        return
    values = np.unique(rows.reward[~rows.end])
    if len(values) == 2 and values[0] == 0 and values[1] > 0:
        poor = np.flatnonzero(stepped)[ended & (rows.reward[ends - 1] == 0)]
        if poor.size:
            line = f"{where}: {_some(poor)} end at a terminal without the reward that others have"
            yield UserError(line, "if only the recording ended there: qchunk data convert --terminals reward")


def _frozen(rows: Rows, where: str) -> Iterator[UserError]:
    found = []
    for number, (start, end) in enumerate(zip(*bounds_of(rows), strict=True)):
        seen = (x[start : end + 1] for x in trees.named(rows.obs).values())
        still = all((x == x[:1]).all() for x in seen)
        if end - start >= FROZEN and still and (rows.action[start:end] != rows.action[start]).any():
            found.append(number)
    if found:
        line = f"{where}: {_some(np.asarray(found))} show one observation throughout, though actions change"
        yield UserError(line, _dropping(np.asarray(found)))


def _of_actions(rows: Rows, where: str) -> Iterator[UserError]:
    action = rows.action[~rows.end]
    if (action == action[:1]).all() and len(action) > FROZEN:
        line = f"{where}: all actions are the same, {np.round(action[0], 4).tolist()}"
        yield UserError(line, "name the array that holds what was commanded: --names action=NAME")
    elif (high := float(np.abs(action).max(initial=0.0))) < WEAK:
        line = f"{where}: actions reach {high:.2g} only, so they are probably not in units of [-1, 1]"
        yield UserError(line, "rescale them: qchunk data convert --scale-actions")


def remarks(rows: Rows) -> Iterator[str]:
    """What is no mistake, but good to know before training."""
    inside = ~rows.end
    if len(np.unique(rows.reward[inside])) == 1:
        yield f"all rewards are {rows.reward[inside][0]:.4g}: enough to clone; a critic learns something only where a task gives its own (--env)"
    for name, x in trees.named(rows.obs).items():
        still = np.flatnonzero((x == x[:1]).all(axis=0))
        if still.size and len(x) > 1:
            yield f"{name} never changes in {len(still)} of {x.shape[1]} numbers (first {still[0]})"
    still = np.flatnonzero((rows.action[inside] == rows.action[inside][:1]).all(axis=0))
    if 0 < still.size < rows.action.shape[1]:
        yield f"actions never change in {len(still)} of {rows.action.shape[1]} numbers (first {still[0]})"
    reached = np.abs(rows.action[inside])
    at_bounds = (reached >= 1.0 - 1e-6).mean(axis=0)
    if (often := np.flatnonzero(at_bounds > 0.5)).size and reached.max() <= 1.0 + 1e-6:  # else they are in other units
        yield f"action {often[0]} is at its bounds in {at_bounds[often[0]]:.0%} of the steps"
