"""SDAC (2502.00361) and IDEM: an online diffusion whose noise estimates follow what a critic says of the chunks that may have been noised.

As in FlowRL's code (2603.27450) evaluation takes the best of 10 samples by Q, and exploring one. It has 500 guesses a row; each is a pass of the critic.
"""

from __future__ import annotations

from collections.abc import Callable

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner, reading
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.td import td
from qchunk.losses.weighted import by_slope, by_value, resampling
from qchunk.ranges import PositiveFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.target_networks import target_view
from qchunk.types import Algorithm, Critic, Term, Together


@config
class SDAC:
    """A soft diffusion actor-critic."""

    driver = "from_scratch"

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig()
    critic: CriticConfig = CriticConfig(aggregate="min")
    optim: OptimConfig = OptimConfig()
    guesses: PositiveInt = 64
    """Chunks that each noised one is taken for."""
    beta: PositiveFloat = 0.05
    """Temperature: guesses count softmax(Q / beta), Q in units of return; in IDEM those of the critic's mean slope."""
    n: PositiveInt = 10
    """N, samples of which evaluation plays the best by Q."""


def sdac(c: SDAC, rule: Callable = by_value, look: Callable[[Critic], Critic] = lambda q: q) -> Algorithm:
    """SDAC: noise estimates are the guesses' own, weighed by their values.

    Args:
        look: how the critic is read for that.
    """
    pi, q = actor(c.actor), chunk_q(c.critic)
    one = sample(acting(pi))
    terms: list[Term | Together] = [resampling(pi, c.guesses, rule(look(q).score, c.beta)), td(q, one)]
    return learner([pi, q], best_of_n(one, q.score, c.n), terms, c.optim, explore=one)


def idem(c: SDAC) -> Algorithm:
    """IDEM: noise estimates are the target critic's slopes at the guesses, weighed by their values."""
    return sdac(c, by_slope, lambda q: reading(q, target_view))
