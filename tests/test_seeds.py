"""Seeds and the devices that they are spread over; the tests' process has two (conftest.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.seeds import for_each, over_seeds, spread


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
