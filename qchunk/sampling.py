"""Policies that run a Kernel: from noise to chunks, and the probabilities of its paths."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.actors.paths import called, count_steps, decode, going_on, pulled, walk
from qchunk.system.errors import UserError
from qchunk.types import Array, Kernel, Key, Old, Plan, Policy, PolicyDrawFn, PyTree, Vars

NOISE_BOUND = 3.0  # of exploring steps, as in DPPO's code
LOG_PROB_BOUNDS = (-5.0, 2.0)  # of one number's log-density, likewise


def rounded(plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """A policy's ``plan`` with products in ``nets.sampling_precision()``; what learns by other ways than acting keeps its own."""

    @functools.wraps(plan)
    def rounding(*args: Any, **more: Any) -> Plan:
        if (asked := nets.sampling_precision()) == nets.precision():
            return plan(*args, **more)
        with jax.default_matmul_precision(asked):
            return plan(*args, **more)

    return rounding


def act(policy: Policy, vars: Vars, key: Key, obs: PyTree, old: Old | None = None) -> Plan:
    """One plan [*B, H, A] for each observation [*B, O]: the policy's own noise, then its plan."""
    return policy.plan(vars, policy.draw(vars, key, obs), obs, old)


def emit_step(vars: Vars, plan: Plan, i, obs) -> Array:
    """Action i of a plan: [*B, A]."""
    del vars, obs
    return jax.lax.dynamic_index_in_dim(plan.action, i, axis=-2, keepdims=False)


def sample(kernel: Kernel, base: Kernel | None = None, tuned: int = 0) -> Policy:
    """One sample of the actor, clipped to [-1, 1] at the end only, and decoded where it is a skill; along noise levels it obeys ``Old.pull``.

    Its noise is [*B, H, A], and for a noisy Kernel the pair of that and the noise of every step [*B, K, H, A].

    Args:
        base: makes all but the last ``tuned`` steps in the Kernel's place.
    """

    levels = kernel.advance is not None and (base is None or base.advance is not None)

    @rounded
    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        start, steps = noise if kernel.noisy else (noise, None)
        first = 0 if base is None else count_steps(kernel) - tuned
        towards = holding(old) if levels and old is not None and old.pull is not None else lambda kernel: kernel
        if base is not None:
            start = decode(towards(base), vars, obs, start, steps, 0, first)
        chunk = jnp.clip(decode(towards(kernel), vars, obs, start, steps, first), -1.0, 1.0)
        return Plan(chunk) if kernel.decoder is None else kernel.decoder.plan(vars, obs, chunk)

    committed = min(k.committed for k in (kernel, base or kernel))
    emit = emit_step if kernel.decoder is None else kernel.decoder.emit
    return Policy(drawing(kernel), plan, emit, pulled=levels, committed=committed)


def telling(kernel: Kernel, name: str) -> Policy:
    """``sample`` whose plans tell the chunk before it was clipped [*B, H, A], as ``extras[name]``."""

    @rounded
    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        del old
        start, steps = noise if kernel.noisy else (noise, None)
        end = decode(kernel, vars, obs, start, steps)
        return Plan(jnp.clip(end, -1.0, 1.0), extras={name: end})

    return Policy(drawing(kernel), plan, emit_step)


def from_zero(policy: Policy) -> Policy:
    """The same policy, whose noise is all 0; one that is ``at_random`` stays so."""
    if getattr(policy.draw, "func", None) is _drawn:
        return policy
    return policy._replace(draw=functools.partial(_zeros, policy))


def is_from_zero(policy: Policy) -> bool:
    """Whether a policy is one of ``from_zero``, and nothing around it draws."""
    return getattr(policy.draw, "func", None) is _zeros


def _zeros(policy: Policy, vars: Vars, key: Key, obs: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, policy.draw(vars, key, obs))


def at_random(policy: Policy, place: Policy) -> Policy:
    """A policy of random plans as any scheme plays it that plays the policy ``place``, which it stands in for.

    It holds on to no old plan, whatever is asked of it, and draws its noise also where a scheme takes noise 0. Its candidates are
    worth the same, at every length.
    """
    draw, choice = functools.partial(_drawn, policy), policy.choice
    if choice is not None:
        valued = choice.values
        choice = choice._replace(values=lambda *args: jnp.zeros_like(valued(*args)))
    return policy._replace(draw=draw, choice=choice, pulled=place.pulled, committed=place.committed)


def _drawn(policy: Policy, vars: Vars, key: Key, obs: PyTree) -> PyTree:
    return policy.draw(vars, key, obs)


def sample_from_start(kernel: Kernel) -> Policy:
    """``sample`` of an actor whose chunk follows from where it starts alone, so that its noise is one array [*B, H, A].

    Raises:
        UserError: its steps draw noise, or make skills.
    """
    if kernel.decoder:
        raise UserError(f"the {called(kernel)} makes skills, not actions", "take --actor.kind flow")
    if kernel.noisy:
        fix = "take --actor.kind flow, or a diffusion that draws none: --actor.ddim 5"
        raise UserError(
            f"the steps of the {called(kernel)} draw noise, so its chunk does not follow from its start", fix
        )
    return sample(kernel)


