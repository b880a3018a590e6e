"""An update of Q-chunking at N = 32 whose target judges noises before they are denoised (``faster``), over one that judges the chunks (``qc``).

The critic of noises learns from a sample of its own, as by default, or from the target's (``--learns kept``, as published); and it has two members
as the critic of chunks has, or one (``--start-members 1``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from _methods import BATCH, SIZES, configured, data_set, offline_run
from _timing import medians, tell

from qchunk.data.chunks import Dataset
from qchunk.drivers import offline
from qchunk.drivers.common import init

UPDATES = {"3x128": 10, "4x512": 1}  # of a dispatch
KEPT, ONE = {"learns": "kept"}, {"start_members": 1}
ARMS: dict[str, dict[str, Any]] = {
    "faster": {},
    "faster --learns kept": KEPT,
    "faster --start-members 1": ONE,
    "faster --start-members 1 --learns kept": {**ONE, **KEPT},
}


def updating(name: str, size: str, data: Dataset, **changes: Any) -> Callable:
    """A dispatch of updates that goes on from the one before."""
    build, c = configured(name, SIZES[size]._replace(n=32))
    program, x = offline_run(build, dataclasses.replace(c, **changes), data)
    learner = init(program, x)

    def run() -> dict:
        nonlocal learner
        learner, metrics = offline.updates(program, BATCH, learner, x, UPDATES[size])
        return metrics

    return run


def measure(size: str) -> None:
    """Dispatches of both in turn."""
    data = data_set()
    arms = {"qc": updating("qc", size, data)}
    arms |= {title: updating("faster", size, data, **changes) for title, changes in ARMS.items()}
    t = medians(7, **arms)
    ms = {name: 1e3 * seconds / UPDATES[size] for name, seconds in t.items()}
    for title in ARMS:
        ratio = t[title] / t["qc"]
        tell(f"{title} over qc, N = 32, {size}", qc_ms=ms["qc"], ms=ms[title], ratio=ratio, better="lower", asked=0.25)


if __name__ == "__main__":
    for size in SIZES:
        measure(size)
