"""Values of states from those of the data's chunks: an upper expectile, the best that the data do (2110.06169), or the mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.losses.td import td_of_state
from qchunk.losses.terms import module_names, no_noise, weighted_mean
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Metrics, Term, Vars


def implicit_q(critic: Critic, state: Critic, level: float) -> list[Term]:
    """Implicit Q-learning: V is an upper expectile of Q over the data, Q backs up V. Trains both critics."""
    return [expectile(state, critic, level), td_of_state(critic, state)]


def expectile(state: Critic, critic: Critic, level: float, name: str = "expectile") -> Term:
    """Regression of V(s) on Q(s, a) of the target networks with weight |level - 1(Q < V)| (eq. 5).

    Args:
        level: tau in [0.5, 1): 0.5 is the mean, towards 1 the maximum over the data's chunks.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        fixed = target_view(jax.lax.stop_gradient(vars))
        above = critic.score(fixed, chunk.obs, chunk.action) - state.values(vars, chunk.obs)  # [members, *B]
        side = jnp.where(above < 0, 1 - level, level)
        loss = weighted_mean(chunk.weight[..., 0], side * jnp.square(above))
        return loss, {"advantage": weighted_mean(chunk.weight[..., 0], above)}

    return Term(name, module_names(state), no_noise, fn)


def behaviour_value(state: Critic, critic: Critic, name: str = "value") -> Term:
    """Regression of V(s) on Q(s, a) of every target network over the data's chunks: the value of what the data do."""

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        fixed = target_view(jax.lax.stop_gradient(vars))
        apart = critic.values(fixed, chunk.obs, chunk.action) - state.values(vars, chunk.obs)
        return weighted_mean(chunk.weight[..., 0], jnp.square(apart)), {}

    return Term(name, module_names(state), no_noise, fn)
