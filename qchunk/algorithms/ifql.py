"""IFQL: a cloned flow, a critic by implicit Q-learning, and best of N (IDQL, 2304.10573, with a flow; 2502.02538's baseline).

With chunks of 5 it is QC-IFQL; ``--chunk.horizon 1`` IFQL, and with ``--chunk.backup 5`` IFQL-n.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import minimum, opinion
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.implicit_q import implicit_q
from qchunk.ranges import NonNegativeInt, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class IFQL:
    """Implicit flow Q-learning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """By behaviour cloning, or the prior's."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, candidates per decision, ranked by the critics' minimum; none are in the target."""
    expectile: Annotated[float, Range(0.5, below=1)] = 0.9
    """Of the value of a state, in [0.5, 1)."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def ifql(c: IFQL) -> Algorithm:
    """IFQL: the actor only imitates; the critic never sees its chunks; best of N joins them when acting."""
    pi, q, v = actor(c.actor), chunk_q(c.critic), state_v(c.critic)
    act = best_of_n(sample(acting(pi)), opinion(q, minimum), c.n, c.slice_rows)
    return learner([pi, q, v], act, [bc(pi), *implicit_q(q, v, c.expectile)], c.optim, prior=pi)
