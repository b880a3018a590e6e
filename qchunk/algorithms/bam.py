"""BAM (2601.14234's ablation of QAM): the same aim by the plain gradient, through every step of the memoryless SDE.

Its code tunes the weight by domain, 10 or 30, where QAM's is 1 to 30: its penalty is the number of steps times the divergence.
"""

from __future__ import annotations

from qchunk.algorithms.qam import QAM, flows
from qchunk.compose import acting, learner
from qchunk.config import config
from qchunk.losses.adjoint import ascend_path
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class BAM(QAM):
    """Q-learning through the memoryless SDE."""

    weight: NonNegativeFloat = 1.0
    """Of the critic, in 1 / units of return: with K steps the target is the data's distribution times exp(weight Q / K), so 10 is a weight of 1 in ``qam``."""


def bam(c: BAM) -> Algorithm:
    """BAM: the fast flow climbs the online critics, and pays for each step that leaves the slow one's."""
    slow, held, fast, q = flows(c)
    act = sample(acting(fast))
    climb = ascend_path(fast, held, q.score, c.weight)
    return learner([slow, fast, q], act, [bc(slow), climb, td(q, act)], c.optim, clip=c.clip, prior=slow)
