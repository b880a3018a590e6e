"""Q-chunking (2507.07969) with the prior of an earlier run: what guidance and re-ranking are compared with."""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import frozen, learner
from qchunk.config import IMITATES_NOTHING, ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class FrozenQC:
    """Q-chunking on a frozen prior."""

    unread = IMITATES_NOTHING

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior, as it was trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, chunks sampled for a decision, of which the critic's best is played; as many in the critic's target."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def qc_frozen(c: FrozenQC) -> Algorithm:
    """Q-chunking on a frozen prior: ``qc`` without its imitation term."""
    pi, q = frozen(actor(c.given)), chunk_q(c.critic)
    act = best_of_n(sample(pi), q.score, c.n, c.slice_rows)
    return learner([q], act, [td(q, act)], c.optim)