def holding(old: Old) -> Callable[[Kernel], Kernel]:
    """How a Kernel holds on to an old plan as its pull says: by guidance, or going on from its first actions."""
    weight, limit = old.pull.weight, old.pull.limit  # type: ignore[union-attr]
    if limit is None:
        return functools.partial(going_on, target=old.plan.action, given=weight)
    return functools.partial(pulled, target=old.plan.action, weight=weight, limit=limit)


def sample_path(kernel: Kernel, base: Kernel | None = None, tuned: int = 0) -> Policy:
    """``sample`` that remembers how: ``Plan.extras["path"]`` [*B, K' + 1, H, A] holds x before and after each of the
    Kernel's own K' steps, noisiest first, unclipped. Noise of steps is bounded to +-3 (2409.00588, code).

    Args:
        base, tuned: as in ``sample``; K' is ``tuned``, or K without ``base``.

    Raises:
        UserError: an actor without noise has no probabilities.
    """
    if not kernel.noisy:
        fix = "wrap it in stochastic(...), or take another actor where it has one step only: --tuned.kind gaussian"
        raise UserError(f"the steps of the {called(kernel)} draw no noise, so its paths have no probabilities", fix)
    first = 0 if base is None else count_steps(kernel) - tuned

    @rounded
    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        del old
        start, steps = noise
        steps = jnp.clip(steps, -NOISE_BOUND, NOISE_BOUND)
        start = start if base is None else decode(base, vars, obs, start, steps, 0, first)
        end, after = walk(kernel, vars, obs, start, steps, first, count_steps(kernel))
        path = jnp.concatenate([start[..., None, :, :], jnp.moveaxis(after, 0, -3)], axis=-3)
        return Plan(jnp.clip(end, -1.0, 1.0), extras={"path": path})

    return Policy(drawing(kernel), plan, emit_step)


def uniform(policy: Policy) -> Policy:
    """Uniform random actions in [-1, 1] in place of the policy's, in plans of its form; its extras are 0.

    They are played as they are: the policy's own ``emit`` may speak another language, such as that of units.
    """

    def form(vars: Vars, key, obs) -> Plan:
        return jax.eval_shape(lambda key: act(policy, vars, key, obs), key)

    def draw(vars: Vars, key, obs):
        return jax.random.uniform(key, form(vars, key, obs).action.shape, minval=-1.0, maxval=1.0)

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        del old
        like = form(vars, jax.random.key(0), obs)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)._replace(action=noise)

    random = policy._replace(draw=draw, plan=plan, emit=emit_step, pulled=False, committed=0, ends=False)
    return random if policy.choice is None else random._replace(choice=policy.choice._replace(policy=random))


def log_prob(
    kernel: Kernel, vars: Vars, obs, path: Array, mask: Array, bounds: tuple[float, float] | None = LOG_PROB_BOUNDS
) -> Array:
    """Log-probability of every step of a path of ``sample_path``: [*B, K'], noisiest first (2409.00588, section 4).

    It is the MEAN over actions and the chunk's steps with ``mask`` [*B, H] of log N(x_{k+1}; mean(x_k), std), each number's
    within ``bounds``; so a ratio is the (H A)-th root of the true one. Neither the bound of the noise nor the clipping of
    the action enters.

    Args:
        path: [*B, K' + 1, H, A].
        bounds: None for none.
    """
    tuned, steps = path.shape[-3] - 1, count_steps(kernel)
    before, after = jnp.moveaxis(path[..., :-1, :, :], -3, 0), jnp.moveaxis(path[..., 1:, :, :], -3, 0)
    k = jnp.arange(steps - tuned, steps).reshape(-1, *(1,) * (path.ndim - 3))
    # All steps in one call, not vmapped (see nets.affine), with an observation each: for its gradient a sum over steps was
    # measured dearer on a CPU than these products.
    obs = jax.tree.map(lambda o: jnp.broadcast_to(o, (tuned, *o.shape)), obs)
    mean, std = kernel.step(vars, obs, before, k)
    each = distrax.Normal(mean, std).log_prob(after)
    return jnp.moveaxis(mean_inside(each if bounds is None else jnp.clip(each, *bounds), mask), 0, -1)


def mean_inside(each: Array, mask: Array) -> Array:
    """The mean of numbers [*B, H, A] over actions and the steps with ``mask`` [*B, H]: [*B]."""
    weight = jnp.broadcast_to(mask[..., None], each.shape)
    return jnp.sum(weight * each, axis=(-2, -1)) / jnp.maximum(jnp.sum(weight, axis=(-2, -1)), 1.0)


def drawing(kernel: Kernel) -> PolicyDrawFn:
    """A policy's ``draw``: noise to start from and, for a noisy Kernel, that of every step."""

    def draw(vars: Vars, key, obs):
        noise = draw_noise(kernel, key, (*jax.tree.leaves(obs)[0].shape[:-1], *kernel.shape(vars)))
        return noise if kernel.noisy else noise[0]

    return draw


def draw_noise(kernel: Kernel, key: Key, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Noise of chunks of the shape [*B, H, A]: that of their start, and that of each step [*B, K, H, A], None where no step draws any."""
    if not kernel.noisy:
        return normal(key, shape), None
    start_key, step_key = jax.random.split(key)
    return normal(start_key, shape), normal(step_key, (*shape[:-2], count_steps(kernel), *shape[-2:]))


def normal(key, shape: tuple[int, ...]) -> Array:
    """Standard normal noise: the numbers of ``jax.random.normal(key, shape)`` in half the time.

    XLA counts along one axis faster than along four.
    """
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)
