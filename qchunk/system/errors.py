"""The user's mistakes. One class: the line that says what is wrong, and the fix."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 8  # names that ``unknown`` offers


class UserError(Exception):
    """A mistake that the user can fix. The command line prints it as one line and exits with code 2.

    Args:
        problem: what is wrong, with the value that was given.
        fix: what to do about it, as an order ("pass --out with a new folder").
    """

    def __init__(self, problem: str, fix: str):
        end = "" if fix.endswith("?") else "."
        super().__init__(f"{problem.rstrip('.')}. {fix.rstrip('.')}{end}")
        self.problem, self.fix = problem, fix


def unknown(kind: str, name: str, known: Iterable[str], where: str = "", same: Sequence[str] = ()) -> UserError:
    """The error for a name that is in no table: it offers those that mean the ``same``, or the nearest names that are there."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    alike = [difflib.SequenceMatcher(None, n, name).ratio() for n in near]
    near = [n for n, ratio in zip(near, alike, strict=True) if ratio > max(alike) - 0.1]  # as near as the nearest
    near = list(same) or near
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    offer = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known[:MOST])}{more}"
    return UserError(f"unknown {kind} {name!r}", f"{offer.rstrip('.')}{'; ' + where if where else ''}")


def typed(*words: object) -> str:
    """Words of a command line as one types them: quoted where a shell would take them apart."""
    return shlex.join(map(str, words))


def shaped(x: Any, shape: tuple[int, ...], what: str, wanted: str) -> Any:
    """``x``, an array [*shape]: another shape may broadcast without a word, and mix what belongs apart.

    Args:
        what, wanted: of what a function of the user's returned, and what it should return, for the refusal.

    Raises:
        UserError: another shape.
    """
    if (found := tuple(getattr(x, "shape", ()))) != tuple(shape):
        raise UserError(f"{what} has the shape {found}, not {tuple(shape)}", wanted)
    return x
