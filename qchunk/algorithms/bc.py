"""Behaviour cloning with any actor: imitate chunks, improve nothing."""

from __future__ import annotations

from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, FlowConfig, OptimConfig, config
from qchunk.losses.cloning import bc as clone
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class BC:
    """Behaviour cloning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    optim: OptimConfig = OptimConfig()


def bc(c: BC) -> Algorithm:
    """Behaviour cloning with the actor of ``c``: one term, one module."""
    pi = actor(c.actor)
    return learner([pi], sample(acting(pi)), [clone(pi)], c.optim)
