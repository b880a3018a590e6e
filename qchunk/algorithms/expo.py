"""EXPO (2507.07986; on chunks 2605.25477): N chunks of a cloned flow and an edit of each compete; the editor climbs the critic, the flow does not.

Published: ``--critic.members 10`` and the minimum of two of them at random; here of all members. N is 8, and edits are 5 to 20 % of the range (a scale of 0.1 to 0.4).
"""

from __future__ import annotations

from qchunk.actors import actor
from qchunk.actors.editor import editor
from qchunk.algorithms.fedit import FEdit
from qchunk.compose import acting, learner
from qchunk.config import CriticConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.improve import best_of_n, edited
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend_softly, editing, temperature
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class EXPO(FEdit):
    """Expressive policy optimisation."""

    critic: CriticConfig = CriticConfig(aggregate="min")
    n: PositiveInt = 8
    """N, chunks of the flow per decision; also in the target. 2 N compete."""
    slice_rows: NonNegativeInt = 0
    """Chunks of the flow evaluated at once (bounds memory); 0 chooses by backend."""


def expo(c: EXPO) -> Algorithm:
    """EXPO: the best of 2 N acts and is backed up; the editor climbs under an entropy bonus."""
    pi, e, q, heat = actor(c.actor), editor(c.editor), chunk_q(c.critic), temperature()
    base = sample(acting(pi))
    climb = editing(e, base, c.scale, ascend_softly(e, opinion(q, mean), heat))
    act = best_of_n(edited(base, acting(e), c.scale, q.score), q.score, c.n, c.slice_rows)
    return learner([pi, e, q, heat], act, [bc(pi), climb, td(q, act)], c.optim, prior=pi)
