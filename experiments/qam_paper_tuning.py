"""The tuning runs behind ``qchunk reproduce qam-paper`` at small scale: five of each method, as ``qc-paper-tuning`` makes them.

The best goes into ``qam_paper.ROWS`` by hand, as the field ``small`` of its row. Methods that read a cloned flow read that of one prior here, too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qam_paper import ROWS, on_prior, small_runs
from qc_paper_tuning import SEED, TASK, trial

from qchunk.comparison.suite import Run, Suite

WEIGHTS = [{"weight": x} for x in (0.3, 1.0, 3.0, 10.0, 30.0)]
SCALES = [{"scale": x} for x in (0.1, 0.2, 0.4, 0.8, 1.4)]
SHARES = [{"share": x} for x in (0.003, 0.01, 0.03, 0.1, 0.3)]
GRID: dict[str, list[dict[str, Any]]] = {
    "fql": [{"alpha": x} for x in (3.0, 10.0, 30.0, 100.0, 300.0)],
    "fbrac": [{"alpha": x} for x in (0.03, 0.1, 0.3, 1.0, 10.0)],
    "ifql": [{"expectile": x} for x in (0.7, 0.8, 0.9, 0.95, 0.99)],
    "fawac": [{"alpha": x} for x in (0.1, 0.8, 2.0, 6.4, 20.0)],
    **{label: SHARES for label in ("cgql", "cgql-m", "cgql-l")},
    "dac": [{"alpha": x} for x in (0.03, 0.1, 0.3, 1.0, 3.0)],
    "qsm": [{"weight": x} for x in (0.1, 0.3, 1.0, 3.0, 10.0)],
    "fedit": SCALES,
    "dsrl": [{"scale": x} for x in (0.4, 0.7, 1.0, 1.4, 2.0)],
    **{label: WEIGHTS for label in ("qam", "qam-f", "bam")},
    "qam-e": SCALES,
    "rebrac": [{"alpha": x} for x in (0.001, 0.01, 0.03, 0.1, 1.0)],
    "rlpd": [{"bc_alpha": x} for x in (0.0, 0.0003, 0.001, 0.003, 0.01)],
}


def suite(scale: str) -> list[Run]:
    """The prior, and every method five times."""
    runs = [on_prior(trial(label, ROWS[label], change)) for label, changes in GRID.items() for change in changes]
    prior = small_runs(TASK)[0]
    settings = dataclasses.replace(prior.settings, seeds=1, seed=SEED)
    return [prior._replace(data=runs[0].data, settings=settings), *runs]


SUITE = Suite(suite)
