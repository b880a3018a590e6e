"""Offline, then online: the driver that goes on from a data set into an environment.

A decision plays one plan in each of E environments. Online steps are counted as played steps: decisions times E times
the steps of a plan that execution plays, those of resting environments (see rollout.py) included.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import normalise
from qchunk.config import config
from qchunk.data import buffer, chunks, on_disk
from qchunk.data.buffer import Ring
from qchunk.data.chunks import length
from qchunk.drivers import offline, streaming
from qchunk.drivers.common import Amount, Batches, Driver, accumulate, execution, init, learner_like, run_updates
from qchunk.drivers.events import Event, Work, counting, events, figures, no_sums
from qchunk.drivers.offline import OfflineSettings
from qchunk.envs.base import obs_like
from qchunk.play import on_device, on_host
from qchunk.play import rollout as playing
from qchunk.play.program import Inputs, Program, each_seed, reads
from qchunk.play.rollout import tallied
from qchunk.ranges import INT32, NonNegativeFloat, NonNegativeInt, PositiveInt
from qchunk.seeds import STREAMS, for_each, spread, stream
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Learner, Steps, Vars


@config
class OnlineSettings(OfflineSettings):
    """What learning from a data set, and then from an environment, needs."""

    online_steps: NonNegativeInt = 0
    """Environment steps per seed after the offline updates; 0: none."""
    envs: PositiveInt = 1
    """E, environments in parallel."""
    start_training: NonNegativeInt = 5000
    """Environment steps before the first online update."""
    random_start: bool = False
    """Until --start-training play random actions in place of the policy's: uniform ones; over skills, those of random skills of the prior."""
    update_ratio: NonNegativeFloat = 1.0
    """Updates per environment step after --start-training."""
    mix: str = "uniform"
    """What batches are drawn from: uniform, over offline and online transitions alike; share:0.5, half of each batch online."""
    capacity: NonNegativeInt = 0
    """Environment steps that the online buffer holds; 0: all of them. Offline data are never overwritten."""
    online_eval_every: NonNegativeInt = 0
    """Environment steps between two evaluations and checkpoints; 0: ten in all."""


class Online(NamedTuple):
    """What a run resumes from besides its learner, for S seeds."""

    ring: Ring  # [S, ...]
    loop: Any  # (environments, what execution carries): [S, E, ...], or of host environments S * E slots
    decisions: jax.Array  # [] int32, made so far


class Schedule(NamedTuple):
    """Numbers of the online part, worked out from its settings. Hashable: part of a program's key."""

    batch: int
    mix: str
    envs: int
    capacity: int  # rows per environment
    steps: int  # environment steps per decision, all environments together
    decisions: int  # in all
    eval_every: int  # decisions
    dispatch: int  # decisions per dispatch, at most
    random: int  # decisions at first that are random


def schedule(per_decision: int, s: OnlineSettings) -> Schedule:
    """Whole decisions: online steps and intervals are rounded up to them.

    Args:
        per_decision: environment steps that execution plays of a chunk.
    """
    per = s.envs * per_decision
    total = math.ceil(s.online_steps / per)
    eval_every = math.ceil(s.online_eval_every / per) if s.online_eval_every else max(1, math.ceil(total / 10))
    rows = math.ceil((s.capacity or total * per) / s.envs)
    dispatch = min(256, eval_every, max(1, round(s.log_every / max(s.update_ratio * per, 1e-9))))
    random = math.ceil(s.start_training / per) if s.random_start else 0
    return Schedule(s.batch, s.mix, s.envs, rows, per, total, eval_every, dispatch, random)


def updates_due(s: OnlineSettings, steps: np.ndarray) -> np.ndarray:
    """Online updates that shall have been made after so many environment steps."""
    return np.floor(np.maximum(0, steps - s.start_training) * s.update_ratio + 1e-9).astype(np.int64)


