"""PA-RL (2412.06685): the actor's best chunks climb the critic; what comes of it acts, is backed up, and is what the actor imitates.

Published: on a trained actor (``--prior RUN``) and without imitation of the data (``--bc-alpha 0``); critics are Cal-QL's or IQL's, where ours is ``qc``'s without a penalty, and its epochs train
the critic or the actor, where every update here trains both. As in its code the target takes the best chunk; evaluation does here, too.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import tuned_actor
from qchunk.compose import learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_climbed
from qchunk.losses.cloning import bc, bc_of
from qchunk.losses.td import td
from qchunk.losses.terms import module_names, weighed
from qchunk.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class PARL:
    """Policy-agnostic reinforcement learning."""

    chunk: ChunkConfig = ChunkConfig()
    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig()
    """The actor; --prior RUN fills it in, and its weights are where training starts."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, chunks of the actor per decision; also in the target."""
    top: PositiveInt = 10
    """The best of them, which climb; all, where N is less."""
    climbs: PositiveInt = 10
    """Steps of each up the critic; the best chunk on the way counts."""
    rate: PositiveFloat = 3e-4
    """Of a step, in units of action per unit of the critic's gradient."""
    temperature: NonNegativeFloat = 1.0
    """beta, in units of return: exploring plays, and the actor imitates, climbed chunk i with probability softmax(Q / beta)_i, at 0 the best."""
    bc_alpha: NonNegativeFloat = 0.1
    """Weight of imitation of the data, without which an actor without a prior would imitate itself."""


def pa_rl(c: PARL) -> Algorithm:
    """PA-RL: any actor that can imitate is improved, without a gradient of the critic through it."""
    pi, q = tuned_actor(c.tuned), chunk_q(c.critic)
    act, explore = (
        best_climbed(sample(pi), q.score, c.n, min(c.top, c.n), c.climbs, c.rate, beta)
        for beta in (None, c.temperature)
    )
    terms = [bc_of(pi, explore, "follow"), weighed(bc(pi), c.bc_alpha), td(q, act)]
    return warm_started(learner([pi, q], act, terms, c.optim, explore=explore), *module_names(pi))
