"""Figures of a policy, wherever its environments run."""

from __future__ import annotations

from typing import Any

import jax

from qchunk.config import ChunkConfig
from qchunk.envs.held_out import HeldOut
from qchunk.play import on_data, on_device, on_host
from qchunk.play.program import Inputs, Program
from qchunk.system import memory
from qchunk.system.errors import UserError
from qchunk.types import Learner


def check(program: Program, count: int, c: ChunkConfig) -> None:
    """Refuses more episodes than this machine could hold: on the device all are played at once; and held-out data that cannot judge.

    Raises:
        UserError: says how much they would take, or what is wrong with the data (``on_data.judging``).
    """
    if isinstance(program.env, HeldOut):
        on_data.judging(program, c)
    elif not program.on_host:
        one = memory.of_arrays(jax.tree.leaves(jax.eval_shape(program.env.reset, jax.random.key(0))))
        memory.check("an evaluation", count * one, "give fewer --episodes")


def check_playing(program: Program) -> None:
    """Refuses to play by a scheme that is asked for where nothing is played.

    Raises:
        UserError: held-out data judge.
    """
    if isinstance(program.env, HeldOut):
        problem = "there is nothing to play in: held-out data judge chunks as they are made, however they are played"
        raise UserError(problem, "leave --execute and --delay out, or name an environment")


def evaluate(program: Program, count: int, learner: Learner, x: Inputs) -> dict[str, Any]:
    """``count`` episodes of every seed's acting policy: means [S]. Equal keys give equal start states; or what held-out data say of it (``on_data``)."""
    place = on_host if program.on_host else on_data if isinstance(program.env, HeldOut) else on_device
    return place.evaluate(program, count, learner, x)
