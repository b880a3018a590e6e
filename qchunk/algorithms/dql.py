"""Diffusion-QL (2208.06193): the critic's gradient moves a diffusion through its whole chain, while data hold it.

Published: ``--actor.hidden 256 256 256 --critic.hidden 256 256 256 --critic.activation mish --critic.no-layer-norm``, eta by task (gym 1, kitchen
0.005, antmaze 0.5 to 4.5, pen 0.1 to 0.15). Its maximum over ten next actions (antmaze) is not built; here the average of the weights, which
chooses the target's next chunk, acts too, and follows as ``--actor.ema`` says (published: at 0.005 in every fifth update from 1,000 on). Gradients have no
bound by default (published: ``--optim.kind clipped-adam:max_norm=9``, 1 to 10 by task). Imitation is of the data (DPPO's baseline imitates the policy's own samples).
"""

from __future__ import annotations

from collections.abc import Callable

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend_one, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DQL:
    """Diffusion-QL."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig(residual=False, steps=5, schedule="vp", ema=True)
    critic: CriticConfig = CriticConfig(aggregate="min")
    optim: OptimConfig = OptimConfig()
    eta: NonNegativeFloat = 1.0
    """Weight of the critic, divided by its mean size over the batch, against the actor's own loss of imitation."""
    n: PositiveInt = 50
    """N, candidates when acting; none are in the target."""
    temperature: NonNegativeFloat = 1.0
    """beta, in units of return: one is taken with probability softmax(Q / beta), at 0 the best."""


def dql(c: DQL, through: Callable = proposing) -> Algorithm:
    """Diffusion-QL: one actor clones, and climbs one member of the critic after the other ``through`` chunks that it makes."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    one = sample(acting(pi))
    act = best_of_n(one, lagging(q).score, c.n, temperature=c.temperature)
    climb = through(pi, [weighed(ascend_one(pi, q), c.eta)])
    return learner([pi, q], act, [bc(pi), climb, td(q, one)], c.optim)
