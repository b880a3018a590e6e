"""How value changes behaviour: pure transforms of policies."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.types import Array, Plan, Policy, Vars

CPU_ROWS, DEVICE_ROWS = 2048, 32768  # candidates at once: fits a core's cache / fills a GPU


def best_of_n(policy: Policy, score: Callable, n: int, slice_rows: int = 0) -> Policy:
    """Draws ``n`` plans and keeps the one that ``score`` likes best (2507.07969, eq. 7).

    Args:
        score: (vars, obs [*B, O], action [*B, H, A]) -> [*B].
        n: candidates N per observation.
        slice_rows: candidates evaluated at once; bounds the memory and never changes the result, because all noise is
            drawn before slicing. 0 chooses by backend.
    """

    def lead(obs) -> int:
        return jax.tree.leaves(obs)[0].ndim - 1

    def draw(vars: Vars, key, obs):
        repeated = jax.tree.map(lambda o: jnp.broadcast_to(o[..., None, :], (*o.shape[:-1], n, o.shape[-1])), obs)
        return policy.draw(vars, key, repeated)

    def choose(vars: Vars, noise, obs, old: Plan | None) -> Plan:
        axis = lead(obs)  # candidates stand behind *B; the observation is not repeated, only broadcast
        plans = jax.vmap(lambda z: policy.plan(vars, z, obs, old), in_axes=axis, out_axes=axis)(noise)
        values = jax.vmap(lambda a: score(vars, obs, a), in_axes=axis, out_axes=axis)(plans.action)  # [*B, N]
        best = jnp.argmax(values, axis=-1)

        def gather(x: Array) -> Array:
            index = best.reshape(best.shape + (1,) * (x.ndim - axis))
            return jnp.squeeze(jnp.take_along_axis(x, index, axis=axis), axis=axis)

        return jax.tree.map(gather, plans)

    def plan(vars: Vars, noise, obs, old: Plan | None = None) -> Plan:
        rows = slice_rows or (CPU_ROWS if jax.default_backend() == "cpu" else DEVICE_ROWS)
        batch = jax.tree.leaves(obs)[0].shape[0] if lead(obs) else 1
        size = max(1, rows // n)
        if lead(obs) == 0 or batch <= size:
            return choose(vars, noise, obs, old)
        args = (noise, obs) if old is None else (noise, obs, old)
        return jax.lax.map(lambda a: choose(vars, a[0], a[1], *(a[2:] or (None,))), args, batch_size=size)

    return Policy(draw, plan, policy.emit)
