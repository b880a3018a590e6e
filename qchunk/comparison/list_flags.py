"""The flags of every command that trains a list of runs. No jax here, so that ``--help`` answers at once."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ListFlags:
    """How a list of runs is trained, and what is told of it."""

    log_to: tuple[str, ...] = ()
    """Also log every run to tensorboard or wandb (optional extras)."""
    quiet: bool = False
    """No progress bars."""
    json: bool = False
    """Print what was found as JSON with numbers to stdout, and nothing else there."""
    on: str = ""
    """Train by workers: local:N, slurm:PARTITION or ray[:ADDRESS] (docs/cluster.md); by default one run after the other, here."""


@dataclasses.dataclass(frozen=True)
class PageFlags(ListFlags):
    """The same of a list whose end is a page."""

    dry: bool = False
    """Only say what it would train and cost."""
    so_far: bool = False
    """Train, play and measure nothing: the page of the runs that are finished by now, such as while another shell trains the others."""
