"""What online diffusions share, and those among them that match what a critic weighs: ``sdac``, ``idem``, ``dpmd``, ``qvpo``.

As in FlowRL's code (2603.27450) evaluation takes the best of some samples by Q, and exploring fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

from qchunk.actor_configs import DiffusionConfig
from qchunk.compose import learner
from qchunk.config import IMITATES_NOTHING, ActorConfig, ChunkConfig, CriticConfig, OptimConfig, config
from qchunk.improve import best_of_n
from qchunk.losses.td import td
from qchunk.ranges import PositiveInt
from qchunk.types import Algorithm, Critic, Kernel, Module, Policy, Term, Together


@config
class OnlineDiffusion:
    """An online diffusion."""

    driver = "from_scratch"
    clones = False  # what it matches is no behaviour of the data
    unread = IMITATES_NOTHING

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig()
    critic: CriticConfig = CriticConfig(aggregate="min")
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 10
    """N, samples of which evaluation plays the best by Q."""


def matching_online(
    c: OnlineDiffusion,
    parts: tuple[Kernel, Critic, *tuple[Module, ...]],
    one: Policy,
    terms: Sequence[Term | Together],
    explore: Policy | None = None,
) -> Algorithm:
    """The algorithm of these terms and temporal differences.

    Args:
        parts: the actor, the critic, and what is trained besides.
        one: a sample of the actor.
        explore: what explores and chooses the target's next chunk; by default ``one``.
    """
    q, explore = parts[1], explore or one
    act = best_of_n(one, q.score, c.n)
    return learner(parts, act, [*terms, td(q, explore)], c.optim, explore=explore)
