"""ReinFlow (2505.22094): PPO through a flow's few steps, whose noise is learned and then left out.

Its regression towards the former policy (W2) is left out. Published: ``--tuned.steps 4``, noise of 0.1 to 0.24 (hopper, walker), 0.08 to 0.16 (ant,
humanoid) or 0.05 to 0.12 (kitchen), entropy 0.03 there and 0 to 0.01 in manipulation.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import tuned_actor
from qchunk.actors.exploring import MOST, noise_network, shrinking, with_noise
from qchunk.compose import learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, NoiseConfig, OptimConfig, RolloutConfig, Stands, ValueConfig, config
from qchunk.critics.state_v import state_v
from qchunk.losses.joint_path import of_path, path_entropy
from qchunk.losses.ppo_path import advantages, kl_above, ppo, surrogate, value_mse
from qchunk.losses.terms import module_names
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, Range
from qchunk.sampling import sample, sample_path
from qchunk.schedules import scheduled
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class ReinFlow:
    """ReinFlow."""

    driver = "on_policy"

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig(steps=4)
    """The flow; --prior RUN fills it in, and its weights are where training starts."""
    chunk: ChunkConfig = ChunkConfig(4, discount="decision")
    critic: ValueConfig = ValueConfig()
    noise: NoiseConfig = NoiseConfig()
    """Of the steps while exploring."""
    rollout: RolloutConfig = RolloutConfig()
    optim: OptimConfig = OptimConfig(1e-4)
    """Of the actor and its noise."""
    critic_optim: OptimConfig = OptimConfig(1e-3)
    critic_updates: NonNegativeInt = 0
    """Updates before the actor moves."""
    clip: PositiveFloat = 0.01
    """Bound of a ratio's distance from 1. Ratios are per number of a path: roots of the true ones."""
    entropy: NonNegativeFloat = 0.01
    """Weight of the paths' entropy per number."""
    lam: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of the advantages, in [0, 1]."""
    target_kl: float = 1.0
    """An iteration's updates end when its policy is further from the one that played."""


def reinflow(c: ReinFlow) -> Algorithm:
    """ReinFlow: a flow's path is one action of a Gaussian policy; evaluation is the flow's own."""
    pi, v, noise = tuned_actor(c.tuned), state_v(c.critic), noise_network(c.noise)
    if pi.noisy or pi.decoder:
        raise UserError(
            f"the steps of a {c.tuned.kind} actor are no flow's", "take --tuned.kind flow, shortcut or meanflow"
        )
    walk = with_noise(pi, noise, c.noise.min_std, lambda vars: vars.stats[MOST])
    likelihood = of_path(walk)
    policy = ppo(
        module_names(walk), likelihood, lambda new, old, a: surrogate(new, old, a[..., None], c.clip), c.critic_updates
    )
    made = learner(
        [walk, v],
        sample(pi),
        [policy, path_entropy(walk, noise, c.entropy, c.critic_updates), value_mse(v)],
        {v.modules[0].name: c.critic_optim, "": c.optim},
        explore=sample_path(walk),
        prepare=advantages(likelihood, v, c.lam),
        stop=kl_above(c.target_kl),
    )
    return scheduled(
        warm_started(made, *module_names(pi)), MOST, shrinking(c.noise.min_std, c.noise.max_std, c.noise.updates)
    )
