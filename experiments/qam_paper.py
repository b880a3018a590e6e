"""The table of Q-learning with adjoint matching (2601.14234): seventeen ways to put a critic behind a generative actor.

At paper scale: the 30 manipulation tasks of its 50, 1M transitions, 4 x 512, ten critics, the paper's settings of every method and scene, 1M updates
and 500k environment steps, 12 seeds: a GPU and weeks; ``--only cube-double`` or ``--only QAM`` takes a part. At small scale the three tabletop tasks
of ``qc-paper``, with its budget, where every method that reads a cloned flow reads that of ONE prior per task and seed. Settings at small scale are
the paper's on cube-double until ``qchunk reproduce qam-paper-tuning`` has said otherwise.

OGBench needs ``pip install -c constraints.txt -e '.[ogbench]'``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _suite import SMOKE, published
from qc_paper import BUDGETS, SMALL_TASKS, Row, configured, environment, sized, small_run, trained

from qchunk.actor_configs import DiffusionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig, Stands, stands_on
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import prices, records

SCENES = ("puzzle-3x3", "scene", "cube-double", "cube-triple", "cube-quadruple", "puzzle-4x4")
CHUNKS, CRITIC = ChunkConfig(5), CriticConfig(members=10, aggregate="pessimistic:0.5")
PRIOR = "prior"
NOISE_MODEL = DiffusionConfig((512,) * 4, residual=False, time_features=64, steps=10, schedule="vp")  # of DAC and QSM
STEPS = 10  # the paper's: with 5 qam and qam-e learned nothing (docs/results/qam_paper.md)


def tuned(**fields: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Values of fields in the order of SCENES."""
    return {scene: {name: values[i] for name, values in fields.items()} for i, scene in enumerate(SCENES)}


def row(
    paper: str, algorithm: str, scenes: dict[str, dict[str, Any]], small: dict[str, Any] | None = None, **fields: Any
) -> Row:
    """A method with chunks of 5 and the paper's critics; at small scale as on cube-double but for ``small``, with two critics."""
    changed = {"critic": CriticConfig(aggregate="pessimistic:0.5"), **(small or {})}
    return Row(
        paper, algorithm, CHUNKS, {"critic": CRITIC, **fields}, scenes, {**scenes.get("cube-double", {}), **changed}
    )


