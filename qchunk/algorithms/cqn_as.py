"""CQN-AS (2411.12155): no actor; a critic over action sequences, whose best chunk is found by zooming into bins.

The paper looks again at every step and averages: ``--execute ensemble:0.01``; its batches are half demonstrations: ``--mix share:0.5``.
Its humanoids have ``--critic.atoms 1 --critic.no-dueling --no-imitate --chunk.backup 3``. There are no image encoders here.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from qchunk.compose import learner
from qchunk.config import ChunkConfig, OptimConfig, config, refuse_unread
from qchunk.critics.zooms import ZoomConfig, zoom_q
from qchunk.data.demonstrations import draw_with_demonstrations
from qchunk.improve import smoothed, zoomed
from qchunk.losses.terms import weighed
from qchunk.losses.zooming import dominance, margin, td_of_zooms, zooming
from qchunk.ranges import NonNegativeFloat, Range
from qchunk.types import Algorithm


@config
class CQNAS:
    """Coarse-to-fine Q-network with action sequences."""

    chunk: ChunkConfig = ChunkConfig(4, (1,))
    """The return from a chunk's first step on is that of all its actions, so the backup point is 1 (3 in the paper's humanoids)."""
    critic: ZoomConfig = ZoomConfig()
    optim: OptimConfig = OptimConfig(5e-5, kind="adamw:weight_decay=0.1")
    td: NonNegativeFloat = 0.1
    """Weight of temporal differences beside demonstrations."""
    margin: NonNegativeFloat = 0.1
    """By how much no other bin of a demonstration comes near, in units of return."""
    imitate: bool = True
    """Learn from demonstrations that their bins are the best: the data set's, and those of online episodes that succeed."""
    shown: Literal["all", "successes"] = "all"
    """Which windows of the data set are demonstrations: all, or those that lead to a success in their episode (the published code, where demonstrations may fail)."""
    noise: Annotated[float, Range(0, 1)] = 0.01
    """Standard deviation of Gaussian noise on the actions of collected plans; what ``--execute ensemble`` averages of them is less noisy (the published code adds it after that)."""

    def check_read(self, where: str) -> None:
        """Raises UserError for what only imitation reads, where nothing is imitated."""
        if not self.imitate:
            refuse_unread(
                self, CQNAS, ("shown", "margin"), where, "nothing is imitated", f"leave out --{where}no-imitate"
            )


def cqn_as(c: CQNAS) -> Algorithm:
    """CQN-AS: the same greedy zoom acts and chooses the next chunk of the critic's target."""
    q = zoom_q(c.critic)
    taught = [margin(q, c.margin), *([dominance(q)] if c.critic.atoms > 1 else [])] if c.imitate else []
    act = zoomed(q)
    terms = [zooming(q, [weighed(td_of_zooms(q), c.td), *taught])]
    draw = functools.partial(draw_with_demonstrations, shown=c.shown)
    return learner([q], act, terms, c.optim, explore=smoothed(act, c.noise), draw=draw)
