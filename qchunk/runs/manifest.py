"""What a checkpoint's manifest.json holds."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Leaf(TypedDict):
    """A leaf of the tree: its place, and its shape and type, or the value of a Python scalar."""

    path: str
    kind: str
    dtype: NotRequired[str]
    shape: NotRequired[list[int]]  # of arrays and keys
    value: NotRequired[Any]  # of Python scalars
    impl: NotRequired[str]  # of keys


class Held(TypedDict):
    """A file of the checkpoint."""

    bytes: int
    sha256: str


class Manifest(TypedDict):
    """What a manifest holds besides its format and its seal."""

    step: int
    about: Any
    leaves: list[Leaf]
    files: dict[str, Held]
