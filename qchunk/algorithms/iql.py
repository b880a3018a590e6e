"""IQL (2110.06169): the data's better chunks are cloned, weighted by their advantage. Published: the lower of two critics (``--critic.aggregate min``)."""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import RegressionConfig
from qchunk.actors import actor
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.losses.cloning import advantage_weight, bc
from qchunk.losses.implicit_q import implicit_q
from qchunk.ranges import NonNegativeFloat, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class IQL:
    """Implicit Q-learning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = RegressionConfig()
    """Any kind; regression is the Gaussian of constant variance of the Q-chunking paper's baseline."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    expectile: Annotated[float, Range(0.5, below=1)] = 0.9
    """Of the value of a state, in [0.5, 1)."""
    alpha: NonNegativeFloat = 0.3
    """A chunk counts exp(alpha (Q - V)), at most 100; per unit of return. The Q-chunking paper: 0.3 on cubes, 10 on scene and puzzle."""


def iql(c: IQL) -> Algorithm:
    """IQL: the critics learn without the actor, and the actor by weighted imitation, whatever its kind."""
    pi, q, v = actor(c.actor), chunk_q(c.critic), state_v(c.critic)
    clone = bc(pi, weight=advantage_weight(lagging(q).score, v, c.alpha))
    return learner([pi, q, v], sample(acting(pi)), [clone, *implicit_q(q, v, c.expectile)], c.optim)
