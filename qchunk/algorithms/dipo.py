"""DIPO (2305.13122): the data's chunks climb the critic, and the model clones where they arrive.

Published code writes what has climbed back into a buffer, so that chunks drift without a bound: the authors' into one of the actor's own, by 20 steps of
0.03 at every visit; the baseline of 2409.00588, by 10 of 1e-4, into the critic's, too, where they are no longer those that led to the stored rewards. Here an
update climbs its own batch, and data stay as they are: the model stays within about climbs x rate of the data.
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
