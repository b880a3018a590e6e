"""How value changes behaviour: pure transforms of policies and Kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actors.editor import beside
from qchunk.actors.paths import advance_of, count_steps, step_of
from qchunk.critics import zooms
from qchunk.critics.zooms import ZoomCritic
from qchunk.sampling import emit_step, sample
from qchunk.system.errors import UserError, shaped
from qchunk.types import CLEAN, Array, DenoiseFn, Kernel, Key, Old, Plan, Policy, PolicyDrawFn, PyTree, ValueFn, Vars

CPU_ROWS, DEVICE_ROWS = 2048, 32768  # candidates at once: fits a core's cache / fills a GPU
START = "start"  # in plans of ``best_start`` that tell it


def best_of_n(policy: Policy, score: ValueFn, n: int, slice_rows: int = 0, temperature: float | None = None) -> Policy:
    """Draws ``n`` plans and keeps the one that ``score`` likes best (2507.07969, eq. 7).

    Args:
        score: (vars, obs [*B, O], action [*B, H, A]) -> [*B].
        n: candidates N per observation.
        temperature: beta >= 0: keeps plan i with probability softmax(score / beta)_i instead (2410.13816, section IV),
            which is the best one at 0.
        slice_rows: candidates evaluated at once; bounds the memory and never changes the result, because all noise is
            drawn before slicing. 0 chooses by backend.
    """
    rated = lambda vars, obs, plan, old: score(vars, obs, plan.action)  # noqa: E731
    return best_plan(policy, rated, n, slice_rows, temperature)


def best_plan(policy: Policy, rated: Callable, n: int, slice_rows: int = 0, temperature: float | None = None) -> Policy:
    """Draws ``n`` plans and keeps the one that ``rated`` likes best.

    Args:
        rated: (vars, obs [*B, O], Plan [*B, ...], Old [*B, ...] or None) -> [*B].
        n, slice_rows, temperature: as in ``best_of_n``.

    Raises:
        UserError: no candidate.
    """
    if not isinstance(n, int) or n < 1:
        raise UserError(f"n is {n!r}", "draw 1 candidate or more")
    temperature = temperature if n > 1 else None  # one candidate is the policy itself, bit for bit

    def choose(vars: Vars, noise, obs, old: Old | None) -> Plan:
        axis = lead(obs)
        noise, gumbel = noise if temperature is not None else (noise, 0.0)
        plans = samples(policy, vars, noise, obs, old)
        values = jax.vmap(lambda p: rated(vars, obs, p, old), in_axes=axis, out_axes=axis)(plans)
        many = (*jax.tree.leaves(obs)[0].shape[:-1], n)  # [*B, N]
        shaped(values, many, "the score of candidates", "return one number for each candidate")
        return picked(plans, chosen(values, gumbel, temperature))

    return policy._replace(draw=drawing_many(policy, n, temperature), plan=in_slices(choose, n, slice_rows))


def in_slices(choose: Callable, n: int, slice_rows: int = 0) -> Callable:
    """``choose(vars, noise, obs, old)`` by so many rows of the batch at a time that ``slice_rows`` candidates are looked at (0 chooses by backend).

    Memory is bounded, and caches hold.
    """

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        rows = slice_rows or (CPU_ROWS if jax.default_backend() == "cpu" else DEVICE_ROWS)
        batch = jax.tree.leaves(obs)[0].shape[0] if lead(obs) else 1
        size = max(1, rows // n)
        if lead(obs) == 0 or batch <= size:
            return choose(vars, noise, obs, old)
        args = (noise, obs) if old is None else (noise, obs, old)
        return jax.lax.map(lambda a: choose(vars, a[0], a[1], *(a[2:] or (None,))), args, batch_size=size)

    return plan


def drawing_many(policy: Policy, n: int, temperature: float | None) -> PolicyDrawFn:
    """Noise of ``n`` plans [*B, N, ...]; with a temperature the pair of that and the Gumbel noise [*B, N] of a choice among them."""

    def draw(vars: Vars, key, obs):
        if temperature is None:
            return policy.draw(vars, key, repeated(obs, n))
        key, choice_key = jax.random.split(key)
        shape = (*jax.tree.leaves(obs)[0].shape[:-1], n)
        return policy.draw(vars, key, repeated(obs, n)), jax.random.gumbel(choice_key, shape)

    return draw


def chosen(values: Array, gumbel: Array | float, temperature: float | None) -> Array:
    """The number [*B] of the best of values [*B, N]; with a temperature beta that of a draw from softmax(values / beta)."""
    # argmax(values / beta + gumbel) is a draw from the softmax; times beta it holds at beta = 0 too
    return jnp.argmax(nan_lowest(values if temperature is None else values + temperature * gumbel), axis=-1)


def nan_lowest(values: Array) -> Array:
    """The values, NaN below all others: an argmax would take it for the highest."""
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


def best_start(policy: Policy, score: ValueFn, n: int, temperature: float | None = None, tell: bool = False) -> Policy:
    """Draws ``n`` noises, keeps the one that ``score`` likes best, and makes its plan alone (2604.19730).

    Args:
        policy: its noise is [*B, H, A], such as ``sample_from_start`` of a flow.
        score: a critic of noises, (vars, obs, noise) -> [*B].
        temperature: beta >= 0: keeps noise i with probability softmax(score / beta)_i instead.
        tell: plans say which noise was kept, ``extras[START]`` [*B, H, A].
    """

    def choose(vars: Vars, noise, obs, old: Old | None) -> Array:
        starts, gumbel = noise if temperature is not None else (noise, 0.0)
        worth = score(vars, jax.tree.map(lambda o: o[..., None, :], obs), starts)  # [*B, N]
        return picked(starts, chosen(worth, gumbel, temperature))

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        start = in_slices(choose, n)(vars, noise, obs, old)
        made = policy.plan(vars, start, obs, old)
        return made._replace(extras={**made.extras, START: start}) if tell else made

    return policy._replace(draw=drawing_many(policy, n, temperature), plan=plan)


def best_climbed(
    policy: Policy, score: ValueFn, n: int, top: int, steps: int, rate: float, temperature: float | None = None
) -> Policy:
    """Draws ``n`` plans, climbs the score from the ``top`` best of them, and keeps one of where they have been best (2412.06685, code).

    Args:
        score: (vars, obs, action) -> [*B]; broadcasts leading axes, as critics do.
        top: plans that climb, of ``n`` at most.
        steps: gradient steps of each, within [-1, 1]; the best chunk on its way is what it is judged by, its start among them.
        rate: units of action per unit of the gradient.
        temperature: beta >= 0: keeps chunk i with probability softmax(score / beta)_i; without it, the best.
    """

    def choose(vars: Vars, noise, obs, old: Old | None) -> Plan:
        noise, gumbel = noise if temperature is not None else (noise, jnp.zeros(top))
        wide = jax.tree.map(lambda o: o[..., None, :], obs)
        plans = samples(policy, vars, noise, obs, old)
        plans = taken(plans, jax.lax.top_k(nan_lowest(score(vars, wide, plans.action)), top)[1])

        def climb(action: Array, _: None) -> tuple[Array, Array]:
            slope = ascent(score, vars, wide, action, jnp.asarray(CLEAN))
            action = jnp.clip(action + rate * slope, -1.0, 1.0)
            return action, action

        along = jnp.concatenate([plans.action[None], jax.lax.scan(climb, plans.action, length=steps)[1]])
        along = jnp.moveaxis(along, 0, -3)  # [*B, top, steps + 1, H, A]
        values = nan_lowest(score(vars, jax.tree.map(lambda o: o[..., None, :], wide), along))
        best = plans._replace(action=picked(along, jnp.argmax(values, axis=-1)))
        return picked(best, chosen(jnp.max(values, axis=-1), gumbel[..., :top], temperature))

    rows = max(n, top * (steps + 1))
    return policy._replace(draw=drawing_many(policy, n, temperature), plan=in_slices(choose, rows))


def picked(plans: Any, index: Array) -> Any:
    """Number ``index`` [*B] of plans, or of arrays, [*B, N, ...]."""

    return jax.tree.map(lambda x: jnp.squeeze(x, axis=index.ndim), taken(plans, index[..., None]))


def taken(plans: Any, index: Array) -> Any:
    """Numbers ``index`` [*B, k] of plans, or of arrays, [*B, N, ...]: [*B, k, ...]."""

    def gather(x: Array) -> Array:
        return jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - index.ndim)), axis=index.ndim - 1)

    return jax.tree.map(gather, plans)


def lead(obs) -> int:
    """How many axes *B stand before an observation's own."""
    return jax.tree.leaves(obs)[0].ndim - 1


