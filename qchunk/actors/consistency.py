"""The consistency actor: from any noise level straight to the chunk that the path through it ends in (2303.01469)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.actor_configs import ConsistencyConfig
from qchunk.actors import paths
from qchunk.actors.paths import count_steps, deterministic
from qchunk.actors.perceptron import perceptron
from qchunk.types import AdvanceFn, Array, Chunk, Kernel, LossFn, Module, PyTree, Vars

DATA = 0.5  # the data's standard deviation that the network's inputs and outputs are scaled for
LOW, HIGH, RHO = 0.002, 80.0, 7.0  # least and greatest noise, and how the levels crowd at the least (2206.00364)
LOG_MEAN, LOG_STD = -1.1, 2.0  # of the levels that are learned from (2310.14189)
HUBER = 0.00054  # times the root of a chunk's numbers: where its loss turns from square to linear (2310.14189)


def karras(steps: int) -> np.ndarray:
    """Noise levels from HIGH down to LOW: [steps + 1] (2206.00364, eq. 5)."""
    i = np.arange(steps, -1, -1) / steps
    return (LOW ** (1 / RHO) + i * (HIGH ** (1 / RHO) - LOW ** (1 / RHO))) ** RHO


def consistency(c: ConsistencyConfig, name: str = "actor") -> Kernel:
    """The consistency actor f(s, x, sigma), x = a + sigma eps: noise, then ``c.steps`` estimates, the chunk noised anew between them.

    From data: the same eps at two neighbours of ``c.grid`` + 1 levels, f at the noisier is to be f at the other, which gets no gradient, by
    the pseudo-Huber distance over the difference of the levels (2310.14189). That paper's grid grows with training, and its distance is the
    whole chunk's; here the grid is fixed, and the distance each number's, as in the code that parity is with.
    """
    return consistency_kernel(perceptron(c, name, lambda spec: (1,)), c.steps, c.grid)


def consistency_kernel(module: Module, steps: int, grid: int) -> Kernel:
    """The consistency Kernel of a network.

    Its levels are scaled to alpha^2 + sigma^2 = 1, as a diffusion's are, so that it starts from standard normal noise.

    Args:
        module: (params, obs, x [*B, H, A], log(sigma) / 4 [*B, 1]) -> [*B, H, A], x of about unit variance.
        grid: pairs of neighbouring levels in the loss.
    """
    clean = _estimate(module)
    noises = karras(steps)[:-1]
    scale = np.sqrt(1 + noises**2)
    levels = np.append(np.stack([1 / scale, noises / scale], axis=1), [[1.0, 0.0]], axis=0)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        sigma, grown = paths.numbers(np.stack([noises, scale], axis=1), k)
        return clean(vars, obs, grown * x, sigma[..., 0])

    ladder = karras(grid)[::-1]
    rank = np.array([math.erf((math.log(s) - LOG_MEAN) / (math.sqrt(2) * LOG_STD)) for s in ladder])
    rank = (rank - rank[0]) / (rank[-1] - rank[0])

    def loss(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> Array:
        eps, share = noise
        i = jnp.clip(jnp.searchsorted(jnp.asarray(rank[1:], jnp.float32), share, side="right"), 0, grid - 1)
        low, high = (jnp.asarray(ladder, jnp.float32)[n] for n in (i, i + 1))  # [*B, 1]
        aim = clean(jax.lax.stop_gradient(vars), chunk.obs, chunk.action + low[..., None] * eps, low)
        error = clean(vars, chunk.obs, chunk.action + high[..., None] * eps, high) - aim
        knee = HUBER * math.sqrt(math.prod(error.shape[-2:]))
        each = jnp.sqrt(jnp.square(error) + knee**2) - knee
        return jnp.mean(each * chunk.mask[..., None], axis=(-2, -1)) / (high - low)[..., 0]

    kernel = paths.denoiser_kernel(module, levels, 1.0, denoise, paths.drawing(jax.random.uniform), loss)
    advance = functools.partial(_renewed(levels), eta=1.0)
    return kernel._replace(
        advance=advance,
        step=paths.step_of(denoise, advance),
        noisy=steps > 1,
        follow=functools.partial(_distillation, clean),
    )


def _estimate(module: Module) -> Callable[[Vars, PyTree, Array, Array], Array]:
    """F of x = a + sigma eps: (vars, obs, x [*B, H, A], sigma [*B, 1] >= LOW) -> [*B, H, A]. At LOW it is x itself."""

    def clean(vars: Vars, obs, x: Array, sigma: Array) -> Array:
        s = sigma[..., None]
        skip, size = DATA**2 / ((s - LOW) ** 2 + DATA**2), jnp.sqrt(DATA**2 + s**2)
        out = module.apply(vars.params[module.name], obs, x / size, jnp.log(sigma) / 4)
        return skip * x + (s - LOW) * DATA / size * out

    return clean


def _distillation(clean: Callable, teacher: Kernel) -> LossFn:
    """Distillation (2303.01469, algorithm 2): a noised chunk, and where one step of the teacher's leads, are to have one estimate.

    Both levels are neighbours of the teacher's own; its squared error counts one over their difference. The estimate at the lesser noise is
    the network's own without a gradient, where the paper has a moving average of it, as in 2310.14189.
    """
    still = deterministic(teacher)
    alpha, sigma = np.asarray(teacher.levels, np.float64).T
    noises = np.clip(sigma / np.where(alpha > 0, alpha, sigma / HIGH), LOW, HIGH)
    table = np.stack([alpha, sigma, noises, np.sqrt((1 + noises**2) / (alpha**2 + sigma**2))], axis=1)

    def loss(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> Array:
        eps, share = noise
        k = jnp.floor(share[..., 0] * count_steps(teacher)).astype(jnp.int32)
        alpha, sigma, high, grown = paths.numbers(table, k)
        x = alpha * chunk.action + sigma * eps
        _, _, low, later = paths.numbers(table, k + 1)
        after = jax.lax.stop_gradient(still.step(vars, chunk.obs, x, k)[0])
        aim = clean(jax.lax.stop_gradient(vars), chunk.obs, later * after, low[..., 0])
        error = clean(vars, chunk.obs, grown * x, high[..., 0]) - aim
        each = jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))
        gap = (high - low)[..., 0, 0]  # 0 where both levels of the teacher's are HIGH or more
        return jnp.where(gap > 0, each / jnp.where(gap > 0, gap, 1.0), 0.0)

    return loss


def _renewed(levels: np.ndarray) -> AdvanceFn:
    """The step to level k + 1 that keeps sqrt(1 - eta^2) of the noise's direction: none of it at eta = 1 (2303.01469, algorithm 1)."""
    (alpha, sigma), (alpha_next, sigma_next) = levels[:-1].T, levels[1:].T
    bare = np.sqrt(np.maximum(sigma_next**2 - (LOW * alpha_next) ** 2, 0.0))  # LOW is the noise of what counts as clean
    table = np.stack([alpha, alpha_next, sigma_next / sigma, bare], axis=1)

    def advance(x: Array, clean: Array, k, eta) -> tuple[Array, Array]:
        alpha, alpha_next, shrink, std = paths.numbers(table, k)
        along = shrink * jnp.sqrt((1 - eta) * (1 + eta))
        return (alpha_next - alpha * along) * clean + along * x, eta * std

    return advance
