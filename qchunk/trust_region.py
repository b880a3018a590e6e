"""Trust regions of Gaussians: a new one projected into a region around an old one, and its entropy kept (2101.09207).

Pure functions of a mean and of a root of the covariance: any matrix R with R R^T the covariance. Both Gaussians of a call have
the same kind of root, the symmetric one or the Cholesky factor. Everything is differentiable, also on a bound. D numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.config import config
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, Range
from qchunk.schedules import linear, scheduled
from qchunk.target_networks import target_view
from qchunk.types import Algorithm, Array, PyTree, Vars

FLOOR = "entropy_floor"  # of ``Vars.stats``: nats for each number
HALVINGS = 60  # of the interval that a bisection searches
RANGE = (-12.0, 20.0)  # logarithms of the multipliers that it searches


class Normal(NamedTuple):
    """A Gaussian. Leading axes of mean and root broadcast."""

    mean: Array  # [*B, D]
    root: Array  # [*B, D, D]


NormalFn = Callable[[Vars, PyTree], Normal]
"""(vars, obs [*B, O]) -> Normal."""

Projection = Callable[[Normal, Normal, Any, Any], Normal]
"""(new, old, bound of the mean's part, bound of the covariance's part) -> the Gaussian nearest to the new one inside both."""


def w2_parts(new: Normal, old: Normal, scaled: bool = True) -> tuple[Array, Array]:
    """The squared Wasserstein distance of two Gaussians whose covariances commute, in its parts of means and roots ([*B] each).

    |mean - mean_old|^2 and |root - root_old|^2 (of all entries), or both ``scaled`` by root_old^-1 (2101.09207, section 4). Where
    covariances do not commute, or roots are Cholesky factors, the second is an upper bound of the unscaled distance of covariances.
    """
    away, apart = new.mean - old.mean, new.root - old.root
    if scaled:
        away, apart = _solved(old.root, away[..., None])[..., 0], _solved(old.root, apart)
    return jnp.sum(jnp.square(away), axis=-1), jnp.sum(jnp.square(apart), axis=(-2, -1))


def kl_parts(new: Normal, old: Normal) -> tuple[Array, Array]:
    """KL(new || old) in its parts: half the squared Mahalanobis distance of the means, and what the covariances add ([*B] each)."""
    away = _solved(old.root, (new.mean - old.mean)[..., None])[..., 0]
    relative = _solved(old.root, new.root)
    excess = jnp.sum(jnp.square(relative), axis=(-2, -1)) - relative.shape[-1]
    return 0.5 * jnp.sum(jnp.square(away), axis=-1), 0.5 * excess - jnp.linalg.slogdet(relative)[1]


def project_w2(new: Normal, old: Normal, mean_bound: Any, root_bound: Any, scaled: bool = True) -> Normal:
    """Projection by ``w2_parts``, in closed form: mean and root move straight towards the old ones (2101.09207, section 4)."""
    mean_part, root_part = w2_parts(new, old, scaled)
    mean = _drawn(new.mean, old.mean, mean_part[..., None], mean_bound)
    return Normal(mean, _drawn(new.root, old.root, root_part[..., None, None], root_bound))


def project_kl(new: Normal, old: Normal, mean_bound: Any, cov_bound: Any) -> Normal:
    """Projection by ``kl_parts``; its root is a Cholesky factor (2101.09207, section 4).

    The precision becomes (eta old + new) / (1 + eta) with the multiplier eta >= 0 that meets the bound. It is found by bisection;
    its gradient is that of the equation that it solves, by one step of Newton's rule there.
    """
    mean_part, cov_part = kl_parts(new, old)
    relative = _solved(old.root, new.root)
    variance = _times(relative, _turned(relative))  # of the new one where the old one has 1, [*B, D, D]
    outside = cov_part > cov_bound
    eye = jnp.eye(variance.shape[-1], dtype=variance.dtype)
    safe = jnp.where(outside[..., None, None], variance, 4.0 * eye)  # gradients of what is not chosen stay finite
    eta = _multiplier(1.0 / jnp.linalg.eigvalsh(safe), jnp.where(outside, cov_bound, 0.1))[..., None, None]
    inside = (1.0 + eta) * jnp.linalg.solve(eye + eta * safe, safe)
    cov = _times(_times(old.root, 0.5 * (inside + _turned(inside))), _turned(old.root))
    kept = jnp.where(outside[..., None, None], cov, _times(new.root, _turned(new.root)))
    return Normal(_drawn(new.mean, old.mean, mean_part[..., None], mean_bound), jnp.linalg.cholesky(kept))


def unbounded(new: Normal, old: Normal, mean_bound: Any, root_bound: Any) -> Normal:
    """No projection."""
    del old, mean_bound, root_bound
    return new


PROJECTIONS: dict[str, Projection] = {
    "w2": project_w2,
    "w2-unscaled": functools.partial(project_w2, scaled=False),
    "kl": project_kl,
    "none": unbounded,
}


def entropy(root: Array) -> Array:
    """Differential entropy in nats [*B], of a root [*B, D, D]."""
    return 0.5 * root.shape[-1] * np.log(2 * np.pi * np.e) + jnp.linalg.slogdet(root)[1]


def with_entropy(root: Array, floor: Any, exactly: bool = False) -> Array:
    """The root [*B, D, D], widened alike in all directions where its entropy lies below ``floor`` nats (2101.09207, section 4).

    Args:
        floor: beta, [*B] or a number.
        exactly: also narrowed where it lies above.
    """
    lacking = floor - entropy(root)
    if not exactly:
        lacking = jnp.maximum(lacking, 0.0)
    return root * jnp.exp(lacking / root.shape[-1])[..., None, None]


def entropy_of_std(std: Any, numbers: int) -> Array:
    """The entropy in nats of so many independent numbers, each of this standard deviation."""
    return numbers * (0.5 * np.log(2 * np.pi * np.e) + jnp.log(std))


@config
class TrustRegionConfig:
    """How near a Gaussian stays to its moving average, and how random (2410.09536; bounds of its box pushing)."""

    distance: Literal["w2", "w2-unscaled", "kl", "none"] = "w2"
    """Wasserstein, in units of the average's deviations or of actions; or Kullback and Leibler's divergence; or no region."""
    mean: PositiveFloat = 0.05
    """Bound of the mean's part of the distance, for each observation."""
    cov: PositiveFloat = 0.0005
    """Bound of the covariance's part."""
    follow: Annotated[float, Range(above=0, high=1)] = 0.005
    """Rate of the moving average, in (0, 1]."""
    regress: NonNegativeFloat = 1.0
    """Weight of the divergence of the Gaussian from its own projection."""
    floor: Annotated[float, Range(above=0, high=1)] = 0.05
    """The least entropy is that of independent numbers of this standard deviation, in units of action ..."""
    floor_updates: NonNegativeInt = 0
    """... after so many updates, from the entropy at first; 0: at once."""


