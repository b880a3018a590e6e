"""The tuning runs behind ``qchunk reproduce qc-paper`` at small scale: three of each method on tabletop/cube-double-task2, one seed.

What a method is most sensitive to is tried at three values; the best success goes into ``qc_paper.ROWS`` by hand, and holds for every
task of the table, none of which is this one. Ties go to the paper's value.
"""

from __future__ import annotations

from typing import Any

from qc_paper import ROWS, small, small_run

from qchunk.comparison.suite import Run, Suite

TASK = "cube-double-task2"
GRID: dict[str, list[dict[str, Any]]] = {
    **{label: [{"n": x} for x in (4, 8, 16)] for label in ("qc", "bfn", "bfn-n")},
    **{label: [{"alpha": x} for x in (30.0, 100.0, 300.0)] for label in ("qc-fql", "fql", "fql-n")},
    **{label: [{"expectile": x} for x in (0.7, 0.9, 0.95)] for label in ("qc-ifql", "ifql", "ifql-n")},
    "iql": [{"alpha": x} for x in (0.3, 1.0, 10.0)],
    "rebrac": [{"alpha": x} for x in (0.01, 0.1, 1.0)],
    **{label: [{"bc_alpha": x} for x in (0.0, 0.001, 0.01)] for label in ("rlpd", "rlpd-ac")},
}


def suite(scale: str) -> list[Run]:
    """Every method three times."""
    return [
        run._replace(label=f"{label}, {' '.join(f'{k} {v:g}' for k, v in change.items())}")
        for label, changes in GRID.items()
        for change in changes
        for run in (small_run(label, TASK, 1, small(ROWS[label], **change)),)
    ]


SUITE = Suite(suite)
