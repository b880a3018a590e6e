"""The drivers. They know only Algorithm: a method is a function ``build(config) -> Algorithm``.

A driver is a generator of events; whoever runs it decides what to print, log and save. Every random draw is a
function of (seed, number of the update), so that a run restored at any update goes on to the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import normalise
from qchunk.config import NonNegativeInt, PositiveInt, config, validate
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.envs.base import Env, wrap
from qchunk.envs.host.pool import HostEnv
from qchunk.envs.objective import settled
from qchunk.play import host
from qchunk.play.episodes import episodes, summary
from qchunk.play.execute import parse
from qchunk.seeds import for_each, over_seeds, spread
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Learner, Spec, view

Build = Callable[[Any], Algorithm]


@config
class Common:
    """What every driver needs besides the algorithm's own configuration."""

    seed: NonNegativeInt = 0
    """The first seed."""
    seeds: PositiveInt = 1
    """S, seeds trained in one program: seed, seed + 1, ..."""
    episodes: PositiveInt = 50
    """Episodes per evaluation and seed."""
    execute: str = "open-loop"
    """Execution: open-loop or receding:STEPS."""
    normalise_obs: Literal["none", "min-max", "standard"] = "none"
    """Units of observations inside the algorithm, from the data."""
    normalise_action: Literal["none", "min-max", "standard"] = "none"
    """Units of actions inside the algorithm, from the data."""


@config
class Settings(Common):
    """What the drivers ``offline`` and ``offline_to_online`` need."""

    offline_steps: NonNegativeInt = 1_000_000
    """Updates."""
    batch: PositiveInt = 256
    """B, windows per update."""
    log_every: PositiveInt = 500
    """Updates between two lines of training figures."""
    eval_every: NonNegativeInt = 0
    """Updates between two evaluations; 0 makes ten of them."""
    checkpoint_every: NonNegativeInt = 0
    """Updates between two checkpoints; 0 saves at each evaluation."""


class Event(NamedTuple):
    """What a driver reports. ``values`` are numpy arrays [S], or [1] where they are of the program; ``learner`` is that of all seeds, for saving."""

    kind: str  # "compile", "train", "eval" or "checkpoint"
    step: int  # updates; in the online part, offline updates plus environment steps
    values: dict[str, np.ndarray]
    learner: Learner
    online: Any = None  # what else a run resumes from, once it plays in an environment (online.py, on_policy.py)


def seed_keys(s: Common) -> jax.Array:
    """One key per seed [S]: seed i alone or among others draws the same."""
    return jax.vmap(jax.random.key)(s.seed + np.arange(s.seeds))


def in_units(build: Build, s: Common) -> Build:
    """What is trained: ``build``, in other units (normalise.py) where the settings ask for them."""
    plain = s.normalise_obs == s.normalise_action == "none"
    return build if plain else normalise.wrapping(build)


def init(build: Build, c: Any, given: dict, spec: Spec, s: Common, data: Dataset | None = None) -> Learner:
    """The learners of all seeds, stacked; ``step`` is shared. Units are those ``given``, or those of ``data``."""
    made = _init(in_units(build, s), spec, c, given, seed_keys(s))
    if data is not None and normalise.STATS in made.stats:
        if normalise.STATS in given:
            units = normalise.of_given(given)
        else:
            units = for_each(s.seeds, normalise.of_data(data, s.normalise_obs, s.normalise_action))
        made = made._replace(stats={**made.stats, normalise.STATS: units})
    return made._replace(step=made.step[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(build: Build, spec: Spec, c: Any, given: dict, keys: jax.Array) -> Learner:
    return over_seeds(lambda key, given: build(c).init(key, spec, given), keys, given)


def run_updates(algorithm: Algorithm, draw: Callable, state: Learner, given: dict, key: jax.Array, count):
    """``count`` updates of one seed, each on ``draw(key)``: (learner, sums of the metrics)."""

    def one_update(state: Learner):
        draw_key, prepare_key, update_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        state, chunk = algorithm.prepare(state, given, prepare_key, draw(draw_key))
        return algorithm.update(state, given, update_key, chunk)

    def body(i, loop):
        state, metrics = one_update(loop[0])
        return state, jax.tree.map(jnp.add, loop[1], metrics)

    none_yet = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_update, state)[1])
    return jax.lax.fori_loop(0, count, body, (state, none_yet))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def updates(build: Build, batch: int, state: Learner, c: Any, given: dict, data: Dataset, keys: jax.Array, count):
    """``count`` updates of every seed in one dispatch: (learner, means of the metrics [S])."""

    def one_seed(state: Learner, given: dict, key: jax.Array, step: jax.Array, data: Dataset):
        draw = lambda key: chunks.draw(key, data, c.chunk, batch)  # noqa: E731
        state, total = run_updates(build(c), draw, state._replace(step=step), given, key, count)
        return state._replace(step=jnp.zeros((), jnp.int32)), jax.tree.map(lambda x: x / count, total)

    step, batched = state.step, state._replace(step=jnp.zeros(keys.shape, jnp.int32))
    state, metrics = over_seeds(one_seed, batched, given, keys, shared=(step, data))
    return state._replace(step=step + count), metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def evaluation(build: Build, env: Env, execute: str, count: int, state: Learner, c: Any, given: dict, keys: jax.Array):
    """``count`` episodes of every seed's acting policy: means [S]."""

    def one_seed(state: Learner, given: dict, key: jax.Array):
        policy = build(c).act
        scheme = parse(execute, c.chunk.horizon)(policy)
        return summary(episodes(wrap(settled(env, given)), scheme, view(state, given), key, count))

    return over_seeds(one_seed, state._replace(step=jnp.zeros(keys.shape, jnp.int32)), given, keys)


