"""SDAC (2502.00361) and IDEM: an online diffusion whose noise estimates follow what a critic says of the chunks that may have been noised.

FlowRL's code (2603.27450) has 500 guesses a row; each is a pass of the critic. Its IDEM explores with noise of 0.1 on actions besides.
"""

from __future__ import annotations

from collections.abc import Callable

from qchunk.actors import actor
from qchunk.algorithms.online_matching import OnlineDiffusion, matching_online
from qchunk.compose import acting, lagging
from qchunk.config import config
from qchunk.critics.chunk_q import chunk_q
from qchunk.losses.weighted import by_slope, by_value, resampling
from qchunk.ranges import PositiveFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm, Critic


@config
class SDAC(OnlineDiffusion):
    """A soft diffusion actor-critic."""

    guesses: PositiveInt = 64
    """Chunks that each noised one is taken for."""
    beta: PositiveFloat = 0.05
    """Temperature: guesses count softmax(Q / beta), Q in units of return; in IDEM those of the critic's mean slope."""


def sdac(c: SDAC, rule: Callable = by_value, look: Callable[[Critic], Critic] = lambda q: q) -> Algorithm:
    """SDAC: noise estimates are the guesses' own, weighed by their values.

    Args:
        look: how the critic is read for that.
    """
    pi, q = actor(c.actor), chunk_q(c.critic)
    return matching_online(c, (pi, q), sample(acting(pi)), [resampling(pi, c.guesses, rule(look(q).score, c.beta))])


def idem(c: SDAC) -> Algorithm:
    """IDEM: noise estimates are the target critic's slopes at the guesses, weighed by their values."""
    return sdac(c, by_slope, lambda q: lagging(q))
