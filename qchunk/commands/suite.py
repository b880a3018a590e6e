"""A suite is a list of runs: what is there is skipped, what was interrupted goes on, and a report is written over all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qchunk import on_policy, report, runs
from qchunk.commands.collect import CollectFlags, collect_to
from qchunk.commands.train import NO_ONLINE, ResumeFlags, TrainFlags
from qchunk.commands.train import resume as resume_run
from qchunk.commands.train import run as new_run
from qchunk.online import OnlineSettings
from qchunk.records import markdown
from qchunk.train import Settings


class Data(NamedTuple):
    """A data set to collect."""

    env: str
    steps: int
    policies: tuple[str, ...] = ()  # scripted behaviours, or ENV/LABEL of earlier runs of the suite
    episode_length: int = 1000


class Run(NamedTuple):
    """One run of a suite."""

    algorithm: str
    env: str
    data: Data | Path | None  # None where a method learns from what it plays
    config: Any
    settings: Settings | on_policy.Settings
    label: str
    online: OnlineSettings = NO_ONLINE
    prior: str = ""  # ENV/LABEL of an earlier run of the suite, whose first seed this one stands on
    objective: tuple[str, ...] = ()


def collected(data: Data, root: Path) -> Path:
    """The file of a data set, collected if it is not there."""
    name = f"{data.env}-{'+'.join(data.policies) or 'default'}-{data.steps}"
    out = root / "data" / f"{name.replace('/', '-').replace(' ', '-')}.npz"
    if not out.exists():
        policies = tuple(str(root / "runs" / p) if (root / "runs" / p).is_dir() else p for p in data.policies)
        flags = CollectFlags(out, policies, data.steps, episode_length=data.episode_length)
        collect_to(data.env, flags)
    return out


def folder_of(run: Run, root: Path) -> Path:
    """Where a run of a suite lies."""
    return root / "runs" / run.env / run.label


def train_all(name: str, suite: Sequence[Run], root: Path, quiet: bool = False) -> list[Path]:
    """Runs what is missing, and returns the folders."""
    quiet = quiet or not sys.stderr.isatty()
    folders = []
    for i, run in enumerate(suite, 1):
        out = folder_of(run, root)
        folders.append(out)
        print(f"[{name} {i}/{len(suite)}] {run.label} on {run.env}", file=sys.stderr, flush=True)
        if (out / runs.SUMMARY).exists():
            continue
        if out.exists():
            resume_run(ResumeFlags(out, quiet=quiet))
        else:
            prior = root / "runs" / run.prior if run.prior else None
            data = collected(run.data, root) if isinstance(run.data, Data) else run.data
            where = TrainFlags(run.env, data, out, run.objective, run.label, prior, quiet=quiet)
            new_run(run.algorithm, where, run.config, run.settings, run.online)
    return folders


def write(folders: Sequence[Path], root: Path, held: dict[str, str] | None = None) -> list[dict[str, str]]:
    """Writes the report to root/report and its table to the terminal."""
    rows = report.write_report(folders, root / "report", held)
    print(markdown(rows))
    print(f"runs: {root / 'runs'}\nreport: {root / 'report' / 'report.html'}")
    return rows


def run_suite(name: str, suite: Sequence[Run], root: Path) -> list[dict[str, str]]:
    """Both."""
    return write(train_all(name, suite, root), root)
