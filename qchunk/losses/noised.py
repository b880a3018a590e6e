"""What an actor learns on the noised chunks of data: its one-step estimates, and the critic's gradient beside its own noise estimate.

The estimate of the clean chunk is a Kernel's ``denoise``, and that of the noise follows from the level, eps = (x - alpha clean) / sigma,
so these terms are the same for diffusions and flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actors.paths import called, count_steps, drawing
from qchunk.improve import ascent
from qchunk.losses.terms import module_names, no_noise, together
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, DrawFn, Kernel, Key, Metrics, Term, Together, ValueFn, Vars


class OneStepEstimate(NamedTuple):
    """A noised chunk x = alpha a + sigma eps of the data, and what an actor makes of it in one step."""

    noise: Array  # [*B, H, A] eps
    action: Array  # [*B, H, A] the estimate of a, not clipped
    x: Array  # [*B, H, A]
    level: Array  # [*B, 2] (alpha, sigma)

    @property
    def predicted(self) -> Array:
        """The actor's estimate of eps [*B, H, A]. At pure noise (alpha = 0) it is x, whatever the actor says."""
        alpha, sigma = self.level[..., :1, None], self.level[..., 1:, None]
        return (self.x - alpha * self.action) / sigma


def draw_level(kernel: Kernel) -> DrawFn:
    """(key, chunk) -> (eps [*B, H, A], the number [*B, 1] of one of the K levels that the Kernel denoises from)."""

    def level(key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 0, count_steps(kernel))

    return drawing(level)


def noised(kernel: Kernel, noise: tuple[Array, Array], action: Array) -> tuple[Array, Array]:
    """(x = alpha a + sigma eps [*B, H, A], its level (alpha, sigma) [*B, 2]) of chunks and a ``draw_level``."""
    eps, index = noise
    at = jnp.asarray(np.asarray(kernel.levels), jnp.float32)[index[..., 0]]
    return at[..., :1, None] * action + at[..., 1:, None] * eps, at


def estimating(kernel: Kernel, terms: Sequence[Term]) -> Together:
    """Terms on ONE estimate of the actor per window, from a noised chunk of the data: each gets a ``OneStepEstimate``.

    ``ascend`` takes it in place of a proposal: its gradient then passes through one step of the actor, not K (EDP, 2305.20081).
    """

    def estimate(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> OneStepEstimate:
        x, at = noised(kernel, noise, chunk.action)
        return OneStepEstimate(noise[0], kernel.denoise(vars, chunk.obs, x, noise[1][..., 0]), x, at)

    return together(draw_level(kernel), terms, estimate)


def lean(kernel: Kernel, value: ValueFn, name: str = "lean") -> Term:
    """The linear loss sigma <grad Q(s, x), eps>, a mean over numbers (DAC, 2405.20555): a term for ``estimating``.

    Beside ``alpha`` times imitation the best estimate is E[eps | x] - sigma grad Q / (2 alpha): that of ``guide`` with weight 1 / (2 alpha).

    Args:
        value: what is climbed, (vars, obs, x, level) -> [*B]. A critic of clean chunks was never trained on noisy ones.

    Raises:
        UserError: an actor of one step, see ``check_levels``.
    """
    check_levels(kernel)

    def fn(vars: Vars, made: OneStepEstimate, chunk: Chunk) -> tuple[Array, Metrics]:
        slope = _slope(value, vars, made, chunk)
        return jnp.mean(made.level[..., 1:, None] * slope * made.predicted), {"slope": jnp.mean(jnp.abs(slope))}

    return Term(name, module_names(kernel), no_noise, fn)


def match(kernel: Kernel, value: ValueFn, weight: float, by_level: bool = True, name: str = "match") -> Term:
    """Score matching against a critic, |eps + weight sigma grad Q(s, x)|^2, a mean over numbers (QSM, 2312.11752): for ``estimating``.

    The score of x is -eps / sigma, so this is the actor whose score is weight grad Q.

    Args:
        weight: 1 / temperature, per unit of return.
        by_level: whether the gradient counts sigma; published code leaves that out, so that its score is weight grad Q / sigma.
        value: as in ``lean``.

    Raises:
        UserError: as in ``lean``.
    """
    check_levels(kernel)

    def fn(vars: Vars, made: OneStepEstimate, chunk: Chunk) -> tuple[Array, Metrics]:
        slope = _slope(value, vars, made, chunk)
        aim = weight * (made.level[..., 1:, None] * slope if by_level else slope)
        return jnp.mean(jnp.square(made.predicted + aim)), {"slope": jnp.mean(jnp.abs(slope))}

    return Term(name, module_names(kernel), no_noise, fn)


def _slope(value: ValueFn, vars: Vars, made: OneStepEstimate, chunk: Chunk) -> Array:
    return jax.lax.stop_gradient(ascent(value, vars, chunk.obs, made.x, made.level))


def check_levels(kernel: Kernel) -> None:
    """Refuses an actor of one step: from pure noise there is no noisy chunk whose noise it would have to estimate.

    Raises:
        UserError: names its modules.
    """
    if kernel.advance is None or count_steps(kernel) == 1:
        raise UserError(
            f"the {called(kernel)} makes chunks in one step",
            "take --actor.kind diffusion or flow, of 2 steps or more",
        )
