"""Learning the value of noisy chunks from a critic of clean ones: the two targets that guidance is made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actors.paths import drawing
from qchunk.losses.terms import module_names, weighted_mean
from qchunk.sampling import count_steps
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Kernel, Key, Metrics, Term, ValueFn, Vars

LINEAR_FROM = 5.0  # where exp(d) - d - 1 goes on as its tangent, so that one chunk cannot overflow a batch


def noise_value(
    value: Critic, clean: ValueFn, kernel: Kernel, weight: float | None = None, name: str = "noise_value"
) -> Term:
    """Regression of V(s, x, level) on Q(s, a): x = alpha a + sigma eps on a random level of ``kernel``, a from the data.

    - ``weight`` None: squared error, whose minimum is the mean E[Q | x] (2205.09991);
    - ``weight`` w: exp(d) - d - 1 with d = w (Q - V), whose minimum is log E[exp(w Q) | x] / w: the exact target of
      guidance with that weight. Both are the same to second order, and are divided by w^2 / 2 to show it.

    Args:
        clean: Q of the target networks, (vars, obs, action) -> [*B], or [members, *B]: member i of V then learns from member i.

    The data's chunks stand for the prior's. Windows that leave their episode do not count.
    """

    def level(key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 0, count_steps(kernel))

    def fn(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        eps, index = noise
        at = jnp.asarray(np.asarray(kernel.levels), jnp.float32)[index[..., 0]]  # [*B, 2]
        x = at[..., :1, None] * chunk.action + at[..., 1:, None] * eps
        aim = clean(target_view(jax.lax.stop_gradient(vars)), chunk.obs, chunk.action)
        gap = aim - value.values(vars, chunk.obs, x, at)  # [members, *B]
        loss = weighted_mean(chunk.mask[..., -1], jnp.square(gap) if weight is None else _linex(gap, weight))
        return loss, {"gap": weighted_mean(chunk.mask[..., -1], gap)}

    return Term(name, module_names(value), drawing(level), fn)


def _linex(gap: Array, weight: float) -> Array:
    weight = jnp.maximum(weight, 1e-2)  # below, the difference is lost in float32, and the loss is the square anyway
    d = weight * gap
    low = jnp.minimum(d, LINEAR_FROM)
    slope = jnp.expm1(LINEAR_FROM)
    return (jnp.expm1(low) - low + slope * (d - low)) * 2 / weight**2
