"""ReBRAC (2305.09836): a deterministic actor climbs a critic and is cloned; TD3's smoothing and delay.

As in 2601.14234's code the target pays nothing for the distance of its next action to the data's, for which the original has a weight of its own. Published:
the lower of two critics (``--critic.aggregate min``), weights by task.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import RegressionConfig
from qchunk.actors import actor
from qchunk.compose import lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import smoothed
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.target_networks import slow_copy, with_target
from qchunk.types import Algorithm, Term, Together


@config
class ReBRAC:
    """ReBRAC."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = RegressionConfig()
    """Any kind. Its target network stands in the place of a moving average, so that ``ema`` has no effect."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    alpha: NonNegativeFloat = 0.1
    """Weight of the squared distance to the data's chunk, summed over its numbers, against the critic divided by its mean size."""
    noise: Annotated[float, Range(0, 1)] = 0.2
    """Standard deviation of the noise on the target's actions (bounded to 0.5) and on exploring ones, in units of action."""
    every: PositiveInt = 2
    """The actor and the target networks move in every such update."""


def rebrac(c: ReBRAC) -> Algorithm:
    """ReBRAC: the target values the chunk of a target actor, under noise; evaluation is without noise."""
    q = with_target(chunk_q(c.critic), every=c.every)
    pi = slow_copy(actor(c.actor), c.critic.tau, c.every)
    act, following = sample(pi), sample(lagging(pi))
    climb = proposing(pi, [ascend(pi, q.score, relative=True)._replace(every=c.every)])
    clone = weighed(bc(pi, summed=True), c.alpha)._replace(every=c.every)
    terms: list[Term | Together] = [climb, clone, td(q, smoothed(following, c.noise, 0.5))]
    return learner([pi, q], act, terms, c.optim, explore=smoothed(act, c.noise))
