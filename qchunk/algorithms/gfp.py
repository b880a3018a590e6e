"""GFP (2512.03973): QC-FQL whose flow clones a chunk of the data the more, the better it is than the actor's own.

It stands on no prior: a flow that is read and never trained would leave ``qc_fql`` alone. Published code also compares with the flow's own
chunk, or with the minimum, mean or maximum of both values, and may back these up (on cubes the mean); it has alpha from 0.01 to 10 and eta from 1e-6
to 0.1 by task (alpha 10 and eta 0.1 on OGBench's cube-single, 1 and 0.01 on cube-double), and the lower of the critics on antmazes
(``--critic.aggregate min``).
"""

from __future__ import annotations

from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc_fql import QCFQL, qc_fql
from qchunk.compose import lagging
from qchunk.config import ActorConfig, config
from qchunk.losses.cloning import bc_against
from qchunk.ranges import NonNegativeFloat, PositiveFloat
from qchunk.types import Algorithm, Critic, Kernel, Policy, Term


@config
class GFP(QCFQL):
    """A guided flow policy."""

    actor: ActorConfig = FlowConfig()
    """The teacher, by weighted cloning."""
    alpha: NonNegativeFloat = 3.0
    """Weight of the mean squared distance to the teacher, against the critic over its mean size: 1 is what 100 is in ``qc-fql`` where values are about 100."""
    eta: PositiveFloat = 1e-3
    """How little a better chunk counts more, in mean sizes of the critic: 1 weighs all about alike."""


def gfp(c: GFP) -> Algorithm:
    """GFP: ``qc_fql``, whose student is distilled from a flow of the better chunks."""

    def teach(pi: Kernel, student: Policy, q: Critic) -> Term:
        return bc_against(pi, student, lagging(q).score, c.eta)

    return qc_fql(c, teach, relative=True)
