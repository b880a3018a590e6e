"""What the terms share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.types import Array, PyTree


def weighted_mean(weight: Array, value: Array) -> Array:
    """sum(w * v) / sum(w), and 0 where nothing counts. Shapes of ``weight`` and ``value`` broadcast."""
    weight = jnp.broadcast_to(weight, jnp.broadcast_shapes(weight.shape, value.shape))
    return jnp.sum(weight * value) / jnp.maximum(jnp.sum(weight), 1e-8)


def mean_in_slices(fn: Callable, rows: int) -> Callable:
    """(params, rest, data [B, ...]) -> the mean over slices of ``fn(params, rest, slice) -> (loss, metrics)``.

    The gradient with respect to ``params`` is taken slice by slice in the same pass, so that no more than a slice's
    activations are held. ``rest`` and ``data`` get none. Equal to ``fn`` of everything where ``fn`` is a mean over its rows.

    Args:
        rows: of a slice, at most; the nearest number that divides B.
    """

    def over(run: Callable, data: PyTree) -> PyTree:
        size = jax.tree.leaves(data)[0].shape[0]
        count = next(n for n in range(-(-size // rows), size + 1) if size % n == 0)
        if count == 1 or size // count < rows // 4:  # such as a prime size: better whole than row by row
            return run(data)
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), data)
        like = jax.eval_shape(run, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        total = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, run(part)), None), zeros, parts)[0]
        return jax.tree.map(lambda x: x / count, total)

    def mean(params: PyTree, rest: PyTree, data: PyTree) -> tuple[Array, PyTree]:
        fixed, rest, data = jax.lax.stop_gradient((params, rest, data))
        gradient = jax.value_and_grad(fn, has_aux=True)
        (loss, metrics), grads = over(lambda part: gradient(fixed, rest, part), data)
        # zero, with the gradient just found; a custom_vjp may not close over tracers inside a cond
        slope = jax.tree.map(lambda g, p, at: jnp.sum(g * (p - at)), grads, params, fixed)
        return loss + sum(jax.tree.leaves(slope)), metrics

    return mean
