"""Learning online from the first step: no offline part, random actions at first, then batches half from a data set if there is one."""

from __future__ import annotations

from qchunk.config import config
from qchunk.drivers.online import OFFLINE_TO_ONLINE, OnlineSettings
from qchunk.ranges import NonNegativeInt


@config
class FromScratchSettings(OnlineSettings):
    """``OnlineSettings`` with the defaults of learning from scratch (2302.02948; 2507.07969, section 5)."""

    offline_steps: NonNegativeInt = 0
    """Updates on the data set alone before the first environment step."""
    online_steps: NonNegativeInt = 1_000_000
    """Environment steps per seed."""
    random_start: bool = True
    """Random actions until training starts, in place of the policy's: uniform ones; over skills, those of random skills of the prior."""
    mix: str = "share:0.5"
    """Batches: share:0.5 for half of each batch online, the rest from the data set; or uniform over both. Without data all is online."""


FROM_SCRATCH = OFFLINE_TO_ONLINE._replace(name="from_scratch", settings=FromScratchSettings)
