"""What a frozen flow is best asked for: more samples, or a gradient? Every method at the same number of network evaluations for a decision.

One flow for each seed and scene, cloned once; five methods stand on it, each trained once with the same updates, and then played at three
budgets, by more candidates or more denoising steps. Tabletop cube-single, tasks 1 to 5, and cube-double-task1, 4 seeds; some three hours of
one core. ``report/equal_evaluations.md`` and ``.png`` have success against the budget. A flow's velocity and a member of a critic count one
evaluation each, and a gradient two more.

``qchunk reproduce equal-evaluations [--only cube-single-task1 ...]``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU, evaluations, opened, publish, with_interval

from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.faster import FASTER
from qchunk.algorithms.qc_frozen import FrozenQC
from qchunk.algorithms.qgf import QGF
from qchunk.algorithms.v_gps import VGPS
from qchunk.algorithms.value_guided import ValueGuided
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.drivers.common import evaluate
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import records
from qchunk.reporting.stats import paired_difference

TASKS = [*(f"cube-single-task{t}" for t in range(1, 6)), "cube-double-task1"]
DATA = {"cube-single": Data("tabletop/cube-single", 200_000), "cube-double": Data("tabletop/cube-double", 1_000_000)}
K, MEMBERS = 10, 2
FLOW = FlowConfig(SMALL, steps=K, ema=True)
CHUNK, Q = ChunkConfig(5), CriticConfig(SMALL, members=MEMBERS, tau=TAU)
V = dataclasses.replace(Q, members=1)
BUDGETS = tuple(n * (K + MEMBERS) for n in (4, 8, 32))  # what best of N needs


def of_n(c: Any, n: int) -> Any:
    """The same with n candidates."""
    return dataclasses.replace(c, n=n)


def of_steps(c: Any, k: int) -> Any:
    """The same with a flow of k steps."""
    return dataclasses.replace(c, given=dataclasses.replace(c.given, steps=k))


class Way(NamedTuple):
    """A method on the flow, and what a budget of evaluations is spent on: the first of these of which there is room for one."""

    algorithm: str
    config: Any
    spent_on: tuple[Callable[[Any, int], Any], ...]


LOWEST = dataclasses.replace(Q, aggregate="min")
WAYS = {
    "best of N": Way("qc-frozen", FrozenQC(FLOW, CHUNK, Q, OPTIM, n=8), (of_n,)),
    "v-gps": Way("v-gps", VGPS(FLOW, CHUNK, Q, OPTIM, n=8, expectile=0.8), (of_n,)),
    "faster": Way("faster", FASTER(CHUNK, FLOW, LOWEST, OPTIM, n=32), (of_n,)),
    "qgf": Way("qgf", QGF(FLOW, CHUNK, LOWEST, OPTIM, weight=0.05, expectile=0.8), (of_n, of_steps)),
    "value guidance": Way("value-guided", ValueGuided(FLOW, CHUNK, Q, V, OPTIM, "mean", 1.0), (of_steps,)),
}


def spent(way: Way, c: Any, budget: int) -> Any:
    """The configuration that plays: the most candidates, or denoising steps, that so many evaluations allow."""
    made = [[at(c, k) for k in range(1, budget + 1)] for at in way.spent_on]
    fits = [[x for x in options if evaluations(x) <= budget] for options in made]
    return next(options[-1] for options in fits if options)


def suite(scale: str) -> list[Run]:
    """The flows of both scenes, and every way on every task."""
    found: list[Run] = []
    for task in TASKS:
        scene = task.rsplit("-", 1)[0]
        settings = OnlineSettings(seeds=4, offline_steps=10_000, eval_every=10_000, episodes=100)
        prior = Run("bc", f"tabletop/{scene}-task1", DATA[scene], BC(CHUNK, FLOW, OPTIM), settings, "bc")
        found += [] if prior in found else [prior]
        few = OnlineSettings(seeds=4, offline_steps=3_000, eval_every=1_500, episodes=100)
        for label, way in WAYS.items():
            found.append(Run(way.algorithm, f"tabletop/{task}", DATA[scene], way.config, few, label, prior=prior.name))
    return found


def played(folder: Path, way: Way, budget: int) -> tuple[int, np.ndarray]:
    """(evaluations a decision, success [S]) of a run, played within a budget."""
    p, learner = opened(folder)
    c = spent(way, p.config, budget)
    q = p._replace(inputs=p.inputs._replace(c=c))
    return evaluations(c), evaluate(q.program, q.inputs, q.settings, learner)["success"]


def look(root: Path, todo: list[Run]) -> None:
    """Success against the budget: a table with paired differences to best of N, and a panel for each task."""
    runs = [r for r in todo if r.label in WAYS]
    envs = list(dict.fromkeys(r.env for r in runs))
    if not envs:
        return
    rows = []
    figure, axes = plt.subplots(
        1, len(envs), figsize=(1 + 3.1 * len(envs), 3.6), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, env in zip(axes.flat, envs, strict=True):
        found = {
            (r.label, b): played(folder_of(r, root), WAYS[r.label], b) for r in runs if r.env == env for b in BUDGETS
        }
        for i, label in enumerate(dict.fromkeys(name for name, _ in found)):
            mine = [found[label, b] for b in BUDGETS]
            axis.plot([count for count, _ in mine], [100 * s.mean() for _, s in mine], "o-", color=f"C{i}", label=label)
            for b, (count, success) in zip(BUDGETS, mine, strict=True):
                axis.plot([count] * len(success), 100 * success, ".", color=f"C{i}", alpha=0.3)
                shown = label != "best of N" and ("best of N", b) in found
                apart = paired_difference(success, found["best of N", b][1], episodes=100) if shown else None
                rows.append(
                    {
                        "environment": env,
                        "method": label,
                        "budget": str(b),
                        "evaluations": str(count),
                        "success": with_interval(success, episodes=100),
                        "difference to best of N": " ".join(records.show(apart, "points")) if apart else "",
                    }
                )
        axis.set(title=env.split("/")[1], xscale="log", xlabel="network evaluations a decision", ylim=(-4, 104))
        axis.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("success, % (small: each seed)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        ncols=min(len(WAYS), 2 * len(envs)),
        fontsize=8,
        loc="outside lower center",
    )
    publish(root, "equal_evaluations", rows, figure)


SUITE = Suite(suite, after=look)
