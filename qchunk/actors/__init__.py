"""The generative families of chunks: each file makes a Kernel from its configuration."""

from __future__ import annotations

from qchunk.actors.diffusion import diffusion
from qchunk.actors.flow import flow
from qchunk.actors.gaussian import gaussian, regression
from qchunk.config import ActorConfig
from qchunk.types import Kernel

FAMILIES = {"flow": flow, "diffusion": diffusion, "gaussian": gaussian, "regression": regression}


def actor(c: ActorConfig, name: str = "actor") -> Kernel:
    """The Kernel of a configuration, by its ``kind``."""
    return FAMILIES[c.kind](c, name)  # type: ignore[operator]
