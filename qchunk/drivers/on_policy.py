"""Learning from what was just played: the driver of policy gradients.

An iteration is one compiled program: T decisions of E environments, advantages, then epochs of minibatches. Environment
steps are counted as played steps, those of environments that rest until their next decision included.
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

from qchunk import normalise
from qchunk.config import RolloutConfig, config, validate
from qchunk.drivers import offline
from qchunk.drivers.offline import Build, Common, Event, seed_keys
from qchunk.drivers.online import figures
from qchunk.envs.base import Env, wrap
from qchunk.envs.host.pool import HostEnv
from qchunk.envs.objective import settled
from qchunk.losses.reward_scale import Scale, no_scale, scaled
from qchunk.normalise import Moments
from qchunk.play.execute import parse
from qchunk.play.host import per_seed, scheme_of
from qchunk.play.rollout import begin, rollout_chunks
from qchunk.seeds import for_each, over_seeds, spread
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Chunk, Learner, Metrics, Spec, view


@config
class Settings(Common):
    """What the driver ``on_policy`` needs besides the algorithm's own configuration."""

    online_steps: int = 2_000_000
    """Environment steps per seed, rounded up to whole iterations."""
    log_every: int = 1
    """Environment steps between two lines of training figures, rounded up, as the two below, to whole iterations."""
    eval_every: int = 0
    """Environment steps between two evaluations; 0 makes ten of them."""
    checkpoint_every: int = 0
    """Environment steps between two checkpoints; 0 saves at each evaluation."""


class Loop(NamedTuple):
    """What a run resumes from besides its learner, for S seeds."""

    envs: Any  # (State, carry) [S, E, ...]
    first: jax.Array  # [S, E] 1 where the next decision is its episode's first
    scale: Scale  # [S, ...]
    moments: Moments | None  # [S, ...] of all observations, where units follow what is seen
    iterations: jax.Array  # [] int32, done so far


class Plan(NamedTuple):
    """Whole iterations, worked out from the settings."""

    steps: int  # environment steps per iteration
    iterations: int
    log_every: int  # iterations, as the two below
    eval_every: int
    checkpoint_every: int


def plan_of(c: Any, s: Settings) -> Plan:
    """Everything rounded up to whole iterations."""
    steps = c.rollout.envs * c.rollout.decisions * parse(s.execute, c.chunk.horizon)(None).steps
    total = math.ceil(s.online_steps / steps)
    eval_every = math.ceil(s.eval_every / steps) if s.eval_every else max(1, math.ceil(total / 10))
    save_every = math.ceil(s.checkpoint_every / steps) or eval_every
    return Plan(steps, total, math.ceil(s.log_every / steps), eval_every, save_every)


def check(c: Any, s: Settings, env: Env | HostEnv, given: dict) -> None:
    """Refuses a configuration, settings and an environment that cannot run.

    Raises:
        UserError: names the field and the fix.
    """
    validate(c)
    validate(s)
    parse(s.execute, c.chunk.horizon)
    if isinstance(env, HostEnv):
        fix = "take one on the device: tabletop/, brax/ or gymnax/"
        raise UserError(f"{env.name} runs in worker processes, and on-policy methods play thousands of steps", fix)
    if s.normalise_action != "none" and normalise.STATS not in given:
        fix = "leave --normalise-action out, or give --prior RUN"
        raise UserError("there are no data to take the units of actions from", fix)


def units(build: Build, c: Any, given: dict, env: Env, s: Settings, learner: Learner) -> Learner:
    """The learner in its units: those of the stage before, or of what its first policy sees in one iteration's decisions.

    Standard units from scratch are a beginning only: ``iterate`` moves them with everything that was seen since. A first
    iteration is short and near its start; kept for good, its deviations put later observations far outside of the usual range.
    """
    if normalise.STATS not in learner.stats:
        return learner
    if normalise.STATS in given:
        found = normalise.of_given(given)
    else:
        loop = start(build, c, given, env, s, learner)
        found = play(build, env, s.execute, learner, loop, c, given, seed_keys(s))
        obs = np.asarray(found.obs).reshape(-1, env.observation_size)
        found = {"obs": normalise.fit(obs, s.normalise_obs), "action": normalise.identity(env.action_size)}
        found = for_each(s.seeds, found)
    return learner._replace(stats={**learner.stats, normalise.STATS: found})


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def play(build: Build, env: Env, execute: str, learner: Learner, loop: Loop, c: Any, given: dict, keys) -> Chunk:
    """One iteration's decisions of every seed [S, T, E, ...], for looking at only."""

    def one_seed(learner: Learner, given: dict, envs: Any, key: jax.Array) -> Chunk:
        scheme, vars = scheme_of(build, "explore", execute, c), view(learner, given)
        play_key = jax.random.fold_in(key, 2**30 + 3)
        return rollout_chunks(wrap(settled(env, given)), scheme, vars, play_key, c.rollout.decisions, envs, c.chunk)[1]

    return over_seeds(one_seed, per_seed(learner, keys), given, loop.envs, keys)


