"""Windows that say by what they were played, for methods whose actions data do not hold, such as skills."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import buffer
from qchunk.data.buffer import Ring, Source
from qchunk.types import PLAN_STEP, Array, Chunk, DrawChunkFn, Key

PLAYED = "played"  # of ``extras``: 1 for windows that one plan played from their first step on


def drawing_played(name: str, size: int) -> DrawChunkFn:
    """``buffer.draw`` with a backup point at every step, whose windows of online experience begin where plans do.

    ``extras[buffer.SOURCE]`` [B] says which these are, also where there is no ring; ``extras[PLAYED]`` [B] is 1 where such a window was played
    to its end by that plan, and ``extras[name]`` [B, size] is then the plan's own.
    """

    def draw(key: Key, source: Source, c: ChunkConfig, batch: int) -> Chunk:
        c = dataclasses.replace(c, backup=tuple(range(1, c.horizon + 1)))
        picked = buffer.pick(key, source, c, batch, dataclasses.replace(c, starts="decision"))
        old = lambda rows: {PLAYED: jnp.zeros(len(rows)), name: jnp.zeros((len(rows), size))}  # noqa: E731
        new = lambda env, position: its_plan(source.ring, env, position, c.horizon, name)  # noqa: E731
        chunk = buffer.at_picked(picked, source, c)
        told = {**picked.joined(old, new), buffer.SOURCE: picked.is_online.astype(jnp.float32)}
        return chunk._replace(extras={**chunk.extras, **told})

    return draw


def its_plan(ring: Ring, env: Array, position: Array, steps: int, name: str) -> dict[str, Array]:
    """``extras[name]`` of steps ``position`` [B], and PLAYED: 1 where the ``steps`` from there on, or those up to the episode's end, are
    the first ones of one plan."""
    k = jnp.arange(steps)[None]
    rows = buffer.rows_at(ring, env, position, k)
    absent = k >= buffer.left_at(ring, env, position, steps)[:, None]
    step = ring.extras[PLAN_STEP][rows] if PLAN_STEP in ring.extras else jnp.zeros_like(rows)
    whole = jnp.all((step == k) | absent, axis=1)
    return {PLAYED: whole.astype(jnp.float32), name: ring.extras[name][rows[:, 0]]}
