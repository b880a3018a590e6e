"""BAM (2601.14234's ablation of QAM): the same objective by its plain gradient, through every step of the memoryless SDE."""

from __future__ import annotations

from qchunk.algorithms.qam import QAM, flows
from qchunk.compose import acting, learner
from qchunk.config import config
from qchunk.losses.adjoint import ascend_path
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class BAM(QAM):
    """Q-learning through the memoryless SDE."""


def bam(c: BAM) -> Algorithm:
    """BAM: the fast flow climbs the online critics, and pays for each step that leaves the slow one's."""
    slow, held, fast, q = flows(c)
    act = sample(acting(fast))
    climb = ascend_path(fast, held, q.score, c.weight)
    return learner([slow, fast, q], act, [bc(slow), climb, td(q, act)], c.optim, clip=c.clip, prior=slow)
