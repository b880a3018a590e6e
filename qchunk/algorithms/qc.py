"""Q-chunking (2507.07969): a flow prior by behaviour cloning, and best of N of its chunks by a chunk critic.

Configurations of the same parts: ``--chunk.horizon 1 --n 4`` is the paper's BFN (one-step actions); ``--chunk.horizon 1
--chunk.backup 5 --n 4`` its BFN-n (one action, uncorrected 5-step return). On puzzle-3x3 the paper's QC has ``--n 64``.
"""

from __future__ import annotations

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class QC:
    """Q-chunking."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = FlowConfig()
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 32
    """N, chunks sampled for a decision, of which the critic's best is played; as many in the critic's target."""
    clone_until: NonNegativeInt = 0
    """Updates after which the actor is no longer cloned, only the critic trained; 0: it is cloned in all of them."""
    slice_rows: NonNegativeInt = 0
    """Sampled chunks that are evaluated at once, which bounds memory; 0: chosen by the device."""


def qc(c: QC) -> Algorithm:
    """Q-chunking: the same best-of-N operator acts, is evaluated, and chooses the next chunk of the critic's target."""
    pi, q = actor(c.actor), chunk_q(c.critic)
    act = best_of_n(sample(acting(pi)), q.score, c.n, c.slice_rows)
    clone = bc(pi)._replace(end=c.clone_until or None)
    return learner([pi, q], act, [clone, td(q, act)], c.optim)
