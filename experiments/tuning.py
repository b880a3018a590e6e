"""The tuning runs behind ``qchunk compare``: three of each method on tabletop/cube-single-task2, protocol B with half of the default
updates, with a data set, a seed and start states that no comparison has by default.

``qchunk reproduce tuning``; the better setting goes into ``qchunk.comparison.arms.TUNED`` by hand, and holds for every other
task. Ties go to the setting that was there before.
"""

from __future__ import annotations

import dataclasses

from qchunk.comparison.arms import Sizes
from qchunk.comparison.lineup import CompareFlags, plan
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import OptimConfig

ENV, SEED = "tabletop/cube-single-task2", 100
RATES = [{"optim": OptimConfig(lr)} for lr in (3e-4, 1e-3, 3e-3)]
CLIPS = [{"clip": x, "clip_base": x} for x in (0.003, 0.01, 0.03)]
GRID = {
    "bc": RATES,
    "qc": RATES,
    "qc-frozen": RATES,
    "value-guided": [
        *({"guidance": "log-expectation", "weight": x} for x in (0.3, 1.0)),
        {"guidance": "mean", "weight": 1.0},
    ],
    "v-gps": [{"expectile": x} for x in (0.7, 0.8, 0.9)],
    "dppo": CLIPS,
    "dppo@diffusion": CLIPS,
    "ppo": [{"clip": x["clip"]} for x in CLIPS],
}


def name(change: dict) -> str:
    """A setting, such as "lr 0.001" or "mean, weight 1"."""

    def one(field: str, value) -> str:
        if isinstance(value, OptimConfig):
            return f"lr {value.lr:g}"
        return value if isinstance(value, str) else f"{field} {value:g}"

    fields = [f for f in change if f != "clip_base"]
    return ", ".join(one(f, change[f]) for f in fields)


def suite(scale: str) -> list[Run]:
    """The priors, and every arm three times."""
    f = CompareFlags((ENV,), seed=SEED, seeds=1, offline_steps=2_000, online_updates=2_000, evaluations=2)
    runs = [r._replace(data=r.data._replace(seed=SEED)) if isinstance(r.data, Data) else r for r in plan(f, Sizes())[0]]
    return [r for r in runs if r.label not in GRID] + [
        r._replace(config=dataclasses.replace(r.config, **change), label=f"{r.label}, {name(change)}")
        for r in runs
        for change in GRID.get(r.label, [])
    ]


SUITE = Suite(suite)
