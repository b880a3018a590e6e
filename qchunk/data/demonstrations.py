"""Windows that say which of them are demonstrations: those of the data set, and those of online episodes that succeeded."""

from __future__ import annotations

import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import buffer
from qchunk.data.buffer import Ring, Source
from qchunk.types import Array, Chunk, Key

DEMONSTRATION = "demonstration"  # of ``extras``: 1 for what is to be imitated


def draw_with_demonstrations(key: Key, source: Source, c: ChunkConfig, batch: int) -> Chunk:
    """``buffer.draw``, with ``extras["demonstration"]`` [B]: 1 for the data set's windows, and for those of successful episodes online."""
    picked = buffer.pick(key, source, c, batch)
    chunk = buffer.at_picked(picked, source, c)
    shown = picked.joined(lambda rows: jnp.ones(len(rows)), lambda env, position: succeeded(source.ring, env, position))
    return chunk._replace(extras={**chunk.extras, DEMONSTRATION: shown})


def succeeded(ring: Ring, env: Array, position: Array) -> Array:
    """Whether [B] the episode of step ``position`` [B] is over and ended at a terminal step whose reward is no penalty (below 0)."""
    last = buffer.left_in_all(ring, env, position)[:, None] - 1
    row = buffer.rows_at(ring, env, position, last)[:, 0]
    return ((ring.terminal[row] > 0) & (ring.end[row] > 0) & (ring.reward[row] >= 0)).astype(jnp.float32)
