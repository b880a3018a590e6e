"""Q-chunking against behaviour cloning on brax/reacher@spring, from 200k transitions of uniformly random actions."""

from _suite import small_bc, small_qc

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

ENV = "brax/reacher@spring"
DATA = Data(ENV, 200_000, ("random",), episode_length=200)


def suite(scale: str) -> list[Run]:
    """Two runs of 4 seeds."""
    settings = OnlineSettings(seeds=4, offline_steps=2_000, eval_every=500, episodes=32)
    return [
        Run("bc", ENV, DATA, small_bc(steps=5), settings, "bc"),
        Run("qc", ENV, DATA, small_qc(steps=5), settings, "qc"),
    ]


SUITE = Suite(suite)
