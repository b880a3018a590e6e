"""Figures that papers released, to stand beside ours where task and method are the same."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from qchunk.reporting.records import Rows
from qchunk.system import loading

SOURCES = {  # of experiments/published
    "qc_final": "Q-chunking, 2507.07969, figures released with its code; 4 seeds, 95 % bootstrap",
    "qam_final": "QAM, 2601.14234, figures released with its code; 12 seeds",
}

SPARSE = ("scene", "puzzle")  # scenes that both papers train on -1 until success, which is our @sparse


class Published(NamedTuple):
    """Figures of others to print beside ours: a csv with columns source, task, method, step_millions, mean, ci_low, ci_high."""

    file: Path
    source: str  # who published them, and where
    methods: dict[str, str]  # label of a run -> method in the file
    task: Callable[[str], str]  # environment -> task in the file


def beside(rows: Rows, published: Published) -> list[dict[str, str]]:
    """Our figures (rows of a report's table) and the published ones, a line for each of ours that has any."""
    with published.file.open(newline="", encoding="utf-8") as f:
        theirs = list(csv.DictReader(f))
    found = []
    for row in rows:
        task, method = published.task(row["environment"]), published.methods.get(row["method"])
        known = [r for r in theirs if r["task"] == task and r["method"] == method]
        if known:
            figures = [f"{_percent(r['mean'])} % [{_percent(r['ci_low'])}, {_percent(r['ci_high'])}] at {r['step_millions']}M" for r in known]  # fmt: skip
            ours = {"ours": f"{row['mean']} {row['95 % interval']}", "after updates": row["updates"]}
            names = {n: row[n] for n in ("environment", "method")}
            found.append({**names, **ours, "published": ", ".join(figures), "their name": str(method), "source": published.source})  # fmt: skip
    return found


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


def _percent(share: str) -> str:
    return f"{100 * float(share):.1f}"
