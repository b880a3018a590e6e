"""MAC (2512.08108): a model of whole chunks, in which chunks of the data's kind are imagined and valued.

The paper plays 1 of 10 actions: ``--execute receding:1``, on observations in ``--normalise-obs min-max``, with gamma 0.999 and 4 x 1024.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig, OneStepConfig
from qchunk.actors import actor
from qchunk.actors.one_step import one_step_actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.data.chunks import whole_discount
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.imagined import expansion, fitted
from qchunk.losses.proposals import distil, proposing
from qchunk.ranges import PositiveInt, Range
from qchunk.sampling import sample, sample_from_start
from qchunk.target_networks import with_target
from qchunk.types import Algorithm, Term, Together
from qchunk.world_model import ModelConfig, chunk_model


@config
class MAC:
    """Model-based RL with action chunks."""

    chunk: ChunkConfig = ChunkConfig(10)
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The teacher, by behaviour cloning, or the prior's."""
    student: OneStepConfig = OneStepConfig()
    """The one-step actor that proposes; it only imitates the teacher."""
    model: ModelConfig = ModelConfig()
    critic: CriticConfig = CriticConfig(members=1)
    """Of Q, and of V in its size."""
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 8
    """N, candidates for each imagined chunk."""
    more: PositiveInt = 4
    """Times as many candidates are drawn when acting."""
    depth: PositiveInt = 10
    """Chunks that are imagined one behind the other."""
    lam: Annotated[float, Range(0, 1)] = 1.0
    """Of the imagined returns: 1 reaches to the last chunk, 0 trusts V behind the first."""

    def check(self, where: str) -> None:
        """Raises UserError where a few of the critic's target networks are asked for."""
        self.critic.must_read_all(f"{where}critic.", "this critic has none")

    def check_read(self, where: str) -> None:
        """Raises UserError where a chunk's backup is not its end."""
        self.chunk.must_back_up_whole(f"{where}chunk.", "the model looks ahead")


def mac(c: MAC) -> Algorithm:
    """MAC: best of N proposals by Q, in imagination and in the environment; proposals stay near the data, so that the model does too."""
    pi, mu, model = actor(c.actor), one_step_actor(c.student, "student"), chunk_model(c.model)
    q, v = chunk_q(c.critic, target=False), with_target(state_v(c.critic), rate=c.critic.tau)
    best = lambda n: best_of_n(sample(acting(mu)), q.score, n)  # noqa: E731
    imagined = expansion(model, q, v, best(c.n), whole_discount(c.chunk), c.depth, c.lam)
    teach = proposing(mu, [distil(mu, sample_from_start(acting(pi)))])
    terms: list[Term | Together] = [bc(pi), teach, fitted(model), imagined]
    return learner([pi, mu, model, q, v], best(c.n * c.more), terms, c.optim, prior=pi)