def check(program: Program, x: Inputs, s: OnlineSettings) -> None:
    """Refuses settings that cannot run.

    Raises:
        UserError: names the field and the fix.
    """
    offline.check(program, x, s)
    buffer.share_of(s.mix)
    if s.offline_steps == 0 and s.online_steps == 0:
        raise UserError("there is nothing to train", "give --offline-steps or --online-steps")
    if s.online_steps and on_disk.stays(x.data):
        fix = "read the data into memory: qchunk.for_env without stream=True"
        raise UserError("an online part needs its data set in memory, and this one stays on disk", fix)
    if s.online_steps * s.update_ratio > INT32:
        most = f"give {INT32 // s.online_steps} or less"
        raise UserError(f"--update-ratio {s.update_ratio:g} is more updates than 32 bits can count", most)
    c = x.c.chunk
    if s.online_steps and (held := schedule(program.scheme(x, "explore").steps, s).capacity) < length(c) + c.horizon:
        fix = f"give --capacity {s.envs * (length(c) + c.horizon)} or more"
        raise UserError(f"the online buffer holds {held} steps of each environment, less than a window needs", fix)


def resolve(s: OnlineSettings) -> OnlineSettings:
    """``offline.resolve`` of the settings of a new run; settings that are resolved already stay as they are.

    Raises:
        UserError: an interval of offline updates, where there are none to count.
    """
    for name in ("eval_every", "checkpoint_every") if s.online_steps and not s.offline_steps else ():
        if (every := getattr(s, name)) > 1:  # 1 is what 0 becomes below
            problem = f"--{name.replace('_', '-')} {every} counts offline updates, and this run makes none"
            raise UserError(problem, "give --online-eval-every, in environment steps: it evaluates, and saves")
    return offline.resolve(s)


def begin(program: Program, x: Inputs, plan: Schedule, learner: Learner) -> Online:
    """Empty buffers, and environments at their start (host environments: before it)."""
    x = x._replace(data=None)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps_like(program, learner, x, plan.envs)
    )
    rings = for_each(len(x.keys), buffer.empty_for(like, plan.capacity))
    start = on_host.training if program.on_host else _begin
    return Online(rings, start(program, learner, x, plan.envs), jnp.zeros((), jnp.int32))


def steps_like(program: Program, learner: Learner, x: Inputs, envs: int) -> Steps:
    """Shapes and types of the steps [S, n, E, ...] of a decision."""

    def one_seed(learner: Learner, x: Inputs) -> Steps:
        vars, scheme = reads(learner, x), program.scheme(x, "explore")
        obs = jax.tree.map(lambda o: jnp.zeros((envs, *o.shape), o.dtype), obs_like(program.env))
        state = on_host.seen(obs)
        _, plan = scheme.decide(vars, x.keys, state, scheme.init(vars, x.keys, state))
        rows = jax.tree.map(lambda o: jnp.zeros((scheme.steps, *o.shape), o.dtype), obs)
        number = jnp.zeros((scheme.steps, envs))
        action = jnp.zeros((scheme.steps, envs, program.env.action_size))
        extras = chunks.kept(playing.extras_of(plan), scheme.steps, envs)
        return Steps(rows, action, number, number, number, rows, None, number, extras=extras)

    return jax.eval_shape(lambda learner, x: each_seed(one_seed, learner, x), learner, x)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _begin(program: Program, learner: Learner, x: Inputs, envs: int) -> on_device.Loop:
    def one_seed(learner: Learner, x: Inputs) -> on_device.Loop:
        keys = jax.random.split(stream(x.keys, "online start"))
        scheme = program.scheme(x, "explore")
        return on_device.begin(program.playable(x.given), scheme, reads(learner, x), keys, envs)

    return each_seed(one_seed, learner, x)


