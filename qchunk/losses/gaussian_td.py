"""Temporal differences of returns that are Gaussians: means and standard deviations (2310.05858)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from qchunk.critics.gaussian_q import Outlook
from qchunk.losses.td import one_point
from qchunk.losses.terms import module_names, weighted_mean
from qchunk.sampling import act
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Key, Metrics, Policy, Term, Vars

BOUND = 3.0  # standard deviations that a drawn return may be from its mean, and a target from what is predicted
BIAS = 0.1  # added to divisors (code)
RATIO = (0.1, 10.0)  # bounds of the scale of one window's loss (code)


def td_gaussian(critic: Critic, outlook: Outlook, policy: Policy, huber: float, name: str = "td") -> Term:
    """The mean follows the next mean, the deviation what a drawn return is off: both descend -log N(y; mean, deviation^2), scaled.

    Means learn y = R + gamma^n m Q', deviations y = R + gamma^n m (Q' + z std'), z ~ N(0, 1), which is bounded to three typical deviations around the mean. Q' is
    the aggregate of the target networks, std' that of the member nearest to it, window by window (FlowRL's code, 2603.27450, decides by the first two windows for all). The
    typical deviation is the target networks' mean over the batch, where published code has a moving average of it. A window counts a member's typical variance over its
    own, so that steps are alike at any size of rewards from about 1 on: ``BIAS`` and ``huber`` are in units of return.

    Args:
        critic, outlook: see ``critics.gaussian_q``.
        huber: squares of errors beyond this go on as straight lines, in units of return.
    """

    def draw(key: Key, chunk: Chunk) -> tuple[Key, Array]:
        policy_key, key = jax.random.split(key)
        return policy_key, jax.random.normal(key, chunk.weight[..., 0].shape)

    def aim(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Array]:
        """(y of means, y of deviations), [*B] each."""
        key, z = noise
        reward, discount, next_obs = one_point(chunk, name)
        action = act(policy, vars, key, next_obs).action
        slow = target_view(vars)
        means, deviations = outlook(slow, next_obs, action)
        mean = critic.aggregate(means)
        nearest = jnp.argmin(jnp.abs(means - mean), axis=0)[None]
        off = jnp.clip(z, -BOUND, BOUND) * jnp.take_along_axis(deviations, nearest, axis=0)[0]
        return reward + discount * mean, reward + discount * (mean + off)

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        held, weight = jax.lax.stop_gradient(vars), chunk.weight[..., 0]
        y, drawn = aim(held, noise, chunk)
        mean, std = outlook(vars, chunk.obs, chunk.action)
        batch = tuple(range(1, mean.ndim))
        typical = jnp.mean(outlook(target_view(held), chunk.obs, chunk.action)[1], axis=batch, keepdims=True)
        fixed, now = jax.lax.stop_gradient((mean, std))
        near = fixed + jnp.clip(drawn - fixed, -BOUND * typical, BOUND * typical)
        scale = jnp.clip(jnp.square(typical) / (jnp.square(now) + BIAS), *RATIO)
        # Huber's loss is half a squared error where that is small; FlowRL's code takes it for a whole one, and learns 0.7 of the deviation
        spare = jnp.square(now) - 2.0 * optax.huber_loss(fixed, near, delta=huber)
        each = scale * (optax.huber_loss(mean, y, delta=huber) + std * spare / (now + BIAS))
        told = {"q": weighted_mean(weight, mean), "target": weighted_mean(weight, y)}
        return weighted_mean(weight, each), told | {"deviation": weighted_mean(weight, std)}

    return Term(name, module_names(critic), draw, fn)
