"""The generative families of chunks: each file makes a Kernel from its configuration, and has a row in ``names.ACTORS``."""

from __future__ import annotations

import dataclasses
from typing import Any

from qchunk import registry
from qchunk.config import ActorConfig
from qchunk.types import Kernel


def actor(c: ActorConfig, name: str = "actor") -> Kernel:
    """The Kernel of a configuration, by its ``kind``.

    Raises:
        UserError: no such kind.
    """
    return registry.actor(c.kind)[0](c, name)


def tuned_actor(c: ActorConfig, name: str = "actor") -> Kernel:
    """The Kernel for training that goes on: the average of a prior's weights is where it starts, and it keeps none of its own."""
    own: dict[str, Any] = {"ema": False} if hasattr(c, "ema") else {}
    return actor(dataclasses.replace(c, **own), name)
