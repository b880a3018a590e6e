"""The generative families of chunks: each file makes a Kernel from its configuration, and has a row in ``names.ACTORS``."""

from __future__ import annotations

from qchunk import registry
from qchunk.config import ActorConfig
from qchunk.system.errors import UserError
from qchunk.types import Kernel


def actor(c: ActorConfig, name: str = "actor") -> Kernel:
    """The Kernel of a configuration, by its ``kind``.

    Raises:
        UserError: no such kind.
    """
    return registry.actor(c.kind)[0](c, name)


def tuned_actor(c: ActorConfig, name: str = "actor") -> Kernel:
    """The Kernel for training that goes on by what its steps' probabilities are: the average of a prior's weights is where it starts, and it keeps
    none of its own.

    Raises:
        UserError: a mixture, or skills.
    """
    if getattr(c, "components", 1) > 1:
        raise UserError("a mixture's components are not steps of a path", "give --tuned.components 1")
    made = actor(c.averaged(False), name)
    if made.decoder:
        raise UserError(f"a {c.kind} actor makes no actions itself", "take --tuned.kind flow, diffusion or gaussian")
    return made
