"""Q of a whole chunk: an ensemble Q_i(s, a_{t:t+H}) (2507.07969, section 4). With H = 1 it is Q of one action."""

from __future__ import annotations

import flax.linen as nn

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.critics.ensemble import ensemble
from qchunk.types import Critic


def chunk_q(c: CriticConfig, name: str = "critic", target: bool = True, net: nn.Module | None = None) -> Critic:
    """Q(s, a) of clean chunks: an ensemble with target networks, or without ``target``. ``level`` is ignored.

    Args:
        net: of each member; by default a perceptron.
    """
    return ensemble(
        c,
        name,
        lambda spec: (spec.obs, spec.horizon * spec.action),
        lambda obs, action, level: (obs, nets.flatten_chunk(action)),
        target,
        net,
    )
