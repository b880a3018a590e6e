"""Choices among plans by what is left of the old one: backward coherence, a contrast to a weaker policy, support."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.improve import best_plan, chosen, drawing_many, in_slices, lead, picked, samples
from qchunk.types import Array, Old, Plan, Policy, Vars

WINDOW = 3  # actions by which plans are compared


def coherent(policy: Policy, n: int, decay: float) -> Policy:
    """Draws ``n`` plans and keeps the one nearest to what is left of the old plan (BID, 2408.17355: backward coherence).

    The distance is the mean of |a_i - old_i| over the actions that are left, weighted by decay^i. Where nothing is left the
    first one is kept.

    Args:
        n: samples N per observation.
        decay: rho in (0, 1].
    """

    def nearness(vars: Vars, obs, plan: Plan, old: Old | None) -> Array:
        return jnp.zeros(plan.action.shape[:-2]) if old is None else -from_old(plan.action, old, decay)

    return best_plan(policy, nearness, n)


def from_old(action: Array, old: Old, decay: float) -> Array:
    """How far actions [*B, H, A] are from what is left of the old plan: the mean of |a_i - old_i|, weighted by decay^i [*B]."""
    distance = jnp.linalg.norm(action - old.plan.action, axis=-1)  # [*B, H]
    weight = decay ** jnp.arange(distance.shape[-1]) * old.left
    return jnp.sum(weight * distance, axis=-1) / jnp.maximum(jnp.sum(weight, axis=-1), 1e-9)


def contrasted(policy: Policy, weaker: Policy, n: int, decay: float) -> Policy:
    """Bidirectional decoding (BID, 2408.17355): of ``n`` plans the one that is near to the old plan, near to plans of the policy and far
    from those of a weaker one: the least sum of ``from_old`` and the mean distance to the policy's plans less that to the weaker's.

    Of both policies' plans the third that is nearest to the old plan counts, one at least (all, where nothing of it is left).
    A distance of two plans is the mean over their steps.
    """

    def draw(vars: Vars, key, obs):
        keys = jax.random.split(key)
        return tuple(drawing_many(p, n, None)(vars, k, obs) for p, k in zip((policy, weaker), keys, strict=True))

    def choose(vars: Vars, noise, obs, old: Old | None) -> Plan:
        axis = lead(obs)
        plans, others = (samples(p, vars, z, obs, old) for p, z in zip((policy, weaker), noise, strict=True))

        def behind(action: Array) -> Array:
            if old is None:
                return jnp.zeros(action.shape[:-2])
            return jax.vmap(lambda a: from_old(a, old, decay), in_axes=axis, out_axes=axis)(action)

        def ahead(action: Array) -> Array:
            distance = behind(action)
            rank = jnp.argsort(jnp.argsort(distance, axis=-1), axis=-1)
            none_left = True if old is None else jnp.sum(old.left, axis=-1, keepdims=True) == 0
            counts = ((rank < max(1, n // 3)) | none_left) & ~jnp.isnan(distance)  # [*B, N]
            apart = jnp.linalg.norm(plans.action[..., :, None, :, :] - action[..., None, :, :, :], axis=-1)
            return jnp.mean(jnp.mean(apart, axis=-1), axis=-1, where=counts[..., None, :])

        contrast = ahead(plans.action) - ahead(others.action)
        return picked(plans, chosen(-(behind(plans.action) + contrast), 0.0, None))

    return policy._replace(draw=draw, plan=in_slices(choose, 2 * n))


def supporter(policy: Policy, n: int, tolerance) -> Policy:
    """Draws ``n`` plans and keeps the one nearest to the old plan by ``apart``, if that is within ``tolerance``, else the first."""

    def support(vars: Vars, obs, plan: Plan, old: Old | None) -> Array:
        if old is None:
            return jnp.zeros(plan.action.shape[:-2])
        distance = apart(plan, old)
        return jnp.where(distance > tolerance, jnp.finfo(distance.dtype).min, -distance)

    return best_plan(policy, support, n)


def apart(plan: Plan, old: Old) -> Array:
    """The largest difference [*B] of a number among the next WINDOW actions, as far as the old plan has them."""
    difference = jnp.max(jnp.abs(plan.action - old.plan.action), axis=-1) * old.left
    return jnp.max(difference[..., :WINDOW], axis=-1)
