"""Decoupled Q-chunking (2512.10926): values of long chunks, distilled into those of the short ones that are played, for goals.

Configurations of the same parts, by the paper's names, each with ``--no-decoupled``: OS is ``--chunk.horizon 1 --act-horizon 1``;
NS ``--chunk.horizon 25 --act-horizon 1``; QC ``--chunk.horizon 5 --act-horizon 5``; QC-NS ``--chunk.horizon 25 --act-horizon 5``;
DQC-naive is QC with ``--chunk.horizon 25 --act-horizon 25 --execute receding:5``. Defaults are those of the paper's cubes; there
NS and OS have ``--backup.level 0.5``. Its puzzles and humanoids have ``--critic.aggregate mean``.
"""

from __future__ import annotations

import functools

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner, seeing, shortened
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chance import chance
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.data.goals import GoalConfig, draw_toward_goals
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.reaching import UnevenConfig, agreed, arrived, distilled, reach
from qchunk.ranges import PositiveInt
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class DQC:
    """Decoupled Q-chunking."""

    chunk: ChunkConfig = ChunkConfig(25, gamma=0.999, starts="whole")
    act_horizon: PositiveInt = 5
    """h_a, actions of each chunk that are imitated and played; at most the horizon."""
    goals: GoalConfig = GoalConfig()
    actor: ActorConfig = FlowConfig((1024,) * 4, layer_norm=True)
    critic: CriticConfig = CriticConfig((1024,) * 4, aggregate="min")
    decoupled: bool = True
    """A critic of whole chunks, distilled into that of their first actions; without, that one learns from the data itself."""
    distil: UnevenConfig = UnevenConfig("expectile", 0.8)
    backup: UnevenConfig = UnevenConfig("quantile", 0.93)
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, candidates per decision."""

    def check(self, where: str) -> None:
        """Raises UserError where more is to be played than a chunk holds."""
        if (h := self.act_horizon) > (most := self.chunk.horizon):
            raise UserError(f"--{where}act-horizon {h} is more than --chunk.horizon {most}", f"give {most} or less")


def dqc(c: DQC) -> Algorithm:
    """Decoupled Q-chunking: the actor never sees the goal; the best of N by the critic of what is played."""
    pi, v = shortened(seeing(actor(c.actor), "state"), c.act_horizon), state_v(c.critic, "value")
    q, whole = shortened(chunk_q(c.critic), c.act_horizon), chunk_q(c.critic, "chunk_critic", target=False)
    act = best_of_n(sample(acting(pi))._replace(length=c.act_horizon), chance(q).score, c.n)
    apart = [reach(whole, arrived(v), "chunk"), reach(q, distilled(whole), "distil", c.distil)]
    terms = [bc(pi), reach(v, agreed(q), "value", c.backup), *(apart if c.decoupled else [reach(q, arrived(v), "td")])]
    draw = functools.partial(draw_toward_goals, goals=c.goals)
    return learner([pi, q, v, *([whole] if c.decoupled else [])], act, terms, c.optim, draw=draw)
