"""SEAR (2603.01891): soft actor-critic over chunks, online, whose critic values every prefix of a chunk.

It collects with ``--execute random-k``, plans of which 1 to H steps are played, and is best evaluated with few steps of
each plan, such as ``receding:4``. With ``--act-horizon 1`` it is T-SAC (2503.03660): an actor of single actions under a critic
of sequences.
"""

from __future__ import annotations

from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner, shortened
from qchunk.config import IMITATES_NOTHING, ActorConfig, ChunkConfig, OptimConfig, config
from qchunk.critics.prefix import PrefixConfig, check_points, points_of, prefix_q
from qchunk.data import buffer
from qchunk.losses.proposals import ascend_softly, proposing, temperature
from qchunk.losses.td import td_of_prefixes
from qchunk.losses.terms import of_beginnings
from qchunk.ranges import PositiveInt, spelled
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Choice


@config
class SEAR:
    """Sample-efficient action chunking."""

    driver = "from_scratch"
    unread = IMITATES_NOTHING

    chunk: ChunkConfig = ChunkConfig()
    """Without backup points every prefix is valued."""
    actor: ActorConfig = TanhGaussianConfig()
    """An actor whose density is known."""
    critic: PrefixConfig = PrefixConfig(tau=0.05)
    optim: OptimConfig = OptimConfig()
    act_horizon: PositiveInt | None = None
    """h_a, actions that are planned and played, as many as a prefix that is valued; without it, the horizon."""

    def check(self, where: str) -> None:
        """Raises UserError where the longest prefix is not the chunk, shorter ones are not discounted, or plans are no prefix that is valued."""
        check_points(self.chunk, f"{where}chunk.")
        if (n := self.act_horizon) and n not in (points := points_of(self.chunk)):
            fix = f"let --{where}act-horizon be one of {spelled(points)}"
            raise UserError(f"a chunk's first {n} actions are not valued", fix)


def sear(c: SEAR) -> Algorithm:
    """SEAR: the actor climbs the value of its plan under an entropy bonus, which the prefixes' targets leave out."""
    points, length = points_of(c.chunk), c.act_horizon or c.chunk.horizon
    played = tuple(n for n in points if n <= length)
    pi, heat = shortened(actor(c.actor), length), temperature()
    every, q = (prefix_q(c.critic, c.chunk.horizon, points, read=read) for read in (points, played))
    one = sample(acting(pi))._replace(length=length)
    act = one._replace(choice=Choice(one, 1, q.values, q.aggregate, played, c.chunk.gamma))
    climb = of_beginnings(proposing(pi, ascend_softly(pi, q.score, heat)), length)
    td = td_of_prefixes(every._replace(score=q.score), one, 1)
    return learner([pi, every, heat], act, [climb, td], c.optim, draw=buffer.backing_up(points))
