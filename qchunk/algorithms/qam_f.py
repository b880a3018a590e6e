"""QAM-F (2601.14234): QAM, whose fast flow teaches a one-step actor that climbs the critic.

Its code tunes weight and alpha by domain, from 0.3 to 10 and 0 to 300; where it has alpha 0 it leaves the one-step actor out, which is QAM.
"""

from __future__ import annotations

from qchunk.actor_configs import OneStepConfig
from qchunk.actors.one_step import one_step_actor
from qchunk.algorithms.qam import QAM, flows, matching
from qchunk.compose import acting, learner
from qchunk.config import config
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.proposals import ascend, distil, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm, Term, Together


@config
class QAMF(QAM):
    """QAM with a one-step actor."""

    student: OneStepConfig = OneStepConfig()
    """The one-step actor that acts."""
    alpha: NonNegativeFloat = 30.0
    """Weight of the mean squared distance to the fast flow's chunk, against the critic in units of return."""


def qam_f(c: QAMF) -> Algorithm:
    """QAM-F: the student acts and is backed up; the fast flow only teaches it."""
    parts, mu = flows(c), one_step_actor(c.student, "student")
    q, act = parts.critic, sample(acting(mu))
    improve = [weighed(distil(mu, sample(acting(parts.fast))), c.alpha), ascend(mu, opinion(q, mean))]
    terms: list[Term | Together] = [*matching(c, parts), proposing(mu, improve), td(q, act)]
    return learner([parts.slow, parts.fast, q, mu], act, terms, c.optim, clip=c.clip, prior=parts.slow)
