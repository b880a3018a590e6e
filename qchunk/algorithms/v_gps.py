"""V-GPS (2410.13816): a critic re-ranks samples of a frozen prior.

Published, with IQL: ``--critic.aggregate min --critic.tau 0.002 --chunk.gamma 0.98``, and choices by ``--temperature`` 0, 0.1 or 1 among 10 or 50.
"""

from __future__ import annotations

from typing import Annotated, Literal

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import frozen, learner
from qchunk.config import IMITATES_NOTHING, ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n
from qchunk.losses.implicit_q import implicit_q
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class VGPS:
    """V-GPS."""

    unread = IMITATES_NOTHING

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior, as it was trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 10
    """N, samples to rank."""
    temperature: NonNegativeFloat = 0.0
    """beta, in units of return: sample i is taken with probability softmax(Q / beta)_i; 0 takes the best."""
    learning: Literal["iql", "td"] = "iql"
    """Of the critic: IQL, or temporal differences over the prior's next chunk."""
    expectile: Annotated[float, Range(0.5, below=1)] = 0.7
    """IQL's, in [0.5, 1)."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def v_gps(c: VGPS) -> Algorithm:
    """V-GPS: a critic, in whose targets nothing is that acts, re-ranks samples of the frozen prior."""
    pi, q, v = frozen(actor(c.given)), chunk_q(c.critic), state_v(c.critic)
    act = best_of_n(sample(pi), q.score, c.n, c.slice_rows, c.temperature)
    if c.learning == "td":
        return learner([q], act, [td(q, sample(pi))], c.optim)
    return learner([q, v], act, implicit_q(q, v, c.expectile), c.optim)
