"""Actors that learn from a flow which clones the data meanwhile: one network more, in place of steps when acting."""

from __future__ import annotations

import jax

from qchunk.actor_configs import DistilledConfig, FlowConfig, ReflowConfig
from qchunk.actors.flow import flow
from qchunk.actors.one_step import one_step_actor
from qchunk.types import Array, Chunk, Kernel, Key, Vars


def distilled(c: DistilledConfig, name: str = "actor") -> Kernel:
    """The one-step student of a cloned flow: its chunk from the noise that the flow starts from (2502.02538, eq. 8), without a critic."""
    return taught(one_step_actor(c, name), flow(c.teacher, f"{name}_teacher"))


def reflow(c: ReflowConfig, name: str = "actor") -> Kernel:
    """A flow cloned from pairs that a cloned flow makes, its noise and its chunk, whose paths are straighter (2209.03003, section 2)."""
    student = flow(FlowConfig(c.hidden, c.layer_norm, steps=c.steps, ema=c.ema), name)
    return taught(student, flow(c.teacher, f"{name}_teacher"))


def taught(student: Kernel, teacher: Kernel) -> Kernel:
    """The student, whose loss is the teacher's own, of the data, plus that of following the teacher.

    Raises:
        ValueError: the student follows nobody.
    """
    if student.follow is None:
        raise ValueError(f"taught needs an actor that can follow another, got {student.modules}")
    lesson = student.follow(teacher)

    def draw(key: Key, chunk: Chunk):
        own_key, key = jax.random.split(key)
        return student.draw(own_key, chunk), teacher.draw(key, chunk)

    def loss(vars: Vars, noise, chunk: Chunk) -> Array:
        return teacher.loss(vars, noise[1], chunk) + lesson(vars, noise[0], chunk)

    return student._replace(modules=(*student.modules, *teacher.modules), draw=draw, loss=loss, follow=None)
