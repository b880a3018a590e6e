"""DIPO (2305.13122): the data's chunks climb the critic, and the model clones where they arrive.

The published code writes what has climbed back into its buffer, 10 steps of 1e-4 at every visit, so that chunks drift without a bound and are
no longer those that led to the stored rewards. Here an update climbs its own batch, and data stay as they are: steps are
larger, and the model stays within about climbs x rate of the data.
"""

from __future__ import annotations

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.losses.cloning import bc, climbed
from qchunk.losses.td import td
from qchunk.ranges import PositiveFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DIPO:
    """Diffusion policies by action gradients."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig(ema=True)
    critic: CriticConfig = CriticConfig(aggregate="min")
    optim: OptimConfig = OptimConfig()
    climbs: PositiveInt = 10
    """Steps of Adam up the critic, of every chunk of the batch."""
    rate: PositiveFloat = 0.03
    """Size of a step, in units of action."""


def dipo(c: DIPO) -> Algorithm:
    """DIPO: plain imitation of chunks that have climbed; the critic sees the data's own."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    act = sample(acting(pi))
    return learner([pi, q], act, [bc(pi, aim=climbed(q.score, c.climbs, c.rate)), td(q, act)], c.optim)
