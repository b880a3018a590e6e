"""QAM (2601.14234): a fast flow learns the data's distribution times exp(weight Q) by adjoint matching, beside the cloned slow one.

Its code has ``--critic.members 10 --critic.aggregate pessimistic:0.5`` and a weight by domain, from 1 to 30. The residual form of the fast
flow is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.adjoint import adjoint_matching
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat, PositiveFloat
from qchunk.sampling import sample
from qchunk.target_networks import slow_copy
from qchunk.types import Algorithm, Critic, Kernel, Term


@config
class QAM:
    """Q-learning with adjoint matching."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The slow flow, by behaviour cloning, or the prior's; its target network stands in the place of a moving average. The fast one is alike. The paper
    has 10 steps; with 5 nothing was learned."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    weight: NonNegativeFloat = 1.0
    """Of the critic, in 1 / units of return: the target is the data's distribution times exp(weight Q)."""
    clip: PositiveFloat = 1.0
    """Bound of the norm of the joint gradient."""


class Flows(NamedTuple):
    """The parts of QAM and its kin."""

    slow: Kernel
    held: Kernel  # the slow one as its target network has it
    fast: Kernel
    critic: Critic


def flows(c: Any) -> Flows:
    """The slow flow with a target network that follows as the critic's does, the fast flow, and the critic."""
    slow = slow_copy(actor(c.actor), c.critic.tau)
    return Flows(slow, lagging(slow), actor(c.actor, "fast"), chunk_q(c.critic))


def matching(c: Any, parts: Flows) -> list[Term]:
    """The slow flow clones; the fast one matches the adjoints of the target critics' mean."""
    score = opinion(lagging(parts.critic), mean)
    return [bc(parts.slow), adjoint_matching(parts.fast, parts.held, score, c.weight)]


def qam(c: QAM) -> Algorithm:
    """QAM: the fast flow acts, and chooses the next chunk of the target."""
    parts = flows(c)
    act = sample(acting(parts.fast))
    trained = [parts.slow, parts.fast, parts.critic]
    return learner(trained, act, [*matching(c, parts), td(parts.critic, act)], c.optim, clip=c.clip, prior=parts.slow)
