"""A frozen prior whose plans learn their own length: PPO over decisions, with a price for each look (DEHP, 2606.11408).

The prior's chunk is not changed. A head sees the observation and the chunk and says how many of its actions to play; it is played so
open-loop, wherever the policy is. Evaluated at its likeliest length.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.actors.lengths import lengths, with_length
from qchunk.compose import frozen, learner
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, RolloutConfig, Stands, ValueConfig, config
from qchunk.critics.state_v import state_v
from qchunk.losses.plan_length import of_plans, ppo_length
from qchunk.losses.ppo_path import kl_above, value_mse
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class LearnedK:
    """A learned length of plans."""

    driver = "on_policy"

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior, as it was trained; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig(16)
    head: ValueConfig = ValueConfig()
    """Of the lengths' logits."""
    critic: ValueConfig = ValueConfig()
    rollout: RolloutConfig = RolloutConfig(decisions=128, scale_rewards=False)
    """Decisions are environment steps here: a plan may end at any."""
    optim: OptimConfig = OptimConfig()
    cost: NonNegativeFloat = 0.0
    """Price of a look, in units of reward; with --rollout.scale-rewards of what rewards are scaled to."""
    clip: PositiveFloat = 0.2
    """Bound of a ratio's distance from 1."""
    entropy: NonNegativeFloat = 0.01
    """Weight of the lengths' entropy."""
    lam: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of the advantages, in [0, 1]."""
    target_kl: float = 0.05
    """An iteration's updates end when its policy is further from the one that played, nats."""
    critic_updates: NonNegativeInt = 0
    """Updates before the lengths are learned; published code, by summaries of it, warms the critic up."""

    def check(self, where: str) -> None:
        """Raises UserError where shorter plans are not discounted."""
        self.chunk.must_count_steps(f"{where}chunk.")


def learned_k(c: LearnedK) -> Algorithm:
    """PPO of a categorical over lengths 1 to H; only the steps at which plans begin count."""
    head, v, prior = lengths(c.head), state_v(c.critic), sample(frozen(actor(c.given)))
    act, explore = with_length(prior, head, drawn=False), with_length(prior, head, drawn=True)
    terms = [ppo_length(head, c.clip, c.entropy, c.critic_updates), value_mse(v)]
    prepare, stop = of_plans(v, c.lam, c.cost), kl_above(c.target_kl)
    return learner([head, v], act, terms, c.optim, explore=explore, prepare=prepare, stop=stop)
