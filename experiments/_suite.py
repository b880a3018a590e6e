"""What the suites share: sizes that fit 2 cores, looks at finished runs, and what their decisions cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.actors.paths import count_steps
from qchunk.algorithms.bc import BC
from qchunk.algorithms.faster import FASTER
from qchunk.algorithms.qc import QC
from qchunk.algorithms.qgf import QGF
from qchunk.algorithms.value_guided import ValueGuided
from qchunk.comparison.literature import Published
from qchunk.comparison.suite import Data, Run
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import cost, records
from qchunk.reporting.stats import bounds_of, interval
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened, learner_of, rebuild, vars_of
from qchunk.types import Learner

SMALL = (128, 128, 128)
# Chosen by single-seed runs of qc on cube-single-task2 (against 3e-4 and 0.005), then held for every method and task.
OPTIM, TAU = OptimConfig(lr=1e-3), 0.01
SMOKE = (
    "a smoke run: networks of 16, N = 2, 3 flow steps, batches of 64, 40 updates on at most 10,000 transitions, 2 seeds, 4 episodes; "
    "its figures say nothing beside the published ones, which are of 1M updates"
)


def small_qc(horizon: int = 5, backup: tuple[int, ...] = (), steps: int = 10) -> QC:
    """Q-chunking at 3 x 128 and N = 8, which fits 2 cores; ``steps`` of the flow."""
    return QC(ChunkConfig(horizon, backup), FlowConfig(SMALL, steps=steps), CriticConfig(SMALL, tau=TAU), OPTIM, n=8)


def small_bc(horizon: int = 5, steps: int = 10) -> BC:
    """The same actor, imitating only."""
    return BC(ChunkConfig(horizon), FlowConfig(SMALL, steps=steps), OPTIM)


def published(name: str, source: str, rows: Mapping[str, Any], task: Callable[[str], str]) -> Published:
    """The figures of published/NAME.csv; ``rows`` are the suite's by its labels, each with its name in the ``paper``."""
    return Published(
        Path(__file__).parent / "published" / f"{name}.csv", source, {k: row.paper for k, row in rows.items()}, task
    )


def four_arms(env: str, data: Data, settings: OnlineSettings) -> list[Run]:
    """Cloning, Q-chunking, and Q-chunking's configurations without chunks: one step, and five-step returns."""
    return [
        Run("bc", env, data, small_bc(steps=5), settings, "bc"),
        Run("qc", env, data, small_qc(steps=5), settings, "qc"),
        Run("qc", env, data, small_qc(horizon=1, steps=5), settings, "h = 1"),
        Run("qc", env, data, small_qc(horizon=1, backup=(5,), steps=5), settings, "n-step (5)"),
    ]


def opened(folder: Path) -> tuple[Opened, Learner]:
    """A finished run."""
    p = rebuild(run_folder.read_config(folder)["config"], folder)
    return p, learner_of(folder, p)[0]


def decision(p: Opened, learner: Learner) -> dict[str, float]:
    """What one decision for one observation costs: see ``cost.of_policy``."""
    return cost.of_policy(p.algorithm.act, vars_of(p, learner), p.program.env.observation_size)


def evaluations(c: Any) -> int:
    """Network evaluations of one decision; a gradient counts as two more than its value, an ensemble once a member."""
    steps, n = count_steps(actor(getattr(c, "given", None) or c.actor)), getattr(c, "n", 1)
    if isinstance(c, FASTER):
        return n * c.critic.members + steps
    if isinstance(c, ValueGuided):
        members = c.critic.members if c.guidance == "clean" else c.value.members
        return steps * (1 + 3 * members * (2 if c.guidance == "diffuser" else 1))
    ranked = c.critic.members if n > 1 else 0
    return n * (steps * (1 + 3 * c.critic.members if isinstance(c, QGF) else 1) + ranked)


def with_interval(values: Any, figure: str = "success", episodes: int = 0) -> str:
    """The mean of values [S] and its interval over seeds, of a share of so many episodes each."""
    found = interval(np.asarray(values), bounds=bounds_of(figure), episodes=episodes)
    return " ".join(records.show(found, figure))


def publish(root: Path, name: str, rows: list[dict[str, str]], figure: Figure) -> None:
    """``report/NAME.png``, and the table of this name."""
    figure.savefig(root / "report" / f"{name}.png", dpi=110)
    plt.close(figure)
    tell(root, name, rows)


def tell(root: Path, name: str, rows: list[dict[str, str]]) -> None:
    """``report/NAME.md``; the table is printed, too."""
    text = records.markdown(rows, list(rows[0]))
    (root / "report" / f"{name}.md").write_text(text)
    print(text)