def trusted(gaussian: NormalFn, c: TrustRegionConfig) -> NormalFn:
    """The same Gaussian, projected into the region around its target network's (the old policy); entropy at least as ``Vars.stats[FLOOR]`` says.

    The floor comes last and may lead out of the region. Gradients do not reach the old policy.
    """

    def found(vars: Vars, obs: PyTree) -> Normal:
        old = jax.lax.stop_gradient(gaussian(target_view(vars), obs))
        near = PROJECTIONS[c.distance](gaussian(vars, obs), old, c.mean, c.cov)
        return near._replace(root=with_entropy(near.root, vars.stats[FLOOR] * near.root.shape[-1]))

    return found


def with_floor(algorithm: Algorithm, c: TrustRegionConfig, std: Any) -> Algorithm:
    """The same algorithm with the floor that ``trusted`` reads: it falls linearly in entropy, from that of ``std``."""
    start, end = (entropy_of_std(x, 1) for x in (std, c.floor))
    return scheduled(algorithm, FLOOR, linear(start, end, c.floor_updates))


def _drawn(new: Array, old: Array, part: Array, bound: Any) -> Array:
    """(new + w old) / (1 + w) with w = sqrt(part / bound) - 1 where ``part``, a squared distance, is over its bound."""
    outside = part > bound
    share = jnp.sqrt(bound / jnp.where(outside, part, bound))
    return jnp.where(outside, old + share * (new - old), new)


def _multiplier(precision: Array, bound: Array) -> Array:
    """eta [*B], at which precisions (eta + p) / (1 + eta) of p [*B, D] are ``bound`` [*B] nats from those of 1."""

    def over(log_eta: Array, p: Array, bound: Array) -> Array:
        eta = jnp.exp(log_eta)[..., None]
        excess = (1.0 - p) / (eta + p)
        return 0.5 * jnp.sum(excess - jnp.log1p(excess), axis=-1) - bound

    fixed, aim = jax.lax.stop_gradient((precision, jnp.broadcast_to(bound, precision.shape[:-1])))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        far = over(middle, fixed, aim) > 0
        return jnp.where(far, middle, low), jnp.where(far, high, middle)

    ends = tuple(jnp.full_like(aim, end) for end in RANGE)
    found = jax.lax.stop_gradient(sum(jax.lax.fori_loop(0, HALVINGS, halve, ends)) / 2)
    slope = jax.grad(lambda at: jnp.sum(over(at, fixed, aim)))(found)
    # the value is 0 here, and its gradient that of the implicit function
    return jnp.exp(found - (over(found, precision, bound) - over(found, fixed, aim)) / slope)


def _solved(root: Array, x: Array) -> Array:
    """root^-1 x, for x [*B, D, n]; a root that all share is factored once."""
    if root.ndim == 2:
        moved = jnp.moveaxis(x, -2, 0)
        found = jnp.linalg.solve(root, moved.reshape(root.shape[0], -1)).reshape(moved.shape)
        return jnp.moveaxis(found, 0, -2)
    lead = jnp.broadcast_shapes(root.shape[:-2], x.shape[:-2])
    return jnp.linalg.solve(*(jnp.broadcast_to(m, (*lead, *m.shape[-2:])) for m in (root, x)))


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _turned(m: Array) -> Array:
    return jnp.swapaxes(m, -2, -1)
