"""One frozen flow prior and one frozen diffusion prior for each seed, and what value does with them: guidance, re-ranking, best of N.

Tabletop cube-single, tasks 1 to 5, and cube-double task 1; 4 seeds. ``report/guidance.md`` and ``.png`` set success
against what an action costs; ``report/steps.md`` and ``.png`` the number of denoising steps against success and latency.

``qchunk reproduce guidance [--only cube-single-task1 ...]``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU, decision, evaluations, opened, publish, with_interval
from matplotlib.figure import Figure

from qchunk.actor_configs import DiffusionConfig, FlowConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.qc_frozen import FrozenQC
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
PRIORS = {"flow": FlowConfig(SMALL, steps=5, ema=True), "diffusion": DiffusionConfig(SMALL, ddim=5, ema=True)}
# The best of `qchunk reproduce guidance-tuning` (one other seed, the flow, cube-single-task2), held for both priors and every task. Success
# in % after 3,000 updates: log-expectation 0.3, 1, 3: 19, 60, 0; mean 0.1, 0.3, 1: 8, 77, 99; clean 0.03, 0.1, 0.3: 64, 94, 82; diffuser 1, 3,
# 10: 8, 66, 54; v-gps with expectile 0.7 and 0.9: 1, 75.
WEIGHTS = {"log-expectation": 1.0, "mean": 1.0, "clean": 0.1, "diffuser": 3.0}
COLOURS = {"flow": "C0", "diffusion": "C1"}
CHUNK, Q, V = ChunkConfig(5), CriticConfig(SMALL, tau=TAU), CriticConfig(SMALL, members=1, tau=TAU)


def arms(env: str, data: Data, kind: str, prior: str) -> list[Run]:
    """What stands on one prior: itself, four guidances, re-ranking, best of N."""
    settings = OnlineSettings(seeds=4, offline_steps=3_000, eval_every=1_500, episodes=100)
    none = dataclasses.replace(settings, offline_steps=1)
    c = PRIORS[kind]
    made = [("v-gps", VGPS(c, CHUNK, Q, OPTIM, n=1), none, "prior")]  # one candidate is the prior, bit for bit
    for target, weight in WEIGHTS.items():
        guided = ValueGuided(c, CHUNK, Q, V, OPTIM, target, weight)  # type: ignore[arg-type]
        made.append(("value-guided", guided, settings, f"guided, {target}"))
    made.append(("v-gps", VGPS(c, CHUNK, Q, OPTIM, n=10, expectile=0.9), settings, "v-gps"))
    made.append(("qc-frozen", FrozenQC(c, CHUNK, Q, OPTIM, n=8), settings, "qc-frozen"))
    return [Run(name, env, data, c, s, f"{kind}: {label}", prior=prior) for name, c, s, label in made]


def suite(scale: str) -> list[Run]:
    """The priors of the scenes, cloned once per seed, and their arms on every task."""
    found: list[Run] = []
    for task in TASKS:
        scene, env = task.rsplit("-", 1)[0], f"tabletop/{task}"
        first = f"tabletop/{scene}-task1"  # cloning never sees a reward: any task names the scene
        for kind, c in PRIORS.items():
            settings = OnlineSettings(seeds=4, offline_steps=10_000, eval_every=10_000, episodes=100)
            prior = Run("bc", first, DATA[scene], BC(CHUNK, c, OPTIM), settings, f"bc ({kind})")
            found += [] if prior in found else [prior]
            found += arms(env, DATA[scene], kind, prior.name)
    return found


class Point(NamedTuple):
    """A method, or a number of its steps, on one task."""

    env: str
    method: str
    style: str  # mark and colour
    cost: int  # network evaluations, or denoising steps
    ms: float  # of a decision
    success: np.ndarray  # [S]
    episodes: int  # behind each


def compute(root: Path, todo: list[Run]) -> tuple[list[Point], list[dict[str, str]]]:
    """Success against what an action costs: the points, and the table's rows; first the means of each scene's tasks."""
    marks = dict(zip(("prior", *(f"guided, {t}" for t in WEIGHTS), "v-gps", "qc-frozen"), "o^v<>sD", strict=True))
    points = []
    for run in todo:
        kind, label = run.label.split(": ")
        p, learner = opened(folder_of(run, root))
        values = records.load([folder_of(run, root)])[0].final()
        style = f"{marks[label]}{COLOURS[kind]}"
        costs = evaluations(p.config), decision(p, learner)["p50"]
        points.append(Point(run.env, run.label, style, *costs, values, p.settings.episodes))
    return points, [row(p, found) for found in (over_tasks(points), points) for p in found]


def over_tasks(points: list[Point]) -> list[Point]:
    """Each method's mean over the tasks of a scene, where there are several: of every seed, and the median time."""
    found: dict[tuple, list[Point]] = {}
    for p in points:
        found.setdefault((p.env.rsplit("-", 1)[0], p.method), []).append(p)
    return [
        same[0]._replace(
            env=f"{scene}, mean of {len(same)} tasks",
            ms=float(np.median([p.ms for p in same])),
            success=np.mean([p.success for p in same], axis=0),
            episodes=sum(p.episodes for p in same),
        )
        for (scene, _), same in found.items()
        if len(same) > 1
    ]


