"""SEAR (2603.01891): soft actor-critic over chunks, online, whose critic values every prefix of a chunk.

It collects with ``--execute random-k``, plans of which 1 to H steps are played, and is best evaluated with few steps of
each plan, such as ``receding:4``.
"""

from __future__ import annotations

from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, config
from qchunk.critics.prefix import PrefixConfig, check_points, points_of, prefix_q
from qchunk.data import buffer
from qchunk.losses.proposals import ascend_softly, proposing, temperature
from qchunk.losses.td import td_of_prefixes
from qchunk.sampling import sample
from qchunk.types import Algorithm, Choice


@config
class SEAR:
    """Sample-efficient action chunking."""

    driver = "from_scratch"

    chunk: ChunkConfig = ChunkConfig()
    """Without backup points every prefix is valued."""
    actor: ActorConfig = TanhGaussianConfig()
    """An actor whose density is known."""
    critic: PrefixConfig = PrefixConfig(tau=0.05)
    optim: OptimConfig = OptimConfig()

    def check(self, where: str) -> None:
        """Raises UserError where the longest prefix is not the chunk, or shorter ones are not discounted."""
        check_points(self.chunk, f"{where}chunk.")


def sear(c: SEAR) -> Algorithm:
    """SEAR: the actor climbs the value of the whole chunk under an entropy bonus, which the prefixes' targets leave out."""
    points = points_of(c.chunk)
    pi, q, heat = actor(c.actor), prefix_q(c.critic, c.chunk.horizon, points), temperature()
    one = sample(acting(pi))
    act = one._replace(choice=Choice(one, 1, q.values, q.aggregate, points, c.chunk.gamma))
    climb = proposing(pi, ascend_softly(pi, q.score, heat))
    return learner([pi, q, heat], act, [climb, td_of_prefixes(q, one, 1)], c.optim, draw=buffer.backing_up(points))
