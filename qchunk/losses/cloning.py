"""Behaviour cloning with an iterative actor."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.losses.terms import module_names
from qchunk.types import Array, Chunk, Critic, Kernel, Metrics, Term, ValueFn, Vars

MOST = 100.0  # of a weight, as in 2110.06169's code


def bc(
    kernel: Kernel,
    name: str = "bc",
    *,
    weight: Callable[[Vars, Chunk], Array] | None = None,
    summed: bool = False,
) -> Term:
    """Imitation by the Kernel's own denoising loss, averaged over every step of every chunk that lies inside its episode.

    The published code divides by all steps, also by the masked ones; we divide by those that count.

    Args:
        weight: (vars, chunk) -> [*B], what each chunk counts, such as ``advantage_weight``; without it, 1.
        summed: the SUM over a chunk's numbers in place of their mean, as methods that weigh imitation against a critic publish it.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        each, metrics = kernel.loss(vars, noise, chunk), {}
        if weight is not None:
            counts = jax.lax.stop_gradient(weight(vars, chunk))
            each, metrics = counts * each, {"weight": jnp.mean(counts)}
        loss = jnp.sum(each) / jnp.maximum(jnp.sum(jnp.mean(chunk.mask, axis=-1)), 1e-8)
        return (math.prod(kernel.shape(vars)) * loss if summed else loss), metrics

    return Term(name, module_names(kernel), kernel.draw, fn)


def advantage_weight(score: ValueFn, state: Critic, alpha: float) -> Callable[[Vars, Chunk], Array]:
    """What a chunk of the data counts: min(exp(alpha (Q - V)), 100) (2110.06169, eq. 7).

    Args:
        score: Q; that of the target networks is ``reading(critic, target_view).score``.
    """

    def weight(vars: Vars, chunk: Chunk) -> Array:
        gap = score(vars, chunk.obs, chunk.action) - state.score(vars, chunk.obs)
        return jnp.exp(jnp.minimum(alpha * gap, math.log(MOST)))

    return weight
