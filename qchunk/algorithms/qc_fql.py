"""QC-FQL (2507.07969): a one-step actor, distilled from a cloned flow, climbs a chunk critic.

``--chunk.horizon 1`` is FQL (2502.02538); ``--chunk.horizon 1 --chunk.backup 5`` is FQL-n, one action with an uncorrected 5-step
return. alpha is a task's: the paper has 300 for QC-FQL on OGBench's scene, puzzle-3x3 and cube-double, 100 on larger cubes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from qchunk.actor_configs import FlowConfig, OneStepConfig
from qchunk.actors import actor
from qchunk.actors.one_step import one_step_actor
from qchunk.actors.paths import deterministic
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend, distil, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm, Critic, Kernel, Policy, Term, Together


@config
class QCFQL:
    """QC-FQL."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The teacher, by behaviour cloning, or the prior's; where its steps draw noise, it teaches without."""
    student: OneStepConfig = OneStepConfig()
    """The one-step actor that acts."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    alpha: NonNegativeFloat = 100.0
    """Weight of the mean squared distance to the teacher, against the critic in units of return."""


def qc_fql(
    c: QCFQL, teach: Callable[[Kernel, Policy, Critic], Term] | None = None, relative: bool = False
) -> Algorithm:
    """QC-FQL: three terms teach, distil and ascend; the student acts and chooses the next chunk of the critic's target.

    Args:
        teach: the teacher's term, from it, the student's policy and the critic; by default imitation, which a prior may stand for.
        relative: the student climbs the critic's aggregate over its mean size, not the mean of its members in units of return.
    """
    pi, mu, q = actor(c.actor), one_step_actor(c.student, "student"), chunk_q(c.critic)
    act = sample(acting(mu))
    climb = ascend(mu, q.score if relative else opinion(q, mean), relative=relative)
    improve = [weighed(distil(mu, sample(deterministic(acting(pi)))), c.alpha), climb]
    clone = teach(pi, act, q) if teach else bc(pi)
    terms: list[Term | Together] = [clone, proposing(mu, improve), td(q, act)]
    return learner([pi, mu, q], act, terms, c.optim, prior=None if teach else pi)
