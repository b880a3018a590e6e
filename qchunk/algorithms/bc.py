"""Flow behaviour cloning: imitate chunks, improve nothing."""

from __future__ import annotations

from qchunk.actors.flow import flow
from qchunk.config import ChunkConfig, FlowConfig, OptimConfig, config
from qchunk.learner import learner
from qchunk.losses.bc import bc as clone
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class BC:
    """Flow behaviour cloning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: FlowConfig = FlowConfig()
    optim: OptimConfig = OptimConfig()


def bc(c: BC) -> Algorithm:
    """One term, one module."""
    pi = flow(c.actor)
    return learner([pi], sample(pi), [clone(pi)], c.optim)
