"""Interleaved timing: medians of repeats that alternate between the candidates, in one process."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax


def medians(repeats: int, **candidates: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each candidate, run in turn ``repeats`` times after one warm-up."""
    for fn in candidates.values():
        jax.block_until_ready(fn())
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, fn in candidates.items():
            began = time.perf_counter()
            jax.block_until_ready(fn())
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(s) for name, s in seconds.items()}


def tell(name: str, **figures: Any) -> None:
    """One line per figure, as JSON with --json."""
    if "--json" in sys.argv:
        print(json.dumps({"benchmark": name, **figures}), flush=True)
    else:
        print(
            f"{name:48} "
            + "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        )
        sys.stdout.flush()
