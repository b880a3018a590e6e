"""DTQL (2405.19690): a one-step actor climbs the critic inside the region that a cloned diffusion denoises well.

Its code first trains diffusion and critics alone (here ``--prior RUN`` stands for that of the diffusion), has an EDM's noise levels and weights where ours are the actor's own, lets V
follow the lower of the online critics (here of the target networks), and takes one of 1,024 samples (``--n 1024``). There every draw of the student is by one key that never changes; here each is by its own. Its third loss, imitation by the
student's own density, is in the code and in no equation of our source.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import DiffusionConfig, TanhGaussianConfig
from qchunk.actors import actor
from qchunk.actors.tanh_gaussian import tanh_gaussian
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, ValueConfig, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.implicit_q import implicit_q
from qchunk.losses.proposals import ascend_within
from qchunk.losses.terms import weighed
from qchunk.ranges import NonNegativeFloat, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DTQL:
    """Diffusion trusted Q-learning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = DiffusionConfig()
    """The actor that says where data lie, by behaviour cloning, or the prior's; it never acts."""
    student: TanhGaussianConfig = TanhGaussianConfig()
    """The one-step actor that acts."""
    critic: CriticConfig = CriticConfig(aggregate="min")
    value: ValueConfig = ValueConfig()
    optim: OptimConfig = OptimConfig()
    expectile: Annotated[float, Range(0.5, below=1)] = 0.7
    """Of the data's chunks, by value, which V is."""
    alpha: NonNegativeFloat = 1.0
    """Weight of the diffusion's loss at the student's chunks, against the critic in units of return."""
    clone: NonNegativeFloat = 1.0
    """Weight of the student's own imitation, minus the log-density of a whole chunk of the data; 1 by default in its code, 0 leaves it out."""
    n: PositiveInt = 32
    """N, samples of the student when acting; the target has none."""
    temperature: NonNegativeFloat = 1.0
    """beta, in units of return: one is taken with probability softmax(Q / beta), at 0 the best."""


def dtql(c: DTQL) -> Algorithm:
    """DTQL: the student asks for the diffusion's loss, never for its samples; critics learn from the data's chunks alone."""
    pi, mu = actor(c.actor), tanh_gaussian(c.student, "student")
    q, v = chunk_q(c.critic), state_v(c.value)
    climb, clone = ascend_within(mu, pi, q.score, c.alpha), weighed(bc(mu, "clone", summed=True), c.clone)
    act = best_of_n(sample(acting(mu)), lagging(q).score, c.n, temperature=c.temperature)
    terms = [bc(pi), climb, clone, *implicit_q(q, v, c.expectile)]
    return learner([pi, mu, q, v], act, terms, c.optim, prior=pi)
