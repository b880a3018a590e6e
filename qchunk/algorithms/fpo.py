"""FPO (2507.21053) and FPO++ (2602.02481): PPO on a flow, whose ratio is that of its own losses on what it played; any sampler may have played it.

Published: 2,048 environments, 10 steps, 8 pairs, clip 0.05, rate 3e-4, gamma 0.995, rewards times 10, actions squashed by tanh (here clipped), 512 updates an iteration; for FPO++ 4,096 environments, 24 decisions, 64 steps.
FPO++'s code draws times from [0.005, 0.995] and divides summed errors by the root of their count (locomotion), or sums over a chunk the means of its actions, with bounds of 0.01 to 0.03, PPO's
objective for all chunks, Huber's loss and a rate of 1e-5 (manipulation). Here times are the sampler's and errors means over all numbers, so the same ``--clip`` is wider: by the root of their count than
in the first case, by the chunk's length than in the second. Noise on actions (0.02), a bound on gradients and a moving average for evaluation are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from qchunk.actors import tuned_actor
from qchunk.actors.paths import count_steps
from qchunk.algorithms.policy_gradient import PolicyGradient, on_policy
from qchunk.config import config
from qchunk.critics.state_v import state_v
from qchunk.losses.flow_ratio import END, averaged, by_pair, of_flow, with_pairs
from qchunk.losses.ppo_path import advantages, ppo
from qchunk.losses.terms import module_names
from qchunk.ranges import PositiveFloat, PositiveInt
from qchunk.sampling import from_zero, sample, telling
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Policy


@config
class FPO(PolicyGradient):
    """Flow policy optimisation."""

    clip: PositiveFloat = 0.05
    """Bound of a ratio's distance from 1."""
    pairs: PositiveInt = 8
    """Noises and times at which the flow's losses are compared, for each decision."""


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
    prepare = with_pairs(pi, c.pairs, advantages(likelihood, v, c.lam))
    return on_policy(c, pi, v, act(sample(pi)), telling(pi, END), [policy], prepare)


def fpo_by_pair(c: FPO) -> Algorithm:
    """FPO++: a ratio for each pair, a gentler bound for what was worse, losses of velocities, and evaluation from noise 0."""
    return fpo(c, by_pair, False, from_zero)
