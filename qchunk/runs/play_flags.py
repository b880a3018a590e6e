"""The flags that commands share which play a run. No jax here, so that ``--help`` answers at once."""

from __future__ import annotations

import dataclasses

from qchunk.ranges import NonNegativeInt


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFlags:
    """Which weights of a run."""

    checkpoint: str = "newest"
    """Which checkpoint: newest, best (of the evaluations in training: by success, or by return where there is none) or the number of its step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayFlags:
    """How a run's chunks are played."""

    execute: str = ""
    """How a run's chunks are played: open-loop, receding:STEPS, another of qchunk list schemes or a function of yours; by default as it was evaluated."""
    delay: NonNegativeInt | None = None
    """Steps between the observation that a plan is made from and its first action that is played; by default the run's."""
