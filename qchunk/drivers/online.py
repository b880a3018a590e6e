"""Offline, then online: the driver that goes on from a data set into an environment.

A decision plays one plan in each of E environments. Online steps are counted as played steps: decisions times E times
the steps of a plan that execution plays, those of resting environments (see rollout.py) included.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.config import config, validate
from qchunk.data import buffer
from qchunk.data.buffer import Ring
from qchunk.data.chunks import Dataset, length
from qchunk.drivers import offline
from qchunk.drivers.offline import Build, Event, Settings, seed_keys
from qchunk.envs.base import Env, wrap
from qchunk.envs.host import pool
from qchunk.envs.host.pool import HostEnv, HostState
from qchunk.envs.objective import settled
from qchunk.play import host, rollout
from qchunk.play.execute import parse
from qchunk.play.host import per_seed, scheme_of
from qchunk.play.rollout import Steps, played
from qchunk.seeds import for_each, over_seeds, spread
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Learner, view


@config
class OnlineSettings:
    """What the online part of a run needs besides the offline one's settings."""

    online_steps: int = 0
    """Environment steps per seed after the offline updates; 0: none."""
    envs: int = 1
    """E, environments in parallel."""
    start_training: int = 5000
    """Environment steps before the first online update."""
    update_ratio: float = 1.0
    """Updates per environment step from then on."""
    mix: str = "uniform"
    """Batches: uniform over offline and online transitions, or share:0.5 for half of each batch online."""
    capacity: int = 0
    """Environment steps that the online buffer holds; 0: all of them. Offline data are never overwritten."""
    online_eval_every: int = 0
    """Environment steps between two evaluations and checkpoints; 0 makes ten of them."""


class Online(NamedTuple):
    """What a run resumes from besides its learner, for S seeds."""

    ring: Ring  # [S, ...]
    loop: Any  # environments and execution: (State, carry) [S, E, ...]
    decisions: jax.Array  # [] int32, made so far


class Plan(NamedTuple):
    """Numbers of a run, worked out from its settings. Hashable: part of a program's key."""

    batch: int
    execute: str
    mix: str
    envs: int
    capacity: int  # rows per environment
    steps: int  # environment steps per decision, all environments together
    decisions: int  # in all
    eval_every: int  # decisions
    dispatch: int  # decisions per dispatch, at most


def plan_of(c: Any, s: Settings, o: OnlineSettings) -> Plan:
    """Whole decisions: online steps and intervals are rounded up to them."""
    per = o.envs * parse(s.execute, c.chunk.horizon)(None).steps
    total = math.ceil(o.online_steps / per)
    eval_every = math.ceil(o.online_eval_every / per) if o.online_eval_every else max(1, math.ceil(total / 10))
    rows = math.ceil((o.capacity or total * per) / o.envs)
    dispatch = min(256, eval_every, max(1, round(s.log_every / max(o.update_ratio * per, 1e-9))))
    return Plan(s.batch, s.execute, o.mix, o.envs, rows, per, total, eval_every, dispatch)


def updates_due(o: OnlineSettings, steps: np.ndarray) -> np.ndarray:
    """Online updates that shall have been made after so many environment steps."""
    return np.floor(np.maximum(0, steps - o.start_training) * o.update_ratio + 1e-9).astype(np.int64)


def check(c: Any, s: Settings, o: OnlineSettings) -> None:
    """Refuses settings that cannot run.

    Raises:
        UserError: names the field and the fix.
    """
    validate(o)
    buffer.share_of(o.mix)
    if not o.update_ratio >= 0:
        raise UserError(f"--update-ratio {o.update_ratio} is negative", "give 0 or more updates per environment step")
    if s.offline_steps == 0 and o.online_steps == 0:
        raise UserError("there is nothing to train", "give --offline-steps or --online-steps")
    if o.online_steps and (held := plan_of(c, s, o).capacity) < length(c.chunk) + c.chunk.horizon:
        fix = f"give --capacity {o.envs * (length(c.chunk) + c.chunk.horizon)} or more"
        raise UserError(f"the online buffer holds {held} steps of each environment, less than a window needs", fix)


def begin(build: Build, env: Env, plan: Plan, learner: Learner, c: Any, given: dict, keys: jax.Array) -> Online:
    """Empty buffers, and environments at their start (host environments: before it)."""
    rings = buffer.empty(plan.envs, plan.capacity, env.observation_size, env.action_size)
    rings = for_each(len(keys), rings)
    none_yet = jnp.zeros((), jnp.int32)
    if isinstance(env, HostEnv):
        state = pool.nothing(len(keys) * plan.envs, env.observation_size, env.action_size, env.episode_length)
        return Online(rings, HostLoop(state, np.zeros(len(keys) * plan.envs, np.int32)), none_yet)
    return Online(rings, _begin(build, env, plan, learner, c, given, keys), none_yet)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(build: Build, env: Env, plan: Plan, learner: Learner, c: Any, given: dict, keys: jax.Array):
    def one_seed(learner: Learner, given: dict, key: jax.Array):
        wrapped = wrap(settled(env, given))
        scheme, keys = scheme_of(build, "explore", plan.execute, c), jax.random.split(jax.random.fold_in(key, 2**30))
        return rollout.begin(wrapped, scheme, view(learner, given), keys, plan.envs)

    return over_seeds(one_seed, per_seed(learner, keys), given, keys)