def repeated(obs, n: int):
    """Observations [*B, O] for ``n`` candidates each: [*B, N, O]."""
    return jax.tree.map(lambda o: jnp.broadcast_to(o[..., None, :], (*o.shape[:-1], n, o.shape[-1])), obs)


def samples(policy: Policy, vars: Vars, noise, obs, old: Old | None) -> Plan:
    """The plans [*B, N, ...] of noise [*B, N, ...]; the observation [*B, O] is not repeated, only broadcast."""
    axis = lead(obs)
    return jax.vmap(lambda z: policy.plan(vars, z, obs, old), in_axes=axis, out_axes=axis)(noise)


def candidates(policy: Policy, vars: Vars, key: Key, obs: PyTree, n: int, old: Old | None = None) -> Plan:
    """``n`` plans [*B, N, ...] of a policy for observations [*B, O], by one key for all."""
    return samples(policy, vars, policy.draw(vars, key, repeated(obs, n)), obs, old)


def smoothed(policy: Policy, std: float | Callable[[Vars], Any], bound: float = math.inf) -> Policy:
    """The same policy with Gaussian noise of ``std`` on every action, bounded to +-``bound``; actions stay in [-1, 1].

    In a critic's target it is TD3's smoothing (1802.09477, section 5.3), where a deterministic actor explores its noise.

    Args:
        std: a number, or a function of what is learned.
    """

    def draw(vars: Vars, key, obs):
        policy_key, noise_key = jax.random.split(key)
        noise = policy.draw(vars, policy_key, obs)
        like = jax.eval_shape(lambda: policy.plan(vars, noise, obs, None).action)
        return noise, jax.random.normal(noise_key, like.shape)

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        made = policy.plan(vars, noise[0], obs, old)
        more = jnp.clip((std(vars) if callable(std) else std) * noise[1], -bound, bound)
        return made._replace(action=jnp.clip(made.action + more, -1.0, 1.0))

    return policy._replace(draw=draw, plan=plan)


