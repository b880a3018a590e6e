"""Offline, then online with 256 parallel environments, on tabletop/cube-double tasks 1 and 2, 4 seeds.

Half of each online batch is new experience: uniform draws would hold one new transition in ten, for the offline data are a
million and the online ones at most a quarter of that.
"""

from typing import Any

from _suite import small_bc, small_qc

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

DATA = Data("tabletop/cube-double", 1_000_000)
ONLINE: dict[str, Any] = dict(
    online_steps=256_000, envs=256, start_training=6_400, update_ratio=0.0625, mix="share:0.5", online_eval_every=32_000
)


def suite(scale: str) -> list[Run]:
    """Four runs of 4 seeds: 8,000 updates offline, 15,600 more online; bc goes on imitating what it does itself."""
    settings = OnlineSettings(seeds=4, offline_steps=8_000, eval_every=2_000, episodes=100, **ONLINE)
    made = []
    for task in (1, 2):
        env = f"tabletop/cube-double-task{task}"
        made.append(Run("qc", env, DATA, small_qc(steps=5), settings, "qc"))
        made.append(Run("bc", env, DATA, small_bc(steps=5), settings, "bc"))
    return made


SUITE = Suite(suite)
