"""ReinFlow (2505.22094): PPO through a flow's few steps, whose noise is learned and then left out.

Its regression towards the former policy (W2) is left out, and evaluation clips chunks at the end, where its code does after every step, as exploring does. Published: ``--tuned.steps 4``, a rate of 4.5e-5 for the actor, noise of 0.1 to 0.24 (hopper, walker), 0.08 to 0.16 (ant,
humanoid) or 0.05 to 0.12 (kitchen), entropy 0.03 there and 0 to 0.01 in manipulation.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import tuned_actor
from qchunk.actors.exploring import MOST, noise_network, shrinking, with_noise
from qchunk.algorithms.policy_gradient import PolicyGradient, on_policy
from qchunk.config import ActorConfig, NoiseConfig, Stands, config
from qchunk.critics.state_v import state_v
from qchunk.losses.joint_path import of_path, path_entropy
from qchunk.losses.ppo_path import advantages, ppo, surrogate
from qchunk.losses.terms import module_names
from qchunk.ranges import NonNegativeFloat
from qchunk.sampling import sample, sample_path
from qchunk.schedules import scheduled
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class ReinFlow(PolicyGradient):
    """ReinFlow. Its ratios are those of whole paths, per number."""

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig(steps=4)
    """The flow; --prior RUN fills it in, and its weights are where training starts."""
    noise: NoiseConfig = NoiseConfig()
    """Of the steps while exploring; it is trained by the actor's optimiser."""
    entropy: NonNegativeFloat = 0.01
    """Weight of the paths' entropy per number."""


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
    terms = [policy, path_entropy(walk, noise, c.entropy, c.critic_updates)]
    made = on_policy(c, pi, v, sample(pi), sample_path(walk), terms, advantages(likelihood, v, c.lam), [noise])
    return scheduled(made, MOST, shrinking(c.noise.min_std, c.noise.max_std, c.noise.updates))
