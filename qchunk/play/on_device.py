"""Environments on the device, as rollout.py and episodes.py play them; everything here is traced."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.envs.base import AutoReset, State, goal_count, reset_in_turn, where
from qchunk.play import episodes as counting
from qchunk.play import rollout as playing
from qchunk.play.episodes import Episodes, Tally, summary
from qchunk.play.execute import Scheme, restart
from qchunk.play.program import Inputs, Program, each_seed, reads
from qchunk.play.rollout import Outcome, Player, Simulator, Steps
from qchunk.seeds import divided
from qchunk.types import Array, Chunk, Learner, Metrics, Vars

Loop = tuple[State, Any]  # environments, and what their scheme carries


def simulator(env: AutoReset, restarts: bool = True) -> Simulator:
    """E environments whose episodes begin again, or with ``restarts`` False end for good."""

    def begin(state: State) -> tuple[State, Array | None]:
        return (env.reset_done(state), state.done > 0) if restarts else (state, None)

    def step(state: State, action: Array, alive: Array) -> State:
        return where(alive, env.env.step(state, action), state)

    return Simulator(begin, step, show, jax.lax.scan, jax.lax.while_loop)


def show(state: State) -> Outcome:
    """What a step left behind."""
    ended = state.info["terminal"], state.info["truncation"]
    return Outcome(
        state.obs, state.reward, *ended, state.done, state.metrics.get("success"), state.info.get("terms", {})
    )


def player(scheme: Scheme, vars: Vars) -> Player:
    """A scheme for E environments of one seed; labels are keys."""

    def decide(key: Array, state: State, fresh: Array | None, carry: Any) -> tuple[Any, Any]:
        if fresh is not None:
            restart_key, key = jax.random.split(key)
            carry = restart(scheme, vars, restart_key, state, fresh, carry)
        return scheme.decide(vars, key, state, carry)

    def act(i: Array, state: State, plan: Any, alive: Array) -> Array:
        return playing.bounded(scheme.act(vars, i, state, plan))

    return Player(scheme.steps, decide, act, looks=scheme.looks, delay=scheme.delay)


def begin(env: AutoReset, scheme: Scheme, vars: Vars, keys: Array, envs: int, in_turn: bool = False) -> Loop:
    """``envs`` environments at their start; two keys. ``in_turn``: see ``base.reset_in_turn``."""
    reset_key, carry_key = keys
    keys = divided(jax.random.split(reset_key, envs), envs)
    state = (functools.partial(reset_in_turn, env) if in_turn else env.env.reset)(keys)
    return divided((state, scheme.init(vars, carry_key, state)), envs)


def rollout(
    env: AutoReset, scheme: Scheme, vars: Vars, key: Array, decisions: int, start: Loop | None = None, envs: int = 1
) -> tuple[Loop, Steps]:
    """Plays ``decisions`` chunks in E environments, starting ended ones again between chunks.

    Args:
        start: what an earlier call returned; None resets ``envs`` environments.

    Returns:
        (state, carry) to go on from, and Steps [decisions * steps, E, ...].
    """
    *first_keys, key = jax.random.split(key, 3)
    loop = begin(env, scheme, vars, first_keys, envs) if start is None else start
    return playing.rollout(simulator(env), player(scheme, vars), jax.random.split(key, decisions), _divided(loop))


def rollout_chunks(
    env: AutoReset, scheme: Scheme, vars: Vars, key: Array, decisions: int, loop: Loop, c: ChunkConfig
) -> tuple[Loop, Chunk, Metrics]:
    """``rollout`` by decisions; see there, and rollout.rollout_chunks."""
    keys = jax.random.split(key, decisions)
    return playing.rollout_chunks(simulator(env), player(scheme, vars), keys, _divided(loop), c)


def _divided(loop: Loop) -> Loop:
    return divided(loop, len(loop[0].done))


def episodes(env: AutoReset, scheme: Scheme, vars: Vars, key: Array, count: int) -> Episodes:
    """``count`` parallel episodes [count], each to its own end.

    Equal keys give equal start states whatever the policy (common random numbers). Where the environment has several goals,
    episode i has number i modulo their count.
    """
    *first_keys, key = jax.random.split(key, 3)
    start = begin(env, scheme, vars, first_keys, count, in_turn=True)
    first, zeros = show(start[0]), jnp.zeros(count)
    success, terms = None if first.success is None else zeros, dict.fromkeys(first.terms, zeros)
    none_yet = Episodes(zeros, success, zeros, counting.no_manner(zeros), terms)
    tally = Tally(
        going=lambda state: jnp.any(state.done == 0),
        label=lambda i: jax.random.fold_in(key, i),
        add=lambda state, total, more: jax.tree.map(jnp.add, total, more)._replace(
            success=None if total.success is None else jnp.maximum(total.success, more.success)
        ),
    )
    before = jnp.full((count, env.action_size), jnp.nan)
    return counting.episodes(simulator(env, restarts=False), player(scheme, vars), tally, start, none_yet, before)


@functools.partial(jax.jit, static_argnums=(0, 1))
def evaluate(program: Program, count: int, learner: Learner, x: Inputs) -> dict[str, Array]:
    """``count`` episodes of every seed's acting policy: means [S]."""

    def one_seed(learner: Learner, x: Inputs) -> dict[str, Array]:
        env = program.playable(x.given)
        played = episodes(env, program.scheme(x, "act"), reads(learner, x), x.keys, count)
        return summary(played, goal_count(program.env))

    return each_seed(one_seed, learner, x)
