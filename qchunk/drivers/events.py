"""What drivers report while they work: events, between dispatches that are short enough for a signal to stop to be heard."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.compose import ACTIVE
from qchunk.drivers.common import DriverSettings, evaluate
from qchunk.play.program import Inputs, Program
from qchunk.seeds import Share, spread
from qchunk.system import hosts
from qchunk.types import Learner

SECONDS = 5.0  # of a dispatch, about: a run that is asked to stop and has not saved is killed soon, by Slurm after half a minute


class Event(NamedTuple):
    """What a driver reports. ``values`` are numpy arrays [S], or [1] where they are of the program; ``learner`` is that of all seeds, for saving."""

    kind: str  # "compile", "progress", "train", "diverged", "eval" or "checkpoint"
    step: int  # updates, or environment steps, as the driver counts
    values: dict[str, np.ndarray]
    learner: Learner
    state: Any = None  # what else a run resumes from, once it plays in an environment
    settled: bool = True  # no further event of this step follows: a run saved now misses nothing when it goes on


class Work(NamedTuple):
    """What a driver does between two events, in units of its own: updates, decisions or iterations."""

    # (learner, state, sums, done, goal) -> (learner, state, sums), with what the units from done to goal add to the sums
    # of their figures; goal == done only compiles
    advance: Callable
    none_yet: Callable  # (learner, state) -> sums of no units, asked for once
    values: Callable  # (sums, units, seconds) -> values of a "train" event
    total: int  # units
    log_every: int  # units, as the two below
    eval_every: int
    save_every: int
    step: Callable  # units done -> an event's ``step``
    counts: Callable = lambda done, learner: {}  # further values of training and evaluation, such as ``counting``'s


def counting(steps: int) -> Callable:
    """``Work.counts`` of a driver whose unit is so many environment steps."""
    return lambda done, learner: {
        "env_steps": np.asarray([done * steps]),
        "updates": np.asarray([int(learner.step)]),
    }


def no_sums(seeds: int, share: Share, block: Callable, *args: Any) -> dict[str, jax.Array]:
    """Zeros for the sums that ``block(*args)`` returns last, where a program of ``seeds`` seeds leaves them."""
    like = jax.eval_shape(block, *args)[-1]
    return spread(seeds, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like), share)


def events(
    work: Work, program: Program, x: Inputs, s: DriverSettings, learner: Learner, state: Any = None, done: int = 0
) -> Iterator[Event]:
    """Works to the end: "compile" (seconds), then "train", "eval" and "checkpoint" events, in this order where they coincide.

    Where more than about ``SECONDS`` lie between these, "progress" events come meanwhile: nothing is due, but a run can be
    saved. One that goes on from there ends with the same bits; its next "train" event tells of what came after.

    After a "train" event that is the first with a loss or parameters of some seed that are not finite comes "diverged", with
    which seeds those are, "diverged" [S], and the number of updates, "diverged_at" [1]. Work goes on for the other seeds.

    A yielded learner and state must be read before the generator goes on: their memory is then reused.

    Args:
        done: units that are behind ``learner`` and ``state``.
    """
    began, none_yet = time.perf_counter(), work.none_yet(learner, state)
    learner, state, _ = work.advance(learner, state, none_yet, done, done)
    jax.block_until_ready(learner)
    yield Event(
        "compile", work.step(done), {"compile_seconds": np.asarray([time.perf_counter() - began])}, learner, state
    )
    lost, pace = np.zeros(s.seeds, bool), Pace()
    while done < work.total:
        stops = (work.log_every, work.eval_every, work.save_every)
        goal = min(work.total, *(every * (done // every + 1) for every in stops))
        begun, sums, seconds = done, none_yet, 0.0
        while done < goal:
            began, until = time.perf_counter(), min(goal, done + pace.units)
            learner, state, sums = work.advance(learner, state, sums, done, until)
            jax.block_until_ready(sums)
            took = time.perf_counter() - began
            pace, long = pace.after(until - done, took)
            done, seconds = until, seconds + took
            if long and done < goal and not (diverged(learner, {}) & ~lost).any():
                yield Event("progress", work.step(done), {}, learner, state)
        values = work.values(sums, goal - begun, seconds)
        step, counts = work.step(done), work.counts(done, learner)
        evaluates, saves = (done == work.total or done % every == 0 for every in (work.eval_every, work.save_every))
        now = diverged(learner, values) & ~lost
        yield Event("train", step, {**values, **counts}, learner, state, not (now.any() or evaluates or saves))
        if now.any():
            lost |= now
            which = {"diverged": lost.astype(float), "diverged_at": np.asarray([int(learner.step)])}
            yield Event("diverged", step, which, learner, state, not (evaluates or saves))
        if evaluates:
            yield Event("eval", step, {**evaluate(program, x, s, learner), **counts}, learner, state, not saves)
        if saves:
            yield Event("checkpoint", step, {}, learner, state)


class Pace(NamedTuple):
    """How many units a dispatch holds: so many that it takes ``SECONDS`` or half of that. Results do not depend on it."""

    units: int = 1

    def after(self, units: int, seconds: float) -> tuple[Pace, bool]:
        """The next pace after a dispatch of ``units``, and whether that one took its time; all processes of a run agree."""
        over, long = hosts.agreed(seconds > SECONDS, seconds > SECONDS / 2)
        if over:
            return Pace(max(1, units // 2)), long
        return (self if long or units < self.units else Pace(2 * units)), long


def diverged(learner: Learner, values: dict[str, np.ndarray]) -> np.ndarray:
    """Which seeds have a loss among the figures ``values`` [S], or a parameter, that is not finite: bool [S] (or [], of all)."""
    found = ~hosts.read(_finite_parameters(learner.params))
    for name, value in values.items():
        if name.split("/")[-1] == "loss":
            found = found | ~np.isfinite(value)
    return found


@jax.jit
def _finite_parameters(params: dict) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return functools.reduce(
        jnp.logical_and, (jnp.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in leaves), jnp.asarray(True)
    )


def means(sums: dict[str, Any], updates: Any) -> dict[str, Any]:
    """Of the metrics of updates: a term's over the updates in which it was active, where those are not all (``compose.ACTIVE``).

    Args:
        sums: of each metric, [] or [S].
        updates: how many, likewise; over none a mean is 0.
    """

    def mean(name: str, total: Any) -> Any:
        turns = None if name.endswith(ACTIVE) else sums.get(name.rpartition("/")[0] + ACTIVE)
        count = updates if turns is None else turns
        return total / (count + (count == 0))

    return {name: mean(name, total) for name, total in sums.items()}


def figures(total: dict, steps: int, seeds: int, seconds: float) -> dict[str, np.ndarray]:
    """Means over the "updates_done" and over steps [S], and speeds of all seeds together [1]."""
    sums = {k: hosts.read(v) for k, v in total.items()}
    alive, updates = sums.pop("alive_steps"), sums.pop("updates_done")
    reward = sums.pop("reward_sum") / np.maximum(alive, 1)
    made = means(sums, updates) if updates.any() else {}
    speed = {"env_steps_per_second": steps * seeds / seconds, "updates_per_second": updates.sum() / seconds}
    speeds = {k: np.asarray([v]) for k, v in speed.items()}
    return {**made, "reward_per_step": reward, "resting": 1.0 - alive / steps, **speeds}
