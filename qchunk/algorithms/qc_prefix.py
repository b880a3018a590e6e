"""Q-chunking by a critic of every prefix: the same actor, and an opinion of how much of a chunk to play.

By itself it plays whole chunks. Schemes such as ``--execute longest-safe:0.1`` or ``argmax-k`` (ACSAC, 2605.11009) set the
boundaries by its critic; ``--target joint`` is ACSAC's target, the best of all prefixes of N chunks.
"""

from __future__ import annotations

from typing import Literal

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, config
from qchunk.critics.prefix import PrefixConfig, check_points, points_of, prefix_q
from qchunk.data import buffer
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.td import td_of_prefixes
from qchunk.ranges import PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm, Choice


@config
class PrefixQC:
    """Q-chunking by a critic of every prefix."""

    chunk: ChunkConfig = ChunkConfig()
    """Without backup points every prefix is valued."""
    actor: ActorConfig = FlowConfig()
    critic: PrefixConfig = PrefixConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 4
    """N, chunks sampled for a decision, of which the critic's best is played; as many in the critic's target."""
    target: Literal["whole", "joint"] = "whole"
    """Values of later states: the best of N whole chunks, or of all their prefixes (2605.11009)."""

    def check(self, where: str) -> None:
        """Raises UserError where the longest prefix is not the chunk, or shorter ones are not discounted."""
        check_points(self.chunk, f"{where}chunk.")


def qc_prefix(c: PrefixQC) -> Algorithm:
    """Best of N by the value of the whole chunk; ``Policy.choice`` shows schemes the values of its prefixes."""
    points = points_of(c.chunk)
    pi, q = actor(c.actor), prefix_q(c.critic, c.chunk.horizon, points)
    one = sample(acting(pi))
    act = best_of_n(one, q.score, c.n)._replace(choice=Choice(one, c.n, q.values, q.aggregate, points, c.chunk.gamma))

    terms = [bc(pi), td_of_prefixes(q, one, c.n, c.target == "joint")]
    return learner([pi, q], act, terms, c.optim, draw=buffer.backing_up(points))
