"""Weighted matching (FlowRL's list, 2603.27450): an actor matches chunks that a critic weighs, of its own or around noised ones.

Two ways to say which chunks: an actor's own candidates, of which one is matched (``match_choice``: QVPO, DPMD), or what may have been noised into
the chunk at hand (``resampling``: SDAC, IDEM). The former is the actor's own denoising loss, the latter the error of its noise estimate; both hold for diffusions and flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.improve import ascent, candidates, chosen, picked, repeated
from qchunk.losses.noised import OneStepEstimate, check_levels, estimating
from qchunk.losses.terms import mean_size, module_names, no_noise, together
from qchunk.types import CLEAN, Array, Chunk, Kernel, Key, Metrics, Module, Policy, Term, Together, ValueFn, Vars

LEAST_ALPHA = 1e-2  # of a level whose chunks are guessed: in pure noise there is nothing of a chunk


class Candidates(NamedTuple):
    """Chunks that an actor may match, and what a critic thinks of them."""

    action: Array  # [*B, N, H, A]
    q: Array  # [*B, N]


def choosing(kernel: Kernel, policy: Policy, score: ValueFn, n: int, terms: Sequence[Term]) -> Together:
    """Terms on the same ``Candidates`` of each window, n plans of the policy, and a draw for each: they get (Candidates, kernel's noise, Gumbel [*B, N], a key)."""

    def draw(key: Key, chunk: Chunk):
        plan_key, own_key, gumbel_key, key = jax.random.split(key, 4)
        return plan_key, kernel.draw(own_key, chunk), jax.random.gumbel(gumbel_key, (*chunk.mask.shape[:-1], n)), key

    def propose(vars: Vars, noise, chunk: Chunk):
        key, *others = noise
        fixed = jax.lax.stop_gradient(vars)
        plans = candidates(policy, fixed, jax.random.clone(key), chunk.obs, n).action
        return Candidates(plans, score(fixed, repeated(chunk.obs, n), plans)), *others

    return together(draw, terms, propose)


def match_choice(kernel: Kernel, heat: Module | None, name: str = "match") -> Term:
    """The actor's loss at one of the candidates: a term for ``choosing``.

    Args:
        heat: its temperature beta, in units of return: candidate i is drawn with probability softmax(Q / beta)_i, which is in the mean what
            a loss of all with these weights is (DPMD, 2502.00361); None matches the best, weighed by what it has over their mean (QVPO, 2405.16173).
    """

    def fn(vars: Vars, made, chunk: Chunk) -> tuple[Array, Metrics]:
        (action, q), own, gumbel, _ = made
        if heat is None:
            weight, best = advantage_of_best(q), jnp.argmax(q, axis=-1)
        else:
            beta = jax.lax.stop_gradient(heat.apply(vars.params[heat.name]))
            weight, best = jnp.ones(q.shape[:-1]), chosen(q, gumbel, beta)
        aim = chunk._replace(action=picked(action, best), mask=jnp.ones_like(chunk.mask))
        return jnp.mean(weight * kernel.loss(vars, own, aim)), {"weight": jnp.mean(weight), "q": jnp.mean(q)}

    return Term(name, module_names(kernel), no_noise, fn)


def choice_temperature(heat: Module, divergence: float, name: str = "temperature") -> Term:
    """Moves a temperature until softmax(Q / beta) is ``divergence`` nats from choosing all alike (2502.00361): a term for ``choosing``."""

    def fn(vars: Vars, made, chunk: Chunk) -> tuple[Array, Metrics]:
        beta = heat.apply(vars.params[heat.name])
        log_share = jax.nn.log_softmax(made[0].q / jnp.maximum(jax.lax.stop_gradient(beta), 1e-8), axis=-1)
        found = jnp.mean(jnp.sum(jnp.exp(log_share) * log_share, axis=-1)) + jnp.log(log_share.shape[-1])
        return jnp.log(beta) * (divergence - found), {"temperature": beta, "divergence": found}

    return Term(name, (heat.name,), no_noise, fn)


def resampling(kernel: Kernel, n: int, rule: Callable, name: str = "match") -> Together:
    """Noise estimates at noised chunks x of the data, towards what n guesses a_j = (x + sigma e_j) / alpha say of the noise.

    e_j ~ N(0, I), given that a_j lies in the box of actions: then guesses cover it at every level, where clipped ones are its corners nearly always.

    Args:
        rule: (vars, obs, OneStepEstimate, guesses [n, *B, H, A] in [-1, 1], e [n, *B, H, A]) -> noise [*B, H, A], such as ``by_value``.

    Raises:
        UserError: an actor of one step.
    """
    check_levels(kernel)
    group = estimating(kernel, [])

    def draw(key: Key, chunk: Chunk):
        own_key, key = jax.random.split(key)
        return group.draw(own_key, chunk), key

    def estimate(vars: Vars, noise, chunk: Chunk) -> tuple[OneStepEstimate, Array]:
        at = group.shared(vars, noise[0], chunk)  # type: ignore[misc]
        alpha, sigma = _level(at)
        low, high = (-alpha - at.x) / sigma, (alpha - at.x) / sigma
        return at, jax.random.truncated_normal(noise[1], low, high, (n, *at.x.shape))

    def fn(vars: Vars, made: tuple[OneStepEstimate, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        at, e = made
        alpha, sigma = _level(at)
        guesses = jnp.clip((at.x + sigma * e) / alpha, -1.0, 1.0)  # they lie there but for rounding
        aim = jax.lax.stop_gradient(rule(jax.lax.stop_gradient(vars), chunk.obs, at, guesses, e))
        return jnp.mean(jnp.square(at.predicted - aim)), {"aim": jnp.mean(jnp.abs(aim))}

    return together(draw, [Term(name, module_names(kernel), no_noise, fn)], estimate)


def _level(at: OneStepEstimate) -> tuple[Array, Array]:
    return jnp.maximum(at.level[..., :1, None], LEAST_ALPHA), at.level[..., 1:, None]


def by_value(score: ValueFn, beta: float) -> Callable:
    """SDAC's rule (2502.00361): -sum_j w_j e_j with w = softmax(Q / beta) over the guesses."""

    def rule(vars: Vars, obs, at: OneStepEstimate, guesses: Array, e: Array) -> Array:
        share = jax.nn.softmax(score(vars, obs, guesses) / beta, axis=0)
        return -jnp.sum(share[..., None, None] * e, axis=0)

    return rule


def by_slope(score: ValueFn, beta: float) -> Callable:
    """IDEM's rule (2402.06121): -(sigma / alpha) sum_j w_j grad Q(a_j) / (beta c), w as ``by_value``'s, Q and its slope in units of c, the slope's mean size."""

    def rule(vars: Vars, obs, at: OneStepEstimate, guesses: Array, e: Array) -> Array:
        slope = ascent(score, vars, obs, guesses, jnp.asarray(CLEAN))
        size = mean_size(slope)
        share = jax.nn.softmax(score(vars, obs, guesses) / (beta * size), axis=0)
        alpha, sigma = _level(at)
        return -sigma / alpha * jnp.sum(share[..., None, None] * slope, axis=0) / (beta * size)

    return rule


def advantage_of_best(q: Array) -> Array:
    """What the best of candidates has over their mean: [*B, N] -> [*B]."""
    return jnp.max(q, axis=-1) - jnp.mean(q, axis=-1)


def match_uniform(kernel: Kernel, name: str = "uniform") -> Term:
    """The actor's loss at uniform random chunks, which keeps it random: a term for ``choosing``.

    Each counts as the window's best candidate does, what that has over the mean, so that its share is the same at any scale
    of returns (QVPO, 2405.16173, code; FlowRL's draws from [0, 1), not [-1, 1]).
    """

    def fn(vars: Vars, made, chunk: Chunk) -> tuple[Array, Metrics]:
        own_key, key = jax.random.split(jax.random.clone(made[3]))
        action = jax.random.uniform(key, chunk.action.shape, minval=-1.0, maxval=1.0)
        aim = chunk._replace(action=action, mask=jnp.ones_like(chunk.mask))
        return jnp.mean(advantage_of_best(made[0].q) * kernel.loss(vars, kernel.draw(own_key, chunk), aim)), {}

    return Term(name, module_names(kernel), no_noise, fn)
