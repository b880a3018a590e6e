"""Running a Kernel: from noise to chunks. The only denoising loop."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.types import Array, Kernel, Plan, Policy, Vars


def decode(kernel: Kernel, vars: Vars, obs, noise: Array, steps: Array | None = None) -> Array:
    """Denoises ``noise`` [*B, H, A] along all K steps, without clipping: [*B, H, A].

    Args:
        steps: noise of every step [*B, K, H, A] for a Kernel with std > 0; None runs the mean path.
    """

    def body(x: Array, k: Array) -> tuple[Array, None]:
        mean, std = kernel.step(vars, obs, x, k)
        return (mean if steps is None else mean + std * steps[..., k, :, :]), None

    return jax.lax.scan(body, noise, jnp.arange(len(kernel.levels) - 1))[0]


def emit_step(vars: Vars, plan: Plan, i, obs) -> Array:
    """Action i of a plan: [*B, A]."""
    del vars, obs
    return jax.lax.dynamic_index_in_dim(plan.action, i, axis=-2, keepdims=False)


def sample(kernel: Kernel) -> Policy:
    """One sample of the actor, clipped to [-1, 1] at the end only.

    Its noise is [*B, H, A], and for a noisy Kernel the pair of that and the noise of every step [*B, K, H, A].
    """

    def draw(vars: Vars, key, obs):
        lead, chunk = jax.tree.leaves(obs)[0].shape[:-1], kernel.shape(vars)
        if not kernel.noisy:
            return normal(key, (*lead, *chunk))
        start_key, step_key = jax.random.split(key)
        return normal(start_key, (*lead, *chunk)), normal(step_key, (*lead, count_steps(kernel), *chunk))

    def plan(vars: Vars, noise, obs, old: Plan | None = None) -> Plan:
        del old
        start, steps = noise if kernel.noisy else (noise, None)
        return Plan(jnp.clip(decode(kernel, vars, obs, start, steps), -1.0, 1.0))

    return Policy(draw, plan, emit_step)


def normal(key, shape: tuple[int, ...]) -> Array:
    """Standard normal noise: the numbers of ``jax.random.normal(key, shape)`` in half the time.

    XLA counts along one axis faster than along four.
    """
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def count_steps(kernel: Kernel) -> int:
    """K, the number of denoising steps."""
    return int(np.shape(kernel.levels)[0]) - 1