CGQL_SHARE = tuned(share=(0.1, 0.1, 0.01, 0.1, 0.1, 0.1))
ROWS = {  # by our labels; the paper's values from its code's settings, by domain
    "fql": row("FQL", "qc-fql", tuned(alpha=(300.0, 300.0, 300.0, 30.0, 100.0, 1.0))),
    "fbrac": row("FBRAC", "fbrac", tuned(alpha=(0.03, 100.0, 0.1, 0.03, 1.0, 0.3))),
    "ifql": row("IFQL", "ifql", tuned(expectile=(0.95, 0.9, 0.9, 0.95, 0.95, 0.9)), {"n": 16}, n=32),
    "fawac": row("FAWAC", "fawac", tuned(alpha=(0.8, 6.4, 0.8, 0.8, 0.8, 0.8))),
    "cgql": row("CGQL", "cgql", CGQL_SHARE, guidance="clean"),
    "cgql-m": row(
        "CGQL-M",
        "cgql",
        tuned(share=(0.1, 0.1, 0.01, 0.1, 0.01, 1.0), noisy=(0.1, 0.1, 0.001, 0.001, 0.1, 0.001)),
        guidance="mean",
    ),
    "cgql-l": row(
        "CGQL-L", "cgql", tuned(share=(0.1, 0.1, 0.01, 0.1, 0.01, 1.0), noisy=(0.001, 0.1, 0.001, 0.001, 0.1, 0.001))
    ),
    "dac": row("DAC", "dac", tuned(alpha=(1.0, 1.0, 3.0, 0.3, 1.0, 1.0)), actor=NOISE_MODEL),
    "qsm": row(
        "QSM",
        "qsm",
        tuned(weight=(10.0, 3.0, 1.0, 10.0, 1.0, 10.0), alpha=(30.0, 30.0, 10.0, 10.0, 10.0, 1.0)),
        by_level=False,
        actor=NOISE_MODEL,
    ),
    "fedit": row("FEdit", "fedit", tuned(scale=(0.2, 0.2, 0.2, 0.3, 0.4, 0.8))),
    "dsrl": row("DSRL", "dsrl", tuned(scale=(1.0, 0.4, 1.0, 1.4, 1.4, 1.0))),
    "qam": row("QAM", "qam", tuned(weight=(3.0, 1.0, 1.0, 3.0, 1.0, 30.0))),
    "qam-e": row(
        "QAM-E",
        "qam-e",
        tuned(weight=(1.0, 1.0, 1.0, 3.0, 3.0, 0.1), scale=(0.1, 0.0, 0.0, 0.1, 0.1, 0.9)),
        {"scale": 0.1},
    ),
    "qam-f": row(
        "QAM-F",
        "qam-f",
        tuned(weight=(3.0, 1.0, 1.0, 10.0, 0.3, 3.0), alpha=(0.0, 300.0, 0.0, 300.0, 30.0, 3.0)),
        {"alpha": 30.0},
    ),
    "bam": row("BAM", "bam", tuned(weight=(10.0, 10.0, 10.0, 30.0, 10.0, 30.0))),
    "rebrac": row(
        "ReBRAC", "rebrac", tuned(alpha=(0.1, 0.03, 0.01, 0.01, 0.01, 0.01), noise=(0.0, 0.0, 0.0, 0.2, 0.2, 0.2))
    ),
    "rlpd": row("RLPD", "rlpd", {}),
}


def on_prior(run: Run) -> Run:
    """The same run with ``STEPS``, whose method reads the cloned flow of the task's prior, as that is, if it can."""
    c, stands = sized(run.config, STEPS), stands_on(run.config)
    if stands is None or stands[1] is not Stands.CLONED:
        return run._replace(config=c)
    c = dataclasses.replace(c, **{stands[0]: cloning().actor})
    return run._replace(config=c, prior=f"{run.env}/{PRIOR}")


def cloning() -> BC:
    """What a task's prior is trained by."""
    return sized(BC(CHUNKS), STEPS)


def small_runs(task: str) -> list[Run]:
    """The prior of a tabletop task, and every method."""
    runs = [on_prior(small_run(label, r, task, 4)) for label, r in ROWS.items()]
    updates = BUDGETS[task.rpartition("-")[0]].offline
    cloned = OnlineSettings(seeds=4, offline_steps=updates, eval_every=updates)
    return [Run("bc", runs[0].env, runs[0].data, cloning(), cloned, PRIOR), *runs]


def paper_run(label: str, scene: str, task: int, data: Data) -> Run:
    """A method on a task as the paper trains it: QAM-E with a scale of 0, or QAM-F with an alpha of 0, is QAM."""
    r = ROWS[label]
    fields = r.scenes.get(scene, {})
    if {"qam-e": "scale", "qam-f": "alpha"}.get(label) in {n for n, value in fields.items() if value == 0}:
        r, fields = ROWS["qam"], {"weight": fields["weight"]}
    settings = trained(r, 12, 1_000_000, {"online_steps": 500_000}, 20)
    return Run(r.algorithm, environment(scene, task), data, configured(r, **fields), settings, label)


def suite(scale: str) -> list[Run]:
    """30 tasks as the paper trains them, or three tasks as 2 cores can; a task's methods stand together."""
    if scale != "paper":
        return [run for task in SMALL_TASKS for run in small_runs(task)]
    found = []
    for scene in SCENES:
        data = Data(f"ogbench/{scene}-play-v0", 3_000_000 if scene == "cube-triple" else 1_000_000)
        found += [paper_run(label, scene, task, data) for task in range(1, 6) for label in ROWS]
    return found


