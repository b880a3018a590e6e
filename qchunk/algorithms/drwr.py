"""DRWR (2409.00588's baseline): an actor clones the chunks that it played itself, weighted by what they earned until the episode's end.

Reward-weighted regression without a critic, on-policy: no data. Of an episode whose end an iteration does not see nothing is cloned, so give it
as many decisions (``--rollout.decisions``) as an episode has, or more. While exploring actions have noise (the published code has it in the last
denoising steps), and are cloned with it.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, RolloutConfig, Stands, config
from qchunk.improve import smoothed
from qchunk.losses.cloning import bc, told_weight
from qchunk.losses.returns import returns_to_go
from qchunk.ranges import NonNegativeFloat, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DRWR:
    """Diffusion by reward-weighted regression."""

    driver = "on_policy"

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = DiffusionConfig()
    """The actor, of any kind; --prior RUN fills it in, and its weights are where training starts."""
    chunk: ChunkConfig = ChunkConfig(4, discount="decision")
    rollout: RolloutConfig = RolloutConfig(epochs=16)
    optim: OptimConfig = OptimConfig(1e-4)
    alpha: NonNegativeFloat = 10.0
    """A chunk counts exp(alpha R), at most 100; R are returns of one iteration, standardised."""
    explore_std: Annotated[float, Range(0, 1)] = 0.1
    """Standard deviation of the noise on exploring actions, in units of action."""


def drwr(c: DRWR) -> Algorithm:
    """DRWR: one term of weighted cloning, of what the iteration played."""
    pi = actor(c.tuned)
    act, clone = sample(acting(pi)), bc(pi, weight=told_weight(c.alpha))
    made = learner([pi], act, [clone], c.optim, explore=smoothed(act, c.explore_std), prepare=returns_to_go())
    return warm_started(made, "actor")
