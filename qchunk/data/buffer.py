"""Online experience: a ring per environment, so that offline data are never overwritten and no window crosses the
write pointer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.system.errors import UserError
from qchunk.types import EDGE, PLAN_STEP, Array, Chunk, Key, PyTree, Steps

SOURCE = "source"  # of ``extras``: 1 for windows of online experience, 0 for those of a data set
BLOCK = 256  # flags that are counted together, see ``flagged``


class Ring(NamedTuple):
    """The newest C steps of each of E environments; step p of environment e lies in row ``e * C + p % C``."""

    obs: PyTree  # [E * C, O]
    action: Array  # [E * C, A]
    reward: Array  # [E * C]
    terminal: Array  # [E * C] 1 where the step reached a success or failure: no bootstrap
    end: Array  # [E * C] 1 where the step was its episode's last one, whatever the reason
    next_obs: PyTree  # [E * C, O] the true one
    extras: dict  # [E * C, ...] each, those of the steps
    written: Array  # [E] int32, steps ever written


class Source(NamedTuple):
    """What batches are drawn from: a data set, and the online experience where there is some."""

    data: Dataset | None
    ring: Ring | None = None
    mix: str = "uniform"  # of both: see ``share_of``
    goal_of: Callable | None = None  # obs [*B, O] -> the goal that it reaches, where the environment has goals


def empty(envs: int, capacity: int, obs: PyTree, action: int, extras: dict | None = None) -> Ring:
    """A ring for the newest ``capacity`` steps of each environment.

    Args:
        obs: what ONE observation looks like: a tree of sizes, or of anything with a shape and a type.
        extras: what one step's extras look like.
    """
    rows = envs * capacity

    def zeros(like: PyTree) -> PyTree:
        shape = lambda x: (x,) if isinstance(x, int) else x.shape  # noqa: E731
        return jax.tree.map(lambda x: jnp.zeros((rows, *shape(x)), getattr(x, "dtype", jnp.float32)), like)

    number = jnp.zeros(rows)
    written = jnp.zeros(envs, jnp.int32)
    return Ring(zeros(obs), zeros(action), number, number, number, zeros(obs), zeros(extras or {}), written)


def empty_for(steps: Steps, capacity: int) -> Ring:
    """A ring for steps like these: arrays, or their shapes, [n, E, ...]."""
    obs, extras = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), (steps.obs, steps.extras))
    return empty(steps.reward.shape[1], capacity, obs, steps.action.shape[2], extras)


def size(ring: Ring) -> tuple[Array, int]:
    """Steps that each environment has in the ring [E], and the most it can have."""
    capacity = ring.reward.shape[0] // ring.written.shape[0]
    return jnp.minimum(ring.written, capacity), capacity


def write(ring: Ring, steps: Steps) -> Ring:
    """Appends steps [n, E, ...], those that are ``alive``; n is at most the capacity. The ring keeps the extras it has."""
    _, capacity = size(ring)
    alive = steps.alive > 0
    order = jnp.cumsum(alive, axis=0, dtype=jnp.int32)  # [n, E] 1 for an environment's first new step
    row = jnp.arange(alive.shape[1]) * capacity + (ring.written + order - 1) % capacity
    row = jnp.where(alive, row, ring.reward.shape[0])  # out of range: dropped
    new = Ring(
        steps.obs,
        jnp.clip(steps.action, -EDGE, EDGE),
        steps.reward,
        steps.terminal,
        jnp.maximum(steps.terminal, steps.truncation),
        steps.next_obs,
        {name: steps.extras[name] for name in ring.extras},
        ring.written + order[-1],
    )
    kept = jax.tree.map(lambda old, x: old.at[row].set(x, mode="drop"), ring[:-1], new[:-1])
    return Ring(*kept, written=new.written)


def windows(ring: Ring, env: Array, position: Array, c: ChunkConfig, per_step: Sequence[str] = ()) -> Chunk:
    """The chunks that start at step ``position`` [B] of environments ``env`` [B].

    Steps that are not there yet count as cut off by a time-out: the valid prefix is there to imitate, the backup has
    weight 0 unless the window holds a success.

    Args:
        per_step: as in ``chunks.cut``.
    """
    left = left_at(ring, env, position, chunks.length(c))
    k = jnp.arange(chunks.length(c))[None]
    rows = rows_at(ring, env, position, jnp.minimum(k, left[:, None] - 1))
    after = rows_at(ring, env, position, jnp.minimum(jnp.asarray(c.points)[None], left[:, None]) - 1)
    start = rows_at(ring, env, position, jnp.zeros((1, 1), jnp.int32))[:, 0]
    obs, next_obs = (jax.tree.map(lambda x: x[at], tree) for tree, at in ((ring.obs, start), (ring.next_obs, after)))
    extras = chunks.rows_of(ring.extras, start, rows, c, per_step)
    return chunks.cut(obs, ring.action[rows], ring.reward[rows], ring.terminal[rows], left, next_obs, c, extras)


def consecutive(
    ring: Ring, env: Array, position: Array, count: int, c: ChunkConfig, per_step: Sequence[str] = ()
) -> Chunk:
    """``chunks.consecutive`` from steps of the ring: leaves [B, U, ...]. Chunks that are not there yet are absent, too."""
    left = left_at(ring, env, position, count * c.horizon)[:, None]
    ahead = jnp.arange(count)[None] * c.horizon  # [1, U]
    at = position[:, None] + jnp.minimum(ahead, left - 1)
    found = windows(ring, jnp.repeat(env, count), at.reshape(-1), c, per_step)
    return chunks.side_by_side(found, ahead < left)


def rows_at(ring: Ring, env: Array, position: Array, offset: Array) -> Array:
    """The rows [B, n] of steps ``offset`` [B, n] on from ``position`` [B]."""
    _, capacity = size(ring)
    return env[:, None] * capacity + (position[:, None] + offset) % capacity


def left_at(ring: Ring, env: Array, position: Array, steps: int) -> Array:
    """Steps from ``position`` [B] to the first end among the next ``steps``, or to the write pointer."""
    k = jnp.arange(steps)[None]
    there = ring.written[env] - position  # [B] steps until the write pointer
    ended = (ring.end[rows_at(ring, env, position, k)] > 0) & (k < there[:, None])
    first = jnp.where(jnp.any(ended, axis=1), jnp.argmax(ended, axis=1) + 1, there)
    return jnp.minimum(first, there)


def left_in_all(ring: Ring, env: Array, position: Array) -> Array:
    """``left_at`` however far the end is: steps from ``position`` [B] to its episode's end, or to the write pointer.

    Whole blocks are passed over by their flags, so that a long ring is read once, in order.
    """
    _, capacity = size(ring)
    ends = jnp.pad(ring.end.reshape(-1, capacity) > 0, ((0, 0), (0, -capacity % BLOCK)))
    ends = ends.reshape(ends.shape[0], -1, BLOCK)
    count = ends.shape[1]
    number = jnp.where(jnp.any(ends, axis=2), jnp.arange(count), count)  # [E, blocks]
    # the first block with an end, from each one on; or ``count``
    following = jax.lax.cummin(number, axis=1, reverse=True)
    following = jnp.pad(following, ((0, 0), (0, 1)), constant_values=count)
    column = position % capacity
    block, within = column // BLOCK, jnp.arange(BLOCK)[None]
    mine = ends[env, block] & (within >= (column % BLOCK)[:, None])
    later, around = following[env, block + 1], following[env, 0]  # the ring goes on at its first column
    other = jnp.where(later < count, later, around)
    at = jnp.where(jnp.any(mine, axis=1), block, jnp.minimum(other, count - 1))
    flags = jnp.where(jnp.any(mine, axis=1)[:, None], mine, ends[env, at])
    ahead = (at * BLOCK + jnp.argmax(flags, axis=1) - column) % capacity + 1
    there = ring.written[env] - position
    return jnp.where(jnp.any(flags, axis=1), jnp.minimum(ahead, there), there)


def starts(ring: Ring, index: Array) -> tuple[Array, Array]:
    """(environment, position) of the steps in the ring, numbered from 0 environment after environment."""
    held, _ = size(ring)
    upto = jnp.cumsum(held)
    env = jnp.minimum(jnp.searchsorted(upto, index, side="right"), len(held) - 1)
    return env, ring.written[env] - held[env] + index - (upto[env] - held[env])


def count_starts(ring: Ring, c: ChunkConfig) -> Array:
    """How many steps of the ring a window may start at."""
    return jnp.sum(size(ring)[0] if c.starts == "step" else starting(ring, c))


def start_at(ring: Ring, index: Array, c: ChunkConfig) -> tuple[Array, Array]:
    """(environment, position) of starts number ``index`` [B]."""
    if c.starts == "step":
        return starts(ring, index)
    capacity = size(ring)[1]
    row = flagged(starting(ring, c), index)
    env = row // capacity
    newest = ring.written[env] - 1  # the position in the ring that is ``row``'s modulo the capacity
    return env, newest - (newest - row) % capacity


def starting(ring: Ring, c: ChunkConfig) -> Array:
    """Whether a window may start at each row [E * C], as ``c.starts`` says: at any step where the ring holds no such one."""
    held, capacity = size(ring)
    column = jnp.arange(capacity)[None]
    newest = ring.written[:, None] - 1
    age = (newest - column) % capacity  # [E, C] 0 for the newest step
    there = (age < held[:, None]).reshape(-1)
    if c.starts == "decision":
        found = there & (ring.extras[PLAN_STEP] == 0) if PLAN_STEP in ring.extras else there
    elif c.starts == "whole":
        found = there & inside(ring, chunks.length(c))
    else:
        before = jnp.roll(ring.end.reshape(-1, capacity), 1, axis=1) > 0  # whether the step before ended its episode
        known = age < held[:, None] - 1
        found = there & ((before & known) | (age == newest)).reshape(-1)
    return jnp.where(jnp.any(found), found, there)


def inside(ring: Ring, steps: int) -> Array:
    """Whether so many steps from each row [E * C] on are there, and end no episode but with the last of them."""
    _, capacity = size(ring)
    column = jnp.arange(capacity)[None]
    age = (ring.written[:, None] - 1 - column) % capacity
    ended, reached = ring.end.reshape(-1, capacity) > 0, 1  # of the steps from here on, so many are looked at
    while reached < steps - 1:
        further = min(reached, steps - 1 - reached)
        ended, reached = ended | jnp.roll(ended, -further, axis=1), reached + further
    cut = ended if steps > 1 else jnp.zeros_like(ended)
    return (~cut & (age >= steps - 1)).reshape(-1)


def flagged(flags: Array, index: Array) -> Array:
    """Where in ``flags`` [R] the set ones number ``index`` [B] stand; 0 is the first.

    Counted in blocks: a running count over all rows was measured to take three times as long.
    """
    blocks = jnp.pad(flags, (0, -flags.shape[0] % BLOCK)).reshape(-1, BLOCK)
    count = jnp.sum(blocks, axis=1, dtype=jnp.int32)
    upto = jnp.cumsum(count)
    block = jnp.minimum(jnp.searchsorted(upto, index, side="right"), len(count) - 1)
    rest = index - (upto - count)[block]
    within = jnp.cumsum(blocks[block], axis=1, dtype=jnp.int32) > rest[:, None]
    return block * BLOCK + jnp.argmax(within, axis=1)


def draw(
    key: Key, source: Source, c: ChunkConfig, batch: int, count: int | None = None, per_step: Sequence[str] = ()
) -> Chunk:
    """``batch`` windows of offline and online experience; ``extras["source"]`` [*B] is 1 for online ones.

    Without a data set all are online. With "uniform", each start of both is as likely (2507.07969, section 5); with "share:0.5" that
    share of each batch is online, the rest offline, each uniform (2302.02948). Of other extras, those that both have in the same
    shapes are kept.

    Args:
        count: U, for chunks [B, U] (``chunks.consecutive``).
        per_step: as in ``chunks.cut``.
    """
    return at_picked(pick(key, source, c, batch), source, c, count, per_step)


def at_picked(
    picked: Picked, source: Source, c: ChunkConfig, count: int | None = None, per_step: Sequence[str] = ()
) -> Chunk:
    """The chunks of ``draw`` that start where ``pick`` said."""
    data, ring = source.data, source.ring
    if count is None:
        offline: Callable = lambda rows: chunks.windows(data, rows, c, per_step)  # noqa: E731
        online: Callable = lambda env, at: windows(ring, env, at, c, per_step)  # noqa: E731
    else:
        offline = lambda rows: chunks.consecutive(data, rows, count, c, per_step)  # noqa: E731
        online = lambda env, at: consecutive(ring, env, at, count, c, per_step)  # noqa: E731
    return picked.chunks(offline, online)


def backing_up(points: Sequence[int]) -> Callable[..., Chunk]:
    """``draw`` for a method that needs other backup points than its configuration names: for ``Algorithm.draw``."""

    def at_points(key: Key, source: Source, c: ChunkConfig, batch: int) -> Chunk:
        return draw(key, source, dataclasses.replace(c, backup=tuple(points)), batch)

    return at_points


class Picked(NamedTuple):
    """Where the windows of a batch start: [n] rows of the data set and [m] places in the ring, of which B are taken."""

    rows: Array | None  # [n]; None without a data set
    env: Array | None  # [m]; None without a ring
    position: Array | None  # [m]
    is_online: Array  # [B]

    def joined(self, old: Callable, new: Callable) -> PyTree:
        """Leaves [B, ...] of the batch, from ``old(rows)`` [n, ...] and ``new(env, position)`` [m, ...]."""
        if self.env is None:
            return old(self.rows)
        if self.rows is None:
            return new(self.env, self.position)
        a, b = old(self.rows), new(self.env, self.position)
        if len(self.rows) + len(self.env) == len(self.is_online):
            return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), a, b)
        return jax.tree.map(lambda a, b: jnp.where(_like(self.is_online, b), b, a), a, b)

    def chunks(self, offline: Callable, online: Callable) -> Chunk:
        """``joined`` for chunks: with the extras that both have, and the "source" [*B] of each where there is a ring."""
        if self.env is None:
            return offline(self.rows)
        old, new = (None if self.rows is None else offline(self.rows)), online(self.env, self.position)
        if old is not None:
            old, new = alike(old, new)
        chunk = self.joined(lambda rows: old, lambda env, at: new)
        source = jnp.broadcast_to(_like(self.is_online, chunk.last), chunk.last.shape).astype(jnp.float32)
        return chunk._replace(extras={**chunk.extras, SOURCE: source})

    def parts(self, both: PyTree) -> tuple[PyTree, PyTree]:
        """What belongs to the rows and to the places, of leaves [B, ...]: the inverse of ``joined``."""
        batch = len(self.is_online)
        n, m = (0 if x is None else len(x) for x in (self.rows, self.env))
        return jax.tree.map(lambda x: x[:n], both), jax.tree.map(lambda x: x[batch - m :], both)


def pick(key: Key, source: Source, c: ChunkConfig, batch: int, ring_c: ChunkConfig | None = None) -> Picked:
    """The starts of ``batch`` windows, in the shares that the source's ``mix`` says; see ``draw``.

    Args:
        ring_c: for the ring's starts, in place of ``c``.
    """
    data, ring, ring_c = source.data, source.ring, ring_c or c
    if ring is None:
        return Picked(chunks.draw_starts(key, data, c, batch), None, None, jnp.zeros(batch, bool))
    second = count_starts(ring, ring_c)
    if data is None:
        return Picked(
            None, *start_at(ring, jax.random.randint(key, (batch,), 0, second), ring_c), jnp.ones(batch, bool)
        )
    first, share = chunks.count_starts(data, c), share_of(source.mix)
    if share is None:
        index = jax.random.randint(key, (batch,), 0, first + second)
        rows = chunks.start_at(data, jnp.minimum(index, first - 1), c)
        return Picked(rows, *start_at(ring, jnp.maximum(index - first, 0), ring_c), index >= first)
    fresh = round(share * batch)
    old_key, new_key = jax.random.split(key)
    rows = chunks.draw_starts(old_key, data, c, batch - fresh)
    at = start_at(ring, jax.random.randint(new_key, (fresh,), 0, second), ring_c)
    return Picked(rows, *at, jnp.arange(batch) >= batch - fresh)


def alike(old: Chunk, new: Chunk) -> tuple[Chunk, Chunk]:
    """Both, with the extras that both have in the same shapes."""

    def looks(x: PyTree) -> PyTree:
        return jax.tree.map(lambda x: (x.shape[1:], x.dtype), x)

    both = [n for n in old.extras if n in new.extras and looks(old.extras[n]) == looks(new.extras[n])]
    old, new = (chunk._replace(extras={n: chunk.extras[n] for n in both}) for chunk in (old, new))
    return old, new


def _like(flags: Array, x: Array) -> Array:
    """Flags [B] that broadcast against x [B, ...]."""
    return flags.reshape(-1, *[1] * (x.ndim - 1))


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