def take_in(program: Program, plan: Schedule, learner: Learner, x: Inputs, ring: Ring, steps: Steps, due):
    """One seed's new experience, then ``due`` updates: (learner, ring, sums of the metrics)."""
    ring = buffer.write(ring, steps)
    learner, metrics = run_updates(program, Batches(plan.batch, plan.mix), learner, x, ring, due)
    return learner, ring, {**metrics, **tallied(steps), "updates_done": due}


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def device_block(program: Program, plan: Schedule, learner: Learner, online: Online, x: Inputs, n, due, sums=None):
    """``n`` decisions of every seed, each followed by ``due[i]`` updates: (learner, online, ``sums`` of the metrics [S], with
    theirs added).

    Args:
        n: [] decisions; at most plan.dispatch.
        due: [plan.dispatch] updates after each decision.
    """

    def one_seed(learner: Learner, x: Inputs, ring: Ring, loop: Any, sums: dict | None):
        env = program.playable(x.given)

        def play(role: str, vars: Vars, key: jax.Array, loop: Any):
            return on_device.rollout(env, program.scheme(x, role), vars, key, 1, loop)

        def decide(i, state):
            learner, ring, loop = state
            play_key, vars = stream(x.keys, "online play", online.decisions + i), reads(learner, x)
            if plan.random:
                roles = functools.partial(play, "random"), functools.partial(play, "explore")
                loop, steps = jax.lax.cond(online.decisions + i < plan.random, *roles, vars, play_key, loop)
            else:
                loop, steps = play("explore", vars, play_key, loop)
            learner, ring, told = take_in(program, plan, learner, x, ring, steps, due[i])
            return (learner, ring, loop), told

        return accumulate(decide, (learner, ring, loop), n, sums=sums)

    (learner, ring, loop), sums = each_seed(one_seed, learner, x, online.ring, online.loop, sums)
    return learner, Online(ring, loop, online.decisions + n), sums


def host_block(program: Program, plan: Schedule, learner: Learner, online: Online, x: Inputs, n, due, sums):
    """``device_block`` for host environments: the same arguments and results; the updates of a decision are one program."""
    seeds, first = len(x.keys), int(online.decisions)
    loop, ring = online.loop, online.ring
    if n == 0:
        like = steps_like(program, learner, x._replace(data=None), plan.envs)
        rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)  # nothing happens
        learner, ring, sums = _learn(program, plan, learner, x, ring, rest, np.int32(0), sums)
    pool = program.env.pool("train", seeds * plan.envs)
    names = [(*on_host.label(key), e) for key in x.keys for e in range(plan.envs)]
    sim = on_host.simulator(pool, on_host.one_after_another(pool, names))
    slot = np.tile(np.arange(plan.envs), seeds) + STREAMS["host slots"]
    acting = x._replace(data=None)
    for i in range(n):
        role = "random" if first + i < plan.random else "explore"
        player = on_host.player(
            program, role, learner, acting, lambda i, state: np.stack([slot, np.full_like(slot, i)], 1)
        )
        loop, _, steps = playing.decision(sim, player, first + i, loop)
        learner, ring, sums = _learn(program, plan, learner, x, ring, on_host.by_seed(seeds, steps), due[i], sums)
    return learner, Online(ring, loop, online.decisions + n), sums


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 4))
def _learn(program: Program, plan: Schedule, learner: Learner, x: Inputs, ring: Ring, steps: Steps, due, sums=None):
    def one_seed(learner: Learner, x: Inputs, ring: Ring, steps: Steps, sums: dict | None):
        learner, ring, told = take_in(program, plan, learner, x, ring, steps, due)
        return learner, ring, told if sums is None else jax.tree.map(jnp.add, sums, told)

    return each_seed(one_seed, learner, x, ring, steps, sums)


def run(
    program: Program,
    x: Inputs,
    settings: OnlineSettings,
    learner: Learner | None = None,
    state: Online | None = None,
) -> Iterator[Event]:
    """``offline.run``, then environment steps with updates between them (2507.07969, section 5).

    Args:
        state: the online part that ``learner`` had when it was saved; None before the switch.

    Yields:
        See ``events.events``. In the online part ``step`` counts offline updates plus environment steps, and events carry
        their ``state`` and report "env_steps" and "updates" among their values.

    Raises:
        UserError: impossible settings.
    """
    s = (resolve if learner is None else offline.resolve)(settings)  # a run that goes on is what it was
    check(program, x, s)
    learner = init(program, x) if learner is None else learner
    normalise.check(learner, *program.units)
    if state is None and s.offline_steps:
        for event in offline.run(program, x, s, learner):
            learner = event.learner
            yield event
    if s.online_steps:
        yield from _online(program, x, s, learner, state)


