"""Trust regions of Gaussians: parity with published layers, bounds that hold, gradients through the projection (tests/golden/README.md)."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parity import load

from qchunk.trust_region import (
    PROJECTIONS,
    Normal,
    entropy,
    entropy_of_std,
    kl_parts,
    project_kl,
    project_w2,
    w2_parts,
    with_entropy,
)

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
D = 4


@pytest.fixture
def golden():
    """The published arrays; they are of float64, and so are our functions on them."""
    with jax.enable_x64(True):
        g = {k.removesuffix("_f64"): v for k, v in load("trust_region").items()}
        yield g


def pair(g, kind="sqrt"):
    mean, old = (jnp.asarray(g[f"{n}mean"]) for n in ("", "old_"))
    return Normal(mean, jnp.asarray(g[kind])), Normal(old, jnp.asarray(g[f"old_{kind}"]))


@pytest.mark.parametrize("case", ["scaled_eps.03_.001", "unscaled_eps.03_.001", "scaled_eps.005_.0005"])
def test_wasserstein(golden, case):
    g = {k.removeprefix(f"w2_{case}/"): v for k, v in golden.items() if k.startswith(f"w2_{case}/")}
    (new, old), scaled, bounds = pair(golden), case.startswith("scaled"), g["eps"].astype(np.float64)
    found = project_w2(new, old, *bounds, scaled=scaled)
    for when, one in (("before", new), ("after", found)):
        mean_part, cov_part = w2_parts(one, old, scaled)
        np.testing.assert_allclose(mean_part, g[f"mean_part_{when}"], **CLOSE)
        np.testing.assert_allclose(cov_part, g[f"cov_part_{when}"], **CLOSE)
    np.testing.assert_allclose(found.mean, g["proj_mean"], **CLOSE)
    np.testing.assert_allclose(found.root, g["proj_sqrt"], **CLOSE)
    np.testing.assert_array_equal(found.root[4], new.root[4])  # inside: as it was


@pytest.mark.parametrize("kind", ["sqrt", "chol"])
@pytest.mark.parametrize(("mean_bound", "cov_bound"), [(0.03, 0.001), (0.005, 0.0005)])
def test_kl(golden, kind, mean_bound, cov_bound):
    new, old = pair(golden, kind)
    mean_part, cov_part = kl_parts(new, old)
    np.testing.assert_allclose(mean_part, golden["kl/mean_part"], **CLOSE)
    np.testing.assert_allclose(cov_part, golden["kl/cov_part"], **CLOSE)
    np.testing.assert_allclose(cov_part, golden["kl_formula/cov_part_before"], **CLOSE)
    found = project_kl(new, old, mean_bound, cov_bound)
    np.testing.assert_allclose(found.mean, golden[f"kl/proj_mean_eps{mean_bound}"], **CLOSE)
    after = kl_parts(found, old)
    np.testing.assert_allclose(after[0], golden[f"kl/mean_part_after_eps{mean_bound}"], **CLOSE)
    np.testing.assert_allclose(after[1], golden[f"kl_formula/cov_part_after_eps{cov_bound}"], **CLOSE)
    cov = found.root @ jnp.swapaxes(found.root, -1, -2)
    np.testing.assert_allclose(cov, golden[f"kl_formula/proj_cov_eps{cov_bound}"], **CLOSE)
    eta = golden[f"kl_formula/eta_eps{cov_bound}"][:, None, None]  # the formula's own precisions
    precision = (eta * np.linalg.inv(covariance(old)) + np.linalg.inv(covariance(new))) / (1 + eta)
    np.testing.assert_allclose(np.linalg.inv(cov), precision, rtol=1e-5, atol=1e-5)


def covariance(g):
    return np.asarray(g.root @ jnp.swapaxes(g.root, -1, -2))


@pytest.mark.parametrize("kind", ["sqrt", "chol"])
def test_entropy(golden, kind):
    root, floor = jnp.asarray(golden[kind]), golden["entropy/beta"]
    np.testing.assert_allclose(entropy(root), golden["entropy/before"], **CLOSE)
    kept, after = with_entropy(root, floor), {"sqrt": "ineq", "chol": "ineq_chol"}[kind]
    np.testing.assert_allclose(kept, golden[f"entropy/ineq_{kind}"], **CLOSE)
    np.testing.assert_allclose(entropy(kept), golden[f"entropy/{after}_entropy_after"], **CLOSE)
    if kind == "sqrt":
        np.testing.assert_allclose(with_entropy(root, floor, True), golden["entropy/eq_sqrt"], **CLOSE)


def drawn(seed, spread, apart, lead=()):
    """Two Gaussians by Cholesky factors, the second further from the first the larger ``apart`` is."""
    rng = np.random.default_rng(seed)

    def factor(move):
        lower = np.tril(rng.normal(size=(*lead, D, D)) * 0.3 * move, -1)
        return lower + np.eye(D) * np.exp(rng.normal(size=(*lead, 1, D)) * 0.3 * move)

    old = Normal(rng.normal(size=(*lead, D)), spread * factor(1.0))
    new = Normal(old.mean + spread * apart * rng.normal(size=(*lead, D)), old.root @ factor(apart))
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (new, old))


PARTS = {"w2": w2_parts, "w2-unscaled": lambda new, old: w2_parts(new, old, False), "kl": kl_parts}
PROJECTED = {name: jax.jit(PROJECTIONS[name]) for name in PARTS}


@pytest.mark.parametrize("kind", list(PARTS))
@given(
    seed=st.integers(0, 2**31),
    spread=st.floats(0.05, 3.0),
    apart=st.floats(0.0, 2.0),
    bounds=st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)),
)
@settings(max_examples=40, deadline=None)
def test_bounds_hold_in_32_bits(kind, seed, spread, apart, bounds):
    """And what lies inside already is not moved, and all that is projected lies on its bound."""
    new, old = drawn(seed, spread, apart)
    found = PROJECTED[kind](new, old, *bounds)
    for before, after, bound in zip(PARTS[kind](new, old), PARTS[kind](found, old), bounds, strict=True):
        assert after <= bound * (1 + 1e-3) + 2e-5
        np.testing.assert_allclose(after, jnp.minimum(before, bound), rtol=1e-3, atol=3e-5)
    assert (jnp.diagonal(found.root) > 0).all()
    np.testing.assert_array_equal(jnp.triu(found.root, 1), 0)  # a Cholesky factor stays one


def test_cholesky_factors_bound_the_distance_of_covariances():
    """The Wasserstein distance itself, by roots of matrices: at most the distance of the factors, so the region holds."""
    (new, old) = drawn(1, 0.5, 1.0)
    found = project_w2(new, old, 0.01, 0.02, scaled=False)
    root_of = lambda m: (lambda w, v: (v * np.sqrt(w)) @ v.T)(*np.linalg.eigh(m))  # noqa: E731
    a, b = covariance(found), covariance(old)
    distance = np.trace(a + b - 2 * root_of(root_of(b) @ a @ root_of(b)))
    assert 0 < distance <= 0.02 + 1e-6


@pytest.mark.parametrize("kind", list(PARTS))
def test_gradients_through_the_projection(kind):
    """Against differences, on the bounds and inside of them; none is NaN, not even where both Gaussians are one."""
    with jax.enable_x64(True):
        new, old = jax.tree.map(lambda x: x.astype(jnp.float64), drawn(2, 0.5, 0.5))
        weight = jnp.asarray(np.random.default_rng(3).normal(size=(D, D)))

        def number(moved, bounds):
            found = PROJECTIONS[kind](moved, old, *bounds)
            return jnp.sum(weight[0] * found.mean) + jnp.sum(weight * found.root)

        for bounds in ((0.01, 0.005), (100.0, 0.005), (100.0, 100.0)):
            slope = jax.grad(number)(new, bounds)
            way = Normal(weight[1], jnp.tril(weight))
            along = lambda h, b=bounds: number(jax.tree.map(lambda x, w: x + h * w, new, way), b)  # noqa: E731
            wanted = (along(1e-5) - along(-1e-5)) / 2e-5
            found = sum(jax.tree.leaves(jax.tree.map(lambda g, w: jnp.sum(g * w), slope, way)))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
        same = jax.grad(number)(old, (0.01, 0.005))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(same))


def test_parts_and_entropy_against_distrax():
    new, old = drawn(4, 0.7, 0.5)
    p, q = (distrax.MultivariateNormalTri(g.mean, g.root) for g in (new, old))
    np.testing.assert_allclose(sum(kl_parts(new, old)), p.kl_divergence(q), rtol=1e-4)
    np.testing.assert_allclose(entropy(new.root), p.entropy(), rtol=1e-5)
    np.testing.assert_allclose(entropy_of_std(0.3, D), distrax.Normal(0.0, 0.3).entropy() * D, rtol=1e-5)
