"""Seeds and the devices that they are spread over; the tests' process has two (conftest.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.seeds import for_each, mapped, over_seeds, spread


@pytest.mark.parametrize(("seeds", "devices"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_devices_take_equal_shares(seeds, devices):
    @jax.jit
    def run(state, more):
        return over_seeds(lambda state, more: {"x": state["x"] * more, "n": state["n"]}, state, shared=(more,))

    state = {"x": jnp.arange(2.0 * seeds).reshape(seeds, 2), "n": for_each(seeds, 7)}
    state, more = spread(seeds, (state, jnp.float32(3)))
    out = run(state, more)
    np.testing.assert_array_equal(out["x"], 3 * np.arange(2.0 * seeds).reshape(seeds, 2))
    np.testing.assert_array_equal(out["n"], np.full(seeds, 7))
    again = run(out, more)  # what comes out lies where what went in did
    assert run._cache_size() == 1
    for leaf in jax.tree.leaves((state, out, again)):
        assert len(leaf.sharding.device_set) == devices
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {seeds // devices}


@pytest.mark.parametrize(("seeds", "branches"), [(1, True), (2, False)])
def test_one_seed_on_an_accelerator_keeps_its_branches(seeds, branches, monkeypatch):
    """Where seeds are vmapped a condition on one's own values becomes a select of both branches: not so for one seed."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.linspace(-1.0, 1.0, seeds)

    def run(x):
        return mapped(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x), (x,))

    assert ("cond[" in str(jax.make_jaxpr(run)(x))) == branches
    np.testing.assert_allclose(run(x), jnp.where(x > 0, jnp.sin(x), jnp.cos(x)), rtol=1e-6)