def evaluate(
    build: Build, env: Env, s: Common, state: Learner, c: Any, given: dict, base: int = 2**31
) -> dict[str, np.ndarray]:
    """Figures of an evaluation [S]. Every method and every evaluation of a seed sees the same start states (``base``)."""
    keys = jax.vmap(lambda k: jax.random.fold_in(k, base))(seed_keys(s))
    trained = in_units(build, s)
    if isinstance(env, HostEnv):
        values = host.evaluate(env, trained, s.execute, s.episodes, state, c, given, keys)
    else:
        values = evaluation(trained, env, s.execute, s.episodes, state, c, given, keys)
    return {k: np.asarray(v) for k, v in values.items()}


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so often, and at the end, happens at ``step``."""
    return step == last or (every > 0 and step % every == 0)


def offline(
    build: Build,
    c: Any,
    given: dict,
    *,
    env: Env,
    data: Dataset,
    settings: Settings,
    learner: Learner | None = None,
) -> Iterator[Event]:
    """Trains on a fixed data set; evaluates in ``env``.

    Args:
        build: config -> Algorithm; the config has a field ``chunk`` (ChunkConfig).
        given: frozen modules of an earlier stage, of every seed [S, ...] (``seeds.for_each`` where they share one).
        learner: where to go on from; it is donated.

    Yields:
        "compile" (seconds), then "train", "eval" and "checkpoint" events, in this order where they coincide. A yielded learner must be read before
        the generator goes on: its memory is then reused.

    Raises:
        UserError: impossible settings, or chunks longer than every episode.
    """
    s = resolve(settings)
    check(c, s, data)
    seen, kept = env.observation_size, data.obs.shape[-1]
    if seen != kept:
        fix = "make both with the same history: envs.make(name, history) and chunks.with_history(data, history)"
        raise UserError(f"the environment's observations have {seen} numbers, the data's {kept}", fix)
    spec = Spec(env.observation_size, env.action_size, c.chunk.horizon)
    state = init(build, c, given, spec, s, data) if learner is None else learner
    normalise.check(state, s.normalise_obs, s.normalise_action)
    state, given, data = spread(s.seeds, (state, given, data))
    keys, trained = seed_keys(s), in_units(build, s)
    step = int(state.step)
    began = time.perf_counter()
    state, _ = updates(trained, s.batch, state, c, given, data, keys, 0)  # compiles, and updates nothing
    jax.block_until_ready(state)
    yield Event("compile", step, {"compile_seconds": np.asarray([time.perf_counter() - began])}, state)
    while step < s.offline_steps:
        stops = (s.log_every, s.eval_every, s.checkpoint_every)
        goal = min(s.offline_steps, *(every * (step // every + 1) for every in stops))
        began = time.perf_counter()
        state, metrics = updates(trained, s.batch, state, c, given, data, keys, goal - step)
        values = {k: np.asarray(v) for k, v in metrics.items()}
        values["updates_per_second"] = np.asarray([(goal - step) * s.seeds / (time.perf_counter() - began)])
        step = goal
        yield Event("train", step, values, state)
        if due(step, s.eval_every, s.offline_steps):
            yield Event("eval", step, evaluate(build, env, s, state, c, given), state)
        if due(step, s.checkpoint_every, s.offline_steps):
            yield Event("checkpoint", step, {}, state)


def check(c: Any, s: Settings, data: Dataset) -> None:
    """Refuses a configuration, settings and data that cannot run, before anything is compiled or written.

    Raises:
        UserError: names the field and the fix.
    """
    validate(c)
    validate(s)
    parse(s.execute, c.chunk.horizon)
    chunks.check_fits(data, c.chunk)


def resolve(s: Settings) -> Settings:
    """The settings with every 0 that means "choose" replaced."""
    eval_every = s.eval_every or max(1, math.ceil(s.offline_steps / 10))
    return dataclasses.replace(s, eval_every=eval_every, checkpoint_every=s.checkpoint_every or eval_every)
