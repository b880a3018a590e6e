"""Learning from a fixed data set."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from qchunk import normalise, trees
from qchunk.config import config
from qchunk.data import chunks, goals, on_disk
from qchunk.drivers import streaming
from qchunk.drivers.common import Batches, DriverSettings, init, run_updates
from qchunk.drivers.events import Event, Work, events, means, no_sums
from qchunk.envs.base import called, obs_spec
from qchunk.play.program import Inputs, Program, each_seed
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.seeds import spread
from qchunk.system import hosts
from qchunk.system.errors import UserError
from qchunk.types import Learner


@config
class OfflineSettings(DriverSettings):
    """What learning from a data set needs."""

    offline_steps: NonNegativeInt = 1_000_000
    """Updates on the data set; those during --online-steps come on top."""
    batch: PositiveInt = 256
    """B, windows per update: an observation and the chunk of actions after it."""
    log_every: PositiveInt = 500
    """Updates between two lines of training figures."""
    eval_every: NonNegativeInt = 0
    """Updates between two evaluations; 0: ten evaluations in all."""
    checkpoint_every: NonNegativeInt = 0
    """Updates between two checkpoints; 0 saves at each evaluation."""


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def updates(
    program: Program, batch: int, learner: Learner, x: Inputs, count, sums: dict | None = None
) -> tuple[Learner, dict]:
    """``count`` updates of every seed in one dispatch: (learner, ``sums`` of the metrics [S], with theirs added)."""

    def one_seed(learner: Learner, x: Inputs, sums: dict | None):
        return run_updates(program, Batches(batch), learner, x, None, count, sums)

    return each_seed(one_seed, learner, x, sums)


def run(
    program: Program, x: Inputs, settings: OfflineSettings, learner: Learner | None = None, state: None = None
) -> Iterator[Event]:
    """Trains on a fixed data set; evaluates in the program's environment.

    Args:
        learner: where to go on from; it is donated.

    Yields:
        See ``events.events``; ``step`` counts updates.

    Raises:
        UserError: impossible settings, or chunks longer than every episode.
    """
    s = resolve(settings)
    check(program, x, s)
    learner = init(program, x) if learner is None else learner
    normalise.check(learner, *program.units)
    done = int(learner.step)
    learner, given = spread(s.seeds, (learner, x.given), x.share)
    x = x._replace(given=given)
    with contextlib.ExitStack() as stack:
        if on_disk.stays(x.data):
            x, advance, none_yet = streaming.advancing(program, x, s, stack)
        else:
            x, advance, none_yet = in_memory(program, x, s)
        every = s.log_every, s.eval_every, s.checkpoint_every
        work = Work(
            advance, none_yet, functools.partial(values_of, s.seeds), s.offline_steps, *every, step=lambda done: done
        )
        yield from events(work, program, x, s, learner, None, done)


def in_memory(program: Program, x: Inputs, s: OfflineSettings) -> tuple[Inputs, Callable, Callable]:
    """The inputs of what is compiled, ``Work.advance`` and ``Work.none_yet``; ``x`` is spread but for the data."""
    x = x._replace(data=spread(s.seeds, x.data, x.share))
    block = functools.partial(updates, program, s.batch)

    def advance(learner: Learner, state: None, sums: dict, done: int, goal: int):
        learner, sums = block(learner, x, goal - done, sums)
        return learner, state, sums

    return x, advance, lambda learner, state: no_sums(s.seeds, x.share, block, learner, x, 0)


def values_of(seeds: int, sums: dict, updates: int, seconds: float) -> dict[str, np.ndarray]:
    """``Work.values``: means of the metrics over updates [S], and the speed of all seeds together [1]."""
    values = means({k: hosts.read(v) for k, v in sums.items()}, np.float32(updates))
    return {**values, "updates_per_second": np.asarray([updates * seeds / seconds])}


def check(program: Program, x: Inputs, s: OfflineSettings) -> None:
    """Refuses settings and data that cannot run.

    Raises:
        UserError: names the field and the fix.
    """
    if goals.needs_goals(type(x.c)) and not hasattr(program.env, "goal_of"):
        raise goals.no_goals(x.c, called(program.env))
    x.share.check(s.batch, "--batch")
    if on_disk.stays(x.data) and (x.share.devices > 1 or hosts.several()):
        fix = "train in one process, and leave --devices-per-seed out"
        raise UserError("data that stay on disk are read for one device per seed", fix)
    if x.data is None:
        if s.offline_steps:
            fix = "give --data FILE (in Python data=), or --offline-steps 0 to learn online alone"
            raise UserError(f"{s.offline_steps} offline updates need a data set", fix)
        if program.units != ("none", "none") and normalise.STATS not in x.given:
            fix = "give --data FILE, or leave --normalise-obs and --normalise-action at none"
            raise UserError("units of observations and actions are those of a data set, and there is none", fix)
        return
    chunks.check_rows(x.data)
    chunks.check_fits(x.data, x.c.chunk)
    if (played := program.env.action_size) != (kept := x.data.action.shape[-1]):
        raise UserError(
            f"the environment's actions have {played} numbers, the data's {kept}", "take data of this environment"
        )
    seen, kept = obs_spec(program.env), trees.sizes(x.data.obs)
    if seen != kept:
        fix = "make both with the same history: envs.make(name, history) and chunks.with_history(data, history)"
        raise UserError(f"the environment's observations have {seen} numbers, the data's {kept}", fix)


def resolve(s: Any) -> Any:
    """The settings with every 0 that means "choose" replaced."""
    eval_every = s.eval_every or max(1, math.ceil(s.offline_steps / 10))
    return dataclasses.replace(s, eval_every=eval_every, checkpoint_every=s.checkpoint_every or eval_every)
