"""Offline from 200k random transitions, then online, against behaviour cloning, on three Brax environments, 4 seeds.

Observations are standardised: velocities of these environments spread over tens of units.
"""

from typing import Any

from _suite import small_bc, small_qc

from qchunk.comparison.suite import Data, Run, Suite
from qchunk.drivers.online import OnlineSettings

LENGTH = 200  # steps of an episode of the data
ONLINE: dict[str, Any] = dict(
    online_steps=64_000, envs=64, start_training=3_200, update_ratio=0.0625, online_eval_every=16_000
)


def suite(scale: str) -> list[Run]:
    """Six runs of 4 seeds; behaviour cloning as much as there is offline."""
    settings = OnlineSettings(
        seeds=4, offline_steps=2_000, eval_every=1_000, episodes=16, normalise_obs="standard", **ONLINE
    )
    made = []
    for name in ("reacher", "pusher", "halfcheetah"):
        env = f"brax/{name}@spring"
        data = Data(env, 200_000, ("random",), episode_length=LENGTH)
        made.append(Run("bc", env, data, small_bc(steps=5), settings, "bc"))
        made.append(Run("qc", env, data, small_qc(steps=5), settings, "qc"))
    return made


SUITE = Suite(suite)
