"""DAWR (2409.00588's baseline): an actor clones chunks weighted by their advantage, whose values come from TD(lambda): AWR (1910.00177) with a diffusion.

It learns from any experience of consecutive chunks: a data set, and then the ring, which is the published FIFO buffer (``--capacity``, ``--update-ratio``).
The published critic moves in a quarter of the updates; ours in each.
"""

from __future__ import annotations

import functools
from typing import Annotated

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.compose import acting, learner
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, ValueConfig, config
from qchunk.critics.state_v import state_v
from qchunk.data import buffer
from qchunk.improve import smoothed
from qchunk.losses.cloning import bc, told_weight
from qchunk.losses.ppo_path import value_mse
from qchunk.losses.returns import lambda_returns
from qchunk.ranges import NonNegativeFloat, PositiveInt, Range
from qchunk.sampling import sample
from qchunk.types import Algorithm


@config
class DAWR:
    """Diffusion by advantage-weighted regression."""

    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = DiffusionConfig()
    critic: ValueConfig = ValueConfig()
    optim: OptimConfig = OptimConfig()
    depth: PositiveInt = 8
    """U, consecutive chunks whose rewards a return holds, before the value of the state behind them."""
    lam: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of the returns, in [0, 1]."""
    alpha: NonNegativeFloat = 10.0
    """A chunk counts exp(alpha A), at most 100; A are the advantages of a batch, standardised."""
    explore_std: Annotated[float, Range(0, 1)] = 0.1
    """Standard deviation of the noise on exploring actions, in units of action."""

    def check_read(self, where: str) -> None:
        """Raises UserError where a chunk's backup is not its end."""
        self.chunk.must_back_up_whole(f"{where}chunk.", "each chunk's rewards count before the next one's")


def dawr(c: DAWR) -> Algorithm:
    """DAWR: V of what the experience did, and cloning of what did better."""
    pi, v = actor(c.actor), state_v(c.critic)
    act, draw = sample(acting(pi)), functools.partial(buffer.draw, count=c.depth)
    terms = [bc(pi, weight=told_weight(c.alpha)), value_mse(v)]
    explore, prepare = smoothed(act, c.explore_std), lambda_returns(v, c.lam)
    return learner([pi, v], act, terms, c.optim, explore=explore, prepare=prepare, draw=draw)
