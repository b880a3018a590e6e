"""The value of a noisy chunk, V(s, x, level): what guidance follows while a chunk is denoised (2205.09991, section 3)."""

from __future__ import annotations

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.critics.ensemble import ensemble
from qchunk.types import Critic


def noisy_value(c: CriticConfig, name: str = "value") -> Critic:
    """V(s, x, level) of noisy chunks: an ensemble with target networks.

    It sees the noise level as (alpha, sigma), which means the same on every grid of levels.
    """
    return ensemble(
        c,
        name,
        lambda spec: (spec.obs, spec.horizon * spec.action, 2),
        lambda obs, action, level: (obs, nets.flatten_chunk(action), level),
    )
