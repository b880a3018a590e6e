"""From rewards of consecutive decisions to advantages, and the running scale of rewards."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.types import Array


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


class Scale(NamedTuple):
    """The running moments of discounted returns in E environments."""

    returns: Array  # [E] so far in the open episodes
    mean: Array  # []
    var: Array  # []
    seen: Array  # [] numbers so far


def no_scale(envs: int) -> Scale:
    """Before any reward."""
    return Scale(jnp.zeros(envs), jnp.zeros(()), jnp.ones(()), jnp.full((), 1e-4))


def scaled(state: Scale, reward: Array, first: Array, gamma: float = 0.99) -> tuple[Scale, Array]:
    """Rewards [T, E] divided by the deviation of G_t = r_t + gamma (1 - first_t) G_{t-1}, bounded to [-10, 10].

    The moments are those of all G so far, these among them (2409.00588, code). Nothing is centred.

    Args:
        first: [T, E] 1 where a decision is its episode's first.
    """

    def forward(g: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        g = x[0] + gamma * (1 - x[1]) * g
        return g, g

    returns, all_returns = jax.lax.scan(forward, state.returns, (reward, first))
    mean, var, count = jnp.mean(all_returns), jnp.var(all_returns), all_returns.size
    total, gap = state.seen + count, mean - state.mean
    spread = state.var * state.seen + var * count + gap**2 * state.seen * count / total
    now = Scale(returns, state.mean + gap * count / total, spread / (total - 1), total)
    return now, jnp.clip(reward / jnp.sqrt(now.var + 1e-8), -10.0, 10.0)
