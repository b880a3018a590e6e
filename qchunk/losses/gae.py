"""Generalised advantage estimation: from rewards of consecutive decisions to advantages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qchunk.types import Array, Chunk, Critic, Vars


def values_around(critic: Critic, vars: Vars, chunk: Chunk) -> tuple[Array, Array]:
    """V where a decision was made, and after it: (value, next_value), each [*B]; of one backup point."""
    return critic.score(vars, chunk.obs), critic.score(vars, jax.tree.map(lambda o: o[..., 0, :], chunk.next_obs))


def gae(
    reward: Array, discount: Array, value: Array, next_value: Array, last: Array, lam: float
) -> tuple[Array, Array]:
    """Generalised advantage estimation over decisions (1506.02438, eq. 16): (advantage, value target), each [T, ...].

    delta_t = r_t + discount_t V(s'_t) - V(s_t), A_t = delta_t + lam discount_t (1 - last_t) A_{t+1}. ``next_value`` is
    of the true observation after decision t, so that a time-out (discount > 0, last 1) is bootstrapped from its episode's
    own end while the trace stops there. The published code of DPPO takes the first observation of the NEXT episode.
    """
    delta = reward + discount * next_value - value

    def back(after: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, keep = x
        advantage = delta + keep * after
        return advantage, advantage

    advantage = jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, lam * discount * (1 - last)), reverse=True)[1]
    return advantage, advantage + value


def gae_of_plans(
    reward: Array, discount: Array, value: Array, next_value: Array, last: Array, begins: Array, lam: float
) -> tuple[Array, Array]:
    """The same over plans of any length, from environment steps [T, ...]: a decision and what was played of its plan are one step of a
    semi-Markov process, whose discount is the product of its steps'.

    The results are right where ``begins`` is 1; elsewhere they mean nothing. A plan that goes on beyond the last step is cut there.

    Args:
        reward, discount, next_value, last: of every environment step, as in ``gae``.
        begins: 1 where a plan begins.
    """

    def back(after: Any, x: Any) -> tuple[Any, Array]:
        sum_, product, end_value, end_advantage, next_begins, next_advantage = after
        r, d, v, v_next, ended, begun = x
        ends = jnp.maximum(next_begins, ended) > 0  # the plan is not played beyond this step
        sum_, product = jnp.where(ends, 0.0, sum_), jnp.where(ends, 1.0, product)
        end_value = jnp.where(ends, v_next, end_value)
        end_advantage = jnp.where(ends, (1 - ended) * next_advantage, end_advantage)
        sum_, product = r + d * sum_, d * product
        advantage = sum_ + product * (end_value + lam * end_advantage) - v
        return (sum_, product, end_value, end_advantage, begun, advantage), advantage

    zero = jnp.zeros_like(reward[0])
    xs = (reward, discount, value, next_value, last, begins)
    advantage = jax.lax.scan(back, (zero, zero, zero, zero, zero + 1, zero), xs, reverse=True)[1]
    return advantage, advantage + value
