"""EXPO (2507.07986; on chunks 2605.25477): N chunks of a cloned flow and an edit of each compete; the editor climbs the critic, the flow does not.

Published: ``--critic.members 10 --critic.subset 2``; there the candidates compete by two members of the target networks at random, too, here by all of the critic itself. The editor climbs their mean, there
from the replay's chunks, here from the flow's. N is 8, and edits are 5 to 20 % of the range (a scale of 0.1 to 0.4).
"""

from __future__ import annotations

from qchunk.algorithms.fedit import FEdit, fedit
from qchunk.config import CriticConfig, config
from qchunk.improve import best_of_n, edited
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.types import Algorithm, Critic, Kernel, Policy


@config
class EXPO(FEdit):
    """Expressive policy optimisation."""

    critic: CriticConfig = CriticConfig(aggregate="min")
    n: PositiveInt = 8
    """N, chunks of the flow per decision; also in the target. 2 N compete."""
    slice_rows: NonNegativeInt = 0
    """Chunks of the flow evaluated at once (bounds memory); 0 chooses by backend."""


def expo(c: EXPO) -> Algorithm:
    """EXPO: ``fedit``, where the best of 2 N acts and is backed up."""

    def play(base: Policy, e: Kernel, q: Critic) -> Policy:
        return best_of_n(edited(base, e, c.scale, q.score), q.score, c.n, c.slice_rows)

    return fedit(c, play)
