"""What the suites share: a suite is a list of runs; what is there is skipped, what was interrupted goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qchunk import on_policy, report, runs
from qchunk.algorithms.bc import BC
from qchunk.algorithms.qc import QC
from qchunk.commands.collect import CollectFlags, collect_to
from qchunk.commands.train import NO_ONLINE, ResumeFlags, TrainFlags
from qchunk.commands.train import resume as resume_run
from qchunk.commands.train import run as new_run
from qchunk.config import ChunkConfig, CriticConfig, DiffusionConfig, FlowConfig, OptimConfig
from qchunk.errors import UserError
from qchunk.online import OnlineSettings
from qchunk.train import Settings

SMALL = (128, 128, 128)
# Chosen by single-seed runs of qc on cube-single-task2 (against 3e-4 and 0.005), then held for every method and task.
OPTIM, TAU = OptimConfig(lr=1e-3), 0.01


class Data(NamedTuple):
    """A data set to collect."""

    env: str
    steps: int
    policy: str = ""  # a scripted behaviour, or ENV/LABEL of an earlier run of the suite
    episode_length: int = 1000


class Run(NamedTuple):
    """One run of a suite."""

    algorithm: str
    env: str
    data: Data | None  # None where a method learns from what it plays
    config: Any
    settings: Settings | on_policy.Settings
    label: str
    online: OnlineSettings = NO_ONLINE
    prior: str = ""  # ENV/LABEL of an earlier run of the suite, whose first seed this one stands on
    objective: tuple[str, ...] = ()


def small_qc(horizon: int = 5, backup: tuple[int, ...] = (), steps: int = 10) -> QC:
    """Q-chunking at 3 x 128 and N = 8, which fits 2 cores; ``steps`` of the flow."""
    return QC(ChunkConfig(horizon, backup), FlowConfig(SMALL, steps=steps), CriticConfig(SMALL, tau=TAU), OPTIM, n=8)


def small_bc(horizon: int = 5, steps: int = 10) -> BC:
    """The same actor, imitating only."""
    return BC(ChunkConfig(horizon), FlowConfig(SMALL, steps=steps), OPTIM)


def small_diffusion_bc(horizon: int = 5) -> BC:
    """A diffusion actor of the same widths, 20 DDPM steps."""
    return BC(ChunkConfig(horizon), DiffusionConfig(SMALL), OPTIM)


def four_arms(env: str, data: Data, settings: Settings) -> list[Run]:
    """Cloning, Q-chunking, and Q-chunking's configurations without chunks: one step, and five-step returns."""
    return [
        Run("bc", env, data, small_bc(steps=5), settings, "bc"),
        Run("qc", env, data, small_qc(steps=5), settings, "qc"),
        Run("qc", env, data, small_qc(horizon=1, steps=5), settings, "h = 1"),
        Run("qc", env, data, small_qc(horizon=1, backup=(5,), steps=5), settings, "n-step (5)"),
    ]


def collected(data: Data, root: Path) -> Path:
    """The file of a data set, collected if it is not there."""
    name = f"{data.env}-{data.policy or 'default'}-{data.steps}"
    out = root / "data" / f"{name.replace('/', '-').replace(' ', '-')}.npz"
    if not out.exists():
        run = root / "runs" / data.policy
        policy = str(run) if data.policy and run.is_dir() else data.policy
        flags = CollectFlags(out, policy, data.steps, episode_length=data.episode_length)
        collect_to(data.env, flags)
    return out


def folder_of(run: Run, root: Path) -> Path:
    """Where a run of a suite lies."""
    return root / "runs" / run.env / run.label


def run_suite(name: str, suite: Sequence[Run], root: Path) -> list[dict[str, str]]:
    """Runs what is missing, writes the report to root/report and the table's rows to the terminal."""
    folders = []
    for i, run in enumerate(suite, 1):
        out = folder_of(run, root)
        folders.append(out)
        print(f"[{name} {i}/{len(suite)}] {run.label} on {run.env}", file=sys.stderr, flush=True)
        if (out / runs.SUMMARY).exists():
            continue
        if out.exists():
            resume_run(ResumeFlags(out, quiet=not sys.stderr.isatty()))
        else:
            prior = root / "runs" / run.prior if run.prior else None
            quiet = not sys.stderr.isatty()
            data = collected(run.data, root) if run.data else None
            where = TrainFlags(run.env, data, out, run.objective, run.label, prior, quiet=quiet)
            new_run(run.algorithm, where, run.config, run.settings, run.online)
    rows = report.write_report(folders, root / "report")
    print(report.markdown(rows))
    print(f"runs: {root / 'runs'}\nreport: {root / 'report' / 'report.html'}")
    return rows


def main(name: str, suite: Sequence[Run], after: Callable[[Path], None] = lambda root: None) -> None:
    """``python experiments/NAME.py [FOLDER]``; the folder is runs/NAME by default. ``after`` looks at the runs in it."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / name
    try:
        run_suite(name, suite, root)
        after(root)
    except UserError as e:
        sys.exit(f"error: {e}")
