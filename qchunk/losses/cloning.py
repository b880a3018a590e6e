"""Behaviour cloning with an iterative actor."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from qchunk import improve
from qchunk.losses.terms import mean_size, module_names
from qchunk.sampling import act
from qchunk.system.errors import shaped
from qchunk.types import CLEAN, Array, Chunk, Critic, DrawFn, Kernel, Key, Metrics, Policy, Term, ValueFn, Vars

EACH = "return one number for each chunk"
MOST = 100.0  # of a weight, as in 2110.06169's code


def bc(
    kernel: Kernel,
    name: str = "bc",
    *,
    weight: Callable[[Vars, Chunk], Array] | None = None,
    aim: Callable[[Vars, Chunk], Array] | None = None,
    summed: bool = False,
) -> Term:
    """Imitation by the Kernel's own denoising loss, averaged over every step of every chunk that lies inside its episode.

    The published code divides by all steps, also by the masked ones; we divide by those that count.

    Args:
        weight: (vars, chunk) -> [*B], what each chunk counts, such as ``advantage_weight``; without it, 1.
        aim: (vars, chunk) -> what is imitated in place of the data's chunks [*B, H, A], such as ``climbed``.
        summed: the SUM over a chunk's numbers in place of their mean, as methods that weigh imitation against a critic publish it.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        shown = chunk if aim is None else chunk._replace(action=jax.lax.stop_gradient(aim(vars, chunk)))
        many = chunk.mask.shape[:-1]
        each, metrics = shaped(kernel.loss(vars, noise, shown), many, "the loss of the actor", EACH), {}
        if weight is not None:
            counts = jax.lax.stop_gradient(weight(vars, chunk))
            if jnp.ndim(counts):  # one number counts for all
                counts = shaped(counts, many, f"the weight of the term {name}", EACH)
            each, metrics = counts * each, {"weight": jnp.mean(counts)}
        loss = jnp.sum(each) / jnp.maximum(jnp.sum(jnp.mean(chunk.mask, axis=-1)), 1e-8)
        return (math.prod(kernel.shape(vars)) * loss if summed else loss), metrics

    return Term(name, module_names(kernel), kernel.draw, fn)


def with_key(kernel: Kernel) -> DrawFn:
    """(key, chunk) -> (noise of the Kernel's loss, a key for a policy)."""

    def draw(key: Key, chunk: Chunk):
        own_key, policy_key = jax.random.split(key)
        return kernel.draw(own_key, chunk), policy_key

    return draw


def bc_of(kernel: Kernel, policy: Policy, name: str = "bc") -> Term:
    """Imitation of one plan of a policy for each window, in place of the data's chunk; the policy is not trained.

    All of a plan's actions count, also where the window leaves its episode.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        own, key = noise
        plan = act(policy, jax.lax.stop_gradient(vars), key, chunk.obs)
        return bc(kernel).fn(vars, own, chunk._replace(action=plan.action, mask=jnp.ones_like(chunk.mask)))

    return Term(name, module_names(kernel), with_key(kernel), fn)


def bc_against(kernel: Kernel, rival: Policy, score: ValueFn, eta: float, name: str = "bc") -> Term:
    """Imitation of what is better than a rival's chunk (2512.03973): a chunk of the data counts softmax((Q(a), Q(b)) / (eta mean |Q|)) of a.

    Args:
        rival: makes b, one chunk for each window.
        score: Q, such as that of the target networks.
        eta: large: all count a half.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        own, key = noise

        def weight(vars: Vars, chunk: Chunk) -> Array:
            q, other = (score(vars, chunk.obs, a) for a in (chunk.action, act(rival, vars, key, chunk.obs).action))
            return jax.nn.sigmoid((q - other) / (eta * mean_size(q)))

        return bc(kernel, weight=weight).fn(vars, own, chunk)

    return Term(name, module_names(kernel), with_key(kernel), fn)


def advantage_weight(score: ValueFn, state: Critic, alpha: float) -> Callable[[Vars, Chunk], Array]:
    """What a chunk of the data counts: min(exp(alpha (Q - V)), 100) (2110.06169, eq. 7).

    Args:
        score: Q; that of the target networks is ``lagging(critic).score``.
    """

    def weight(vars: Vars, chunk: Chunk) -> Array:
        gap = score(vars, chunk.obs, chunk.action) - state.score(vars, chunk.obs)
        return _bounded_exp(alpha * gap)

    return weight


def told_weight(alpha: float, name: str = "advantage") -> Callable[[Vars, Chunk], Array]:
    """What a played chunk counts by its advantage, which ``prepare`` put into ``extras``: min(exp(alpha A), 100); 0 where a time-out cuts it."""
    return lambda vars, chunk: chunk.weight[..., 0] * _bounded_exp(alpha * chunk.extras[name])


def _bounded_exp(x: Array) -> Array:
    return jnp.exp(jnp.minimum(x, math.log(MOST)))


def climbed(score: ValueFn, steps: int, rate: float) -> Callable[[Vars, Chunk], Array]:
    """The data's chunks after ``steps`` steps of Adam up ``score``, each clipped to [-1, 1] (DIPO, 2305.13122): for ``bc``'s ``aim``.

    A number moves by about ``rate`` a step, so a chunk ends within about steps x rate of the data's.
    """
    adam = optax.adam(rate)

    def aim(vars: Vars, chunk: Chunk) -> Array:
        def step(state: tuple, _: None) -> tuple[tuple, None]:
            action, opt = state
            slope = improve.ascent(score, vars, chunk.obs, action, jnp.asarray(CLEAN))
            move, opt = adam.update(-slope, opt)
            return (jnp.clip(action + move, -1.0, 1.0), opt), None

        return jax.lax.scan(step, (chunk.action, adam.init(chunk.action)), length=steps)[0][0]

    return aim
