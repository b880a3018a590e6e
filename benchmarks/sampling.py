"""Best of N chunks of a flow by a critic, for a batch of observations, over the floor of the products: N x K x H."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from _methods import SPEC, Size, acting, configured, deciding
from _products import arrays, products
from _timing import medians, tell

from qchunk.types import view

OBSERVATIONS, WIDTHS, REPEATS = 64, (128,) * 3, 15
CANDIDATES, STEPS, HORIZONS = (4, 8, 32), (5, 10, 20), (1, 5, 10)  # N, K, H


def measure(n: int, steps: int, horizon: int) -> None:
    """One decision for all observations."""
    build, c = configured("qc", Size(WIDTHS, n), steps, horizon)
    algorithm, spec = build(c), SPEC._replace(horizon=horizon)
    vars = view(jax.jit(lambda: algorithm.init(jax.random.key(0), spec, {}))(), {})
    obs, key = jax.random.normal(jax.random.key(1), (OBSERVATIONS, spec.obs)), jax.random.key(2)
    decide, own = deciding(algorithm.act), acting(build, c, OBSERVATIONS, spec)
    sides, only = arrays(own), jax.jit(lambda sides, x: products(own, sides, x))
    zero = jnp.zeros(())  # made once: making it takes as long as a small floor
    t = medians(REPEATS, floor=lambda: only(sides, zero), sample=lambda: decide(vars, key, obs))
    tell(
        f"best of {n}, K={steps}, H={horizon}",
        ms=t["sample"] * 1e3,
        floor_ms=t["floor"] * 1e3,
        ratio=t["sample"] / t["floor"],
        better="lower",
    )


if __name__ == "__main__":
    for n, steps, horizon in itertools.product(CANDIDATES, STEPS, HORIZONS):
        measure(n, steps, horizon)
