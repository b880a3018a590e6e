"""DPPO (2409.00588): PPO through the denoising steps of a generative actor; and PPO, which is the same with one step."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from qchunk.actor_configs import DiffusionConfig, GaussianConfig
from qchunk.actors import actor, tuned_actor
from qchunk.actors.paths import count_steps, stochastic, with_min_std
from qchunk.algorithms.policy_gradient import PolicyGradient, on_policy
from qchunk.compose import frozen
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, Stands, config
from qchunk.critics.state_v import state_v
from qchunk.losses.ppo_path import advantages, of_steps, ppo_path
from qchunk.ranges import PositiveFloat, PositiveInt, Range
from qchunk.sampling import sample, sample_path
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class DPPO(PolicyGradient):
    """Diffusion policy policy optimisation."""

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = DiffusionConfig()
    """The actor; --prior RUN fills it in, and its weights are where training starts."""
    tuned_steps: PositiveInt = 10
    """K', the last denoising steps, which are trained; the prior makes the others. From scratch all must be."""
    clip: PositiveFloat = 0.01
    """Bound of a ratio's distance from 1, at the last denoising step. Ratios are per number: roots of the true ones."""
    clip_base: PositiveFloat = 0.01
    """The same at the first tuned step."""
    clip_rate: Annotated[float, Range(above=0, high=80)] = 3.0
    """How late the bound rises from one to the other, in (0, 80]."""
    gamma_denoise: Annotated[float, Range(0, 1)] = 0.99
    """Discount per denoising step, in [0, 1]."""
    explore_std: Annotated[float, Range(0, 1)] = 0.1
    """Least standard deviation of a tuned step while exploring, in units of action."""
    prob_std: Annotated[float, Range(1e-3, 1)] = 0.1
    """The same in its probability."""

    @property
    def walks_alone(self) -> bool:
        """Whether its actor walks every denoising step itself, without a frozen prior for the first ones."""
        return self.tuned_steps >= count_steps(actor(self.tuned))


@config
class PPO(PolicyGradient):
    """PPO with a Gaussian over chunks."""

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = GaussianConfig((256, 256, 256))
    """The actor; --prior RUN fills it in, and its weights are where training starts."""
    chunk: ChunkConfig = ChunkConfig(1, discount="decision")
    optim: OptimConfig = OptimConfig(3e-4)
    """Of the actor."""
    clip: PositiveFloat = 0.05
    """Bound of a ratio's distance from 1. Ratios are per number: roots of the true ones."""
    explore_std: Annotated[float, Range(0, 1)] = 0.1
    """Least standard deviation, in units of action."""

    @property
    def walks_alone(self) -> bool:
        """Whether its actor makes chunks in the one step that is trained."""
        return count_steps(actor(self.tuned)) == 1


def dppo(c: DPPO) -> Algorithm:
    """DPPO: the last K' denoising steps learn, a frozen copy of the prior makes the first ones; exploring adds noise."""
    pi = tuned_actor(c.tuned)
    # a step to a chunk at once has the noise of exploring alone
    walk = pi if pi.noisy else stochastic(pi) if pi.advance else pi._replace(noisy=True)
    if (tuned := c.tuned_steps) > count_steps(pi):
        problem = f"--tuned-steps {tuned} is more than the {count_steps(pi)} denoising steps of the actor"
        raise UserError(problem, f"give --tuned-steps {count_steps(pi)} or less")
    partly = tuned < count_steps(pi)
    explore, prob = with_min_std(walk, c.explore_std), with_min_std(walk, c.prob_std)
    still = pi._replace(noisy=False) if count_steps(pi) == 1 else pi  # a Gaussian is evaluated at its mean
    v = state_v(c.critic)
    surrogate = ppo_path(
        prob,
        clip=c.clip,
        clip_base=c.clip_base,
        clip_rate=c.clip_rate,
        gamma_denoise=c.gamma_denoise,
        start=c.critic_updates,
    )
    act = sample(still, frozen(still), tuned) if partly else sample(still)
    played = sample_path(explore, frozen(walk), tuned) if partly else sample_path(explore)
    return on_policy(c, pi, v, act, played, [surrogate], advantages(of_steps(prob), v, c.lam))


def ppo(c: PPO) -> Algorithm:
    """PPO: DPPO with one denoising step, all of it trained."""
    same = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name != "explore_std"}
    return dppo(DPPO(**same, tuned_steps=1, clip_base=c.clip, explore_std=c.explore_std, prob_std=c.explore_std))
