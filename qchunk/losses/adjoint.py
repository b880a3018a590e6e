"""A flow that learns the data's distribution times exp(weight Q) beside the flow that holds to the data (2601.14234, 2409.08861).

Both objectives look at paths of the fast flow f in its memoryless form (``paths.memoryless``), whose last step is the slow flow's own, v.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from qchunk.actors.paths import called, count_steps, decode, memoryless, memoryless_std, velocity_of, walk
from qchunk.losses.proposals import noise_of
from qchunk.losses.terms import module_names
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Kernel, Metrics, Module, PyTree, Term, ValueFn, Vars

HEAT = (0.01, 100.0)  # of lambda (2605.27079, code)


def adjoint_matching(fast: Kernel, slow: Kernel, score: ValueFn, weight: float, name: str = "adjoint") -> Term:
    """Adjoint matching (2601.14234, eq. 12): sum_i |(2 / sigma_i) (f - v)(x_i, t_i) + sigma_i g_i|^2, path and adjoints g held fixed.

    The end's adjoint is -weight grad score of the clipped end, so that a number outside [-1, 1] has none. No gradient goes through
    the path.

    Args:
        fast, slow: flows on the same steps; the slow one is not trained.
        score: (vars, obs, action) -> [*B], such as the mean of the target networks.
        weight: of the critic, in 1 / units of return.

    Raises:
        UserError: one is no flow, or their steps differ.
    """
    fn = functools.partial(_matched(fast, slow, score), weight=weight)
    return Term(name, module_names(fast), noise_of(memoryless(fast)), fn)


def matching_within(
    fast: Kernel, slow: Kernel, score: ValueFn, heat: Module, bound: float, name: str = "adjoint"
) -> Term:
    """Adjoint matching whose weight is 1 / (3 lambda), lambda moving until the paths differ by ``bound`` (TRQAM, 2605.27079).

    The objective counts 3 lambda. The paths' divergence is sum_i (2 / (K sigma_i^2)) |f - v|^2 per action of the chunk, in nats; at most 2 ``bound`` of it
    moves lambda, within [0.01, 100]. Its code averages the divergence (0.9) and adds the error to lambda itself, at a rate of 0.01; here each
    moves its logarithm, by the optimiser, so that lambda rises as soon as it falls.

    Args:
        heat: lambda, such as ``proposals.temperature``.
        fast, slow, score: as ``adjoint_matching``.
    """
    each = _matched(fast, slow, score)

    def fn(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        heated = heat.apply(vars.params[heat.name])
        held = jax.lax.stop_gradient(heated)
        scale = 3 * jnp.clip(held, *HEAT)
        loss, metrics = each(vars, noise, chunk, 1 / scale)
        drift = jax.lax.stop_gradient(metrics["drift"]) / chunk.action.shape[-2]
        error = bound - jnp.minimum(drift, 2 * bound)
        outward = jnp.where(error > 0, held <= HEAT[0], held >= HEAT[1])
        moved = jnp.where(outward, 0.0, error) * jnp.log(heated)
        return scale * loss + moved, {"slope": metrics["slope"] * scale, "drift": drift, "temperature": heated}

    return Term(name, (*module_names(fast), heat.name), noise_of(memoryless(fast)), fn)


def _matched(fast: Kernel, slow: Kernel, score: ValueFn) -> Callable:
    """(vars, noise, chunk, weight) -> (the mean of adjoint matching's objective, its metrics)."""
    check_flows(fast, slow)
    sigma = jnp.asarray(memoryless_std(count_steps(fast)), jnp.float32)

    def matched(vars: Vars, noise: tuple[Array, Array], chunk: Chunk, weight) -> tuple[Array, Metrics]:
        fixed, obs = jax.lax.stop_gradient(vars), chunk.obs
        states, end = path(fast, slow, fixed, obs, noise)
        slope = jax.grad(lambda x: -weight * jnp.sum(score(fixed, obs, jnp.clip(x, -1.0, 1.0))))(end)
        held = adjoints(slow, fixed, obs, states, slope)
        s, gap = sigma.reshape(-1, *(1,) * end.ndim), apart(fast, slow, vars, obs, states)
        each = jnp.sum(jnp.square(2 / s * gap + s * held), axis=(0, -2, -1))
        drift = jnp.sum(2 / (len(sigma) * s**2) * jnp.square(gap), axis=(0, -2, -1))
        return jnp.mean(each), {"slope": jnp.mean(jnp.abs(slope)), "drift": jnp.mean(drift)}

    return matched


def ascend_path(fast: Kernel, slow: Kernel, score: ValueFn, weight: float, name: str = "ascend") -> Term:
    """What adjoint matching aims at by its plain gradient, through every step of the path (2601.14234's BAM).

    -weight score(x_K) + sum_{i < K-1} (2 / sigma_i^2) |f - v|^2. The sum is K times the KL divergence of the two flows' paths, whose steps
    are 1 / K long (code), so its weight is K times as large as ``adjoint_matching``'s of the same aim.

    Args and raises: as ``adjoint_matching``, but ``score`` sees chunks that are not clipped.
    """
    check_flows(fast, slow)
    cost = jnp.asarray(2 / memoryless_std(count_steps(fast))[:-1] ** 2, jnp.float32)

    def fn(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        states, end = path(fast, slow, vars, chunk.obs, noise)
        each = jnp.sum(jnp.square(apart(fast, slow, vars, chunk.obs, states)), axis=(-2, -1))  # [K, *B]
        apart_by = jnp.mean(jnp.tensordot(cost, each[:-1], axes=1))
        q = jnp.mean(score(vars, chunk.obs, end))
        return apart_by - weight * q, {"q": q, "drift": apart_by / len(states)}

    return Term(name, module_names(fast), noise_of(memoryless(fast)), fn)


def path(fast: Kernel, slow: Kernel, vars: Vars, obs: PyTree, noise: tuple[Array, Array]) -> tuple[Array, Array]:
    """(states x_0 to x_{K-1} [K, *B, H, A], the end x_K [*B, H, A], not clipped) of ``noise_of``'s noise."""
    start, steps = noise
    last, after = walk(memoryless(fast), vars, obs, start, steps, 0, count_steps(fast) - 1)
    end = decode(slow, vars, obs, last, first=count_steps(slow) - 1)
    return jnp.concatenate([start[None], after]), end


def apart(fast: Kernel, slow: Kernel, vars: Vars, obs: PyTree, states: Array) -> Array:
    """f - v at each state of a path: [K, *B, H, A]."""
    t = jnp.arange(states.shape[0]) / states.shape[0]
    t = jnp.broadcast_to(t.reshape(-1, *(1,) * (states.ndim - 2)), (*states.shape[:-2], 1))
    obs = jax.tree.map(lambda o: jnp.broadcast_to(o, (states.shape[0], *o.shape)), obs)
    return fast.velocity(vars, obs, states, t) - slow.velocity(vars, obs, states, t)  # type: ignore[misc]


def adjoints(slow: Kernel, vars: Vars, obs: PyTree, states: Array, slope: Array) -> Array:
    """The lean adjoint (2409.08861, eq. 38): what the end's ``slope`` [*B, H, A] is at each state of a path, by the slow flow: [K, *B, H, A].

    g_i = g_{i+1} + d J_x[2 v(x_i, t_i + d) - x_i / (t_i + d)]^T g_{i+1} with d = 1 / K and t_i = i d: one vector-Jacobian product a step.
    """
    d = 1.0 / states.shape[0]

    def back(g: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        x, later = now

        def drift(x: Array) -> Array:
            return 2 * slow.velocity(vars, obs, x, jnp.broadcast_to(later, (*x.shape[:-2], 1))) - x / later  # type: ignore[misc]

        (turned,) = jax.vjp(drift, x)[1](g)
        return g + d * turned, g + d * turned

    return jax.lax.scan(back, slope, (states, jnp.arange(1, states.shape[0] + 1) * d), reverse=True)[1]


def check_flows(*kernels: Kernel) -> None:
    """Refuses what is no flow, or flows on different steps.

    Raises:
        UserError: names the fix.
    """
    for kernel in kernels:
        velocity_of(kernel)
        if count_steps(kernel) != count_steps(kernels[0]):
            raise UserError(
                f"the {called(kernel)} takes other steps than the first", "give both the same number of steps"
            )
