"""An update of Q-chunking at N = 32 whose target judges noises before they are denoised (``faster``), over one that judges the chunks (``qc``)."""

from __future__ import annotations

from collections.abc import Callable

from _methods import BATCH, SIZES, configured, data_set, offline_run
from _timing import medians, tell

from qchunk.data.chunks import Dataset
from qchunk.drivers import offline
from qchunk.drivers.common import init

UPDATES = {"3x128": 10, "4x512": 1}  # of a dispatch


def updating(name: str, size: str, data: Dataset) -> Callable:
    """A dispatch of updates that goes on from the one before."""
    program, x = offline_run(*configured(name, SIZES[size]._replace(n=32)), data)
    learner = init(program, x)

    def run() -> dict:
        nonlocal learner
        learner, metrics = offline.updates(program, BATCH, learner, x, UPDATES[size])
        return metrics

    return run


def measure(size: str) -> None:
    """Dispatches of both in turn."""
    data = data_set()
    t = medians(7, **{name: updating(name, size, data) for name in ("qc", "faster")})
    ms = {f"{name}_ms": 1e3 * seconds / UPDATES[size] for name, seconds in t.items()}
    tell(f"faster over qc, N = 32, {size}", **ms, ratio=t["faster"] / t["qc"], better="lower", asked=0.25)


if __name__ == "__main__":
    for size in SIZES:
        measure(size)