def take_in(
    algorithm: Algorithm, plan: Plan, c: Any, learner: Learner, ring: Ring, steps: Steps, given: dict, data, key, due
):
    """One seed's new experience, then ``due`` updates: (learner, ring, sums of the metrics)."""
    ring = buffer.write(ring, steps)
    source, drawn = buffer.Source(data, ring, plan.mix), algorithm.draw or buffer.draw
    draw = lambda key: drawn(key, source, c.chunk, plan.batch)  # noqa: E731
    learner, metrics = offline.run_updates(algorithm, draw, learner, given, key, due)
    return learner, ring, {**metrics, **played(steps)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def block(
    build: Build,
    env: Env,
    plan: Plan,
    learner: Learner,
    online: Online,
    c: Any,
    given: dict,
    data: Dataset,
    keys,
    n,
    due,
):
    """``n`` decisions of every seed, each followed by ``due[i]`` updates: (learner, online, sums of the metrics [S]).

    Args:
        n: [] decisions; at most plan.dispatch.
        due: [plan.dispatch] updates after each decision.
    """
    updates = jnp.sum(jnp.where(jnp.arange(plan.dispatch) < n, due, 0))

    def one_seed(
        learner: Learner, given: dict, ring: Ring, loop: Any, key: jax.Array, step: Array, done: Array, data: Dataset
    ):
        wrapped = wrap(settled(env, given))
        algorithm, scheme = build(c), scheme_of(build, "explore", plan.execute, c)

        def decide(i, state):
            learner, ring, loop = state
            play_key = jax.random.fold_in(jax.random.fold_in(key, 2**30 + 1), done + i)
            loop, steps = rollout.rollout(wrapped, scheme, view(learner, given), play_key, 1, loop)
            learner, ring, sums = take_in(algorithm, plan, c, learner, ring, steps, given, data, key, due[i])
            return (learner, ring, loop), sums

        def body(i, loop):
            state, sums = decide(i, loop[0])
            return state, jax.tree.map(jnp.add, loop[1], sums)

        first = (learner._replace(step=step), ring, loop)
        none_yet = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda s: decide(0, s)[1], first))
        (learner, ring, loop), sums = jax.lax.fori_loop(0, n, body, (first, none_yet))
        return learner._replace(step=jnp.zeros((), jnp.int32)), ring, loop, sums

    step, batched = learner.step, (per_seed(learner, keys), given, online.ring, online.loop, keys)
    learner, ring, loop, sums = over_seeds(one_seed, *batched, shared=(step, online.decisions, data))
    return learner._replace(step=step + updates), Online(ring, loop, online.decisions + n), sums


class HostLoop(NamedTuple):
    """What goes on between decisions in host environments, S * E slots, seed after seed. Plans carry nothing over."""

    state: HostState
    begun: np.ndarray  # [S * E] int32, episodes


