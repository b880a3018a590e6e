"""Q-chunking, its one-step and n-step configurations, and behaviour cloning on tabletop/cube-double-task1, 4 seeds,
equal updates, 1M play transitions, 5 flow steps."""

from _suite import four_arms

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

ENV = "tabletop/cube-double-task1"
DATA = Data("tabletop/cube-double", 1_000_000)
UPDATES = 8_000


def suite(scale: str) -> list[Run]:
    """Four runs of 4 seeds; the two without chunks choose among as many candidates as qc does."""
    settings = OnlineSettings(seeds=4, offline_steps=UPDATES, eval_every=1000, episodes=100)
    return four_arms(ENV, DATA, settings)


SUITE = Suite(suite)