def row(p: Point, found: list[Point]) -> dict[str, str]:
    """A method's row; its differences are to others on the same prior, seed by seed."""
    kind = p.method.split(": ")[0]
    same = {q.method.removeprefix(f"{kind}: "): q.success for q in found if q.env == p.env}
    said = {"environment": p.env, "method": p.method}
    said["success"] = with_interval(p.success, episodes=p.episodes)
    for other in ("prior", "qc-frozen"):
        shown = other in same and not p.method.endswith(other)  # --only may have left it out
        e = records.show(paired_difference(p.success, same[other]), "points") if shown else ()
        said[f"difference to {other}"] = " ".join(e)
    return said | {"network evaluations": str(p.cost), "ms": f"{p.ms:.2f}"}


def steps(root: Path, todo: list[Run]) -> tuple[list[Point], list[dict[str, str]]]:
    """qc-frozen, trained with the prior's own steps, acting with K = 1, 2, 4, 10, 20: likewise."""
    points, rows = [], []
    for run in (run for run in todo if run.algorithm == "qc-frozen"):
        p, learner = opened(folder_of(run, root))
        kind = run.label.split(":")[0]
        for k in (1, 2, 4, 10, 20):
            change = {"steps": k} if kind == "flow" else {"ddim": k}  # DDIM takes some of its levels
            c = dataclasses.replace(p.config, given=dataclasses.replace(p.config.given, **change))
            q = p._replace(inputs=p.inputs._replace(c=c))
            values = evaluate(q.program, q.inputs, q.settings, learner)["success"]
            ms, behind = decision(q, learner)["p50"], q.settings.episodes
            points.append(Point(run.env, kind, f"o-{COLOURS[kind]}", k, ms, values, behind))
            said = with_interval(values, episodes=behind)
            rows.append({"environment": run.env, "prior": kind, "K": str(k), "success": said, "ms": f"{ms:.2f}"})
    return points, rows


def draw(points: list[Point], count: str) -> Figure:
    """Success against the count and against time, a column for each task; small: every seed."""
    envs = list(dict.fromkeys(p.env for p in points))
    figure, axes = plt.subplots(
        2, len(envs), figsize=(2 + 2.4 * len(envs), 6), sharey=True, sharex="row", squeeze=False, layout="constrained"
    )
    for env, (above, below) in zip(envs, axes.T, strict=True):
        above.set_title(env.split("/")[1], fontsize=10)
        for method in dict.fromkeys(p.method for p in points):
            mine = [p for p in points if (p.env, p.method) == (env, method)]
            means = [100 * p.success.mean() for p in mine]
            for axis, x in ((above, [p.cost for p in mine]), (below, [p.ms for p in mine])):
                axis.plot(x, 100 * np.stack([p.success for p in mine]), ".", color=mine[0].style[-2:], alpha=0.35)
                axis.plot(x, means, mine[0].style[:-2], color=mine[0].style[-2:], label=method)
        above.set(xscale="log", ylim=(-4, 104))
        above.set_xticks(sorted({p.cost for p in points}))
        above.minorticks_off()
        above.xaxis.set_major_formatter("{x:g}")
        above.tick_params(axis="x", labelsize=7)
        for axis in (above, below):
            axis.grid(alpha=0.3)
    for panels, name in zip(axes, (count, "ms per decision"), strict=True):
        panels[0].set_ylabel("success, %")
        panels[len(envs) // 2].set_xlabel(name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=min(1 + len(envs), len(labels)), loc="outside lower center")
    return figure


def look(root: Path, todo: list[Run]) -> None:
    """Both tables and pictures, of every task that was asked for."""
    todo = [run for run in todo if run.algorithm != "bc"]
    for name, found, count in (
        ("guidance", compute(root, todo), "network evaluations per decision"),
        ("steps", steps(root, todo), "denoising steps"),
    ):
        points, rows = found
        if not points:
            continue  # --only left out what it is about
        publish(root, name, rows, draw(points, count))


SUITE = Suite(suite, after=look)