def host_block(
    build: Build, env: HostEnv, plan: Plan, learner: Learner, online: Online, c: Any, given: dict, data, keys, n, due
):
    """``block`` for host environments: the same arguments and results; the updates of a decision are one program."""
    pool = env.pool("train", len(keys) * plan.envs)
    (state, begun), ring, total = online.loop, online.ring, None
    if n == 0:
        rest = _resting(len(keys), plan.steps // plan.envs, plan.envs, env)
        learner, ring, total = _learn(build, plan, learner, ring, rest, c, given, data, keys, np.int32(0))
    first = int(online.decisions)
    names = [(*host.label(key), e) for key in keys for e in range(plan.envs)]
    for i in range(n):
        state, begun, fresh = host.begin_ended(pool, state, begun, names)
        slot = np.tile(np.arange(plan.envs, dtype=np.int32), len(keys))
        label = np.stack([slot + 2**30, np.full_like(slot, first + i)], axis=1).reshape(len(keys), plan.envs, 2)
        policy = (build, "explore", plan.execute, learner, c, given, keys)
        state, _, steps = host.decision(pool, state, *policy, label, fresh, None)
        steps = steps._replace(success=None)
        steps = jax.tree.map(lambda x: np.moveaxis(x.reshape(len(x), len(keys), plan.envs, *x.shape[2:]), 1, 0), steps)
        learner, ring, sums = _learn(build, plan, learner, ring, steps, c, given, data, keys, due[i])
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return learner, Online(ring, HostLoop(state, begun), online.decisions + n), total


def _resting(seeds: int, steps: int, envs: int, env: HostEnv) -> Steps:
    """Steps [S, n, E, ...] in which nothing happens."""
    zero = np.zeros((seeds, steps, envs), np.float32)
    obs, action = (np.zeros((*zero.shape, n), np.float32) for n in (env.observation_size, env.action_size))
    return Steps(obs, action, zero, zero, zero, obs, None, zero)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _learn(build: Build, plan: Plan, learner: Learner, ring: Ring, steps: Steps, c: Any, given: dict, data, keys, due):
    def one_seed(learner: Learner, given: dict, ring: Ring, steps: Steps, key: jax.Array, step: Array, data: Dataset):
        learner, ring, sums = take_in(
            build(c), plan, c, learner._replace(step=step), ring, steps, given, data, key, due
        )
        return learner._replace(step=jnp.zeros((), jnp.int32)), ring, sums

    step, batched = learner.step, (per_seed(learner, keys), given, ring, steps, keys)
    learner, ring, sums = over_seeds(one_seed, *batched, shared=(step, data))
    return learner._replace(step=step + due), ring, sums


def offline_to_online(
    build: Build,
    c: Any,
    given: dict,
    *,
    env: Env,
    data: Dataset,
    settings: Settings,
    online: OnlineSettings,
    learner: Learner | None = None,
    state: Online | None = None,
) -> Iterator[Event]:
    """``train.offline``, then environment steps with updates between them (2507.07969, section 5).

    Args:
        state: the online part that ``learner`` had when it was saved; None before the switch.

    Yields:
        The events of ``train.offline``; online ones count ``step`` as offline updates plus environment steps, carry
        ``online`` and report "env_steps" and "updates" among their values.

    Raises:
        UserError: impossible settings.
    """
    s = offline.resolve(settings)
    check(c, s, online)
    if state is None:
        for event in offline.offline(build, c, given, env=env, data=data, settings=s, learner=learner):
            learner = event.learner
            yield event
    if online.online_steps == 0:
        return
    plan, keys, trained = plan_of(c, s, online), seed_keys(s), offline.in_units(build, s)
    is_host = isinstance(env, HostEnv)
    if is_host and state is not None:
        state = state._replace(loop=jax.tree.map(np.array, state.loop))
        env.pool("train", len(keys) * plan.envs).restore(state.loop.state)
    state = begin(trained, env, plan, learner, c, given, keys) if state is None else state
    given, data, learner = spread(s.seeds, (given, data, learner))
    state = state._replace(ring=spread(s.seeds, state.ring)) if is_host else spread(s.seeds, state)
    run = host_block if is_host else block
    began = time.perf_counter()
    none = np.zeros(plan.dispatch, np.int32)
    learner, state, _ = run(trained, env, plan, learner, state, c, given, data, keys, 0, none)  # compiles only
    jax.block_until_ready(learner)
    done = int(state.decisions)
    step = s.offline_steps + done * plan.steps
    yield Event("compile", step, {"compile_seconds": np.asarray([time.perf_counter() - began])}, learner, state)
    while done < plan.decisions:
        n = min(plan.dispatch, plan.eval_every - done % plan.eval_every, plan.decisions - done)
        due = np.diff(updates_due(online, (done + np.arange(plan.dispatch + 1)) * plan.steps)).astype(np.int32)
        began = time.perf_counter()
        learner, state, total = run(trained, env, plan, learner, state, c, given, data, keys, n, due)
        made = np.full(s.seeds, due[:n].sum())
        values = figures({**total, "updates_done": made}, n * plan.steps, s.seeds, began)
        done += n
        step = s.offline_steps + done * plan.steps
        counts = {"env_steps": np.asarray([done * plan.steps]), "updates": np.asarray([int(learner.step)])}
        yield Event("train", step, {**values, **counts}, learner, state)
        if offline.due(done, plan.eval_every, plan.decisions):
            yield Event("eval", step, {**offline.evaluate(build, env, s, learner, c, given), **counts}, learner, state)
            yield Event("checkpoint", step, {}, learner, state)


def figures(total: dict, steps: int, seeds: int, began: float) -> dict[str, np.ndarray]:
    """Means over the "updates_done" and over steps [S], and speeds of all seeds together [1]."""
    sums = {k: np.asarray(v) for k, v in total.items()}
    seconds = time.perf_counter() - began
    alive, updates = sums.pop("alive_steps"), sums.pop("updates_done")
    reward = sums.pop("reward_sum") / np.maximum(alive, 1)
    means = {k: v / np.maximum(updates, 1) for k, v in sums.items()} if updates.any() else {}
    speed = {"env_steps_per_second": steps * seeds / seconds, "updates_per_second": updates.sum() / seconds}
    speeds = {k: np.asarray([v]) for k, v in speed.items()}
    return {**means, "reward_per_step": reward, "resting": 1.0 - alive / steps, **speeds}


def state_like(build: Build, env: Env, learner: Learner, c: Any, given: dict, s: Settings, o: OnlineSettings) -> Online:
    """Shapes and types of the online part beside such a ``learner``, for restoring one."""
    made = functools.partial(begin, offline.in_units(build, s), env, plan_of(c, s, o))
    return jax.eval_shape(lambda learner, keys: made(learner, c, given, keys), learner, seed_keys(s))


def total_steps(c: Any, s: Settings, o: OnlineSettings) -> int:
    """The last event's ``step``."""
    return s.offline_steps + (plan_of(c, s, o).decisions * plan_of(c, s, o).steps if o.online_steps else 0)
