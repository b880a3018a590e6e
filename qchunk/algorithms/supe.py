"""SUPE (2410.18076): skills of data without rewards, explored online from the first step; SUPE-GT is told the rewards.

Stage 1 is ``qchunk train bc --actor.kind skills`` (the paper: ``--actor.skill 8``, chunks of 4); stage 2 stands on it by ``--prior RUN``.

Unlike the paper's code: actions are the decoder's means (samples), critics are averaged (the least of one or two, ``--critic.subset 1``), 4 x 512 (3 x 256), the
temperature starts at 1 (``--start-temperature 0.05``), every update trains all (20 of the critic for one of the policy), and novelty, reward and ends are
learned from the first update (10,000 steps). SUPE-GT's skills are trained with ``--actor.kl 0.003`` in the Q-chunking paper (2507.07969).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from qchunk.actors import actor
from qchunk.algorithms.opal import OverSkills, over_skills
from qchunk.algorithms.rlpd import RLPD, rlpd
from qchunk.compose import acting, learner
from qchunk.config import IMITATES_NOTHING, ChunkConfig, CriticConfig, config, refuse_unread
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.novelty import novelty, with_random_kept
from qchunk.data.chunks import begun
from qchunk.losses.optimism import familiar, optimistic, predicted
from qchunk.losses.proposals import ascend_softly, proposing, temperature
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat, PositiveFloat
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class SUPEGT(OverSkills):
    """Soft actor-critic over skills, online beside data with rewards."""

    driver = "from_scratch"
    unread = OverSkills.unread | IMITATES_NOTHING

    chunk: ChunkConfig = ChunkConfig(4)
    """Steps of a skill; ``--chunk.discount decision`` discounts once per skill; the paper also discounts rewards within one."""
    critic: CriticConfig = CriticConfig(members=10)
    start_temperature: PositiveFloat = 1.0
    """The temperature of the entropy bonus before it is learned."""


@config
class SUPE(SUPEGT):
    """The same beside data without rewards, with a bonus for what is new."""

    bonus: NonNegativeFloat = 8.0
    """Of novelty, in units of return."""
    least: float = -1.0
    """The lowest reward of a step."""
    earned: Literal["least", "predicted"] = "least"
    """What windows of data are taken to earn: the lowest reward in each step, or what is learned from online windows (the paper: its kitchen)."""

    def check_read(self, where: str) -> None:
        """Raises UserError where a lowest reward is given, and what data earn is predicted."""
        if self.earned == "predicted":
            why, fix = "what windows of data earn is predicted", f"leave it out, or give --{where}earned least"
            refuse_unread(self, SUPE, ("least",), where, why, fix)


def supe_gt(c: SUPEGT) -> Algorithm:
    """SUPE-GT: RLPD over skills."""
    return over_skills(c, rlpd(RLPD(c.chunk, c.policy, c.critic, c.optim, start_temperature=c.start_temperature)))


def supe(c: SUPE) -> Algorithm:
    """SUPE: RLPD over skills, on windows relabelled with optimism at every update."""
    pi, q, new = actor(c.policy), chunk_q(c.critic), novelty(c.critic)
    heat = temperature(first=c.start_temperature)
    one = dataclasses.replace(c.critic, members=1)
    reward, going = (chunk_q(one, name, target=False) for name in ("reward_model", "end_model"))
    act, steps = sample(acting(pi)), begun(c.chunk.horizon, c.chunk)
    discount = c.chunk.gamma**steps
    least = c.least * sum(c.chunk.gamma ** begun(i, c.chunk) for i in range(c.chunk.horizon))
    climb = proposing(pi, ascend_softly(pi, q.score, heat))
    earned = reward.score if c.earned == "predicted" else least
    learned = optimistic(td(q, act), new, going, earned, discount, c.bonus)
    parts = [pi, q, heat, new, reward, going]
    high = learner(parts, act, [climb, learned, familiar(new), predicted(reward, going)], c.optim)
    return over_skills(c, with_random_kept(high))
