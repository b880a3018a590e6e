"""Distillation: an actor of one step or a few learns to generate what a frozen prior generates, critics aside.

How depends on its kind: ``one-step`` regresses on the prior's chunk of the same noise, ``flow`` clones such pairs (reflow), ``consistency``,
``shortcut`` and ``meanflow`` follow its paths. What comes out is a run like one of ``bc``: a prior of later stages, and an actor to play.
"""

from __future__ import annotations

from typing import Annotated

from qchunk.actor_configs import FlowConfig, OneStepConfig
from qchunk.actors import actor
from qchunk.compose import acting, frozen, learner
from qchunk.config import BACKS_NOTHING_UP, ActorConfig, ChunkConfig, OptimConfig, Stands, config
from qchunk.losses.cloning import bc
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Algorithm


@config
class Distil:
    """Distillation of a prior."""

    unread = BACKS_NOTHING_UP

    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    """The frozen prior; --prior RUN fills it in."""
    chunk: ChunkConfig = ChunkConfig()
    actor: ActorConfig = OneStepConfig()
    """The actor that learns."""
    optim: OptimConfig = OptimConfig()


def distil(c: Distil) -> Algorithm:
    """Distillation: one term, imitation's, whose aim is the prior in place of the data."""
    pi = actor(c.actor)
    if pi.follow is None:
        fix = "take --actor.kind one-step, flow, consistency, shortcut or meanflow"
        raise UserError(f"a {c.actor.kind} actor cannot follow another", fix)
    return learner([pi], sample(acting(pi)), [bc(pi._replace(loss=pi.follow(frozen(actor(c.given)))))], c.optim)
