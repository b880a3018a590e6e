"""A Gaussian prior and a quadratic value: samplers and guidance whose every moment is known in closed form.

Prior a ~ N(m, S) over chunks [1, D], Q(a) = -(a - g)^T M (a - g) / 2. No networks: the Kernel's clean estimate is the
posterior mean of a given x = alpha a + sigma eps, which is N(mean, spread) with C = alpha^2 S + sigma^2 I,
mean = m + alpha S C^-1 (x - alpha m), spread = S - alpha^2 S C^-1 S.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from qchunk.actors import paths
from qchunk.types import Array, Kernel, Vars


class Gaussian(NamedTuple):
    """Sizes: D actions of one step."""

    m: np.ndarray  # [D]
    S: np.ndarray  # [D, D]
    g: np.ndarray  # [D]
    M: np.ndarray  # [D, D]


SCALAR = Gaussian(np.asarray([0.3]), np.asarray([[0.5]]), np.asarray([1.5]), np.asarray([[1.0]]))


def correlated(dimensions: int, seed: int = 0) -> Gaussian:
    """Random means and correlated covariances."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, dimensions, dimensions))
    eye = np.eye(dimensions)
    m, g = rng.uniform(-1, 1, size=(2, dimensions))
    return Gaussian(m, 0.1 * a @ a.T + 0.2 * eye, g, 0.3 * b @ b.T + 0.5 * eye)


def tilted(p: Gaussian, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(a) exp(weight Q(a))."""
    spread = np.linalg.inv(np.linalg.inv(p.S) + weight * p.M)
    return spread @ (np.linalg.solve(p.S, p.m) + weight * p.M @ p.g), spread


def posterior(p: Gaussian, x: Array, level: Array) -> tuple[Array, Array]:
    """Mean [.., D] and covariance [D, D] of the clean chunk given x [.., 1, D]."""
    alpha, sigma = level
    gain = alpha * p.S @ jnp.linalg.inv(alpha**2 * p.S + sigma**2 * jnp.eye(len(p.m)))
    return p.m + (x[..., 0, :] - alpha * p.m) @ gain.T, p.S - alpha * gain @ p.S


def kernel(p: Gaussian, levels: np.ndarray, eta: float) -> Kernel:
    """The exact sampler of the prior along ``levels``, deterministic (eta = 0) or stochastic."""

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        return posterior(p, x, jnp.asarray(levels, jnp.float32)[k])[0][..., None, :]

    advance = functools.partial(paths.transition(levels), eta=eta)
    step = paths.step_of(denoise, advance)
    shape = (1, len(p.m))
    nothing = (lambda key, chunk: ()), (lambda vars, noise, chunk: jnp.zeros(()))
    return Kernel((), levels, lambda vars: shape, denoise, advance, step, eta > 0, *nothing)


def value(p: Gaussian, target: str, weight: float = 1.0):
    """score(vars, obs, x, level): what each of guidance's targets is here, up to a constant."""

    def quadratic(a: Array, M: Array) -> Array:
        return -0.5 * jnp.einsum("...i,ij,...j->...", a - p.g, M, a - p.g)

    def score(vars: Vars, obs, x: Array, level: Array) -> Array:
        mean, spread = posterior(p, x, level)
        if target == "clean":
            return quadratic(x[..., 0, :], p.M)
        if target == "mean":
            return quadratic(mean, p.M)
        inner = jnp.linalg.inv(jnp.eye(len(p.m)) + spread @ (weight * p.M))
        return quadratic(mean, p.M @ inner)

    return score
