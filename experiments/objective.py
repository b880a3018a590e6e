"""What calm costs: success against energy and against jerk when their weight in the reward is swept, for DPPO and QC.

``qchunk reproduce objective``: tabletop/cube-single-task1, 4 seeds; QC offline from relabelled play data, DPPO
from the flow prior of the same data. ``report/objective.png`` and ``objective.md``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _suite import small_qc
from dppo import DATA, SINGLE, arms, priors

from qchunk.comparison.suite import Run, Suite, folder_of
from qchunk.drivers.online import OnlineSettings
from qchunk.runs import run_folder

# Energy is about 0.2 a step where it costs nothing, beside 1 for the task.
WEIGHTS = (0.0, 0.3, 3.0, 30.0)


def weighed(name: str, weight: float) -> tuple[str, ...]:
    """The task, and both terms so that both are measured, of which one counts."""
    return ("task=1", *(f"{n}={weight if n == name else 0}" for n in ("energy", "jerk")))


def suite(scale: str) -> list[Run]:
    """The priors, then every method under every weight of each term; weight 0 once."""
    settings = OnlineSettings(seeds=4, offline_steps=3_000, eval_every=1_500, episodes=100)
    dppo = next(run for run in arms(SINGLE, 4_000_000, 4) if run.algorithm == "dppo")
    qc = Run("qc", SINGLE, DATA[SINGLE], small_qc(steps=5), settings, "qc")
    found = [run for run in priors(SINGLE, 4) if "flow" in run.label]
    for run in (qc, dppo):
        for name in ("energy", "jerk"):
            for weight in WEIGHTS:
                if weight == 0 and name == "jerk":
                    continue
                label = f"{run.label}, {name} {weight:g}"
                found.append(run._replace(label=label, objective=weighed(name, weight)))
    return found


def look(root: Path, todo: list[Run]) -> None:
    """Both pictures in one, and the table."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    lines = ["| run | success % | energy per step | jerk per step |", "| --- | --- | --- | --- |"]
    for algorithm, colour in (("qc", "C0"), ("dppo", "C1")):
        for axis, name in zip(axes, ("energy", "jerk"), strict=True):
            points = []
            for run in todo:
                if run.algorithm != algorithm or not (run.label.endswith(" 0") or f", {name} " in run.label):
                    continue
                last = [x for x in run_folder.read_metrics(folder_of(run, root)) if x["kind"] == "eval"][-1]["values"]
                v = {n: np.asarray(x, float) for n, x in last.items()}
                cost = {n: -v[n] / v["length"] for n in ("energy", "jerk")}
                points.append((cost[name].mean(), 100 * v["success"].mean(), run.label.rsplit(" ", 1)[1]))
                if f", {name} " in run.label:
                    row = [f"{100 * v['success'].mean():.1f}", *(f"{cost[n].mean():.3f}" for n in ("energy", "jerk"))]
                    lines.append(f"| {run.label} | " + " | ".join(row) + " |")
                axis.plot(cost[name], 100 * v["success"], ".", color=colour, alpha=0.4)
            points.sort(key=lambda p: float(p[2]))
            axis.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, label=algorithm)
            for x, y, weight in points:
                axis.annotate(weight, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
            axis.set(xlabel=f"{name} per step", ylabel="success, %", ylim=(-3, 105))
            axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(root / "report" / "objective.png", dpi=110)
    (root / "report" / "objective.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


SUITE = Suite(suite, after=look)
