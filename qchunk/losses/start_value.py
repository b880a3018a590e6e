"""The value of the noise that a frozen or cloned actor starts from: what a policy over noise climbs (2506.15799, section 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.losses.terms import module_names
from qchunk.sampling import normal
from qchunk.types import Array, Chunk, Critic, Key, Metrics, Policy, Term, Vars


def start_value(value: Critic, critic: Critic, policy: Policy, name: str = "start_value") -> Term:
    """Regression of V_i(s, z) on Q_i(s, policy's chunk from z), member by member, z ~ N(0, I).

    Args:
        policy: its noise is [*B, H, A], such as ``sample`` of a flow. Neither it nor the critic is trained.
    """

    def draw(key: Key, chunk: Chunk) -> Array:
        return normal(key, chunk.action.shape)

    def fn(vars: Vars, z: Array, chunk: Chunk) -> tuple[Array, Metrics]:
        fixed = jax.lax.stop_gradient(vars)
        aim = critic.values(fixed, chunk.obs, policy.plan(fixed, z, chunk.obs, None).action)
        return jnp.mean(jnp.square(value.values(vars, chunk.obs, z) - aim)), {}

    return Term(name, module_names(value), draw, fn)
