"""Episodes -> returns and success."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk.envs.base import AutoReset, State
from qchunk.play.execute import Scheme
from qchunk.play.rollout import play_chunk
from qchunk.types import Array, Vars


class Episodes(NamedTuple):
    """Outcome of E parallel episodes."""

    ret: Array  # [E] undiscounted return
    success: Array | None  # [E] 1.0 if it reached success; None where the environment has no notion of it
    length: Array  # [E] steps
    terms: dict = {}  # noqa: RUF012  (never written to)  [E] each, sums of what an objective is made of


def episodes(env: AutoReset, scheme: Scheme, vars: Vars, key, count: int) -> Episodes:
    """Plays ``count`` parallel episodes, each to its own end; stops when the last one has ended.

    Equal keys give equal start states whatever the policy (common random numbers).
    """
    reset_key, carry_key, key = jax.random.split(key, 3)
    state = env.env.reset(jax.random.split(reset_key, count))
    zeros = jnp.zeros(count)

    def going(loop: Any) -> Array:
        return jnp.any(loop[0].done == 0)

    def decision(loop: tuple[State, Any, Array, Episodes]):
        state, carry, i, total = loop
        carry, plan = scheme.decide(vars, jax.random.fold_in(key, i), state, carry)
        state, s = play_chunk(env.env, scheme, vars, state, plan)
        reached = None if s.success is None else jnp.maximum(total.success, jnp.max(s.success * s.alive, axis=0))
        ret, length = jnp.sum(s.reward * s.alive, axis=0), jnp.sum(s.alive, axis=0)
        terms = {n: total.terms[n] + jnp.sum(x * s.alive, axis=0) for n, x in s.terms.items()}
        return state, carry, i + 1, Episodes(total.ret + ret, reached, total.length + length, terms)

    terms = dict.fromkeys(state.info.get("terms", {}), zeros)
    none_yet = Episodes(zeros, zeros if "success" in state.metrics else None, zeros, terms)
    loop = state, scheme.init(vars, carry_key, state), jnp.zeros((), jnp.int32), none_yet
    return jax.lax.while_loop(going, decision, loop)[3]


def summary(e: Episodes) -> dict[str, Array]:
    """Means over episodes: ``return``, ``length`` (steps), where it has a meaning ``success`` (share), and an objective's terms."""
    success = {} if e.success is None else {"success": jnp.mean(e.success)}
    terms = {n: jnp.mean(x) for n, x in e.terms.items()}
    return {**success, "return": jnp.mean(e.ret), "length": jnp.mean(e.length), **terms}
