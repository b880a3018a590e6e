"""What an actor learns from its own proposals: to climb a critic, to stay with a teacher, to stay random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.actors.editor import beside
from qchunk.actors.paths import called, decode
from qchunk.losses.terms import mean_size, module_names, no_noise, together, weighted_mean
from qchunk.sampling import act, draw_noise, normal
from qchunk.system.errors import UserError
from qchunk.types import (
    Array,
    Chunk,
    Critic,
    DrawFn,
    Kernel,
    Key,
    Metrics,
    Module,
    Policy,
    PyTree,
    Spec,
    Term,
    Together,
    ValueFn,
    Vars,
)

TARGET_ENTROPY = -0.5  # nats per number of a chunk (2507.07969, code)


class Proposal(NamedTuple):
    """What an actor proposes for a window."""

    noise: Array  # [*B, H, A] that it started from
    action: Array  # [*B, H, A] before it is clipped
    seen: PyTree  # what the actor saw: the observation [*B, O], of an editor the plan beside it


def noise_of(kernel: Kernel) -> DrawFn:
    """(key, chunk) -> ``draw_noise`` of one chunk for each window."""
    return lambda key, chunk: draw_noise(kernel, key, chunk.action.shape)


def proposing(kernel: Kernel, terms: Sequence[Term]) -> Together:
    """Terms on ONE ``Proposal`` of the actor per window, in the place of their noise."""

    def propose(vars: Vars, noise: tuple[Array, Array | None], chunk: Chunk) -> Proposal:
        return Proposal(noise[0], decode(kernel, vars, chunk.obs, *noise), chunk.obs)

    return together(noise_of(kernel), terms, propose)


def editing(editor: Kernel, policy: Policy, scale: float, terms: Sequence[Term]) -> Together:
    """Terms on ONE ``Proposal`` of an editor (``actors.editor``) per window: a plan of the policy plus ``scale`` times its edit.

    The policy is not trained. ``Proposal.noise`` is the editor's.
    """

    def draw(key: Key, chunk: Chunk) -> tuple[Key, Array]:
        plan_key, edit_key = jax.random.split(key)
        return plan_key, normal(edit_key, chunk.action.shape)

    def propose(vars: Vars, noise: tuple[Key, Array], chunk: Chunk) -> Proposal:
        key = jax.random.clone(noise[0])  # the same plan for terms that train other modules, which propose anew
        plan = act(policy, jax.lax.stop_gradient(vars), key, chunk.obs).action
        seen = beside(chunk.obs, plan)
        return Proposal(noise[1], plan + scale * decode(editor, vars, seen, noise[1]), seen)

    return together(draw, terms, propose)


def ascend(kernel: Kernel, score: ValueFn, relative: bool = False, name: str = "ascend") -> Term:
    """Ascent of the critic: minus the score of the proposal, clipped to [-1, 1]; the gradient reaches the actor through it.

    Args:
        score: (vars, obs, action) -> [*B], such as ``critic.score``.
        relative: divide by the batch's mean |score|, so that its weight means the same at any scale of returns (2106.06860, eq. 5).
    """

    def fn(vars: Vars, made: Proposal, chunk: Chunk) -> tuple[Array, Metrics]:
        q = score(vars, chunk.obs, jnp.clip(made.action, -1.0, 1.0))
        return -jnp.mean(q) / (mean_size(q) if relative else 1.0), {"q": jnp.mean(q)}

    return Term(name, module_names(kernel), no_noise, fn)


def ascend_one(kernel: Kernel, critic: Critic, name: str = "ascend") -> Term:
    """``ascend`` of one member of the critic, divided by the batch's mean |Q| of the next one: -mean Q_i / mean |Q_j| (2208.06193, code).

    Which one is new in every update: it is read off the first window's noise, whose normal distribution function is uniform.
    """

    def fn(vars: Vars, made: Proposal, chunk: Chunk) -> tuple[Array, Metrics]:
        q = critic.values(vars, chunk.obs, jnp.clip(made.action, -1.0, 1.0))  # [members, *B]
        uniform = jax.scipy.stats.norm.cdf(made.noise.ravel()[0])
        i = jnp.minimum((uniform * len(q)).astype(jnp.int32), len(q) - 1)
        return -jnp.mean(q[i]) / mean_size(q[(i + 1) % len(q)]), {"q": jnp.mean(q)}

    return Term(name, module_names(kernel), no_noise, fn)


def ascend_within(kernel: Kernel, region: Kernel, score: ValueFn, alpha: float, name: str = "ascend") -> Term:
    """Ascent of the critic where another actor denoises well: -score(a) + alpha loss(a), a a proposal and the loss the other one's own, of imitation (2405.19690).

    The gradient reaches the proposal through both; ``region`` is not trained. By the paper it seeks modes, where ``distil`` covers what a teacher makes.

    Args:
        region: such as a diffusion that is cloned.
        score: as in ``ascend``.
        alpha: weight of the loss, a mean over a chunk's numbers, in units of return.
    """

    def draw(key: Key, chunk: Chunk):
        own_key, region_key = jax.random.split(key)
        return noise_of(kernel)(own_key, chunk), region.draw(region_key, chunk)

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        action = decode(kernel, vars, chunk.obs, *noise[0])
        made = chunk._replace(action=action, mask=jnp.ones_like(chunk.mask))
        apart = jnp.mean(region.loss(vars, noise[1], made))
        q = jnp.mean(score(vars, chunk.obs, jnp.clip(action, -1.0, 1.0)))
        return alpha * apart - q, {"q": q, "apart": apart}

    return Term(name, module_names(kernel), draw, fn)


def distil(
    kernel: Kernel, teacher: Policy, name: str = "distil", weight: Callable[[Chunk], Array] | None = None
) -> Term:
    """Distillation: mean squared distance of the proposal to the teacher's chunk from the same noise (2502.02538, eq. 8).

    Args:
        teacher: a policy whose noise is [*B, H, A], such as ``sample`` of a flow. It is not trained.
        weight: chunk -> [*B], what each counts; without it, all do.
    """

    def fn(vars: Vars, made: Proposal, chunk: Chunk) -> tuple[Array, Metrics]:
        aim = teacher.plan(jax.lax.stop_gradient(vars), made.noise, chunk.obs, None).action
        apart = jnp.square(made.action - aim)
        return (jnp.mean(apart) if weight is None else weighted_mean(weight(chunk)[..., None, None], apart)), {}

    return Term(name, module_names(kernel), no_noise, fn)


def temperature(name: str = "temperature", first: float = 1.0) -> Module:
    """The temperature of an entropy bonus, a module of one number: its logarithm. ``first`` is what it starts at, above 0."""

    def init(key: Key, spec: Spec) -> Array:
        del key, spec
        return jnp.log(jnp.asarray(first, jnp.float32))

    return Module(name, init, jnp.exp)


def entropy(kernel: Kernel, heat: Module) -> tuple[Term, Term]:
    """The entropy bonus of a soft actor, and its temperature (1812.05905, eqs. 7 and 17): terms for ``proposing``.

    The actor's adds temperature * log pi(proposal); the temperature's is temperature * (entropy - target), whose target is -0.5 nats
    per number of the chunk.

    Raises:
        UserError: an actor whose density is not known.
    """
    if (density := kernel.density) is None:
        raise UserError(
            f"the density of the {called(kernel)} is not known",
            "take --actor.kind tanh-gaussian or full-gaussian",
        )

    def log_prob(vars: Vars, made: Proposal) -> Array:
        return jnp.sum(density(vars, made.seen, made.noise), axis=(-2, -1))

    def bonus(vars: Vars, made: Proposal, chunk: Chunk) -> tuple[Array, Metrics]:
        del chunk
        found = jnp.mean(log_prob(vars, made))
        return heat.apply(vars.params[heat.name]) * found, {"entropy": -found}

    def tempered(vars: Vars, made: Proposal, chunk: Chunk) -> tuple[Array, Metrics]:
        target = TARGET_ENTROPY * chunk.action.shape[-1] * chunk.action.shape[-2]
        heated = heat.apply(vars.params[heat.name])
        spare = -jnp.mean(log_prob(vars, made)) - target
        return heated * spare, {"temperature": heated}

    actor = Term("entropy", module_names(kernel), no_noise, bonus)
    return actor, Term("temperature", (heat.name,), no_noise, tempered)


def ascend_softly(kernel: Kernel, score: ValueFn, heat: Module) -> list[Term]:
    """What a soft actor learns (1812.05905): ``ascend`` under the bonus of ``entropy``, and its temperature; terms for ``proposing`` or ``editing``."""
    return [ascend(kernel, score), *entropy(kernel, heat)]
