"""What the files of a run hold: config.json, metrics.jsonl, a checkpoint's manifest.json."""

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


class DataPlace(TypedDict):
    """Where a run's data set lay."""

    path: str
    fingerprint: str


class PriorPlace(TypedDict):
    """Which earlier run a run stands on."""

    path: str
    seeds: NotRequired[list[int]]
    step: NotRequired[int]
    algorithm: NotRequired[str]


class Kept(TypedDict, total=False):
    """What was trained; ``create`` says no more than that it names algorithm and environment."""

    algorithm: str
    label: str
    env: str
    objective: dict[str, float] | None
    driver: str
    seed: int
    seeds: int
    device: str
    devices: int
    prior: PriorPlace | None
    data: DataPlace | None
    config: dict[str, Any]
    settings: dict[str, Any]
    sources: dict[str, dict[str, str]]
    log_to: list[str]
    swept: list[dict[str, float]]
    checkpoint_minutes: float


class About(TypedDict):
    """config.json."""

    format: str
    version: int
    config: Kept
    created: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    git_commit: NotRequired[str | None]
    code: NotRequired[str]
    python: NotRequired[str]
    platform: NotRequired[str]


class Line(TypedDict):
    """A line of metrics.jsonl."""

    kind: str
    step: int
    seconds: float
    values: dict[str, float | list[float | None] | None]
