"""Policy gradients on flows without the probability of a path (2507.21053, FPO): the flow's own loss stands in for it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.actors.paths import count_steps, velocity_of
from qchunk.losses.ppo_path import Likelihood, surrogate
from qchunk.sampling import mean_inside
from qchunk.types import Array, Chunk, Kernel, Key, Learner, Metrics, PrepareFn, Vars

PAIRS, END = "pairs", "end"  # of ``extras``: the noises and times of the loss; the chunk before it was clipped
BOUND = 3.0  # of how far a loss may fall: of the logarithm of a pair's ratio


def with_pairs(kernel: Kernel, n: int, then: PrepareFn) -> PrepareFn:
    """A ``prepare`` that first draws ``n`` pairs (noise [.., n, H, A], time [.., n, 1]) for each decision, which its updates share.

    Times are those of the sampler's steps (code).
    """
    steps = count_steps(kernel)

    def prepare(learner: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Chunk]:
        noise_key, time_key, key = jax.random.split(key, 3)
        lead, shape = chunk.mask.shape[:-1], chunk.action.shape[-2:]
        times = jax.random.randint(time_key, (*lead, n, 1), 0, steps) / steps
        pairs = jax.random.normal(noise_key, (*lead, n, *shape)), times
        return then(learner, given, key, chunk._replace(extras={**chunk.extras, PAIRS: pairs}))

    return prepare


def of_flow(kernel: Kernel, by_noise: bool = True) -> Likelihood:
    """Minus the flow's loss at each pair [*B, n]: the mean square of what its velocity says of the noise, x - t v, less the noise.

    Args:
        by_noise: False takes the error of the velocity itself, as FPO++ does; it is 1 / t times as large.

    Raises:
        UserError: the Kernel is no flow.
    """
    velocity = velocity_of(kernel)

    def likelihood(vars: Vars, chunk: Chunk) -> Array:
        z, t = chunk.extras[PAIRS]
        x = (1 - t[..., None]) * z + t[..., None] * chunk.extras[END][..., None, :, :]
        obs = jax.tree.map(lambda o: o[..., None, :], chunk.obs)
        error = z + velocity(vars, obs, x, t) - chunk.extras[END][..., None, :, :]
        mask = jnp.broadcast_to(chunk.mask[..., None, :], z.shape[:-1])
        return -mean_inside(jnp.square(t[..., None] * error if by_noise else error), mask)

    return likelihood


def averaged(clip: float) -> Callable:
    """FPO's objective: PPO's, with one ratio of the mean over pairs for each decision."""

    def objective(new: Array, old: Array, advantage: Array) -> tuple[Array, Metrics]:
        return surrogate(jnp.mean(new, axis=-1), jnp.mean(old, axis=-1), advantage, clip)

    return objective


def by_pair(clip: float) -> Callable:
    """FPO++'s objective (2602.02481): a ratio for each pair; PPO's for chunks that were better than expected, and for worse ones
    rho A - |A| (rho - 1)^2 / (2 clip), whose gradient brings a ratio back that has gone too far, however far a loss has risen."""

    def objective(new: Array, old: Array, advantage: Array) -> tuple[Array, Metrics]:
        a, apart = advantage[..., None], jnp.minimum(new - old, BOUND)
        _, metrics = surrogate(old + apart, old, a, clip)
        ratio = jnp.exp(apart)
        better = jnp.minimum(ratio * a, jnp.clip(ratio, 1 - clip, 1 + clip) * a)
        worse = ratio * a - jnp.abs(a) * jnp.square(ratio - 1) / (2 * clip)
        return -jnp.mean(jnp.where(a >= 0, better, worse)), metrics

    return objective
