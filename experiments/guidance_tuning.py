"""The tuning runs behind ``guidance.WEIGHTS``: tabletop/cube-single-task2, the flow prior, one seed that the figures do not use.

``qchunk reproduce guidance-tuning``; the best weight of each target goes into ``guidance.py`` by hand. The last two
runs ask whether the exact target only wants more updates.
"""

from __future__ import annotations

import dataclasses

from _suite import OPTIM
from guidance import CHUNK, DATA, PRIORS, Q, V

from qchunk.algorithms.bc import BC
from qchunk.algorithms.v_gps import VGPS
from qchunk.algorithms.value_guided import ValueGuided
from qchunk.comparison.suite import Run, Suite
from qchunk.drivers.online import OnlineSettings

ENV, FLOW = "tabletop/cube-single-task2", PRIORS["flow"]
WEIGHTS = {
    "log-expectation": (0.3, 1.0, 3.0),
    "mean": (0.1, 0.3, 1.0),
    "clean": (0.03, 0.1, 0.3),
    "diffuser": (1.0, 3.0, 10.0),
}


def suite(scale: str) -> list[Run]:
    """The prior, every target with three weights, re-ranking with two expectiles, and the two long runs."""
    cloned = OnlineSettings(seed=9, seeds=1, offline_steps=10_000, eval_every=10_000, episodes=100)
    short = dataclasses.replace(cloned, offline_steps=3_000, eval_every=1_500)
    long = dataclasses.replace(cloned, eval_every=2_500)
    prior = Run("bc", ENV, DATA["cube-single"], BC(CHUNK, FLOW, OPTIM), cloned, "bc")

    def guided(target: str, weight: float, settings: OnlineSettings) -> Run:
        c = ValueGuided(FLOW, CHUNK, Q, V, OPTIM, target, weight)  # type: ignore[arg-type]
        label = f"{target}, weight {weight:g}, {settings.offline_steps} updates"
        return Run("value-guided", ENV, prior.data, c, settings, label, prior=prior.name)

    ranked = [
        Run("v-gps", ENV, prior.data, VGPS(FLOW, CHUNK, Q, OPTIM, n=10, expectile=x), short, f"v-gps, expectile {x:g}", prior=prior.name)
        for x in (0.7, 0.9)
    ]  # fmt: skip
    tried = [guided(target, w, short) for target, weights in WEIGHTS.items() for w in weights]
    return [prior, *tried, *ranked, *(guided("log-expectation", w, long) for w in (1.0, 3.0))]


SUITE = Suite(suite)