def start(build: Build, c: Any, given: dict, env: Env, s: Settings, learner: Learner) -> Loop:
    """Environments at their start."""
    follows = s.normalise_obs == "standard" and normalise.STATS not in given
    return _start(build, env, s.execute, follows, learner, c, given, seed_keys(s))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _start(build: Build, env: Env, execute: str, follows: bool, learner: Learner, c: Any, given: dict, keys) -> Loop:
    def one_seed(learner: Learner, given: dict, key: jax.Array):
        scheme = scheme_of(build, "explore", execute, c)
        first_keys = jax.random.split(jax.random.fold_in(key, 2**30 + 1))
        return begin(wrap(settled(env, given)), scheme, view(learner, given), first_keys, c.rollout.envs)

    envs = over_seeds(one_seed, per_seed(learner, keys), given, keys)
    none_yet = no_scale(c.rollout.envs), normalise.no_moments(env.observation_size) if follows else None
    scale, moments = for_each(len(keys), none_yet)
    return Loop(envs, jnp.ones((len(keys), c.rollout.envs)), scale, moments, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def iterate(build: Build, env: Env, execute: str, learner: Learner, loop: Loop, c: Any, given: dict, keys, n):
    """``n`` iterations of every seed: (learner, loop, sums of the figures [S])."""

    def one_seed(learner: Learner, given: dict, loop: Loop, key: jax.Array, step: Array):
        wrapped = wrap(settled(env, given))
        algorithm, scheme = build(c), scheme_of(build, "explore", execute, c)

        def iteration(i, state):
            learner, (envs, first, scale, moments, done) = state
            mine = jax.random.fold_in(jax.random.fold_in(key, 2**30 + 2), done)
            play_key, prepare_key, learn_key = jax.random.split(mine, 3)
            vars = view(learner, given)
            envs, chunk, seen = rollout_chunks(wrapped, scheme, vars, play_key, c.rollout.decisions, envs, c.chunk)
            if c.rollout.scale_rewards:
                firsts = jnp.concatenate([first[None], chunk.last[:-1]])
                scale, reward = scaled(scale, chunk.reward[..., 0], firsts)
                chunk = chunk._replace(reward=reward[..., None])
            if moments is not None:
                moments = normalise.seen(moments, chunk.obs.reshape(-1, chunk.obs.shape[-1]))
            learner, chunk = algorithm.prepare(learner, given, prepare_key, chunk)
            learner, sums = learn(algorithm, c.rollout, learner, given, learn_key, chunk)
            if moments is not None:  # after the updates: they take the policy in the units that it played in
                learner = in_moments(learner, moments)
            return (learner, Loop(envs, chunk.last[-1], scale, moments, done + 1)), {**sums, **seen}

        def body(i, state):
            now, sums = iteration(i, state[0])
            return now, jax.tree.map(jnp.add, state[1], sums)

        begun = learner._replace(step=step), loop
        like = jax.eval_shape(lambda state: iteration(0, state)[1], begun)
        none_yet = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        (learner, loop), sums = jax.lax.fori_loop(0, n, body, (begun, none_yet))
        return learner._replace(step=jnp.zeros((), jnp.int32)), loop, sums

    begun = loop._replace(iterations=jnp.full(keys.shape, loop.iterations))
    step = learner.step
    learner, after, sums = over_seeds(one_seed, per_seed(learner, keys), given, begun, keys, shared=(step,))
    updates = n * c.rollout.epochs * c.rollout.minibatches
    return learner._replace(step=step + updates), after._replace(iterations=loop.iterations + n), sums


def in_moments(learner: Learner, moments: Moments) -> Learner:
    """The learner with observations in the units of all that was seen."""
    units = {**learner.stats[normalise.STATS], "obs": normalise.of_moments(moments)}
    return learner._replace(stats={**learner.stats, normalise.STATS: units})


def learn(
    algorithm: Algorithm, c: RolloutConfig, learner: Learner, given: dict, key: jax.Array, chunk: Chunk
) -> tuple[Learner, Metrics]:
    """Epochs of minibatches over decisions [T, E, ...]: (learner, sums of the metrics, and of "updates_done").

    A minibatch holds whole decisions with all their denoising steps; those left over when the decisions are dealt out sit
    out an epoch, others in each. Once ``algorithm.stop`` says so, the rest of the updates are counted but not made.
    """
    size = c.envs * c.decisions // c.minibatches
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunk)

    def make(learner: Learner, some: Chunk) -> tuple[Learner, Metrics]:
        return algorithm.update(learner, given, jax.random.fold_in(key, learner.step), some)

    def one_update(state: tuple, index: Array) -> tuple[tuple, Metrics]:
        learner, stopped = state
        some = jax.tree.map(lambda x: x[index], flat)
        like = jax.eval_shape(make, learner, some)[1]
        idle = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        skip = lambda learner, some: (learner._replace(step=learner.step + 1), idle)  # noqa: E731
        learner, metrics = jax.lax.cond(stopped, skip, make, learner, some)
        now = stopped | algorithm.stop(metrics)
        return (learner, now), {**metrics, "updates_done": 1.0 - stopped}

    def epoch(state: tuple, key: jax.Array) -> tuple[tuple, Metrics]:
        order = jax.random.permutation(key, c.envs * c.decisions)[: size * c.minibatches]
        return jax.lax.scan(one_update, state, order.reshape(c.minibatches, size))

    keys = jax.random.split(jax.random.fold_in(key, 2**30 + 4), c.epochs)
    (learner, _), metrics = jax.lax.scan(epoch, (learner, jnp.asarray(False)), keys)
    return learner, jax.tree.map(jnp.sum, metrics)


