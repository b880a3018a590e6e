"""What an actor learns from its own proposals: to climb a critic, to stay with a teacher, to stay random."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from qchunk.losses.terms import module_names, no_noise, together
from qchunk.sampling import count_steps, decode, normal
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Kernel, Key, Metrics, Module, Policy, Spec, Term, Together, ValueFn, Vars

TARGET_ENTROPY = -0.5  # nats per number of a chunk (2507.07969, code)


def proposing(kernel: Kernel, terms: Sequence[Term]) -> Together:
    """Terms on ONE proposal of the actor per window: each gets (noise, chunk [*B, H, A]), the chunk before it is clipped."""

    def draw(key: Key, chunk: Chunk) -> tuple[Array, Array | None]:
        if not kernel.noisy:
            return normal(key, chunk.action.shape), None
        start_key, step_key = jax.random.split(key)
        lead, steps = chunk.action.shape[:-2], (count_steps(kernel), *chunk.action.shape[-2:])
        return normal(start_key, chunk.action.shape), normal(step_key, (*lead, *steps))

    def propose(vars: Vars, noise: tuple[Array, Array | None], chunk: Chunk) -> tuple[Array, Array]:
        return noise[0], decode(kernel, vars, chunk.obs, *noise)

    return together(draw, terms, propose)


def ascend(kernel: Kernel, score: ValueFn, relative: bool = False, name: str = "ascend") -> Term:
    """Ascent of the critic: minus the score of the proposal, clipped to [-1, 1]; the gradient reaches the actor through it.

    Args:
        score: (vars, obs, action) -> [*B], such as ``critic.score``.
        relative: divide by the batch's mean |score|, so that its weight means the same at any scale of returns (2106.06860, eq. 5).
    """

    def fn(vars: Vars, made: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        q = score(vars, chunk.obs, jnp.clip(made[1], -1.0, 1.0))
        scale = jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-8) if relative else 1.0
        return -jnp.mean(q) / scale, {"q": jnp.mean(q)}

    return Term(name, module_names(kernel), no_noise, fn)


def distil(kernel: Kernel, teacher: Policy, name: str = "distil") -> Term:
    """Distillation: mean squared distance of the proposal to the teacher's chunk from the same noise (2502.02538, eq. 8).

    Args:
        teacher: a policy whose noise is [*B, H, A], such as ``sample`` of a flow. It is not trained.
    """

    def fn(vars: Vars, made: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        noise, action = made
        aim = teacher.plan(jax.lax.stop_gradient(vars), noise, chunk.obs, None).action
        return jnp.mean(jnp.square(action - aim)), {}

    return Term(name, module_names(kernel), no_noise, fn)


def temperature(name: str = "temperature") -> Module:
    """The temperature of an entropy bonus, a module of one number: its logarithm, 0 at first."""

    def init(key: Key, spec: Spec) -> Array:
        del key, spec
        return jnp.zeros(())

    return Module(name, init, jnp.exp)


def entropy(kernel: Kernel, heat: Module) -> tuple[Term, Term]:
    """The entropy bonus of a soft actor, and its temperature (1812.05905, eqs. 7 and 17): terms for ``proposing``.

    The actor's adds temperature * log pi(proposal); the temperature's is temperature * (entropy - target), whose target is -0.5 nats
    per number of the chunk.

    Raises:
        UserError: an actor whose density is not known.
    """
    if (density := kernel.density) is None:
        what = " and ".join(m.name for m in kernel.modules)
        raise UserError(
            f"the density of the {what} Kernel is not known", "take --actor.kind tanh-gaussian or full-gaussian"
        )

    def log_prob(vars: Vars, made: tuple[Array, Array], chunk: Chunk) -> Array:
        return jnp.sum(density(vars, chunk.obs, made[0]), axis=(-2, -1))

    def bonus(vars: Vars, made: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        found = jnp.mean(log_prob(vars, made, chunk))
        return heat.apply(vars.params[heat.name]) * found, {"entropy": -found}

    def tempered(vars: Vars, made: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Metrics]:
        target = TARGET_ENTROPY * chunk.action.shape[-1] * chunk.action.shape[-2]
        heated = heat.apply(vars.params[heat.name])
        spare = -jnp.mean(log_prob(vars, made, chunk)) - target
        return heated * spare, {"temperature": heated}

    actor = Term("entropy", module_names(kernel), no_noise, bonus)
    return actor, Term("temperature", (heat.name,), no_noise, tempered)
