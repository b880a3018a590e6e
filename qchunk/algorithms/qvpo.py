"""QVPO (2405.16173): an online diffusion matches the best of its own chunks, weighed by what it has over their mean, and a little of what is uniform.

Its target takes the best of two chunks (four on HalfCheetah, one on Hopper); evaluation the best of 32. Published targets take them from slow copies of actor and
critics; ours from those that act, and the critics' slow copies value what they choose.
"""

from __future__ import annotations

from qchunk.actors import actor
from qchunk.algorithms.online_matching import OnlineDiffusion, matching_online
from qchunk.compose import acting
from qchunk.config import config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.terms import weighed
from qchunk.losses.weighted import choosing, match_choice, match_uniform
from qchunk.ranges import NonNegativeFloat, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class QVPO(OnlineDiffusion):
    """Q-weighted variational policy optimisation."""

    candidates: PositiveInt = 64
    """Chunks of the actor's own for each window."""
    entropy: NonNegativeFloat = 0.1
    """Weight of matching uniform chunks, beside matching the best (ten of 0.01 each in FlowRL's code; of 0.02, which falls, in copies of the authors')."""
    target_n: PositiveInt = 2
    """Chunks that the target takes the best of, and exploring too."""
    n: PositiveInt = 32
    """N, samples of which evaluation plays the best by Q."""


def qvpo(c: QVPO) -> Algorithm:
    """QVPO: the best chunk counts as much as it stands out."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    one = sample(acting(pi))
    explore = best_of_n(one, q.score, c.target_n)
    terms = [match_choice(pi, None), weighed(match_uniform(pi), c.entropy)]
    return matching_online(c, (pi, q), one, [choosing(pi, one, q.score, c.candidates, terms)], explore)