def on_policy(
    build: Build,
    c: Any,
    given: dict,
    *,
    env: Env,
    settings: Settings,
    learner: Learner | None = None,
    state: Loop | None = None,
) -> Iterator[Event]:
    """Trains on what its own policy plays (2409.00588, algorithm 1, for any method with a ``rollout`` in its configuration).

    Args:
        learner, state: where to go on from; both are donated.

    Yields:
        The events of ``train.offline``; ``step`` counts environment steps, and every event carries its ``online`` part.

    Raises:
        UserError: impossible settings.
    """
    s, keys, trained = settings, seed_keys(settings), offline.in_units(build, settings)
    check(c, s, env, given)
    plan = plan_of(c, s)
    if learner is None:
        spec = Spec(env.observation_size, env.action_size, c.chunk.horizon)
        learner = units(trained, c, given, env, s, offline.init(build, c, given, spec, s))
    normalise.check(learner, s.normalise_obs, s.normalise_action)
    state = start(trained, c, given, env, s, learner) if state is None else state
    learner, state, given = spread(s.seeds, (learner, state, given))
    began = time.perf_counter()
    learner, state, _ = iterate(trained, env, s.execute, learner, state, c, given, keys, 0)  # compiles only
    jax.block_until_ready(learner)
    done = int(state.iterations)
    values = {"compile_seconds": np.asarray([time.perf_counter() - began])}
    yield Event("compile", done * plan.steps, values, learner, state)
    while done < plan.iterations:
        stops = (plan.log_every, plan.eval_every, plan.checkpoint_every)
        goal = min(plan.iterations, *(every * (done // every + 1) for every in stops))
        began = time.perf_counter()
        learner, state, sums = iterate(trained, env, s.execute, learner, state, c, given, keys, goal - done)
        values = figures(sums, plan.steps * (goal - done), s.seeds, began)
        done = goal
        step = done * plan.steps
        counts = {"env_steps": np.asarray([step]), "updates": np.asarray([int(learner.step)])}
        yield Event("train", step, {**values, **counts}, learner, state)
        if offline.due(done, plan.eval_every, plan.iterations):
            found = offline.evaluate(build, env, s, learner, c, given)
            yield Event("eval", step, {**found, **counts}, learner, state)
        if offline.due(done, plan.checkpoint_every, plan.iterations):
            yield Event("checkpoint", step, {}, learner, state)


def state_like(build: Build, env: Env, learner: Learner, c: Any, given: dict, s: Settings) -> Loop:
    """Shapes and types of the online part beside such a ``learner``, for restoring one."""
    return jax.eval_shape(lambda learner: start(offline.in_units(build, s), c, given, env, s, learner), learner)


def total_steps(c: Any, s: Settings) -> int:
    """The last event's ``step``."""
    plan = plan_of(c, s)
    return plan.iterations * plan.steps
