"""What methods share that plan in a model of latent states: ``vpn`` and ``muzero``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

from qchunk.actor_configs import FlowConfig, OneStepConfig
from qchunk.actors import actor
from qchunk.actors.one_step import one_step_actor
from qchunk.compose import acting, learner, shown
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, Stands, config
from qchunk.data import buffer
from qchunk.data.chunks import whole_discount
from qchunk.losses.cloning import bc
from qchunk.losses.terms import of_first
from qchunk.losses.unrolled import unrolled
from qchunk.planning import Options, planning
from qchunk.ranges import PositiveInt, Range
from qchunk.sampling import sample, sample_from_start, uniform
from qchunk.types import Algorithm, Term, Together
from qchunk.world_model import LatentConfig, latent_model


@config
class InLatents:
    """Planning in latent states."""

    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    """The teacher, by behaviour cloning, or the prior's; it proposes where planning begins."""
    student: OneStepConfig = OneStepConfig()
    """The one-step actor that proposes in latent states; it only imitates the teacher."""
    model: LatentConfig = LatentConfig()
    optim: OptimConfig = OptimConfig()
    n: PositiveInt = 8
    """N, options at every state."""
    depth: PositiveInt = 3
    """Chunks that are planned one behind the other."""
    proposals: Literal["prior", "uniform"] = "prior"
    """Options: chunks of the cloned actors, or uniform random ones, about which the model has learned nothing where data have none like them."""
    unroll: PositiveInt = 4
    """U, consecutive chunks that the model learns along; more than the depth, so that planning meets no states that it has not learned."""
    lam: Annotated[float, Range(0, 1)] = 0.0
    """Of the returns: 0 trusts the planned value behind one chunk, 1 reaches along the data to the last."""

    def check(self, where: str) -> None:
        """Raises UserError where a chunk's backup is not its end."""
        self.chunk.must_back_up_whole(f"{where}chunk.", "the model looks ahead")


def in_latents(c: Any, planners: Callable, choosing: bool = False, **more: Any) -> Algorithm:
    """The actor is cloned, its student follows it into latent states, and the model learns along U chunks.

    Args:
        planners: (model, options, gamma^h) -> the Planners that act, and that explore and make targets.
        choosing, more: as in ``unrolled``.
    """
    pi, model = actor(c.actor), latent_model(c.model, choosing=choosing)
    student = shown(one_step_actor(c.student, "student"), lambda spec: spec._replace(obs=c.model.size), lambda x: x)
    teacher, below = sample_from_start(acting(pi)), sample(acting(student))
    proposed = (teacher, below) if c.proposals == "prior" else (uniform(teacher), uniform(below))
    options = Options(*proposed, c.n, c.depth)
    act, explore = planners(model, options, whole_discount(c.chunk))
    along = unrolled(model, student, teacher, explore, lam=c.lam, choosing=choosing, **more)
    terms: list[Term | Together] = [of_first(bc(pi)), along]
    plays, tries = (planning(planner, options) for planner in (act, explore))
    draw = functools.partial(buffer.draw, count=c.unroll)
    return learner([pi, student, model], plays, terms, c.optim, explore=tries, draw=draw, prior=pi)