def edited(policy: Policy, editor: Kernel, scale: float, score: ValueFn | None = None) -> Policy:
    """The plans of a policy plus ``scale`` times what an editor of them says (``actors.editor``), within [-1, 1].

    Args:
        score: a plan that it likes as much as its edit, or more, stays; without it, none does.
    """
    edit = sample(editor)

    def draw(vars: Vars, key, obs):
        plan_key, edit_key = jax.random.split(key)
        return policy.draw(vars, plan_key, obs), edit.draw(vars, edit_key, obs)

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        made = policy.plan(vars, noise[0], obs, old)
        change = edit.plan(vars, noise[1], beside(obs, made.action), None).action
        action = jnp.clip(made.action + scale * change, -1.0, 1.0)
        if score is not None:
            better = score(vars, obs, action) > score(vars, obs, made.action)
            action = jnp.where(better[..., None, None], action, made.action)
        return made._replace(action=action)

    return policy._replace(draw=draw, plan=plan)


def started(policy: Policy, start: Policy, scale: float) -> Policy:
    """The plans that a policy makes of ``scale`` times the chunk of another one in place of its noise [*B, H, A] (2506.15799)."""

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        return policy.plan(vars, scale * start.plan(vars, noise, obs, None).action, obs, old)

    return policy._replace(draw=start.draw, plan=plan)


def zoomed(critic: ZoomCritic) -> Policy:
    """The best chunk of a factorised critic, found zoom after zoom (2411.12155, algorithm 1).

    Its noise [*B, L, H, A] decides between bins that are as good as each other.
    """

    def draw(vars: Vars, key, obs) -> Array:
        lead = jax.tree.leaves(obs)[0].shape[:-1]
        return zooms.draw_bins(key, (*lead, *critic.shape(vars)), critic.c)

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        del old
        return Plan(zooms.chunk_of(zooms.best(critic, vars, obs, noise), critic.c))

    return Policy(draw, plan, emit_step)


def steered(kernel: Kernel, denoise: DenoiseFn) -> Kernel:
    """The same Kernel with another clean estimate, without what holds of its own chunks only.

    Raises:
        UserError: the Kernel has no noise levels.
    """
    step = step_of(denoise, advance_of(kernel))
    kernel = kernel._replace(infill=None, committed=0, velocity=None, follow=None, density=None)
    return kernel._replace(denoise=denoise, step=step)


def guide(kernel: Kernel, value: ValueFn, weight: float) -> Kernel:
    """Denoises towards p(a | o) exp(weight Q(o, a)) by the gradient of ``value``: exact math for any noise levels.

    With x = alpha a + sigma eps the tilted score is score + weight grad V, where V(x) = log E[exp(weight Q) | x] / weight;
    by Tweedie's rule the clean estimate moves by (sigma^2 / alpha) weight grad V. In a diffusion that is
    eps' = eps - sigma weight grad V (2304.12824, section 3), in a flow v' = v + ((1 - t) / t) weight grad V.
    At pure noise (alpha = 0) nothing is added: x tells nothing of the chunk. The Kernel's own parameters see no gradient,
    and weight 0 gives its own bits.

    Args:
        value: (vars, obs, x [*B, H, A], level [2]) -> [*B]; a critic of clean chunks over-guides, see docs/guidance.md.
        weight: w >= 0.

    Raises:
        UserError: the Kernel has no noise levels.
    """
    alpha, sigma = np.asarray(kernel.levels, np.float64).T
    gains = (sigma**2 / np.where(alpha > 0, alpha, np.inf)).astype(np.float32)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        clean = jax.lax.optimization_barrier(kernel.denoise(vars, obs, x, k))
        slope = ascent(value, vars, obs, x, jnp.asarray(kernel.levels, jnp.float32)[k])
        return jnp.where(weight == 0, clean, clean + weight * jnp.asarray(gains)[k] * slope)

    return steered(kernel, denoise)


