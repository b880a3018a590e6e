"""The matrix products of a program run alone: the floor that a method is held against.

They are read off the traced program (``qchunk.reporting.cost.products``), so that a method has a floor without a word about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qchunk.reporting.cost import Product, Repeated

Products = Sequence[Product | Repeated]
NEXT_TO_NOTHING = 1e-9


def arrays(floor: Products) -> list:
    """Random sides for every product, nested like its loops; each of them its own, so that no two products are one."""
    random = np.random.default_rng(1)

    def side(p: Product, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(random.standard_normal(like.shape, np.float32) / max(1, p.summed) ** 0.5, like.dtype)

    def of(p: Product | Repeated) -> Any:
        return arrays(p.products) if isinstance(p, Repeated) else (side(p, p.left), side(p, p.right))

    return [of(p) for p in floor]


def products(floor: Products, sides: list, start: jax.Array) -> jax.Array:
    """All of them: a number that depends on every one, as every one does on ``start``, so that nothing is left out.

    The left side of a product is the last result of its shape, as one layer follows another; the right one is its own, like
    weights. Where no result has the shape, the smaller side is moved by a number that is next to nothing.
    """
    latest: dict[Any, jax.Array] = {}
    ends: list[jax.Array] = []  # results that no product has taken up

    for p, own in zip(floor, sides, strict=True):
        if isinstance(p, Repeated):
            start, latest, ends = _total(start, ends), {}, []
            start, _ = jax.lax.scan(
                lambda x, _, p=p, own=own: (products(p.products, own, x), None), start, length=p.times
            )
            continue
        left, right = own
        if (found := latest.get((p.left.shape, p.left.dtype))) is not None:
            left, ends = found, [x for x in ends if x is not found]
        elif left.size < right.size:
            left = left + (NEXT_TO_NOTHING * start).astype(left.dtype)
        else:
            right = right + (NEXT_TO_NOTHING * start).astype(right.dtype)
        out = jax.lax.dot_general(left, right, p.dimensions, p.precision, p.out.dtype)
        latest[p.out.shape, p.out.dtype] = out
        ends.append(out)
    return _total(start, ends)


def _total(start: jax.Array, ends: list[jax.Array]) -> jax.Array:
    return NEXT_TO_NOTHING * start + sum(x[(0,) * x.ndim] for x in ends if x.size)  # such as a prefix of no action


def with_adam(floor: Products, sides: list):
    """(start, step) of the floor of an update: ``step(i, loop)`` runs the products, and Adam on a tree of parameters.

    ``start(params)`` makes the loop's first value.
    """
    tx = optax.adam(3e-4)

    def start(params):
        return params, tx.init(params), jnp.zeros(())

    def step(_, loop):
        params, opt, used = loop
        used = products(floor, sides, used)
        moves, opt = tx.update(jax.tree.map(lambda p: p + NEXT_TO_NOTHING * used, params), opt, params)
        return optax.apply_updates(params, moves), opt, NEXT_TO_NOTHING * used

    return start, step
