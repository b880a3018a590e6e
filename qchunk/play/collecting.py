"""Scripted or learned behaviour -> a data set with episode ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from qchunk.data.formats import Rows, of_steps
from qchunk.envs.base import Behaviour, Env, State, wrap
from qchunk.envs.host.pool import HostEnv, HostState, Pool
from qchunk.play import host
from qchunk.play.execute import Scheme, scripted
from qchunk.play.rollout import rollout
from qchunk.system.errors import unknown
from qchunk.types import Steps, Vars

NO_VARS = Vars({}, {}, {}, {})


def uniform(env: Env) -> Behaviour:
    """Uniform actions in [-1, 1], held for no longer than a step."""

    def act(key, state: State, carry: tuple):
        return jax.random.uniform(key, (env.action_size,), minval=-1.0, maxval=1.0), carry

    return Behaviour(lambda key, state: (), act)


def behaviours(env: Env) -> dict[str, Callable[[Env], Behaviour]]:
    """The scripted behaviours that this environment has, by name; the first one is its default."""
    own = getattr(env, "behaviours", {})
    return {**own, "random": uniform}


def scheme_of(env: Env, policy: str | None) -> Scheme:
    """The scheme of a scripted behaviour by name.

    Raises:
        UserError: no such behaviour here.
    """
    known = behaviours(env)
    name = policy or next(iter(known))
    if name not in known:
        raise unknown("policy", name, known, "or give the folder of a run")
    return scripted(known[name](env))


def collect(
    env: Env,
    scheme: Scheme,
    vars: Vars,
    key,
    *,
    steps: int,
    envs: int = 64,
    episode_length: int | None = None,
    progress: Callable[[int], Any] = lambda done: None,
    dispatch: int = 250,
) -> Rows:
    """Plays E environments in parallel, in whole decisions, until at least ``steps`` transitions are there.

    Args:
        episode_length: environment steps after which an episode is cut (no bootstrap is lost: it is a time-out).
        progress: called with the transitions so far.
        dispatch: environment steps per call to the device, at most.
    """
    wrapped = wrap(env, episode_length)
    decisions = max(1, min(dispatch, -(-steps // envs)) // scheme.steps)
    step = jax.jit(lambda vars, key, start: rollout(wrapped, scheme, vars, key, decisions, start, envs))
    parts: list[Steps] = []
    start, done, i = None, 0, 0
    while done < steps:
        start, out = step(vars, jax.random.fold_in(key, i), start)
        parts.append(jax.tree.map(np.asarray, out))
        done, i = done + int(parts[-1].alive.sum()), i + 1
        progress(min(done, steps))
    return of_steps(jax.tree.map(lambda *x: np.concatenate(x), *parts))


def collect_host(
    env: HostEnv,
    play: Callable[[Pool, HostState, int, np.ndarray], tuple[HostState, Steps]],
    *,
    steps: int,
    seed: int = 0,
    envs: int = 8,
    progress: Callable[[int], Any] = lambda done: None,
) -> Rows:
    """``collect`` for host environments.

    Args:
        play: (pool, state, number of the decision, slots that have just begun [E]) -> what was played.
    """
    pool, parts, done = env.pool("collect", envs), list[Steps](), 0
    state, begun = pool.nothing(), np.zeros(envs, np.int64)
    while done < steps:
        state, begun, fresh = host.begin_ended(pool, state, begun, [(seed, e) for e in range(envs)])
        state, out = play(pool, state, len(parts), fresh)
        parts.append(out._replace(success=None))
        done += int(out.alive.sum())
        progress(min(done, steps))
    return of_steps(jax.tree.map(lambda *x: np.concatenate(x), *parts))


def random_play(seed: int) -> Callable:
    """Uniform actions, as ``play`` of ``collect_host``."""

    def play(pool: Pool, state: HostState, i: int, fresh: np.ndarray) -> tuple[HostState, Steps]:
        rng = np.random.default_rng((seed, i))
        shape = (pool.envs, pool.env.action_size)
        return host.play_chunk(pool, state, 1, lambda i, obs: rng.uniform(-1.0, 1.0, shape))

    return play


def learned_play(build: Any, execute: str, learner: Any, c: Any, given: dict, key: Any) -> Callable:
    """The exploring policy of a learner of one seed [1, ...], as ``play`` of ``collect_host``."""

    def play(pool: Pool, state: HostState, i: int, fresh: np.ndarray) -> tuple[HostState, Steps]:
        labels = np.stack([np.arange(pool.envs), np.full(pool.envs, i)], axis=1)[None].astype(np.int32)
        more = {"learner": learner, "c": c, "given": given, "keys": key[None], "labels": labels, "fresh": fresh}
        state, _, steps = host.decision(pool, state, build, "explore", execute, carry=None, **more)
        return state, steps

    return play