def guide_estimate(kernel: Kernel, value: ValueFn, weight: float) -> Kernel:
    """Denoises along the gradient of ``value`` at the clean estimate, clipped to [-1, 1], which the actor's Jacobian is left out of (2606.11087).

    In a flow v' = v + weight grad Q(a), so the estimate moves by (1 - t) weight grad Q: where ``guide`` divides by t, this is bounded. For
    other levels it holds as in ``paths.pulled``. Weight 0 gives the Kernel's own bits.

    Args:
        value: Q of clean chunks, (vars, obs, action) -> [*B].
        weight: w >= 0, in 1 / units of return.

    Raises:
        UserError: the Kernel has no noise levels.
    """
    alpha, sigma = np.asarray(kernel.levels, np.float64).T
    rest = (sigma / (alpha + sigma)).astype(np.float32)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        clean = jax.lax.optimization_barrier(kernel.denoise(vars, obs, x, k))
        slope = ascent(value, vars, obs, jnp.clip(clean, -1.0, 1.0), jnp.asarray(CLEAN))
        return jnp.where(weight == 0, clean, clean + weight * jnp.asarray(rest)[k] * slope)

    return steered(kernel, denoise)


def tilt(kernel: Kernel, value: ValueFn, weight: float, share: float) -> Kernel:
    """Adds ``share`` times the velocity of exp(weight Q) to the Kernel's own (2601.14234's CGQL).

    In a flow v' = v + (share / t) ((1 - t) weight grad V + x): the score of exp(weight Q) alone, turned into a velocity. It is ``guide``
    with the weight share * weight, and the term share x / t, which draws chunks outward and is no part of the exact rule. It holds
    for other levels as in ``paths.pulled``. At pure noise nothing is added.

    Args:
        value: (vars, obs, x [*B, H, A], level [2]) -> [*B].
        share: theta >= 0; 0 leaves the Kernel as it is.

    Raises:
        UserError: the Kernel has no noise levels.
    """
    alpha, sigma = np.asarray(kernel.levels, np.float64).T
    outward = np.where(alpha > 0, 1 / np.where(alpha > 0, alpha, 1.0) - 1 / (alpha + sigma), 0.0).astype(np.float32)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        return kernel.denoise(vars, obs, x, k) + share * jnp.asarray(outward)[k] * x

    return guide(steered(kernel, denoise), value, share * weight)


def diffuser(kernel: Kernel, value: ValueFn, scale: float, repeats: int = 2, stop: int = 2) -> Kernel:
    """Diffuser's guidance (2205.09991, algorithm 1): before each step, x += scale std^2 grad V, ``repeats`` times.

    The gradient is scaled by the step's posterior variance, an approximation of ``guide``, and left out of the last
    ``stop`` steps. Needs a noisy Kernel: an ODE has no posterior variance.

    Raises:
        UserError: the Kernel draws no noise.
    """
    advance, last = advance_of(kernel), count_steps(kernel) - stop
    if not kernel.noisy:
        raise UserError("diffuser needs the posterior variance of noisy steps", "wrap the Kernel in stochastic(...)")

    def climb(vars: Vars, obs, x: Array, k) -> Array:
        level = jnp.asarray(kernel.levels, jnp.float32)[k]
        rate = jnp.where(k < last, scale * advance(x, x, k)[1] ** 2, 0.0)
        start = x
        for _ in range(repeats):
            x = x + rate * ascent(value, vars, obs, x, level)
        return jnp.where(rate == 0, start, x)

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, Array]:
        return kernel.step(vars, obs, jax.lax.optimization_barrier(climb(vars, obs, x, k)), k)

    # what holds on to an old plan makes steps of its own from ``advance`` and ``infill``, and would leave this rule out
    return kernel._replace(step=step, advance=None, infill=None, committed=0, velocity=None)


def ascent(value: ValueFn, vars: Vars, obs, x: Array, level: Array) -> Array:
    """The gradient of ``value`` with respect to the noisy chunk x alone: [*B, H, A]."""
    return jax.grad(lambda x: jnp.sum(value(vars, obs, x, level)))(x)
