"""FBRAC (2601.14234's baseline): the critic's gradient moves the flow through all of its steps, while data hold it.

``--critic.members 10 --critic.aggregate pessimistic:0.5`` is that code's; its alpha is tuned by domain, from 0.03 to 100.
"""

from __future__ import annotations

from collections.abc import Callable

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm, Policy, ValueFn


@config
class FBRAC:
    """A behaviour-regularised flow."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    alpha: PositiveFloat = 1.0
    """The actor climbs Q / alpha, beside its own loss of imitation: large keeps it with the data."""


def fbrac(c: FBRAC, choose: Callable[[Policy, ValueFn], Policy] = lambda policy, score: policy) -> Algorithm:
    """FBRAC: one flow clones, climbs the critic through its whole path, acts, and chooses the next chunk of the target.

    Args:
        choose: among the flow's chunks by a score, when acting and in the target.
    """
    pi, q = actor(c.actor), chunk_q(c.critic)
    act = choose(sample(acting(pi)), q.score)
    climb = proposing(pi, [weighed(ascend(pi, opinion(q, mean)), 1.0 / c.alpha)])
    return learner([pi, q], act, [bc(pi), climb, td(q, act)], c.optim)
