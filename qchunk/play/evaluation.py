"""Figures of a policy, wherever its environments run."""

from __future__ import annotations

from typing import Any

from qchunk.play import on_device, on_host
from qchunk.play.program import Inputs, Program
from qchunk.types import Learner


def evaluate(program: Program, count: int, learner: Learner, x: Inputs) -> dict[str, Any]:
    """``count`` episodes of every seed's acting policy: means [S]. Equal keys give equal start states."""
    return (on_host if program.on_host else on_device).evaluate(program, count, learner, x)
