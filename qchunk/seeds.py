"""S seeds in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def for_each(seeds: int, tree: Any) -> Any:
    """The same for every seed: leaves [...] -> [S, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *jnp.shape(x))), tree)


def over_seeds(fn: Callable, *batched: Any) -> Any:
    """``fn`` for each seed, whose values lead the leaves of ``batched``, in one program.

    On a CPU one seed after the other: batched products of small matrices were measured slower there than their loop.
    Elsewhere vmapped.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda args: fn(*args), batched)
    return jax.vmap(fn)(*batched)
