"""QAM-E (2601.14234): QAM, whose fast flow's chunks an actor edits that climbs the critic.

Its code tunes weight and scale by domain, from 0.1 to 10 and 0 to 0.9; at scale 0 it plays as QAM, but the editor's gradients still share the norm that is clipped.
"""

from __future__ import annotations

from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors.editor import editor
from qchunk.algorithms.qam import QAM, flows, matching
from qchunk.compose import acting, learner
from qchunk.config import config
from qchunk.critics.ensemble import mean, opinion
from qchunk.improve import edited
from qchunk.losses.proposals import ascend_softly, editing, temperature
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class QAME(QAM):
    """QAM with an editor."""

    editor: TanhGaussianConfig = TanhGaussianConfig()
    """The actor that edits chunks."""
    scale: NonNegativeFloat = 0.1
    """The largest edit of a number, in units of action."""


def qam_e(c: QAME) -> Algorithm:
    """QAM-E: edited chunks act and are backed up; the editor climbs the critic under an entropy bonus."""
    parts, e, heat = flows(c), editor(c.editor), temperature()
    fast, q = sample(acting(parts.fast)), parts.critic
    climb = editing(e, fast, c.scale, ascend_softly(e, opinion(q, mean), heat))
    act = edited(fast, acting(e), c.scale)
    trained = [parts.slow, parts.fast, q, e, heat]
    return learner(trained, act, [*matching(c, parts), climb, td(q, act)], c.optim, clip=c.clip, prior=parts.slow)
