"""Policy gradients through denoising (2409.00588): every tuned step of a path is an action of a Gaussian policy."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.losses.gae import gae, values_around
from qchunk.losses.terms import mean_in_slices, module_names, no_noise, weighted_mean
from qchunk.sampling import log_prob
from qchunk.types import Array, Chunk, Critic, Kernel, Learner, Metrics, PrepareFn, PyTree, StopFn, Term, Vars, view

POLICY = "policy"  # the name of the surrogate's term, which ``kl_above`` looks for
ROWS = 2**15  # of the network at once: bounds memory; in time it was measured neutral on a CPU


Likelihood = Callable[[Vars, Chunk], Array]
"""(vars, chunk) -> log-probabilities of what was played [*B, K'], one for each ratio."""


def of_steps(kernel: Kernel) -> Likelihood:
    """That of every step of the played paths (``sampling.log_prob``)."""
    return lambda vars, chunk: log_prob(kernel, vars, chunk.obs, chunk.extras["path"], chunk.mask)


def advantages(likelihood: Likelihood, critic: Critic, lam: float) -> PrepareFn:
    """A ``prepare`` for rollouts [T, E, ...]: advantages and returns over decisions, and the log-probabilities of what was played.

    All are computed from the same parameters, after the rollout, one decision at a time; they are what the updates of an
    iteration are held against. Adds "advantage", "return" [T, E] and "log_prob" [T, E, K'] to ``extras``.
    """

    def prepare(learner: Learner, given: dict, key, chunk: Chunk) -> tuple[Learner, Chunk]:
        del key
        vars = view(learner, given)

        def look(chunk: Chunk) -> tuple[Array, Array, Array]:
            return *values_around(critic, vars, chunk), likelihood(vars, chunk)

        value, next_value, old = jax.lax.map(look, chunk)
        advantage, target = gae(chunk.reward[..., 0], chunk.discount[..., 0], value, next_value, chunk.last, lam)
        extras = {**chunk.extras, "advantage": advantage, "return": target, "log_prob": old}
        return learner, chunk._replace(extras=extras)

    return prepare


def ppo_path(
    kernel: Kernel,
    *,
    clip: float,
    clip_base: float,
    clip_rate: float,
    gamma_denoise: float,
    start: int = 0,
    name: str = POLICY,
) -> Term:
    """PPO's clipped surrogate over (decision, denoising step) with the advantage of the decision.

    Advantages are standardised within the minibatch, then discounted by gamma_denoise once per step that is still to come.

    Args:
        clip, clip_base, clip_rate: see ``clip_bounds``.
        start: the update that first moves the actor.
    """

    def one(new: Array, old: Array, advantage: Array) -> tuple[Array, Metrics]:
        tuned = old.shape[-1]
        bounds = clip_bounds(tuned, clip, clip_base, clip_rate)
        return surrogate(new, old, advantage[..., None] * denoising_discounts(tuned, gamma_denoise), bounds)

    return ppo(module_names(kernel), of_steps(kernel), one, start, name)


def ppo(
    trained: tuple[str, ...], likelihood: Likelihood, objective: Callable, start: int = 0, name: str = POLICY
) -> Term:
    """A surrogate of what was played, with advantages standardised within the minibatch.

    Args:
        trained: names of the modules that it trains.
        likelihood: of the new parameters; the old ones' is in ``extras`` (see ``advantages``).
        objective: (new [B, K'], old [B, K'], advantage [B]) -> (loss, metrics), such as ``surrogate``; a mean over its rows.
        start: the update that first moves the actor.
    """

    def one(params: PyTree, vars: Vars, part: tuple[Chunk, Array]) -> tuple[Array, Metrics]:
        chunk, advantage = part
        new = likelihood(vars._replace(params={**vars.params, **params}), chunk)
        return objective(new, chunk.extras["log_prob"], advantage)

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        advantage, rows = standardised(chunk.extras["advantage"]), max(1, ROWS // chunk.extras["log_prob"].shape[-1])
        params = {n: vars.params[n] for n in trained}
        return mean_in_slices(one, rows)(params, jax.lax.stop_gradient(vars), (chunk, advantage))

    return Term(name, trained, no_noise, fn, start=start)


def surrogate(
    new: Array, old: Array, advantage: Array, bound: Array | float, weight: Array | None = None
) -> tuple[Array, Metrics]:
    """mean max(-A rho, -A clip(rho, 1 +- bound)) with rho = exp(new - old) (1707.06347, eq. 7); shapes broadcast.

    Args:
        weight: of each row in the means; None counts all alike.
    """
    mean = jnp.mean if weight is None else lambda x: weighted_mean(weight, x)
    ratio = jnp.exp(new - old)
    loss = mean(jnp.maximum(-advantage * ratio, -advantage * jnp.clip(ratio, 1 - bound, 1 + bound)))
    return loss, {
        "approx_kl": mean((ratio - 1) - (new - old)),
        "clip_fraction": mean((jnp.abs(ratio - 1) > bound).astype(jnp.float32)),
    }


def standardised(x: Array, weight: Array | None = None) -> Array:
    """The numbers x shifted and scaled to mean 0 and standard deviation 1 (of a sample: one degree of freedom less).

    Args:
        weight: 1 for each number that counts, 0 for others; None counts all.
    """
    if weight is None:
        return (x - jnp.mean(x)) / (jnp.std(x, ddof=1) + 1e-8)
    apart = x - weighted_mean(weight, x)
    return apart / (jnp.sqrt(jnp.sum(weight * apart**2) / jnp.maximum(jnp.sum(weight) - 1, 1.0)) + 1e-8)


def denoising_discounts(tuned: int, gamma: float) -> Array:
    """What an advantage counts at every tuned step, noisiest first: gamma^(K' - 1) ... 1."""
    return gamma ** jnp.arange(tuned - 1, -1, -1)


def clip_bounds(tuned: int, clip: float, base: float, rate: float) -> Array:
    """The clipping of every tuned step, noisiest first: [K'], from ``base`` up to ``clip`` (2409.00588, appendix).

    base + (clip - base) (e^{rate d / (K' - 1)} - 1) / (e^rate - 1): tight for noisy steps. The paper's prose says the
    reverse; its formula and code agree with this. With K' = 1 it is ``clip`` (the published code divides 0 by 0).
    """
    along = jnp.arange(tuned) / max(tuned - 1, 1) if tuned > 1 else jnp.ones(1)
    return base + (clip - base) * jnp.expm1(rate * along) / jnp.expm1(rate)


def value_mse(critic: Critic, name: str = "value") -> Term:
    """Regression of V(s): half the squared error of V(s) to the return that the advantages imply."""

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        value, target, weight = critic.values(vars, chunk.obs, None), chunk.extras["return"], chunk.weight[..., 0]

        def variance(x: Array) -> Array:
            return weighted_mean(weight, jnp.square(x - weighted_mean(weight, x)))

        unexplained = variance(target - jnp.mean(value, axis=0)) / jnp.maximum(variance(target), 1e-8)
        return 0.5 * weighted_mean(weight, jnp.square(value - target)), {"explained_variance": 1 - unexplained}

    return Term(name, module_names(critic), no_noise, fn)


def kl_above(limit: float, term: str = POLICY) -> StopFn:
    """A ``stop`` rule: whether an update's policy is further than ``limit`` nats (per number) from the one that played.

    Args:
        term: name of the term that measures it.
    """
    return lambda metrics: metrics[f"{term}/approx_kl"] > limit
