"""Memory: what this machine has, what arrays would take, and a shortage said in one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from qchunk.system.errors import UserError

FIX = "give a smaller --batch, --envs, --seeds, --n or network, or a machine with more"


def is_short(err: BaseException) -> bool:
    """Whether an error, or one that caused it, says that memory has run out."""
    seen: BaseException | None = err
    while seen is not None:
        if isinstance(seen, MemoryError) or "RESOURCE_EXHAUSTED" in str(seen) or "Out of memory" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def shortage(err: BaseException) -> UserError:
    """The user's error for one of which ``is_short`` holds."""
    return UserError(f"out of memory: {str(err).splitlines()[0] if str(err) else 'no more is to be had'}", FIX)


def installed() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def of_arrays(arrays: Iterable[Any]) -> int:
    """Bytes of arrays, or of whatever has their shapes and types; shapes may be of any size."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def check(what: str, least: int, fix: str) -> None:
    """Refuses what this machine could never hold: the system would end the process while it tried.

    Args:
        least: bytes that it takes at least.

    Raises:
        UserError: says how much that is.
    """
    if least > installed():
        shown = [f"{n / 2**30:,.0f} GiB" for n in (least, installed())]
        raise UserError(f"out of memory: {what} takes at least {shown[0]}, this machine has {shown[1]}", fix)
