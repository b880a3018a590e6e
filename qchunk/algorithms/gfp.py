"""GFP (2512.03973): QC-FQL whose flow clones a chunk of the data the more, the better it is than the actor's own."""

from __future__ import annotations

from qchunk.actors import actor
from qchunk.actors.one_step import one_step_actor
from qchunk.algorithms.qc_fql import QCFQL
from qchunk.compose import acting, learner, reading
from qchunk.config import config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc_against
from qchunk.losses.proposals import ascend, distil, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import PositiveFloat
from qchunk.sampling import sample, sample_from_start
from qchunk.target_networks import target_view
from qchunk.types import Algorithm


@config
class GFP(QCFQL):
    """A guided flow policy. Its alpha is against the critic over its mean size, so of the order of 1 to 100."""

    eta: PositiveFloat = 1.0
    """How little a better chunk counts more, in mean sizes of the critic."""


def gfp(c: GFP) -> Algorithm:
    """GFP: the student is distilled from a flow of the better chunks, climbs the critic, acts, and chooses the next chunk of the target."""
    pi, mu, q = actor(c.actor), one_step_actor(c.student, "student"), chunk_q(c.critic)
    clone = bc_against(pi, sample(mu), reading(q, target_view).score, c.eta)
    distance = weighed(distil(mu, sample_from_start(acting(pi))), c.alpha)
    improve = proposing(mu, [distance, ascend(mu, opinion(q, mean), relative=True)])
    return learner([pi, mu, q], sample(mu), [clone, improve, td(q, sample(mu))], c.optim, prior=pi)
