"""DPMD (2502.00361): an online diffusion matches its slow copy's chunks, the better ones more, by a temperature that a divergence sets.

The slow copy is the actor's target network, in the place of a moving average, so that ``ema`` has no effect (FlowRL's code copies the actor in every 1,000th update, and trains it at 1e-4). Each window matches one of the copy's chunks, drawn with the weights that the paper sums all by; FlowRL's
bound of single errors (2603.27450) is left out.
"""

from __future__ import annotations

import math
from typing import Annotated

from qchunk.actors import actor
from qchunk.algorithms.online_matching import OnlineDiffusion, matching_online
from qchunk.compose import lagging
from qchunk.config import config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.improve import smoothed
from qchunk.losses.proposals import temperature
from qchunk.losses.weighted import choice_temperature, choosing, match_choice
from qchunk.ranges import PositiveInt, Range
from qchunk.sampling import sample
from qchunk.target_networks import slow_copy
from qchunk.types import Algorithm


@config
class DPMD(OnlineDiffusion):
    """Diffusion policy mirror descent."""

    candidates: PositiveInt = 64
    """Chunks of the slow copy for each window."""
    noise: Annotated[float, Range(0, 1)] = 0.2
    """Standard deviation of the noise on them, in units of action."""
    divergence: Annotated[float, Range(above=0, below=1)] = 0.5
    """How far their weights are to be from all alike: a share of the logarithm of their number, in (0, 1). Published: 2 nats of 4.2."""


def dpmd(c: DPMD) -> Algorithm:
    """DPMD: the slow copy proposes, the critics' mean weighs, the actor matches and explores."""
    pi = slow_copy(actor(c.actor), c.critic.tau)
    q, heat = chunk_q(c.critic), temperature()
    slow, one = smoothed(sample(lagging(pi)), c.noise), sample(pi)
    terms = [match_choice(pi, heat), choice_temperature(heat, c.divergence * math.log(c.candidates))]
    match = choosing(pi, slow, opinion(q, mean), c.candidates, terms)
    return matching_online(c, (pi, q, heat), one, [match])
