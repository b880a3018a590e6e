"""Offline updates from a data set that stays on disk: the host reads the batches of the next updates while the device works on these.

Updates are cut into blocks of U. The rows of a block's batches are drawn on the device, by the method's own draw and the same keys as in memory; a
thread reads them from the memory maps and puts them on the device; the compiled block draws once more, with these answers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.data import buffer, on_disk
from qchunk.data.chunks import Dataset
from qchunk.data.on_disk import Asks, Layout, OnDisk
from qchunk.drivers.common import accumulate, one_update, update_keys
from qchunk.drivers.events import no_sums
from qchunk.play.program import Inputs, Program, each_seed
from qchunk.seeds import spread
from qchunk.system import memory
from qchunk.types import Chunk, Key, Learner

BYTES = 2**26  # of the batches of a block, all seeds together, unless one update takes more
MOST = 256  # U, updates of a block, at most
READERS = 8  # threads that read: a disk answers many at once sooner than one after the other


def drawing(program: Program, batch: int, x: Inputs) -> on_disk.Draw:
    """(data, key) -> a batch of one seed, as the method draws it."""
    draw = program.algorithm(x.c).draw or buffer.draw

    def from_data(data: Dataset, key: Key) -> Chunk:
        return draw(key, program.source(x._replace(data=data)), x.c.chunk, batch)

    return from_data


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def rows_of(program: Program, batch: int, layout: Layout, count: int, x: Inputs, first) -> tuple:
    """The rows that the batches of ``count`` updates from number ``first`` on ask for, each [S, count, ...]."""

    def one_seed(_: None, x: Inputs) -> tuple:
        draw = drawing(program, batch, x)

        def of_update(step):
            return on_disk.asked(draw, x.data, layout, update_keys(x, step)[0])[1]

        return jax.lax.map(of_update, first + jnp.arange(count))

    return each_seed(one_seed, None, x)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def updates(
    program: Program,
    batch: int,
    layout: Layout,
    learner: Learner,
    sums: dict | None,
    x: Inputs,
    found: tuple,
    begin,
    end,
) -> tuple[Learner, dict]:
    """Updates ``begin`` to ``end`` of a block, of every seed: (learner, ``sums`` of the metrics [S], with theirs added).

    Args:
        sums: of earlier blocks; None: of none.
        found: what the batches asked for, each [S, U, ...].
    """

    def one_seed(learner: Learner, x: Inputs, sums: dict | None, found: tuple):
        algorithm, draw = program.algorithm(x.c), drawing(program, batch, x)

        def update(i, state: Learner):
            mine = jax.tree.map(lambda leaf: leaf[i], found)
            return one_update(algorithm, lambda key: on_disk.answered(draw, x.data, layout, key, mine), state, x)

        return accumulate(update, learner, end, begin, sums)

    return each_seed(one_seed, learner, x, sums, found)


def asks_of(program: Program, batch: int, x: Inputs, layout: Layout) -> Asks:
    """What a batch of one seed asks for. Raises UserError where its draw cannot be answered from disk."""
    return on_disk.asks_of(drawing(program, batch, x), x.data, layout, jax.random.key(0))


def shapes(program: Program, batch: int, x: Inputs, layout: Layout, count: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What the host reads for ``count`` updates of all seeds."""
    asks = asks_of(program, batch, x, layout)
    rows = jax.eval_shape(lambda x: rows_of(program, batch, layout, count, x, 0), x)
    how = {name: (shape[1:], jnp.dtype(dtype)) for name, shape, dtype in layout}
    return tuple(jax.ShapeDtypeStruct(rows[place].shape + how[name][0], how[name][1]) for name, place in asks)


def unit(program: Program, batch: int, x: Inputs, learner: Learner) -> tuple[Callable, tuple]:
    """One update of every seed, and its arguments: shapes where they are read."""
    data, layout = on_disk.apart(x.data)
    x = x._replace(data=data)
    found = shapes(program, batch, x, layout, 1)
    return functools.partial(updates, program, batch, layout), (learner, None, x, found, 0, 1)


class Blocks:
    """What the host reads for block after block. A context: its threads end with it."""

    def __init__(self, rows: Callable[[int], tuple], read: Callable[[tuple], Any], last: int):
        """Args: rows: block -> what it asks for, on the device; ``read``: that -> answers; ``last`` block."""
        self.rows, self.read, self.last = rows, read, last
        self.thread = ThreadPoolExecutor(1, "qchunk-read")
        self.coming: dict[int, Future] = {}

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_: Any) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, block: int) -> Any:
        """The answers of a block; those of the next are on their way from then on."""
        self.coming = {n: found for n, found in self.coming.items() if n in (block, block + 1)}
        for n in (block, min(block + 1, self.last)):
            if n not in self.coming:  # rows are drawn now, before the device is given the updates of this block
                self.coming[n] = self.thread.submit(self.read, self.rows(n))
        return self.coming[block].result()


def reading(leaves: dict[str, OnDisk], asks: Asks, seeds: int, pool: ThreadPoolExecutor) -> Callable[[tuple], tuple]:
    """rows on the device -> the answers, on the device."""

    def gathered(leaf: OnDisk, rows: np.ndarray) -> np.ndarray:
        flat = rows.reshape(-1)
        out = np.empty((len(flat), *leaf.shape[1:]), leaf.dtype)

        def part(first: int, after: int) -> None:
            out[first:after] = leaf[flat[first:after]]

        cuts = np.linspace(0, len(flat), READERS + 1).astype(int)
        list(pool.map(part, cuts[:-1], cuts[1:]))
        return out.reshape(*rows.shape, *leaf.shape[1:])

    def read(rows: tuple) -> tuple:
        found = [np.asarray(at) for at in rows]
        answers = tuple(gathered(leaves[name], found[place]) for name, place in asks)
        for leaf in leaves.values():
            leaf.let_go()
        return jax.device_put(spread(seeds, answers))

    return read


def advancing(program: Program, x: Inputs, s: Any, stack: contextlib.ExitStack) -> tuple[Inputs, Callable, Callable]:
    """The inputs of what is compiled, ``Work.advance`` and ``Work.none_yet`` of offline updates.

    Args:
        x: spread but for the data.
        s: OfflineSettings, resolved.
        stack: ends the threads.
    """
    leaves = on_disk.leaves_of(x.data)
    data, layout = on_disk.apart(x.data)
    x = x._replace(data=spread(s.seeds, data))
    of_one = memory.of_arrays(shapes(program, s.batch, x, layout, 1))
    count = max(1, min(MOST, s.offline_steps, BYTES // of_one))
    answers = shapes(program, s.batch, x, layout, count)
    rows = lambda block: rows_of(program, s.batch, layout, count, x, jnp.int32(block * count))  # noqa: E731
    pool = stack.enter_context(ThreadPoolExecutor(READERS))
    read = reading(leaves, asks_of(program, s.batch, x, layout), s.seeds, pool)
    blocks = stack.enter_context(Blocks(rows, read, max(0, s.offline_steps - 1) // count))
    update = functools.partial(updates, program, s.batch, layout)

    def advance(learner: Learner, state: None, sums: dict, done: int, goal: int):
        at = done
        while True:
            block = min(at // count, blocks.last)
            first, to = block * count, min(goal, (block + 1) * count)
            learner, sums = update(learner, sums, x, blocks(block), at - first, to - first)
            if (at := to) == goal:
                return learner, state, sums

    return x, advance, lambda learner, state: no_sums(s.seeds, x.share, update, learner, None, x, answers, 0, 0)
