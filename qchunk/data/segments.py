"""Plans, and a part of each: what a critic of segments learns from, in methods that decide once for many steps (2410.09536)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import buffer, chunks
from qchunk.data.buffer import Source
from qchunk.types import Array, Chunk, Key

BEGIN, STEPS = "segment_begin", "segment_steps"  # of ``extras``: the step of the plan, and how many steps count


def published_lengths(horizon: int) -> tuple[int, ...]:
    """The lengths of a plan's equal parts, floor(H / n) for n = 1 .. 25, ascending and each once (2410.09536, code)."""
    return tuple(sorted({horizon // n for n in range(1, min(25, horizon) + 1)}))


def drawing_segments(lengths: Sequence[int]) -> Callable[..., Chunk]:
    """``draw_segments`` of these lengths, for ``Algorithm.draw``."""
    return functools.partial(draw_segments, lengths=tuple(lengths))


def draw_segments(key: Key, source: Source, c: ChunkConfig, batch: int, lengths: Sequence[int]) -> Chunk:
    """``batch`` plans as ``buffer.draw`` finds windows, and a segment of each: [B, 2, ...], the plan and what begins within it.

    Both are windows of H actions, with backup points 1 .. M after their starts. ``extras`` hold, twice alike, BEGIN, the step k of
    the plan at which the segment begins, uniform over the steps that the episode has of it; and STEPS, of how many steps it is: one
    of ``lengths`` by chance, but not beyond the plan's H. (The published code cuts every plan into parts of one length, which is
    drawn for each update, with a random offset.)

    Args:
        lengths: of segments; M is the largest.
    """
    start_key, begin_key, length_key = jax.random.split(key, 3)
    c = dataclasses.replace(c, backup=tuple(range(1, max(lengths) + 1)))
    picked = buffer.pick(start_key, source, c, batch)
    data: Any = source.data
    ring: Any = source.ring
    share = jax.random.uniform(begin_key, (batch,))
    longest = jnp.asarray(lengths)[jax.random.randint(length_key, (batch,), 0, len(lengths))]
    old, new = picked.parts((share, longest))

    def both(windows: Callable[..., Chunk], left: Array, part: Any, *start: Array) -> Chunk:
        """``start`` ends with the rows, or positions, of the plans."""
        share, longest = part
        played = jnp.minimum(left, c.horizon)
        begin = jnp.minimum((share * played).astype(jnp.int32), played - 1)
        at = [*(jnp.concatenate([x, x]) for x in start[:-1]), jnp.concatenate([start[-1], start[-1] + begin])]
        found = jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2), axis=1), windows(*at, c))
        more = {BEGIN: begin, STEPS: jnp.minimum(longest, c.horizon - begin)}
        twice = {n: jnp.stack([x, x], axis=1) for n, x in more.items()}
        return found._replace(extras={**found.extras, **twice})

    def offline(rows: Array) -> Chunk:
        return both(lambda *a: chunks.windows(data, *a), data.left[rows], old, rows)

    def online(env: Array, position: Array) -> Chunk:
        left = buffer.left_at(ring, env, position, c.horizon)
        return both(lambda *a: buffer.windows(ring, *a), left, new, env, position)

    return picked.chunks(offline, online)
