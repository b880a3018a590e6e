"""Windows that say which of them are demonstrations: those of the data set, or those of it that lead to a success, and those of online episodes that succeeded."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import buffer
from qchunk.data.buffer import Ring, Source
from qchunk.data.chunks import Dataset
from qchunk.types import Array, Chunk, Key

DEMONSTRATION = "demonstration"  # of ``extras``: 1 for what is to be imitated


def draw_with_demonstrations(
    key: Key, source: Source, c: ChunkConfig, batch: int, shown: Literal["all", "successes"] = "all"
) -> Chunk:
    """``buffer.draw``, with ``extras["demonstration"]`` [B]: 1 for windows of successful episodes online, and for those of the data set that are ``shown``."""
    picked = buffer.pick(key, source, c, batch)
    chunk = buffer.at_picked(picked, source, c)
    old = lambda rows: jnp.ones(len(rows)) if shown == "all" else will_succeed(source.data, rows)  # noqa: E731
    flag = picked.joined(old, lambda env, position: succeeded(source.ring, env, position))
    return chunk._replace(extras={**chunk.extras, DEMONSTRATION: flag})


def will_succeed(data: Dataset, rows: Array) -> Array:
    """Whether [B] the first terminal step from ``rows`` [B] on lies in the same episode and its reward is no penalty (below 0). Data may go on after it."""
    last = data.terminal.shape[0] - 1
    ending = jnp.where(data.terminal > 0, jnp.arange(last + 1), last)
    at = jax.lax.cummin(ending, reverse=True)[rows]
    inside = (at < rows + data.left[rows]) & (data.terminal[at] > 0)
    return (inside & (data.reward[at] >= 0)).astype(jnp.float32)


def succeeded(ring: Ring, env: Array, position: Array) -> Array:
    """Whether [B] the episode of step ``position`` [B] is over and ended at a terminal step whose reward is no penalty (below 0)."""
    last = buffer.left_in_all(ring, env, position)[:, None] - 1
    row = buffer.rows_at(ring, env, position, last)[:, 0]
    return ((ring.terminal[row] > 0) & (ring.end[row] > 0) & (ring.reward[row] >= 0)).astype(jnp.float32)
