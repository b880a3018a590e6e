"""What every iterative actor shares: noise levels (alpha, sigma), the transition from one level to the next, and the one denoising loop."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import nets
from qchunk.system.errors import UserError
from qchunk.types import (
    AdvanceFn,
    Array,
    Chunk,
    DenoiseFn,
    DrawFn,
    Kernel,
    Key,
    LossFn,
    Module,
    PyTree,
    StepFn,
    Vars,
    VelocityFn,
)


def linear(steps: int) -> np.ndarray:
    """Flow matching's straight path x_t = t a + (1 - t) eps at t = k / K: [K+1, 2]."""
    return np.linspace([0.0, 1.0], [1.0, 0.0], steps + 1)


def signal(schedule: str, steps: int) -> np.ndarray:
    """bar-alpha of every noising step, cleanest first: [K] float64 in (0, 1).

    - cosine: beta_i = min(1 - f(i+1)/f(i), 0.999), f(i) = cos^2(pi/2 (i/K + s)/(1 + s)), s = 0.008 (2102.09672, eq. 17);
    - vp: beta_i = 1 - exp(-0.1/K - 0.5 (10 - 0.1) (2i + 1)/K^2) for i = 0 ... K-1 (2208.06193, section 3).
    """
    i = np.arange(steps + 1) / steps
    if schedule == "cosine":
        f = np.cos((i + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        beta = 1 - np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * np.arange(steps) + 1) / steps**2)
    return np.cumprod(1 - beta)