def differences(scale: str) -> Sequence[str]:
    """Of our runs from the paper's."""
    small = [
        "tabletop's tasks (ours) in place of OGBench's, whose figures stand beside none of these rows",
        "3 x 128 and two critics, learning rate 1e-3, target rate 0.01 in place of 4 x 512, ten critics, 3e-4, 0.005",
        "fql, ifql, cgql, fedit, dsrl and the qam family read the flow of one prior per task and seed, which has had the updates offline; the paper's clone their own beside",
        "settings are the paper's on cube-double (qam-e with scale 0.1, qam-f with alpha 30, ifql with N 16), not tuned on tabletop",
        *(
            f"{scene}: {b.data:,} transitions, {b.offline:,} updates offline and {b.online:,} during {b.steps:,} environment steps, in place of 1M and 500k"
            for scene, b in BUDGETS.items()
        ),
    ]
    paper = [
        "30 of the paper's 50 tasks: its mazes are not among our environments",
        "data are played here by OGBench's own oracles (ogbench 1.2, mujoco 4), not the published files; cube-quadruple and puzzle-4x4 on 1M transitions, the paper takes 100M",
        "the networks of dac and qsm have GELU and a fixed sinusoid of the level, joined to the observation and the noisy chunk, in place of mish and a learned one with layers of its own",
        "ogbench 1.2 judges success before the action: episodes are one step longer",
        "offline data stay beside the new experience; the paper fills one buffer of both",
    ]
    return [
        *{"smoke": [SMOKE], "small": small, "paper": paper}[scale],
        "ReBRAC's actor moves in every second update, as its paper has it (in every one there), and starts as any network here; a cut chunk's remaining actions are cloned (left out whole there)",
        "ReBRAC is evaluated without noise; the loss of CGQL-L has no jump at large gaps; losses are means over what counts",
        "intervals of ours are Student's t and of the pooled episodes over seeds, the published ones a bootstrap",
    ]


AXES: dict[str, Callable[[records.Record], float]] = {  # what a method is paid for with, as ``--look`` has measured it
    "multiplications of a decision": lambda r: prices.known(r)["multiplications"],
    "training, min": lambda r: r.evals[-1]["seconds"] / 60,
    "energy distance from the data": lambda r: float(np.asarray(prices.known(r)["energy_distance"], float).mean()),
}


def look(root: Path, todo: list[Run]) -> None:
    """The return, which success does not limit, against what it costs: a row of panels for each task."""
    found = records.load([folder_of(r, root) for r in todo if r.label in ROWS])
    measured = [r for r in found if "energy_distance" in prices.known(r)]
    envs = list(dict.fromkeys(r.env for r in measured))
    if not envs:
        return
    figure, axes = plt.subplots(
        len(envs), len(AXES), figsize=(15, 0.5 + 5 * len(envs)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, env in zip(axes, envs, strict=True):
        for ax, (name, cost) in zip(row, AXES.items(), strict=True):
            for r in measured:
                if r.env == env:
                    earned = np.asarray(r.evals[-1]["values"]["return"], float)
                    ax.plot([cost(r)] * len(earned), earned, ".", color="0.75")
                    ax.plot(cost(r), earned.mean(), "o", color="C0")
                    at = (cost(r), earned.mean())
                    ax.annotate(r.label, at, textcoords="offset points", xytext=(5, 3), fontsize=8)
            ax.margins(x=0.15)
            ax.set(xlabel=name, xscale="log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("{x:g}" if name.startswith("training") else "")
            ax.grid(alpha=0.3)
        row[0].set(title=env, ylabel="return (small: each seed)")
    figure.savefig(root / "report" / "qam_paper.png", dpi=110)
    plt.close(figure)


SUITE = Suite(
    suite,
    ("small", "paper"),
    published(
        "qam_final",
        "QAM, 2601.14234, figures released with its code; 12 seeds",
        ROWS,
        lambda env: env.removeprefix("ogbench/").removesuffix("@sparse"),
    ),
    differences,
    after=look,
)
