"""MeanFlow Q-learning (2511.13035): the critic's gradient goes through the one step of a MeanFlow actor, which clones the data beside it.

Its code has ``--alpha`` 2000 to 6000, by task, and scales it as it trains; ours stays. That code lets the network say the
chunk itself in place of the mean velocity, of jumps to the data alone (ours learn jumps to any time in a quarter of the rows), adds a penalty
beyond [-1, 1], its target takes the best of half as many chunks, and it stops early by evaluations' success, which selects; ours is told at its end.
"""

from __future__ import annotations

from qchunk.actor_configs import MeanFlowConfig
from qchunk.algorithms.fbrac import FBRAC, fbrac
from qchunk.config import ActorConfig, config
from qchunk.improve import best_of_n
from qchunk.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from qchunk.types import Algorithm


@config
class MeanFlowQ(FBRAC):
    """MeanFlow Q-learning."""

    actor: ActorConfig = MeanFlowConfig(power=0.2)
    alpha: PositiveFloat = 2000.0
    """The actor climbs Q / alpha, beside its own loss of imitation: large keeps it with the data."""
    n: PositiveInt = 5
    """N, chunks sampled for a decision, of which the critic's best is played; as many in the critic's target."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def meanflow_q(c: MeanFlowQ) -> Algorithm:
    """MeanFlow Q-learning: ``fbrac`` through one step, and best of N."""
    return fbrac(c, lambda policy, score: best_of_n(policy, score, c.n, c.slice_rows))
