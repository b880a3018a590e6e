"""Networks as accelerators like them, few large products, are those that CPUs like; and how products are rounded."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk import nets
from qchunk.actor_configs import FlowConfig
from qchunk.actors.flow import flow
from qchunk.actors.paths import decode
from qchunk.reporting import cost
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Spec, Vars

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


def test_sampling_may_round_more_than_learning(monkeypatch):
    """The products of the walk, and no others: those of an update keep theirs."""
    pi = flow(FlowConfig((8,), steps=2))
    params = {"actor": pi.modules[0].init(jax.random.key(0), Spec(3, 1, 2))}
    vars, obs = Vars(params, {}, {}, {}), jnp.ones(3)
    acting = lambda: cost.products(lambda vars: sample(pi).plan(vars, jnp.ones((2, 1)), obs, None).action, vars)  # noqa: E731
    learning = lambda: cost.products(lambda vars: decode(pi, vars, obs, jnp.ones((2, 1))), vars)  # noqa: E731
    before = learning()
    assert acting() == before and nets.sampling_precision() == nets.precision()
    monkeypatch.setenv(nets.SAMPLING, "bfloat16")
    (loop,) = acting()
    assert loop.times == 2 and all("BF16_BF16_F32" in str(p.precision) for p in loop.products), loop.products
    assert learning() == before
    monkeypatch.setenv(nets.SAMPLING, "float8")
    with pytest.raises(UserError, match="float8.*bfloat16"):
        acting()