def _online(program: Program, x: Inputs, s: OnlineSettings, learner: Learner, state: Online | None) -> Iterator[Event]:
    plan = schedule(program.scheme(x, "explore").steps, s)
    block = host_block if program.on_host else device_block
    if program.on_host and state is not None:
        state = state._replace(loop=on_host.restored(program.env.pool("train", s.seeds * plan.envs), state.loop))
    state = begin(program, x, plan, learner) if state is None else state
    given, data, learner = spread(s.seeds, (x.given, x.data, learner), x.share)
    x = x._replace(given=given, data=data)
    place = functools.partial(spread, s.seeds, share=x.share)
    state = state._replace(ring=place(state.ring)) if program.on_host else place(state)

    def advance(learner: Learner, state: Online, sums: dict, done: int, goal: int):
        due = np.diff(updates_due(s, (done + np.arange(plan.dispatch + 1)) * plan.steps)).astype(np.int32)
        return block(program, plan, learner, state, x, goal - done, due, sums)

    def none_yet(learner: Learner, state: Online) -> dict:
        steps = steps_like(program, learner, x._replace(data=None), plan.envs)
        return no_sums(s.seeds, x.share, functools.partial(_learn, program, plan), learner, x, state.ring, steps, 0)

    work = Work(
        advance,
        none_yet,
        lambda sums, n, seconds: figures(sums, n * plan.steps, s.seeds, seconds),
        plan.decisions,
        plan.dispatch,
        plan.eval_every,
        plan.eval_every,
        step=lambda done: s.offline_steps + done * plan.steps,
        counts=counting(plan.steps),
    )
    yield from events(work, program, x, s, learner, state, int(state.decisions))


def state_like(program: Program, x: Inputs, s: OnlineSettings, learner: Learner) -> Online:
    """Shapes and types of the online part beside such a ``learner``, for restoring one."""
    plan = schedule(program.scheme(x, "explore").steps, s)
    return jax.eval_shape(lambda learner, x: begin(program, x, plan, learner), learner, x)


def amount(algorithm: Algorithm, c: Any, s: OnlineSettings) -> Amount:
    """What a run will do."""
    plan = schedule(execution(s, c).scheme(algorithm.explore).steps, s)
    steps = plan.decisions * plan.steps if s.online_steps else 0
    return Amount(s.offline_steps + int(updates_due(s, np.asarray(steps))), steps, s.offline_steps + steps)


def whole(program: Program, x: Inputs, s: OnlineSettings) -> Learner:
    """A run from its start to its end as one traceable function."""
    learner = init(program, x)
    if s.offline_steps:
        learner, _ = offline.updates(program, s.batch, learner, x, s.offline_steps)
    if s.online_steps == 0:
        return learner
    plan = schedule(program.scheme(x, "explore").steps, s)
    due = np.diff(updates_due(s, np.arange(plan.decisions + 1) * plan.steps)).astype(np.int32)
    plan = plan._replace(dispatch=plan.decisions)
    return device_block(program, plan, learner, begin(program, x, plan, learner), x, plan.decisions, due)[0]


def unit(program: Program, x: Inputs, s: OnlineSettings) -> tuple[Callable, tuple, int]:
    """One update of every seed."""
    learner, count = learner_like(program, x), amount(program.build(x.c), x.c, s).updates
    if on_disk.stays(x.data):
        return *streaming.unit(program, s.batch, x, learner), count
    if x.data is not None:
        return functools.partial(offline.updates, program, s.batch), (learner, x, 1), count
    ring = state_like(program, x, s, learner).ring
    return functools.partial(_updates, program, s.batch), (learner, x, ring, 1), count


@functools.partial(jax.jit, static_argnums=(0, 1))
def _updates(program: Program, batch: int, learner: Learner, x: Inputs, ring: Ring, count) -> Learner:
    def one_seed(learner: Learner, x: Inputs, ring: Ring) -> Learner:
        return run_updates(program, Batches(batch), learner, x, ring, count)[0]

    return each_seed(one_seed, learner, x, ring)


OFFLINE_TO_ONLINE = Driver(
    "offline_to_online", OnlineSettings, True, check, run, state_like, amount, whole, unit, resolve
)
