"""Networks as accelerators like them, few large products, are those that CPUs like; and how products are rounded."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk import nets

MLP = nets.MLP((16, 16), (3,), layer_norm=True)
SIZES = 5, 4, 1


@pytest.fixture
def inputs():
    """An observation that N = 2 candidates share, the candidates, and one number for all."""
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(k, shape) for k, shape in zip(keys, ((7, 1, 5), (7, 2, 4), (1,)), strict=True))


def products(fn, *args) -> int:
    return str(jax.make_jaxpr(lambda *a: fn(*a))(*args)).count(
        "dot_general"
    )  # a new function: a known one is not traced again


def test_large_products_are_the_small_ones_joined(inputs, monkeypatch):
    params = nets.init_ensemble(MLP, 2, jax.random.key(1), *SIZES)

    def found(params, *parts):
        return nets.apply_ensemble(MLP, params, *parts)

    def slope(params):
        return jax.grad(lambda p: jnp.sum(jnp.square(found(p, *inputs))))(params)

    values, gradient, small = found(params, *inputs), slope(params), products(found, params, *inputs)
    monkeypatch.setattr(nets, "large_products", lambda: True)
    assert values.shape == (2, 7, 2, 3)
    np.testing.assert_allclose(found(params, *inputs), values, rtol=2e-5, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), slope(params), gradient)
    # members: one product for both; first layer: one for two inputs of more than one number
    assert (small, products(found, params, *inputs)) == (2 * (2 + 1 + 1), 1 + 1 + 1)


def test_products_are_in_float32_unless_the_user_says_otherwise():
    net, x = nn.Dense(4), jnp.ones(3)
    params = net.init(jax.random.key(0), x)["params"]

    def run(params):
        return nets.apply(net, params, x)

    assert nets.precision() == "highest" and "HIGHEST" in str(jax.make_jaxpr(run)(params))
    with jax.default_matmul_precision("tensorfloat32"):
        assert nets.precision() == "tensorfloat32"
        told = str(jax.make_jaxpr(run)(params))
    assert "HIGHEST" not in told and ("HIGH" in told or "TF32" in told)
