"""V of a state."""

from __future__ import annotations

from qchunk.config import CriticConfig
from qchunk.critics.ensemble import ensemble
from qchunk.types import Critic


def state_v(c: CriticConfig, name: str = "state_value") -> Critic:
    """``values(vars, obs)``: the chunk is neither needed nor read."""
    return ensemble(c, name, lambda spec: (spec.obs,), lambda obs, action, level: (obs,))
