"""Experience that stays in its files: batches are found twice, first their rows, and then, once these have been read, the chunks.

A draw (``buffer.draw``, or a method's own) reads observations, actions and extras as ``x[rows]``. Where these are on disk it is traced with
stand-ins: once to hear which rows it asks for (``asked``), and once with what the host has read (``answered``). So any draw works,
in memory and from disk alike, whose rows do not depend on the contents of others.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, get_opaque_trace_state

from qchunk import trees
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.system.errors import UserError
from qchunk.types import EDGE, Array, Chunk, Key

Layout = tuple[tuple[str, tuple[int, ...], str], ...]  # (name, shape, type) of what is on disk; static
Asks = tuple[tuple[str, int], ...]  # (name, which of the rows) of every x[rows]; static
Draw = Callable[[Dataset, Key], Chunk]


class OnDisk:
    """Rows [R, ...] of an array, mostly a memory map, in the types that training computes with. To jax it is no array."""

    def __init__(self, array: np.ndarray, edge: float | None = None):
        """Args: edge: what numbers are clipped to."""
        self.array, self.edge = array, edge
        self.shape, self.ndim = array.shape, array.ndim
        self.dtype = np.dtype(np.float32) if array.dtype.kind == "f" else jax.dtypes.canonicalize_dtype(array.dtype)
        self.nbytes = array.size * self.dtype.itemsize

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows by their numbers, of any shape, or a slice of them; a copy."""
        found = np.array(np.asarray(self.array)[rows], self.dtype)
        if isinstance(rows, slice):  # of which there may be many more
            self.let_go()
        return found if self.edge is None else np.clip(found, -self.edge, self.edge, out=found)

    def __array__(self, *args: Any, **kw: Any) -> np.ndarray:
        raise UserError("a data set that stays on disk was read as a whole", "convert it to one file (.npz)")

    def let_go(self) -> None:
        """Gives back the memory of the pages that were read; the system keeps them for as long as it has no better use."""
        where = getattr(self.array, "_mmap", None)
        if isinstance(where, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError, ValueError):
                where.madvise(mmap.MADV_DONTNEED)


def of_rows(rows: Any) -> Dataset:
    """Rows (``formats.Rows``) whose observations, actions and extras stay where they are. Rewards and ends, about 16 bytes of each row, go to the device."""
    left, starts = chunks.places(np.asarray(rows.end), rows.extras)
    r, t = (jnp.asarray(np.asarray(x), jnp.float32) for x in (rows.reward, rows.terminal))
    obs, extras = jax.tree.map(OnDisk, (rows.obs, rows.extras))
    return Dataset(obs, OnDisk(rows.action, EDGE), r, t, left, starts[0], starts[1], starts[2], extras)  # type: ignore[arg-type]


def leaves_of(data: Dataset) -> dict[str, OnDisk]:
    """What is on disk, by name."""
    extras = trees.named(data.extras, "extras") if data.extras else {}
    return {**trees.named(data.obs), "action": data.action, **extras}  # type: ignore[dict-item]


def stays(data: Any) -> bool:
    """Whether a data set stays on disk."""
    return isinstance(data, Dataset) and isinstance(data.action, OnDisk)


def apart(data: Dataset) -> tuple[Dataset, Layout]:
    """What is in memory of such a data set, and how the rest looks."""
    layout = tuple((name, x.shape, str(x.dtype)) for name, x in leaves_of(data).items())
    return data._replace(obs=None, action=None, extras={}), layout


class Standing:
    """Stands for an array on disk while a draw is traced."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str, answer: Callable):
        self.name, self.shape, self.dtype, self.ndim = name, shape, jnp.dtype(dtype), len(shape)
        self.answer, self.trace = answer, trace_now()

    def __getitem__(self, rows: Any) -> Array:
        if isinstance(rows, (tuple, slice)) or not jnp.issubdtype(jnp.asarray(rows).dtype, jnp.integer):
            raise TypeError(f"{self.name} is read otherwise than as {self.name}[rows]")
        if trace_now() != self.trace:
            raise UserError(f"the method's draw asks for rows of {self.name} within a loop or a map", FIX)
        return self.answer(self, jnp.asarray(rows))

    def __array__(self, *args: Any, **kw: Any) -> np.ndarray:
        raise TypeError(f"{self.name} is read as a whole")


def trace_now() -> Any:
    """What jax is tracing: a loop's body, or what a map maps, is traced by itself."""
    return get_opaque_trace_state(convention="flax")


FIX = "convert the data set to one file (.npz), which is held in memory"


def stood_for(data: Dataset, layout: Layout, answer: Callable) -> Dataset:
    """The data set with a stand-in for each array on disk."""
    leaves = {name: Standing(name, shape, dtype, answer) for name, shape, dtype in layout}
    obs, extras = (trees.unnamed(leaves, root) for root in ("obs", "extras"))
    return data._replace(obs=obs, action=leaves["action"], extras=extras)


def asked(draw: Draw, data: Dataset, layout: Layout, key: Key, made_up: Sequence[Array] = ()) -> tuple[Asks, tuple]:
    """What a draw asks for, in its order, and the rows, int32 of any shape, each once.

    Args:
        data: what is in memory of it.
        made_up: what it is answered; by default zeros.
    """
    asks: list[tuple[str, int]] = []
    rows: list[Array] = []

    def answer(leaf: Standing, at: Array) -> Array:
        place = next((i for i, x in enumerate(rows) if x is at), len(rows))
        rows.extend([at] if place == len(rows) else [])
        asks.append((leaf.name, place))
        return made_up[len(asks) - 1] if made_up else jnp.zeros(at.shape + leaf.shape[1:], leaf.dtype)

    draw(stood_for(data, layout, answer), key)
    return tuple(asks), tuple(rows)


def answered(draw: Draw, data: Dataset, layout: Layout, key: Key, found: Sequence[Array]) -> Chunk:
    """The chunks of a draw to which the host has read what it ``asked`` for."""
    left = iter(found)
    return draw(stood_for(data, layout, lambda leaf, at: next(left)), key)


def asks_of(draw: Draw, data: Dataset, layout: Layout, key: Key) -> Asks:
    """What a draw asks for, by name.

    Raises:
        UserError: it reads otherwise than by rows, asks for them within a loop or a map, or for rows that depend on the contents of others.
    """
    asks: Asks = ()

    def rows(key: Key, made_up: tuple = ()) -> tuple:
        nonlocal asks
        asks, found = asked(draw, data, layout, key, made_up)
        return found

    try:
        shapes = jax.eval_shape(rows, key)
        how = {name: (shape[1:], jnp.dtype(dtype)) for name, shape, dtype in layout}
        like = tuple(jax.ShapeDtypeStruct(shapes[i].shape + how[n][0], how[n][1]) for n, i in asks)
        traced = jax.make_jaxpr(rows)(key, like).jaxpr
    except (TypeError, ValueError, AttributeError) as e:  # what a stand-in cannot do
        line = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"the method's draw does not read a data set on disk as x[rows] ({line})", FIX) from e
    told = set(traced.invars[1:])
    for equation in traced.eqns:
        if any(not isinstance(v, Literal) and v in told for v in equation.invars):
            told |= set(equation.outvars)
    if any(not isinstance(v, Literal) and v in told for v in traced.outvars):
        raise UserError("the method's draw asks for rows that depend on what it has read", FIX)
    return asks
