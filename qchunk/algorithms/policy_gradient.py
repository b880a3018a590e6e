"""What on-policy methods share that tune an actor by a policy gradient: ``dppo``, ``ppo``, ``reinflow``, ``fpo``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from qchunk.actor_configs import FlowConfig
from qchunk.compose import learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, RolloutConfig, Stands, ValueConfig, config
from qchunk.losses.ppo_path import kl_above, value_mse
from qchunk.losses.terms import module_names
from qchunk.ranges import NonNegativeInt, PositiveFloat, Range
from qchunk.types import Algorithm, Critic, Kernel, Policy, PrepareFn, Term


@config
class PolicyGradient:
    """A policy gradient on an actor."""

    driver = "on_policy"

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig()
    """The actor; --prior RUN fills it in, and its weights are where training starts."""
    chunk: ChunkConfig = ChunkConfig(4, discount="decision")
    critic: ValueConfig = ValueConfig()
    rollout: RolloutConfig = RolloutConfig()
    optim: OptimConfig = OptimConfig(1e-4)
    """Of the actor."""
    critic_optim: OptimConfig = OptimConfig(1e-3)
    critic_updates: NonNegativeInt = 0
    """Updates before the actor moves."""
    clip: PositiveFloat = 0.01
    """Bound of a ratio's distance from 1. Ratios are per number: roots of the true ones."""
    lam: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of the advantages, in [0, 1]."""
    target_kl: float = 1.0
    """An iteration's updates end when its policy is further from the one that played."""


def on_policy(
    c: PolicyGradient,
    pi: Kernel,
    v: Critic,
    act: Policy,
    explore: Policy,
    terms: Sequence[Term],
    prepare: PrepareFn,
    parts: Sequence[Any] = (),
) -> Algorithm:
    """The algorithm of these terms and a value of states, whose actor starts where a prior's ended.

    Args:
        pi: the actor.
        terms: of the actor, one of them called ``ppo_path.POLICY``.
        prepare: such as ``advantages``.
        parts: trained besides, by the actor's optimiser.
    """
    made = learner(
        [pi, *parts, v],
        act,
        [*terms, value_mse(v)],
        {v.modules[0].name: c.critic_optim, "": c.optim},
        explore=explore,
        prepare=prepare,
        stop=kl_above(c.target_kl),
    )
    return warm_started(made, *module_names(pi))
