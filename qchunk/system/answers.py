"""What a command prints for a program that reads it: JSON alone on stdout, whatever else prints."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_out: list[TextIO] = []  # where answers go while everything else that is printed goes to stderr


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it only ``answer`` writes to stdout; what code of the user's and simulators print goes to stderr."""
    _out.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _out.pop().flush()


def answer(value: Any) -> None:
    """Prints JSON to stdout. NaN and infinities, for which JSON has no word, become null."""
    print(json.dumps(finite(value), allow_nan=False), file=_out[-1] if _out else sys.stdout, flush=True)


def finite(x: Any) -> Any:
    """The same with None for NaN and infinities."""
    if isinstance(x, dict):
        return {k: finite(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [finite(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
