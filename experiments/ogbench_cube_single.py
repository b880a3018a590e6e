"""OGBench's own cube-single task 1 on regenerated play data: QC, h = 1, n-step, BC, QC-FQL, FQL and IFQL against updates, 3 seeds.

Needs ``pip install -c constraints.txt -e '.[ogbench]'``. The data are made by the package's own oracles under the versions
that are installed, so they are not the published file: only the methods' order compares with the papers. Alpha and expectile are what
tuning on tabletop chose (docs/results/qc_paper_tuning.md); the FQLs once more with the paper's alpha of its easiest cubes.
"""

from _suite import four_arms
from qc_paper import ROWS, small

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

ENV, DATA = "ogbench/cube-single-play-singletask-task1-v0", Data("ogbench/cube-single-play-v0", 200_000)
UPDATES = 30_000


def suite(scale: str) -> list[Run]:
    """Nine runs of 3 seeds; about three hours on 2 cores."""
    settings = OnlineSettings(seeds=3, offline_steps=UPDATES, eval_every=5_000, episodes=50)
    more: dict[str, tuple[str, dict[str, float]]] = {
        "qc-fql": ("qc-fql", {}),
        "fql": ("fql", {}),
        "ifql": ("qc-ifql", {"n": 8}),  # N as qc's here
        **{f"{name}, alpha 300": (name, ROWS[name].scenes["cube-double"]) for name in ("qc-fql", "fql")},
    }
    runs = [
        Run(ROWS[row].algorithm, ENV, DATA, small(ROWS[row], **change), settings, label)
        for label, (row, change) in more.items()
    ]
    return [*four_arms(ENV, DATA, settings), *runs]


SUITE = Suite(suite)
