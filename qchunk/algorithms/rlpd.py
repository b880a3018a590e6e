"""RLPD (2302.02948) over chunks: soft actor-critic, online from the first step, beside a data set.

``--chunk.horizon 1`` is RLPD, 5 RLPD-AC, and with ``--bc-alpha 0.01`` QC-RLPD (2507.07969). Their published critics have
``--critic.activation relu --critic.norm-first``, the actor ``--actor.activation relu``. RLPD's own targets are the least of one or two members at random
(``--critic.aggregate min --critic.subset 2``; here ``aggregate`` is also what the actor climbs, there the mean of all).
"""

from __future__ import annotations

from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend_softly, proposing, temperature
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat, PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class RLPD:
    """Reinforcement learning with prior data."""

    driver = "from_scratch"

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = TanhGaussianConfig()
    """An actor whose density is known."""
    critic: CriticConfig = CriticConfig(members=10)
    optim: OptimConfig = OptimConfig()
    bc_alpha: NonNegativeFloat = 0.0
    """Weight of behaviour cloning, a sum over a chunk's numbers, in units of return; it clones online experience, too."""
    start_temperature: PositiveFloat = 1.0
    """The temperature of the entropy bonus before it is learned."""


def rlpd(c: RLPD) -> Algorithm:
    """RLPD: the actor climbs the critic under an entropy bonus, which the target leaves out; its temperature is learned."""
    pi, q, heat = actor(c.actor), chunk_q(c.critic), temperature(first=c.start_temperature)
    act = sample(acting(pi))
    climb = proposing(pi, ascend_softly(pi, q.score, heat))
    clone = weighed(bc(pi, summed=True), c.bc_alpha)
    return learner([pi, q, heat], act, [climb, clone, td(q, act)], c.optim)
