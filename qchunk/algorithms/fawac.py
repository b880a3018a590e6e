"""FAWAC (2601.14234's baseline): a flow clones the data's better chunks, weighted by their advantage over the policy's own value.

``--critic.members 10 --critic.aggregate pessimistic:0.5`` is that code's; its alpha is 0.8 or 6.4, by domain.
"""

from __future__ import annotations

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.critics.state_v import state_v
from qchunk.losses.cloning import advantage_weight, bc
from qchunk.losses.implicit_q import behaviour_value
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class FAWAC:
    """Advantage-weighted cloning of a flow."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    alpha: NonNegativeFloat = 0.8
    """A chunk counts exp(alpha (Q - V)), at most 100; per unit of return."""


def fawac(c: FAWAC) -> Algorithm:
    """FAWAC: V is the mean of Q over the data's chunks; Q's target is a chunk of the policy."""
    pi, q, v = actor(c.actor), chunk_q(c.critic), state_v(c.critic)
    act = sample(acting(pi))
    clone = bc(pi, weight=advantage_weight(opinion(q, mean), v, c.alpha))
    return learner([pi, q, v], act, [clone, behaviour_value(v, q), td(q, act)], c.optim)
