"""What evaluations said of a run's checkpoints: which is the best one, and which the last before a seed diverged."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qchunk.runs import checkpoint, run_folder
from qchunk.system.errors import UserError


class Scored(NamedTuple):
    """What an evaluation said of a checkpoint, over all seeds."""

    figure: str  # which of ``run_folder.COMPARED``
    value: float
    step: int


def best(found: Sequence[Scored]) -> Scored | None:
    """The best, the newest of equals; where one speaks of success the others had none (``run_folder.judged``). None of none."""
    known = any(one.figure == "success" for one in found)

    def rank(one: Scored) -> tuple[float, int]:
        return 0.0 if known and one.figure != "success" else one.value, one.step

    return max(found, key=rank, default=None)


def scored(checkpoints: Path, until: float = math.inf) -> list[Scored]:
    """What is known of the checkpoints that were saved with an evaluation of finite seeds, up to a step."""
    found = []
    for step in (n for n in checkpoint.steps(checkpoints) if n <= until):
        with contextlib.suppress(UserError):  # one that is damaged
            about = checkpoint.about(checkpoints, step)
            if isinstance(value := about.get("score"), float):
                found.append(Scored(about.get("figure") or _figure_at(checkpoints.parent, step), value, step))
    return found


def _figure_at(folder: Path, step: int) -> str:
    """What the evaluation of a step was compared by, from the metrics: checkpoints of earlier versions do not name it."""
    with contextlib.suppress(UserError):  # no metrics
        for line in reversed(run_folder.read_metrics(folder)):
            if (line["kind"], line["step"]) == ("eval", step):
                return run_folder.compared(line["values"])
    return ""


def last_finite(checkpoints: Path, step: int) -> int | None:
    """The step of the newest checkpoint up to ``step`` in which no seed had diverged."""
    return checkpoint.newest(checkpoints, lambda n: n <= step and checkpoint.about(checkpoints, n).get("finite", True))
