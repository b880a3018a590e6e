"""GFP (2512.03973): QC-FQL whose flow clones a chunk of the data the more, the better it is than the actor's own."""

from __future__ import annotations

from qchunk.algorithms.qc_fql import QCFQL, qc_fql
from qchunk.compose import lagging
from qchunk.config import config
from qchunk.losses.cloning import bc_against
from qchunk.ranges import PositiveFloat
from qchunk.types import Algorithm, Critic, Kernel, Policy, Term


@config
class GFP(QCFQL):
    """A guided flow policy. Its alpha is against the critic over its mean size, so of the order of 1 to 100."""

    eta: PositiveFloat = 1.0
    """How little a better chunk counts more, in mean sizes of the critic."""


def gfp(c: GFP) -> Algorithm:
    """GFP: ``qc_fql``, whose student is distilled from a flow of the better chunks."""

    def teach(pi: Kernel, student: Policy, q: Critic) -> Term:
        return bc_against(pi, student, lagging(q).score, c.eta)

    return qc_fql(c, teach, relative=True)
