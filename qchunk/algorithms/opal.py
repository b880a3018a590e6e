"""OPAL (2010.13611): reinforcement learning over skills that an earlier stage has found in the data.

Stage 1 is ``qchunk train bc --actor.kind skills``, and one such run serves all; stage 2 stands on it by ``--prior RUN``. The decoder stays as it was
trained (the paper goes on cloning the data with rewards, with the skills that were read off them).
"""

from __future__ import annotations

from typing import Annotated, Any

from qchunk.actor_configs import SkillConfig, TanhGaussianConfig
from qchunk.actors import actor
from qchunk.algorithms.iql import IQL, iql
from qchunk.compose import frozen
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.ranges import NonNegativeFloat, Range
from qchunk.recode import in_skills
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class OverSkills:
    """What methods over skills share."""

    unread = {"backup": "a skill is valued by the return of its whole chunk"}  # noqa: RUF012  (never written to)

    given: Annotated[ActorConfig, Stands.FROZEN] = SkillConfig()
    """The skills, as they were trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    """Steps of a skill; ``--chunk.discount decision`` discounts once per skill; the paper also discounts rewards within one."""
    policy: TanhGaussianConfig = TanhGaussianConfig()
    """Over skills."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()


@config
class OPAL(OverSkills):
    """IQL over skills."""

    expectile: Annotated[float, Range(0.5, below=1)] = 0.9
    """Of the value of a state, in [0.5, 1)."""
    alpha: NonNegativeFloat = 3.0
    """A window counts exp(alpha (Q - V)), at most 100; per unit of return."""


def opal(c: OPAL) -> Algorithm:
    """OPAL: windows become (state, skill, return, state), on which IQL learns; the frozen decoder plays the skill that it picks."""
    return over_skills(c, iql(IQL(c.chunk, c.policy, c.critic, c.optim, c.expectile, c.alpha)))


def over_skills(c: Any, high: Algorithm) -> Algorithm:
    """An algorithm over the frozen skills ``c.given``.

    Raises:
        UserError: an actor that has no skills.
    """
    skills = frozen(actor(c.given))
    if skills.decoder is None:
        fix = "stand on a run of: qchunk train bc --actor.kind skills"
        raise UserError(f"a {c.given.kind} actor has no skills", fix)
    return in_skills(high, skills)
