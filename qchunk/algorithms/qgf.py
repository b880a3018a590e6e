"""QGF (2606.11087): a frozen flow, denoised along the gradient of an IQL critic at its own clean estimates.

``--weight`` is to be tuned by domain (published: 0.004 to 0.12 against rewards of -1 a step); too large leaves the data. ``--n 4`` adds best of N
(there by the target networks).
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.compose import frozen, lagging, learner
from qchunk.config import IMITATES_NOTHING, ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import minimum, opinion
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n, guide_estimate
from qchunk.losses.implicit_q import implicit_q
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class QGF:
    """A Q-guided flow."""

    unread = IMITATES_NOTHING

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior, as it was trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    critic: CriticConfig = CriticConfig(aggregate="min")
    optim: OptimConfig = OptimConfig()
    weight: NonNegativeFloat = 0.05
    """Of the critic's gradient in the velocity, in 1 / units of return."""
    expectile: Annotated[float, Range(0.5, below=1)] = 0.9
    """IQL's, in [0.5, 1)."""
    n: PositiveInt = 1
    """N, guided candidates per decision, ranked by the critics' minimum."""
    slice_rows: NonNegativeInt = 0
    """Candidates evaluated at once (bounds memory); 0 chooses by backend."""


def qgf(c: QGF) -> Algorithm:
    """QGF: prior and critic are trained apart and meet when acting; the critic's targets hold none of its chunks."""
    pi, q, v = frozen(actor(c.given)), chunk_q(c.critic), state_v(c.critic)
    led = guide_estimate(pi, opinion(lagging(q), minimum), c.weight)
    act = best_of_n(sample(led), opinion(q, minimum), c.n, c.slice_rows)
    return learner([q, v], act, implicit_q(q, v, c.expectile), c.optim)
