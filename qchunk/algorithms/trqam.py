"""TRQAM (2605.27079): QAM whose weight of the critic is what keeps the fast flow's paths within a bound of the slow one's.

Its code has ``--critic.members 10 --critic.aggregate pessimistic:0.5`` and a bound of 1.0 (cube-triple 0.5); one norm bounds the gradients of all. There
the slow flow is cloned for 300,000 updates before the rest begins. The one norm is here, too: a large adjoint can slow the critic (``--clip 1e9`` lifts it). As there, lambda is in the regression and
not in the paths, so the aim is ``qam``'s, exp(Q / (3 lambda)) times the data's distribution.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qam import flows
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.adjoint import matching_within
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import temperature
from qchunk.losses.td import td
from qchunk.ranges import PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class TRQAM:
    """Q-learning with adjoint matching in a trust region."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The slow flow, by behaviour cloning, or the prior's; its target network stands in the place of a moving average. The fast one is alike."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    bound: PositiveFloat = 1.0
    """Divergence of the two flows' paths that the temperature is moved towards, nats per action."""
    clip: PositiveFloat = 1.0
    """Bound of the norm of the joint gradient."""


def trqam(c: TRQAM) -> Algorithm:
    """TRQAM: as ``qam``, with a learned temperature in the place of a weight."""
    parts, heat = flows(c), temperature()
    score, act = opinion(lagging(parts.critic), mean), sample(acting(parts.fast))
    terms = [bc(parts.slow), matching_within(parts.fast, parts.held, score, heat, c.bound), td(parts.critic, act)]
    return learner([parts.slow, parts.fast, parts.critic, heat], act, terms, c.optim, clip=c.clip, prior=parts.slow)
