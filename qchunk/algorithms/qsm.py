"""QSM (2312.11752): the score of the actor is the gradient of the critic.

With ``--critic.members 10 --critic.aggregate pessimistic:0.5 --no-by-level`` its losses are those of QAM's baseline (2601.14234), whose weight is 1 to 10
and alpha 1 to 30, by domain. Published samplers begin anew from the clean estimate at every step; ours takes the posterior's step.
"""

from __future__ import annotations

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc
from qchunk.losses.noised import estimating, match
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat, PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class QSM:
    """Q-score matching."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig(steps=10, schedule="vp")
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    weight: NonNegativeFloat = 10.0
    """1 / temperature, per unit of return: exp(weight Q) is what scores aim at."""
    alpha: NonNegativeFloat = 1.0
    """Weight of imitation; the paper has none."""
    by_level: bool = True
    """The gradient counts the noise level's sigma, which is what turns a score into a noise estimate; published code leaves that out."""
    clip: PositiveFloat = 1.0
    """Bound of the norm of the joint gradient."""


def qsm(c: QSM) -> Algorithm:
    """QSM: the noise estimate is drawn to minus the target critic's gradient, and to the data's noise."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    act = sample(acting(pi))
    follow = estimating(pi, [match(pi, opinion(lagging(q), mean), c.weight, c.by_level)])
    return learner([pi, q], act, [weighed(bc(pi), c.alpha), follow, td(q, act)], c.optim, clip=c.clip)
