"""Playing chunks: an outer loop over decisions, an inner scan over environment steps; the actor runs once per chunk."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig
from qchunk.data import chunks
from qchunk.envs.base import AutoReset, State, where
from qchunk.play.execute import Scheme, restart
from qchunk.types import Array, Chunk, Metrics, Steps, Vars


def play_chunk(env: Any, scheme: Scheme, vars: Vars, state: State, plan: Any) -> tuple[State, Steps]:
    """Executes one decision in E environments (``env`` as within AutoReset). One that ends rests until the next."""

    def step(state: State, i: Array) -> tuple[State, Steps]:
        alive = state.done == 0
        action = jnp.clip(scheme.act(vars, i, state, plan), -1.0, 1.0)
        after = env.step(state, action)
        success = after.metrics.get("success")
        ended = (after.info["terminal"], after.info["truncation"])
        terms = after.info.get("terms", {})
        out = Steps(state.obs, action, after.reward, *ended, after.obs, success, alive.astype(jnp.float32), terms)
        return where(alive, after, state), out

    after, steps = jax.lax.scan(step, state, jnp.arange(scheme.steps))
    return after, steps._replace(extras=chunks.kept(getattr(plan, "extras", {}), *steps.reward.shape))


def rollout(
    env: AutoReset,
    scheme: Scheme,
    vars: Vars,
    key,
    decisions: int,
    start: tuple[State, Any] | None = None,
    envs: int = 1,
) -> tuple[tuple[State, Any], Steps]:
    """Plays ``decisions`` chunks in E environments, starting ended ones anew between chunks.

    Args:
        start: the (state, carry) that an earlier call returned; None resets ``envs`` environments.

    Returns:
        (state, carry) to go on from, and Steps [decisions * steps, E, ...].
    """
    *first_keys, key = jax.random.split(key, 3)
    loop = begin(env, scheme, vars, first_keys, envs) if start is None else start

    def play(loop: tuple[State, Any], key) -> tuple[tuple[State, Any], Steps]:
        loop, _, steps = decision(env, scheme, vars, key, loop)
        return loop, steps

    loop, steps = jax.lax.scan(play, loop, jax.random.split(key, decisions))
    return loop, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def begin(env: AutoReset, scheme: Scheme, vars: Vars, keys, envs: int) -> tuple[State, Any]:
    """(state, carry) of ``envs`` environments at their start; two keys."""
    reset_key, carry_key = keys
    state = env.env.reset(jax.random.split(reset_key, envs))
    return state, scheme.init(vars, carry_key, state)


def decision(env: AutoReset, scheme: Scheme, vars: Vars, key, loop: tuple[State, Any]) -> tuple[Any, Any, Steps]:
    """Starts ended environments anew, decides and plays: ((state, carry), plan, Steps [steps, E, ...])."""
    state, carry = loop
    restart_key, decide_key = jax.random.split(key)
    fresh = state.done > 0
    state = env.reset_done(state)
    carry = restart(scheme, vars, restart_key, state, fresh, carry)
    carry, plan = scheme.decide(vars, decide_key, state, carry)
    state, steps = play_chunk(env.env, scheme, vars, state, plan)
    return (state, carry), plan, steps


def rollout_chunks(
    env: AutoReset, scheme: Scheme, vars: Vars, key, decisions: int, loop: tuple[State, Any], c: ChunkConfig
) -> tuple[tuple[State, Any], Chunk, Metrics]:
    """``rollout`` by decisions, for methods that learn from what they just did.

    Returns:
        (state, carry) to go on from; what each decision led to, Chunk [T, E, ...] with the plan's ``extras``; and
        "alive_steps" and "reward_sum", over all steps that were played.
    """

    def play(loop: tuple[State, Any], key) -> tuple[tuple[State, Any], tuple[Chunk, Metrics]]:
        loop, plan, s = decision(env, scheme, vars, key, loop)
        chunk = chunks.of_decision(s, c)
        return loop, (chunk._replace(extras=plan.extras), played(s))

    loop, (found, sums) = jax.lax.scan(play, loop, jax.random.split(key, decisions))
    return loop, found, jax.tree.map(jnp.sum, sums)


def played(steps: Steps) -> Metrics:
    """How many steps were played, and the sum of their rewards."""
    return {"alive_steps": jnp.sum(steps.alive), "reward_sum": jnp.sum(steps.reward * steps.alive)}
