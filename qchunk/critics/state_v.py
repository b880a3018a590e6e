"""V(s), the value of a state."""

from __future__ import annotations

import dataclasses

from qchunk.config import CriticConfig, ValueConfig
from qchunk.critics.ensemble import ensemble
from qchunk.types import Critic


def state_v(c: ValueConfig | CriticConfig, name: str = "state_value") -> Critic:
    """V(s): one network of these widths, without a target network. ``values(vars, obs)``: the chunk is neither needed nor read."""
    one = (
        dataclasses.replace(c, members=1)
        if isinstance(c, CriticConfig)
        else CriticConfig(c.hidden, c.layer_norm, members=1)
    )
    return ensemble(one, name, lambda spec: (spec.obs,), lambda obs, action, level: (obs,), target=False)
