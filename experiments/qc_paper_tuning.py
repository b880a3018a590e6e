"""The tuning runs behind ``qchunk reproduce qc-paper`` at small scale: five of each method on a task, a data set and a seed that its
table does not have.

What a method is most sensitive to is tried at five values. The best goes into ``qc_paper.ROWS`` by hand, and holds for every task of
the table: by the mean return of the two evaluations that end the offline and the online part (of the last, where there is no offline
part), since success saturates. Ties go to the paper's value.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qc_paper import ROWS, Row, small, small_run

from qchunk.comparison.suite import Data, Run, Suite

TASK, SEED = "cube-single-task2", 100  # SEED: of the data set, of learning and of the start states
GRID: dict[str, list[dict[str, Any]]] = {
    **{label: [{"n": x} for x in (2, 4, 8, 16, 32)] for label in ("qc", "bfn", "bfn-n")},
    **{label: [{"alpha": x} for x in (3.0, 10.0, 30.0, 100.0, 300.0)] for label in ("qc-fql", "fql", "fql-n")},
    **{label: [{"expectile": x} for x in (0.7, 0.8, 0.9, 0.95, 0.99)] for label in ("qc-ifql", "ifql", "ifql-n")},
    "iql": [{"alpha": x} for x in (0.1, 0.3, 1.0, 3.0, 10.0)],
    "rebrac": [{"alpha": x} for x in (0.001, 0.01, 0.03, 0.1, 1.0)],
    **{label: [{"bc_alpha": x} for x in (0.0, 0.0003, 0.001, 0.003, 0.01)] for label in ("rlpd", "rlpd-ac")},
}


def trial(label: str, row: Row, change: dict[str, Any]) -> Run:
    """A method with a setting changed."""
    run = small_run(label, row, TASK, 1)
    assert isinstance(run.data, Data)
    return run._replace(
        label=f"{label}, {' '.join(f'{k} {v:g}' for k, v in change.items())}",
        config=small(row, **change),
        settings=dataclasses.replace(run.settings, seed=SEED),
        data=run.data._replace(seed=SEED),
    )


def suite(scale: str) -> list[Run]:
    """Every method five times."""
    return [trial(label, ROWS[label], change) for label, changes in GRID.items() for change in changes]


SUITE = Suite(suite)
