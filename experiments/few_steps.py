"""Does one denoising step keep what ten have? Q-chunking with a flow of 1 to 20 steps, and with the actors that are made for one or two.

Tabletop cube-single, tasks 1 and 4, 4 seeds, the same networks, data and updates for all; products alone take three hours of one core. ``report/few_steps.md``
and ``.png`` set success and return against what a decision costs: milliseconds for one candidate and for 32 (median and 99th percentile). Run the last
part on a quiet machine: the same command measures again.

``qchunk reproduce few-steps [--only cube-single-task1 ...]``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU, decision, opened, publish, with_interval

from qchunk.actor_configs import (
    ConsistencyConfig,
    DistilledConfig,
    FlowConfig,
    MeanFlowConfig,
    ReflowConfig,
    ShortcutConfig,
)
from qchunk.algorithms.qc import QC
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import records
from qchunk.reporting.stats import paired_difference

TASKS = ("cube-single-task1", "cube-single-task4")
TEACHER = FlowConfig(SMALL)
ACTORS: dict[str, Any] = {
    **{f"flow, {k}": FlowConfig(SMALL, steps=k) for k in (10, 20, 5, 2, 1)},
    "consistency, 2": ConsistencyConfig(SMALL),
    "consistency, 1": ConsistencyConfig(SMALL, steps=1),
    "shortcut, 1": ShortcutConfig(SMALL),
    "MeanFlow, 1": MeanFlowConfig(SMALL),
    "MVP, 1": MeanFlowConfig(SMALL, same=0.0, power=0.0, instant=True),
    "distilled, 1": DistilledConfig(SMALL, teacher=TEACHER),
    "reflow, 1": ReflowConfig(SMALL, teacher=TEACHER),
}
EPISODES = 100  # of an evaluation
BASELINE = next(iter(ACTORS))


def suite(scale: str) -> list[Run]:
    """Every actor in the place of ``qc``'s, on both tasks."""
    settings = OnlineSettings(seeds=4, offline_steps=6_000, eval_every=3_000, episodes=EPISODES)
    data = Data("tabletop/cube-single", 200_000)
    return [
        Run(
            "qc",
            f"tabletop/{task}",
            data,
            QC(ChunkConfig(5), c, CriticConfig(SMALL, tau=TAU), OPTIM, n=8),
            settings,
            name,
        )
        for task in TASKS
        for name, c in ACTORS.items()
    ]


def of(folder: Path, n: int) -> dict[str, float]:
    """What a decision of a run costs with ``n`` candidates."""
    p, learner = opened(folder)
    return decision(p._replace(inputs=p.inputs._replace(c=dataclasses.replace(p.config, n=n))), learner)


def beside(figure: str, label: str, of_all: dict[str, np.ndarray], episodes: int = 0) -> dict[str, str]:
    """A figure's mean, and its paired difference to the baseline."""
    shown = BASELINE in of_all and label != BASELINE
    apart = paired_difference(of_all[label], of_all[BASELINE], episodes=episodes) if shown else None
    difference = " ".join(records.show(apart, "points" if episodes else figure)) if apart else ""
    return {
        figure: with_interval(of_all[label], figure, episodes=episodes),
        f"{figure}, less {BASELINE}": difference,
    }


def look(root: Path, todo: list[Run]) -> None:
    """The table, and success against time."""
    rows, envs = [], list(dict.fromkeys(r.env for r in todo))
    figure, axes = plt.subplots(
        1, len(envs), figsize=(5.2 * len(envs), 4.2), squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axis, env in zip(axes.flat, envs, strict=True):
        mine = {r.label: folder_of(r, root) for r in todo if r.env == env}
        loaded = {label: records.load([folder])[0] for label, folder in mine.items()}
        success = {label: r.final() for label, r in loaded.items()}
        returns = {label: r.by_return().final() for label, r in loaded.items()}
        for label, folder in mine.items():
            one, many = of(folder, 1), of(folder, 32)
            row = {"environment": env, "actor, steps": label}
            row |= beside("success", label, success, EPISODES) | beside("return", label, returns)
            for n, found in ((1, one), (32, many)):
                row[f"ms, {n} (p50)"], row[f"ms, {n} (p99)"] = f"{found['p50']:.2f}", f"{found['p99']:.2f}"
            rows.append(row)
            mean = 100 * float(success[label].mean())
            axis.plot([many["p50"]] * len(success[label]), 100 * success[label], ".", color="0.7")
            axis.plot(
                many["p50"],
                mean,
                "o" if label.startswith("flow") else "D",
                color="C0" if label.startswith("flow") else "C1",
            )
            axis.annotate(label, (many["p50"], mean), textcoords="offset points", xytext=(5, -3), fontsize=8)
        axis.set(title=env, xscale="log", xlabel="ms per decision, best of 32", ylim=(-4, 104))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("success, % (small: each seed)")
    publish(root, "few_steps", rows, figure)


SUITE = Suite(suite, after=look)
