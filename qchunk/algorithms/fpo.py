"""FPO (2507.21053) and FPO++ (2602.02481): PPO on a flow, whose ratio is that of its own losses on what it played; any sampler may have played it.

Published: 2,048 environments, 10 steps, 8 pairs, clip 0.05, rate 3e-4, gamma 0.995; for FPO++ 4,096 environments, 24 decisions, 64 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from qchunk.actor_configs import FlowConfig
from qchunk.actors import tuned_actor
from qchunk.actors.paths import count_steps
from qchunk.compose import learner, warm_started
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, RolloutConfig, Stands, ValueConfig, config
from qchunk.critics.state_v import state_v
from qchunk.losses.flow_ratio import END, averaged, by_pair, of_flow, with_pairs
from qchunk.losses.ppo_path import advantages, kl_above, ppo, value_mse
from qchunk.losses.terms import module_names
from qchunk.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Range
from qchunk.sampling import from_zero, sample, telling
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Policy


@config
class FPO:
    """Flow policy optimisation."""

    driver = "on_policy"

    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig()
    """The flow; --prior RUN fills it in, and its weights are where training starts."""
    chunk: ChunkConfig = ChunkConfig(4, discount="decision")
    critic: ValueConfig = ValueConfig()
    rollout: RolloutConfig = RolloutConfig()
    optim: OptimConfig = OptimConfig(1e-4)
    """Of the actor."""
    critic_optim: OptimConfig = OptimConfig(1e-3)
    critic_updates: NonNegativeInt = 0
    """Updates before the actor moves."""
    pairs: PositiveInt = 8
    """Noises and times at which the flow's losses are compared, for each decision."""
    clip: PositiveFloat = 0.05
    """Bound of a ratio's distance from 1."""
    lam: Annotated[float, Range(0, 1)] = 0.95
    """Lambda of the advantages, in [0, 1]."""
    target_kl: float = 1.0
    """An iteration's updates end when its policy is further from the one that played."""


def fpo(
    c: FPO,
    objective: Callable = averaged,
    by_noise: bool = True,
    act: Callable[[Policy], Policy] = lambda policy: policy,
) -> Algorithm:
    """FPO: what it explores with is the noise that it starts from."""
    pi, v = tuned_actor(c.tuned), state_v(c.critic)
    likelihood = of_flow(pi, by_noise)
    if by_noise and count_steps(pi) < 2:
        raise UserError(
            "at the one time of a flow of one step its noise is known", "give --tuned.steps 2 or more, or take fpo++"
        )
    policy = ppo(module_names(pi), likelihood, objective(c.clip), c.critic_updates)
    made = learner(
        [pi, v],
        act(sample(pi)),
        [policy, value_mse(v)],
        {v.modules[0].name: c.critic_optim, "": c.optim},
        explore=telling(pi, END),
        prepare=with_pairs(pi, c.pairs, advantages(likelihood, v, c.lam)),
        stop=kl_above(c.target_kl),
    )
    return warm_started(made, *module_names(pi))


def fpo_by_pair(c: FPO) -> Algorithm:
    """FPO++: a ratio for each pair, a gentler bound for what was worse, losses of velocities, and evaluation from noise 0."""
    return fpo(c, by_pair, False, from_zero)
