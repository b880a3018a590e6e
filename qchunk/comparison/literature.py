"""Figures that papers released, to stand beside ours where task and method are the same."""

from __future__ import annotations

import csv
from pathlib import Path

from qchunk.comparison.suite import Published, beside
from qchunk.reporting.records import Rows
from qchunk.system import loading

SOURCES = {  # of experiments/published
    "qc_final": "Q-chunking, 2507.07969, figures released with its code; 4 seeds, 95 % bootstrap",
    "qam_final": "QAM, 2601.14234, figures released with its code; 12 seeds",
}

SPARSE = ("scene", "puzzle")  # scenes that both papers train on -1 until success, which is our @sparse


def beside_ours(rows: Rows) -> Rows:
    """A line for each row of a report's table whose task and method (by its name) are in a published table; theirs are of their
    own data, sizes and budget, which the line names.

    Raises:
        UserError: this is an install without the tables.
    """
    folder = loading.beside("experiments") / "published"
    return [
        line for name, source in SOURCES.items() for line in beside(rows, _of(folder / f"{name}.csv", source, rows))
    ]


def _of(file: Path, source: str, rows: Rows) -> Published:
    with file.open(newline="", encoding="utf-8") as f:
        theirs = list(csv.DictReader(f))
    methods = {r["method"].casefold(): r["method"] for r in theirs}
    tasks = {task_of(r["task"]): r["task"] for r in theirs}
    named = {row["method"]: methods[low] for row in rows if (low := row["method"].casefold()) in methods}
    return Published(file, source, named, lambda env: tasks.get(task_of(env), ""))


def task_of(name: str) -> str:
    """A task of OGBench without what not all tables write; "" for one of ours whose reward is not theirs, or of another simulator."""
    short = name.removeprefix("ogbench/").replace("-singletask", "")
    if name.startswith("ogbench/") and short.startswith(SPARSE) != short.endswith("@sparse"):
        return ""
    short = short.removesuffix("@sparse").removesuffix("-v0")
    return "" if "/" in short else short
