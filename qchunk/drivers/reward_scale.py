"""The running scale of rewards, by which on-policy methods divide them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.types import Array


class Scale(NamedTuple):
    """The running moments of the discounted returns of E environments."""

    returns: Array  # [E] so far in the open episodes
    mean: Array  # []
    var: Array  # []
    seen: Array  # [] numbers so far


def no_scale(envs: int) -> Scale:
    """The scale of E environments before any reward was seen."""
    return Scale(jnp.zeros(envs), jnp.zeros(()), jnp.ones(()), jnp.full((), 1e-4))


def scaled(state: Scale, reward: Array, first: Array, gamma: float = 0.99) -> tuple[Scale, Array]:
    """Rewards [T, E] divided by the standard deviation of G_t = r_t + gamma (1 - first_t) G_{t-1}, bounded to [-10, 10].

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
