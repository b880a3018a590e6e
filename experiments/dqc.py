"""Decoupled Q-chunking (2512.10926): its critic of long chunks beside the reductions that lack it, for goals, offline.

At paper scale: five of its six sets of tasks (ours has no mazes yet), 4 x 1024, batches of 4,096, 1M updates, 10 seeds: a GPU and days.
At small scale tabletop/cube-double-goal, for hours of 2 cores. ``--only cube-triple`` or ``--only os`` takes a part.

OGBench needs ``pip install -c constraints.txt -e '.[ogbench]'``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from _suite import OPTIM, SMALL, SMOKE, published

from qchunk.algorithms.dqc import DQC
from qchunk.comparison.arms import Sizes, resized
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings
from qchunk.losses.reaching import UnevenConfig

SCENES = ("cube-triple", "cube-quadruple", "cube-octuple", "puzzle-4x5", "puzzle-4x6")


class Row(NamedTuple):
    """A configuration of the paper's table."""

    paper: str  # its name there
    horizon: int  # h
    act_horizon: int  # h_a
    backup: tuple[float, ...]  # kappa_b of the paper, in the order of SCENES
    distil: tuple[float, ...] = ()  # kappa_d; without, the critic of what is played learns from the data itself
    execute: str = "open-loop"


ROWS = {  # by our labels: horizon, then what is played
    "dqc 25 5": Row("DQC h=25 h_a=5", 25, 5, (0.93, 0.93, 0.93, 0.9, 0.7), (0.8, 0.8, 0.5, 0.5, 0.5)),
    "dqc 25 1": Row("DQC h=25 h_a=1", 25, 1, (0.93, 0.93, 0.93, 0.9, 0.7), (0.8, 0.8, 0.5, 0.5, 0.5)),
    "dqc 5 1": Row("DQC h=5 h_a=1", 5, 1, (0.5, 0.5, 0.93, 0.5, 0.5), (0.8, 0.8, 0.5, 0.5, 0.5)),
    "qc 25": Row("QC h=25", 25, 25, (0.93, 0.93, 0.93, 0.9, 0.7)),
    "naive 25 5": Row("DQC-naïve h=25 h_a=5", 25, 25, (0.93, 0.93, 0.93, 0.9, 0.7), execute="receding:5"),
    "naive 25 1": Row("DQC-naïve h=25 h_a=1", 25, 25, (0.93, 0.93, 0.93, 0.9, 0.7), execute="receding:1"),
    "qc 5": Row("QC h=5", 5, 5, (0.93, 0.93, 0.93, 0.9, 0.7)),
    "naive 5 1": Row("DQC-naïve h=5 h_a=1", 5, 5, (0.93, 0.93, 0.93, 0.9, 0.7), execute="receding:1"),
    "qc-ns 25 5": Row("QC-NS n=25 h_a=5", 25, 5, (0.93, 0.93, 0.93, 0.7, 0.5)),
    "ns 25": Row("NS n=25", 25, 1, (0.5, 0.5, 0.97, 0.7, 0.7)),
    "ns 5": Row("NS n=5", 5, 1, (0.5, 0.7, 0.5, 0.5, 0.5)),
    "os": Row("OS", 1, 1, (0.5, 0.7, 0.7, 0.7, 0.7)),
}
SMALL_ROWS = ("dqc 25 5", "dqc 25 1", "naive 25 5", "qc 25", "qc 5", "qc-ns 25 5", "ns 25", "os")
SMALL_UPDATES, SMALL_BATCH, SMALL_DATA = 40_000, 512, 1_000_000


def configured(row: Row, scene: str) -> DQC:
    """A configuration with what the paper tuned for a scene."""
    at = SCENES.index(scene)
    chunk = dataclasses.replace(DQC().chunk, horizon=row.horizon)
    c = DQC(chunk, row.act_horizon, backup=UnevenConfig("quantile", row.backup[at]), decoupled=bool(row.distil))
    if row.distil:
        c = dataclasses.replace(c, distil=UnevenConfig("expectile", row.distil[at]))
    aggregate = "mean" if scene.startswith("puzzle") else "min"
    return dataclasses.replace(c, critic=dataclasses.replace(c.critic, aggregate=aggregate))


def small(label: str) -> DQC:
    """The same with what the paper tuned for its smallest cubes, at 3 x 128 and what else fits 2 cores."""
    c = resized(configured(ROWS[label], "cube-triple"), Sizes(SMALL, ROWS[label].horizon, n=8, steps=5))
    return dataclasses.replace(c, optim=OPTIM)


def run(label: str, env: str, data: Data, c: DQC, settings: OnlineSettings) -> Run:
    """One configuration in one environment."""
    return Run("dqc", env, data, c, dataclasses.replace(settings, execute=ROWS[label].execute), label)


def suite(scale: str) -> list[Run]:
    """Five scenes as the paper trains them, but for their data; or one as 2 cores can."""
    if scale == "small":
        settings = OnlineSettings(
            seeds=4, offline_steps=SMALL_UPDATES, eval_every=SMALL_UPDATES // 5, batch=SMALL_BATCH
        )
        data = Data("tabletop/cube-double", SMALL_DATA)
        return [run(label, "tabletop/cube-double-goal", data, small(label), settings) for label in SMALL_ROWS]
    settings = OnlineSettings(seeds=10, offline_steps=1_000_000, eval_every=250_000, batch=4096, episodes=250)
    return [
        run(label, f"ogbench/{scene}-play-oraclerep-v0", Data(f"ogbench/{scene}-play-v0", 10_000_000), c, settings)
        for scene in SCENES
        for label, row in ROWS.items()
        for c in (configured(row, scene),)
    ]


def differences(scale: str) -> Sequence[str]:
    """Of our runs from the paper's."""
    small = [
        "tabletop's cube-double (ours) in place of OGBench's scenes, whose figures stand beside none of these rows",
        f"{SMALL_DATA:,} transitions, {SMALL_UPDATES:,} updates with batches of {SMALL_BATCH} in place of 1M with batches of 4,096",
        "3 x 128, 5 flow steps, N = 8, learning rate 1e-3, target rate 0.01 in place of 4 x 1024, 10, 32, 3e-4, 0.005",
        "kappa_b and kappa_d are the paper's for cube-triple; nothing was tuned here",
        "50 episodes for the five goals together in place of 50 each",
    ]
    paper = [
        "10M transitions played here by OGBench's own oracles; the paper has 100M of cube-triple and cube-quadruple, 1B of cube-octuple and puzzle-4x6",
        "ogbench 1.2 judges success before the action, 1.1.2 after it: episodes are one step longer",
        "humanoidmaze-giant is not in it: there is no data of mazes here",
    ]
    return [
        *{"smoke": [SMOKE], "small": small, "paper": paper}[scale],
        "HIQL, IQL, SHARSA, FBC and HFBC of the paper's table are not in it",
        "probabilities are aggregated when acting, too; the published code aggregates their logits there",
        "windows of weight 0 are left out of the means; the published code counts them",
    ]


SUITE = Suite(
    suite,
    ("small", "paper"),
    published(
        "dqc",
        "Decoupled Q-chunking, 2512.10926, figures released with its code; 10 seeds, 95 % bootstrap",
        ROWS,
        lambda env: env.removeprefix("ogbench/"),
    ),
    differences,
)