def variance_preserving(bar: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Levels of the noising steps ``times`` [K] (descending) and then clean data: [K+1, 2]."""
    bar = np.append(bar[times], 1.0)
    return np.sqrt(np.stack([bar, 1 - bar], axis=1))


def numbers(table: np.ndarray, k) -> Array:
    """Row k of a table [K, n], number by number, to go with chunks: [n, *k's axes, 1, 1]."""
    return jnp.moveaxis(jnp.asarray(table, jnp.float32)[k], -1, 0)[..., None, None]


def transition(levels: np.ndarray, clip: bool = False) -> AdvanceFn:
    """The step from level k to level k + 1 given the clean chunk: advance(x, clean, k, eta) -> (mean [.., H, A], std [.., 1, 1]).

    eta = 0 is the deterministic step: Euler's on the straight path, DDIM's on a diffusion's. eta = 1 is the posterior of
    the noising process, DDPM's step when no level is left out. All have the same marginals (2010.02502, eq. 12, here for
    any levels): std = eta sigma' sqrt(1 - r) with r = (alpha sigma' / (alpha' sigma))^2, and the rest of the noise of
    level k + 1 keeps the direction of the noise estimate.

    Args:
        levels: [K+1, 2].
        clip: whether clean chunks are bounded to [-1, 1] first.
    """
    (alpha, sigma), (alpha_next, sigma_next) = levels[:-1].T, levels[1:].T
    kept = (alpha * sigma_next / (alpha_next * sigma)) ** 2  # r
    table = np.stack([alpha, alpha_next, sigma_next / sigma, sigma_next * np.sqrt(1 - kept), kept], axis=1)

    def advance(x: Array, clean: Array, k, eta) -> tuple[Array, Array]:
        alpha, alpha_next, shrink, std, kept = numbers(table, k)
        clean = jnp.clip(clean, -1.0, 1.0) if clip else clean
        along = shrink * jnp.sqrt((1 - eta) * (1 + eta) + eta**2 * kept)
        return (alpha_next - alpha * along) * clean + along * x, eta * std

    return advance


def step_of(denoise: DenoiseFn, advance: AdvanceFn) -> StepFn:
    """A Kernel's ``step`` from its ``denoise`` and ``advance``.

    The barrier keeps compilers from fusing the estimate into what follows, so that an estimate that a wrapper left alone
    leads to the same bits as without the wrapper.
    """

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, Array]:
        return advance(x, jax.lax.optimization_barrier(denoise(vars, obs, x, k)), k)

    return step


def denoiser_kernel(
    module: Module,
    levels: np.ndarray,
    eta: float,
    denoise: DenoiseFn,
    draw: DrawFn,
    loss: LossFn,
    clip: bool = False,
) -> Kernel:
    """The Kernel that denoises along ``levels`` [K+1, 2] with one network.

    Args:
        eta, clip: as in ``transition``.
        draw: (key, chunk) -> noise of the loss, such as ``drawing(level)``.
        loss: (vars, noise, chunk) -> [*B].
    """
    advance = functools.partial(transition(levels, clip), eta=eta)
    return Kernel(
        modules=(module,),
        levels=levels,
        shape=lambda vars: nets.output_shape(vars.params[module.name]),
        denoise=denoise,
        advance=advance,
        step=step_of(denoise, advance),
        noisy=eta > 0,
        draw=draw,
        loss=loss,
    )


def drawing(level: Callable[[Key, tuple[int, ...]], Array]) -> DrawFn:
    """A Kernel's ``draw``: (key, chunk) -> (standard normal noise [*B, H, A], ``level(key, (*B, 1))``)."""

    def draw(key: Key, chunk: Chunk) -> tuple[Array, Array]:
        noise_key, level_key = jax.random.split(key)
        return jax.random.normal(noise_key, chunk.action.shape), level(level_key, (*chunk.action.shape[:-2], 1))

    return draw


def called(kernel: Kernel) -> str:
    """A Kernel's name in messages: its modules', with the word actor where none is called so; "frozen actor" where it has none."""
    names = [m.name for m in kernel.modules] or ["frozen"]
    return " and ".join(names) + ("" if "actor" in names else " actor")


def count_steps(kernel: Kernel) -> int:
    """K, the number of denoising steps."""
    return int(np.shape(kernel.levels)[0]) - 1


def decode(
    kernel: Kernel, vars: Vars, obs, noise: Array, steps: Array | None = None, first: int = 0, last: int | None = None
) -> Array:
    """Denoises ``noise`` [*B, H, A] along all K steps, or along first <= k < last, without clipping: [*B, H, A].

    Args:
        steps: noise of every step [*B, K, H, A] for a Kernel with std > 0; None runs the mean path.
    """
    end = count_steps(kernel) if last is None else last
    return walk(kernel, vars, obs, noise, steps, first, end)[0]


def walk(kernel: Kernel, vars: Vars, obs, x: Array, steps: Array | None, first: int, last: int) -> tuple[Array, Array]:
    """``decode`` that remembers how: (the last chunk [*B, H, A], the chunk after each step [last - first, *B, H, A])."""

    def body(x: Array, k: Array) -> tuple[Array, Array]:
        mean, std = kernel.step(vars, obs, x, k)
        x = mean if steps is None else mean + std * steps[..., k, :, :]
        return x, x

    return jax.lax.scan(body, x, jnp.arange(first, last))


def advance_of(kernel: Kernel) -> AdvanceFn:
    """How a Kernel goes from one noise level to the next.

    Raises:
        UserError: it has no noise levels (a Gaussian actor, or one of one step).
    """
    if kernel.advance is None:
        raise UserError(f"the {called(kernel)} walks along no noise levels", "take --actor.kind flow or diffusion")
    return kernel.advance


def stochastic(kernel: Kernel) -> Kernel:
    """The same marginals with noise in every step but the last: a flow becomes its SDE, DDIM becomes ancestral sampling.

    Raises:
        UserError: the Kernel does not walk along noise levels (a Gaussian actor).
    """
    noisy = functools.partial(advance_of(kernel), eta=1.0)
    return kernel._replace(advance=noisy, step=step_of(kernel.denoise, noisy), noisy=True)


def deterministic(kernel: Kernel) -> Kernel:
    """The same marginals without noise in any step: a diffusion becomes DDIM's; a Kernel that draws none stays what it is.

    Raises:
        UserError: a Gaussian, whose noise is all that its chunk follows from; or skills.
    """
    if kernel.decoder:
        raise UserError(f"the {called(kernel)} makes skills, which others cannot follow", "take a flow or a diffusion")
    if not kernel.noisy:
        return kernel
    if kernel.advance is None:
        raise UserError(
            f"the steps of the {called(kernel)} draw noise",
            "take a flow, a diffusion or another actor of levels",
        )
    still = functools.partial(kernel.advance, eta=0.0)
    return kernel._replace(advance=still, step=step_of(kernel.denoise, still), noisy=False)


def end_of(kernel: Kernel) -> Callable[[Vars, PyTree, Array], Array]:
    """(vars, obs [*B, O], noise [*B, H, A]) -> the chunk in [-1, 1] that the noise leads to without more of it; no gradient passes.

    Raises:
        UserError: see ``deterministic``.
    """
    still = deterministic(kernel)

    def end(vars: Vars, obs, noise: Array) -> Array:
        vars = jax.lax.stop_gradient(vars)
        return jnp.clip(decode(still, vars, obs, noise), -1.0, 1.0)

    return end


def velocity_of(kernel: Kernel) -> VelocityFn:
    """A flow's velocity at any time.

    Raises:
        UserError: it is no flow.
    """
    if kernel.velocity is None:
        raise UserError(
            f"the {called(kernel)} has no velocity at any time",
            "take --actor.kind flow (or --tuned.kind, or a prior of that kind)",
        )
    return kernel.velocity


def memoryless(kernel: Kernel) -> Kernel:
    """A flow as the SDE whose end tells nothing of its start (2409.08861, section 4), K steps of d = 1 / K at times t_i = i d.

    x_{i+1} = x_i + d (2 v(x_i, t_i) - x_i / (t_i + d)) + sqrt(d) sigma_i eps_i (2601.14234, appendix), sigma_i of ``memoryless_std``. Another
    discretisation of what ``stochastic`` is, whose steps' drifts differ from a flow's by the flows' difference alone.
    """
    steps = count_steps(kernel)
    t, d = np.arange(steps) / steps, 1.0 / steps
    table = np.stack([2 * d / (1 - t), d / (t + d), np.sqrt(d) * memoryless_std(steps)], axis=1)

    def advance(x: Array, clean: Array, k) -> tuple[Array, Array]:
        gain, shrink, std = numbers(table, k)
        return x + gain * (clean - x) - shrink * x, std

    return kernel._replace(advance=advance, step=step_of(kernel.denoise, advance), noisy=True)


def memoryless_std(steps: int) -> np.ndarray:
    """sigma_i = sqrt(2 (1 - t_i + d) / (t_i + d)) of each of K steps: [K]."""
    t, d = np.arange(steps) / steps, 1.0 / steps
    return np.sqrt(2 * (1 - t + d) / (t + d))


def pulled(kernel: Kernel, target: Array, weight: Array, limit: Array) -> Kernel:
    """Real-time chunking's guidance (2506.07339, eq. 2): each denoising step is pulled towards another chunk.

    With e = weight (target - clean) and g = (d clean / d x)^T e, one vector-Jacobian product, the clean estimate moves by
    min(limit sigma, (alpha^2 + sigma^2) / alpha) g. In a flow (alpha = t, sigma = 1 - t) that is the paper's
    v' = v + min(limit, (1 - t) / t (t^2 + (1 - t)^2) / (1 - t)^2) g. The rule stays the same when x, alpha and sigma are scaled
    together, which turns any diffusion into that flow, so it holds for all levels. Where all weights of a chunk are 0 its
    bits are those of the Kernel itself.

    Args:
        target: [*B, H, A], where its weight is 0 any finite number.
        weight: [*B, H] in [0, 1].
        limit: [*B], beta > 0.

    Raises:
        UserError: the Kernel does not walk along noise levels.
    """
    advance, (alpha, sigma) = advance_of(kernel), np.asarray(kernel.levels, np.float64).T
    exact = (alpha**2 + sigma**2) / np.where(alpha > 0, alpha, np.inf)
    table = np.stack([sigma, np.where(alpha > 0, exact, np.inf)], axis=1)
    free = jnp.all(weight == 0, axis=-1)[..., None, None]

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        clean, back = jax.vjp(lambda x: kernel.denoise(vars, obs, x, k), x)
        clean = jax.lax.optimization_barrier(clean)
        (slope,) = back(weight[..., None] * (target - clean))
        sigma, exact = numbers(table, k)
        return jnp.where(free, clean, clean + jnp.minimum(limit[..., None, None] * sigma, exact) * slope)

    return kernel._replace(denoise=denoise, step=step_of(denoise, advance))


def going_on(kernel: Kernel, target: Array, given: Array) -> Kernel:
    """The same Kernel for chunks whose first actions are ``given``: it makes the others as it has learned to (``Kernel.infill``).

    Args:
        target: [*B, H, A]; given: [*B, H] 1 where its action is kept, exactly.

    Raises:
        ValueError: the Kernel has not learned to.
    """
    if kernel.infill is None or kernel.advance is None:
        raise ValueError(f"going_on needs an actor that goes on from given actions, got {kernel.modules}")
    infill, kept = kernel.infill, given[..., None] > 0

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        clean = infill(vars, obs, jnp.where(kept, target, x), k, given)
        return jnp.where(kept, target, clean)

    return kernel._replace(denoise=denoise, step=step_of(denoise, kernel.advance))


def with_min_std(kernel: Kernel, least: float) -> Kernel:
    """The same Kernel with a standard deviation of at least ``least`` in every step, the last one too (2409.00588, section 5)."""

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, Array]:
        mean, std = kernel.step(vars, obs, x, k)
        return mean, jnp.maximum(std, least)

    return kernel._replace(step=step)
