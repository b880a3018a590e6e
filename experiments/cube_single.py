"""Q-chunking against behaviour cloning on the five tasks of tabletop/cube-single, 4 seeds, 200k play transitions."""

from _suite import small_bc, small_qc

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

DATA = Data("tabletop/cube-single", 200_000)
UPDATES = 6_000


def suite(scale: str) -> list[Run]:
    """Ten runs of 4 seeds."""
    settings = OnlineSettings(seeds=4, offline_steps=UPDATES, eval_every=1000, episodes=100)
    made = []
    for task in range(1, 6):
        env = f"tabletop/cube-single-task{task}"
        made.append(Run("bc", env, DATA, small_bc(), settings, "bc"))
        made.append(Run("qc", env, DATA, small_qc(), settings, "qc"))
    return made


SUITE = Suite(suite)
