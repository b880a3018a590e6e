"""Generalised advantage estimation: from rewards of consecutive decisions to advantages."""

from __future__ import annotations

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
