"""The main job: collect play data, train BC and Q-chunking on tabletop/cube-single-task1 with 2 seeds, table and curves.

Under 10 minutes on 2 cores. ``python experiments/demo.py [FOLDER]``; the folder is runs/demo by default.
"""

from _suite import main, small_bc, small_qc

from qchunk.commands.suite import Data, Run
from qchunk.train import Settings

ENV, DATA = "tabletop/cube-single-task1", Data("tabletop/cube-single", 200_000)


def suite() -> list[Run]:
    """Two runs of 2 seeds."""
    settings = Settings(seeds=2, offline_steps=6_000, eval_every=500, episodes=50)
    return [
        Run("bc", ENV, DATA, small_bc(), settings, "bc"),
        Run("qc", ENV, DATA, small_qc(), settings, "qc"),
    ]


if __name__ == "__main__":
    main("demo", suite())
