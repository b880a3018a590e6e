"""Interleaved timing: repeats that alternate between the candidates, in one process; and telling figures."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from qchunk.commands.bench import BETTER, line


def times(repeats: int, **candidates: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each candidate's calls, run in turn ``repeats`` times after one warm-up."""
    for fn in candidates.values():
        jax.block_until_ready(fn())
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, fn in candidates.items():
            began = time.perf_counter()
            jax.block_until_ready(fn())
            seconds[name].append(time.perf_counter() - began)
    return seconds


def medians(repeats: int, **candidates: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each candidate; see ``times``."""
    return {name: statistics.median(s) for name, s in times(repeats, **candidates).items()}


def tell(name: str, *, better: str = "", asked: float | None = None, **figures: Any) -> None:
    """One line per benchmark, as JSON with --json.

    Args:
        name: no other line of this file has it; ``qchunk bench --check`` finds the baseline's by it.
        better: "lower" or "higher", which way ``ratio`` improves; must be given where there is one.
        asked: the bound that ``ratio`` is asked to keep, where there is one.
        figures: ``ratio`` is the one that is checked and drawn.
    """
    if ("ratio" in figures) != (better in BETTER):
        raise ValueError(f"{name}: a ratio needs better='lower' or 'higher', and nothing else does")
    record = {"benchmark": name, **figures}
    record |= {"better": better} if better else {}
    record |= {"asked": asked} if asked is not None else {}
    if "--json" in sys.argv:
        record["device"] = jax.devices()[0].device_kind
        print(json.dumps(record), flush=True)
    else:
        print(line(record), flush=True)
