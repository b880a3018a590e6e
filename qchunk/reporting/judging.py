"""What counts as a figure where runs stand beside each other: success wherever one has reached it, and nothing of a seed that has diverged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qchunk.runs import run_folder


def without_diverged(lines: Sequence[dict], evals: Sequence[dict]) -> list[dict]:
    """The evaluations; the figures of a seed are None, which is not a number, from the line on that says it has diverged.

    A policy of such a seed may still act, as one whose critic alone is infinite does; what it reaches is no figure of the method.

    Args:
        lines: all lines of the run's metrics; those of later steps say nothing of an evaluation.
        evals: lines of evaluations whose figures are there for every seed.
    """
    told = [(line["step"], line["values"]["diverged"]) for line in lines if line["kind"] == "diverged"]

    def without(line: dict) -> dict:
        lost = {i for step, flags in told if step <= line["step"] for i, flag in enumerate(flags) if flag}
        figures = {n: v for n, v in line["values"].items() if n in run_folder.COMPARED and isinstance(v, list)}
        masked = {n: [None if i in lost else x for i, x in enumerate(v)] for n, v in figures.items()}
        return {**line, "values": {**line["values"], **masked}} if lost else line

    return [without(line) for line in evals]


def judged_alike(records: Sequence[Any]) -> list[Any]:
    """``records.Record`` in their order, those of one environment judged alike: where one speaks of success, the others had none.

    So does ``selection.scores`` for the settings of a sweep.
    """
    known = {r.env for r in records if r.figure == "success"}
    return [r._replace(evals=run_folder.judged(r.evals, r.env in known)) for r in records]
