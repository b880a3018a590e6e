"""Behaviour cloning with any actor: imitate chunks, improve nothing."""

from __future__ import annotations

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import BACKS_NOTHING_UP, ActorConfig, ChunkConfig, OptimConfig, config
from qchunk.data.buffer import backing_up
from qchunk.losses.cloning import bc as clone
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class BC:
    """Behaviour cloning."""

    unread = BACKS_NOTHING_UP

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    optim: OptimConfig = OptimConfig()


def bc(c: BC) -> Algorithm:
    """Behaviour cloning with the actor of ``c``: one term, one module. Skills see every step of a window."""
    pi = actor(c.actor)
    draw = backing_up(range(1, c.chunk.horizon + 1)) if pi.decoder else None
    return learner([pi], sample(acting(pi)), [clone(pi)], c.optim, draw=draw)
