"""What the terms of an objective share: names, noise, means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qchunk.data.chunks import beginning, of_chunk
from qchunk.types import Array, Chunk, DrawFn, Key, Metrics, PyTree, SharedFn, Term, Together, Vars


def module_names(part: Any) -> tuple[str, ...]:
    """The names of the modules of a Kernel or a critic: a term's ``wrt``."""
    return tuple(m.name for m in part.modules)


def no_noise(key: Key, chunk: Chunk) -> tuple[()]:
    """The ``draw`` of a term that needs no noise."""
    del key, chunk
    return ()


def own_key(key: Key, chunk: Chunk) -> Key:
    """The ``draw`` of a term that draws in its ``fn``, where it knows what for."""
    del chunk
    return key


def together(draw: DrawFn, terms: Sequence[Term], shared: SharedFn | None = None) -> Together:
    """Terms that share their noise and a computation, such as two losses of one forward pass; for ``learner``'s ``terms``.

    Args:
        draw: (key, chunk) -> noise, once for all of them; their own ``draw`` is not used.
        terms: each ``fn`` is called with what ``shared`` returned in the place of noise, or with the noise without it. A
            term's gradient passes through it into the modules that the term trains, and into no others.
        shared: (vars, noise, chunk) -> anything. It runs once for all terms that train the same modules in the same updates.
    """
    return Together(draw, tuple(terms), shared)


def weighed(term: Term, weight: float) -> Term:
    """The same term, ``weight`` times as large; its other metrics stay."""

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        loss, metrics = term.fn(vars, noise, chunk)
        return weight * loss, metrics

    return term._replace(fn=fn)


def of_first(term: Term) -> Term:
    """The same term, shown the first of U consecutive chunks [B, U]."""

    def first(chunk: Chunk) -> Chunk:
        return jax.tree.map(lambda x: x[:, 0], chunk)

    return term._replace(draw=of_chunk(term.draw, first), fn=of_chunk(term.fn, first))


def of_beginnings(part: Together, length: int) -> Together:
    """The same terms, shown the first ``length`` actions of every chunk."""

    def of(fn: Callable) -> Callable:
        return of_chunk(fn, lambda chunk: beginning(chunk, length))

    terms = tuple(term._replace(fn=of(term.fn)) for term in part.terms)
    return Together(of(part.draw), terms, part.shared and of(part.shared))


def weighted_mean(weight: Array, value: Array) -> Array:
    """sum(w * v) / sum(w), and 0 where nothing counts. Shapes of ``weight`` and ``value`` broadcast."""
    weight = jnp.broadcast_to(weight, jnp.broadcast_shapes(weight.shape, value.shape))
    return jnp.sum(weight * value) / jnp.maximum(jnp.sum(weight), 1e-8)


def mean_size(x: Array) -> Array:
    """The mean of |x| [], without a gradient and above 0: what a loss is divided by to be the same at any scale of x."""
    return jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(x))), 1e-8)


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
