"""Online experience: a ring per environment, so that offline data are never overwritten and no window crosses the
write pointer."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Key


class Ring(NamedTuple):
    """The newest C steps of each of E environments; step p of environment e lies in row ``e * C + p % C``."""

    obs: Array  # [E * C, O]
    action: Array  # [E * C, A]
    reward: Array  # [E * C]
    terminal: Array  # [E * C] 1 where the step reached a success or failure: no bootstrap
    end: Array  # [E * C] 1 where the step was its episode's last one, whatever the reason
    next_obs: Array  # [E * C, O] the true one
    written: Array  # [E] int32, steps ever written


def empty(envs: int, capacity: int, obs: int, action: int) -> Ring:
    """A ring for the newest ``capacity`` steps of each environment."""
    rows = envs * capacity
    shapes = [(rows, obs), (rows, action), (rows,), (rows,), (rows,), (rows, obs)]
    return Ring(*map(jnp.zeros, shapes), written=jnp.zeros(envs, jnp.int32))


def size(ring: Ring) -> tuple[Array, int]:
    """Steps that each environment has in the ring [E], and the most it can have."""
    capacity = ring.reward.shape[0] // ring.written.shape[0]
    return jnp.minimum(ring.written, capacity), capacity


def write(ring: Ring, steps) -> Ring:
    """Appends rollout.Steps [n, E, ...], those that are ``alive``; n is at most the capacity."""
    _, capacity = size(ring)
    alive = steps.alive > 0
    order = jnp.cumsum(alive, axis=0, dtype=jnp.int32)  # [n, E] 1 for an environment's first new step
    row = jnp.arange(alive.shape[1]) * capacity + (ring.written + order - 1) % capacity
    row = jnp.where(alive, row, ring.reward.shape[0])  # out of range: dropped
    new = Ring(
        steps.obs,
        jnp.clip(steps.action, -chunks.EDGE, chunks.EDGE),
        steps.reward,
        steps.terminal,
        jnp.maximum(steps.terminal, steps.truncation),
        steps.next_obs,
        ring.written + order[-1],
    )
    kept = [old.at[row].set(x, mode="drop") for old, x in zip(ring[:-1], new[:-1], strict=True)]
    return Ring(*kept, written=new.written)


def windows(ring: Ring, env: Array, position: Array, c: ChunkConfig) -> Chunk:
    """The chunks that start at step ``position`` [B] of environments ``env`` [B].

    Steps that are not there yet count as cut off by a time-out: the valid prefix is there to imitate, the backup has
    weight 0 unless the window holds a success.
    """
    _, capacity = size(ring)

    def row(offset: Array) -> Array:  # [B, n] steps on from the start -> rows
        return env[:, None] * capacity + (position[:, None] + offset) % capacity

    k = jnp.arange(chunks.length(c))[None]
    there = ring.written[env] - position  # [B] steps until the write pointer
    ended = (ring.end[row(k)] > 0) & (k < there[:, None])
    first = jnp.where(jnp.any(ended, axis=1), jnp.argmax(ended, axis=1) + 1, there)
    left = jnp.minimum(first, there)
    rows = row(jnp.minimum(k, left[:, None] - 1))
    after = row(jnp.minimum(jnp.asarray(c.points)[None], left[:, None]) - 1)
    start = row(jnp.zeros((1, 1), jnp.int32))[:, 0]
    return chunks.cut(
        ring.obs[start], ring.action[rows], ring.reward[rows], ring.terminal[rows], left, ring.next_obs[after], c
    )


def starts(ring: Ring, index: Array) -> tuple[Array, Array]:
    """(environment, position) of the steps in the ring, numbered from 0 environment after environment."""
    held, _ = size(ring)
    upto = jnp.cumsum(held)
    env = jnp.minimum(jnp.searchsorted(upto, index, side="right"), len(held) - 1)
    return env, ring.written[env] - held[env] + index - (upto[env] - held[env])


def draw(key: Key, data: Dataset, ring: Ring, c: ChunkConfig, batch: int, mix: str) -> Chunk:
    """``batch`` windows of offline and online experience; ``extras["source"]`` [B] is 1 for online ones.

    Args:
        mix: "uniform" over all transitions of both (2507.07969, section 5), or "share:0.5": that share of each batch
            is online, the rest offline, each uniform (2302.02948).
    """
    held, _ = size(ring)
    offline, online = data.starts.shape[0], jnp.sum(held)
    share = share_of(mix)
    if share is None:
        index = jax.random.randint(key, (batch,), 0, offline + online)
        is_online = index >= offline
        old = chunks.windows(data, data.starts[jnp.minimum(index, offline - 1)], c)
        new = windows(ring, *starts(ring, jnp.maximum(index - offline, 0)), c)
        pick = lambda a, b: jnp.where(is_online.reshape(-1, *[1] * (a.ndim - 1)), b, a)  # noqa: E731
        chunk = jax.tree.map(pick, old, new)
        return chunk._replace(extras={"source": is_online.astype(jnp.float32)})
    count = round(share * batch)
    old_key, new_key = jax.random.split(key)
    old = chunks.draw(old_key, data, c, batch - count)
    new = windows(ring, *starts(ring, jax.random.randint(new_key, (count,), 0, online)), c)
    chunk = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old, new)
    return chunk._replace(extras={"source": (jnp.arange(batch) >= batch - count).astype(jnp.float32)})


def share_of(mix: str) -> float | None:
    """The online share of a batch, or None for "uniform".

    Raises:
        UserError: neither "uniform" nor "share:X" with X in [0, 1].
    """
    name, _, share = mix.partition(":")
    if mix == "uniform":
        return None
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if name != "share" or not 0.0 <= value <= 1.0:
        raise UserError(f"--mix {mix} is not known", "give uniform, or share:0.5 for half of each batch online")
    return value
