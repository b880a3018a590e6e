"""No simulator at all: what stands in an environment's place where there is only a robot's own data. Its last episodes are held out and judge a policy.

Its name says the sizes: ``none/37,5`` has observations of 37 numbers and actions of 5, ``none/goal:3,state:12,5`` a tree of them.
Whole numbers are named, too, as networks read pixels otherwise than floats: ``none/img:48:uint8,state:3,2``, ``none/48:uint8,2``. A comma in
a part's own name is written %2C, and a percent sign %25.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qchunk import trees
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.data.formats import Rows, to_device
from qchunk.envs.base import Env, State
from qchunk.system import loading
from qchunk.system.errors import UserError

SHARE = 0.1  # of the episodes, and at least one
PART = re.compile(r"(?:(?P<leaf>.+):)?(?P<size>\d+)(?::(?P<kind>[a-z]\w*))?")
FLOATS = "float32"  # what a part is of that names no type
KINDS = (FLOATS, "bool", "int8", "int16", "int32", "uint8", "uint16", "uint32")  # what training reads


class HeldOut(Env):
    """Sizes and types, and the episodes that are held out once data have been read. It cannot be played in."""

    data_name = ""  # of any data
    episode_length = 1
    action_size = property(lambda self: self.sizes[1])
    observation_size = property(lambda self: self.sizes[0])
    backend = property(lambda self: "none")

    def __init__(self, obs: Any, action: int, kinds: Mapping[str, str]):
        self.sizes = (obs, action)
        self.kinds = kinds  # the type of each leaf, by ``trees.named``
        self.held: Dataset | None = None

    @property
    def no_obs(self) -> Any:
        """Zeros in the place of an observation, a tree of arrays [O]."""
        return trees.unnamed({name: np.zeros(n, self.kinds[name]) for name, n in trees.named(self.sizes[0]).items()})

    def reset(self, rng: Any) -> State:
        raise UserError("--env none is no place to play in", "name an environment, or learn from --data alone")

    def step(self, state: State, action: Any) -> State:
        raise NotImplementedError  # nothing is ever reset

    def hold_out(self, rows: Rows) -> Rows:
        """Keeps the last episodes, and returns the others.

        Raises:
            UserError: there is one episode only.
        """
        ends = np.flatnonzero(rows.end) + 1
        kept = max(1, round(SHARE * len(ends)))
        if kept == len(ends):
            raise UserError("the data hold one episode, and none can be held out", "record more episodes")
        cut = int(ends[-kept - 1])
        self.held = to_device(jax.tree.map(lambda x: x[cut:], rows))
        return jax.tree.map(lambda x: x[:cut], rows)


def name_of(rows: Rows) -> str:
    """The name of what stands in the place of an environment for these data."""
    parts = [_part(name, x) for name, x in trees.named(rows.obs).items()]
    return f"none/{','.join([*parts, str(rows.action.shape[1])])}"


def _part(name: str, x: np.ndarray) -> str:
    """A leaf [R, n] as its part of the name: ``img:48:uint8``; 64 bits are the 32 that training reads."""
    kind = jax.dtypes.canonicalize_dtype(x.dtype)
    leaf, kinds = name.removeprefix("obs").removeprefix("/"), [] if kind.kind == "f" else [kind.name]
    escaped = leaf.replace("%", "%25").replace(",", "%2C")  # commas stand between parts
    return ":".join([*([escaped] if leaf else []), str(x.shape[-1]), *kinds])


def _unescaped(leaf: str) -> str:
    return leaf.replace("%2C", ",").replace("%25", "%")


def judges(name: str) -> bool:
    """Whether held-out data stand in an environment's place, by its name."""
    return name.partition("/")[0] == "none" and not loading.is_own(name)


def sized(name: str, data: Path | None) -> str:
    """An environment's name; what stands in its place for a robot's own data is named by their sizes and types.

    Raises:
        UserError: there are no data to say them, or these are of others than the name says.
    """
    if not judges(name) or (name != "none" and data is None):
        return name
    if data is None:
        raise UserError("--env none is judged on a robot's own data", "give --data")
    return agreed(name, (formats.mapped(data) or formats.read(data, None))[0])


def agreed(name: str, rows: Rows) -> str:
    """The name of what is trained on these data: ``none`` is that of the data, and one that says their sizes says their types.

    Raises:
        UserError: it says other types, so that a policy would be shown what no network has learned from.
    """
    found = name_of(rows)
    if name == "none":
        return found
    said, seen = (make(n.removeprefix("none/")) for n in (name, found))
    if said.sizes == seen.sizes and said.kinds != seen.kinds:
        raise UserError(f"--env {name} says other types than its data, which are {found}", "give --env none")
    return name


def make(rest: str) -> HeldOut:
    """``37,5`` and its like.

    Raises:
        UserError: it says no sizes, or a type that there is none of.
    """
    *parts, action = rest.split(",")
    named = [found for part in parts if (found := PART.fullmatch(part))]
    numbers = [action, *(p["size"] for p in named)]
    if not parts or len(named) < len(parts) or not all(n.isdecimal() and int(n) for n in numbers):
        problem = f"none/{rest} is no place to play in, and says no sizes"
        raise UserError(problem, "name an environment; to train without one, pass qchunk train --env none --data FILE")
    if odd := [p["kind"] for p in named if p["kind"] not in (None, *KINDS)]:
        raise UserError(
            f"none/{rest}: {odd[0]} is no type of observations", f"give one of {', '.join(KINDS)}; floats need none"
        )
    leaves = {f"obs/{_unescaped(p['leaf'])}" if p["leaf"] else "obs": p for p in named}
    sizes = trees.unnamed({name: int(p["size"]) for name, p in leaves.items()})
    return HeldOut(sizes, int(action), {name: p["kind"] or FLOATS for name, p in leaves.items()})
