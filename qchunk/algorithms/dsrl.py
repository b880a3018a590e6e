"""DSRL (2506.15799): soft actor-critic over the noise that a cloned flow starts from; no gradient goes through the flow.

Its form for actions ("NA"): a critic of chunks, and one of noise that learns from it. The code of 2601.14234 has ``--critic.members 10
--critic.aggregate pessimistic:0.5`` and tunes the scale by domain, from 0.4 to 1.4.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig, TanhGaussianConfig
from qchunk.actors import actor
from qchunk.actors.tanh_gaussian import tanh_gaussian
from qchunk.compose import acting, lagging, learner
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion, scaled
from qchunk.improve import started
from qchunk.losses.cloning import bc
from qchunk.losses.proposals import ascend_softly, proposing, temperature
from qchunk.losses.start_value import start_value
from qchunk.losses.td import td
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample, sample_from_start
from qchunk.target_networks import slow_copy
from qchunk.types import Algorithm


@config
class DSRL:
    """Diffusion steering by reinforcement learning."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The flow, by behaviour cloning, or the prior's; its target network stands in the place of a moving average."""
    steer: TanhGaussianConfig = TanhGaussianConfig()
    """The actor that chooses the noise."""
    critic: CriticConfig = CriticConfig()
    optim: OptimConfig = OptimConfig()
    scale: NonNegativeFloat = 1.0
    """The largest number of a chosen noise, in its standard deviations."""


def dsrl(c: DSRL) -> Algorithm:
    """DSRL: the chunk that the target flow makes of the chosen noise acts and is backed up."""
    pi = slow_copy(actor(c.actor), c.critic.tau, acts=True)
    steer, q, heat = tanh_gaussian(c.steer, "steer"), chunk_q(c.critic), temperature()
    z, flow = chunk_q(c.critic, "start_critic", target=False), sample_from_start(lagging(pi))
    climb = proposing(steer, ascend_softly(steer, scaled(opinion(z, mean), c.scale), heat))
    act = started(flow, sample(acting(steer)), c.scale)
    return learner(
        [pi, steer, q, z, heat], act, [bc(pi), start_value(z, q, flow), climb, td(q, act)], c.optim, prior=pi
    )
