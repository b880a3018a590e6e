"""DAC (2405.20555): the critic's gradient at a noised chunk of the data leans on the actor's noise estimate there; no gradient passes through the critic's input.

With ``--critic.members 10 --critic.aggregate pessimistic:0.5`` it is the baseline of QAM (2601.14234), whose alpha is 0.3 to 3 by domain. The
published sampler adds sqrt(beta) of noise to a step, the upper choice of 2006.11239; ours the posterior's, the lower.
"""

from __future__ import annotations

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc
from qchunk.losses.noised import estimating, lean
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DAC:
    """Diffusion actor-critic."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig(steps=10, schedule="vp")
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    alpha: PositiveFloat = 1.0
    """Weight of imitation, in units of return: about the data's chunks times exp(Q / (2 alpha)) are learned."""
    clip: PositiveFloat = 1.0
    """Bound of the norm of the joint gradient."""


def dac(c: DAC) -> Algorithm:
    """DAC: imitation of noise, and a linear loss along the target critic's gradient."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    act = sample(acting(pi))
    follow = estimating(pi, [lean(pi, opinion(lagging(q), mean))])
    return learner([pi, q], act, [weighed(bc(pi), c.alpha), follow, td(q, act)], c.optim, clip=c.clip)
