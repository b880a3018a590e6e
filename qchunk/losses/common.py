"""What the terms share."""

from __future__ import annotations

import jax.numpy as jnp

from qchunk.types import Array


def weighted_mean(weight: Array, value: Array) -> Array:
    """sum(w * v) / sum(w), and 0 where nothing counts. Shapes of ``weight`` and ``value`` broadcast."""
    weight = jnp.broadcast_to(weight, jnp.broadcast_shapes(weight.shape, value.shape))
    return jnp.sum(weight * value) / jnp.maximum(jnp.sum(weight), 1e-8)
