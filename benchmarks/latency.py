"""One decision for one observation of every method: p50 and p99, and p50 over the floor of its matrix products.

``python benchmarks/latency.py --only qc`` measures some methods alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from _accelerator import SMOKE
from _methods import METHODS, SIZES, Size, acting, asked, configured, deciding, given_of, spec_of
from _products import arrays, products
from _timing import tell, times

from qchunk.types import view

REPEATS = {"tiny": 2} if SMOKE else {"3x128": 1000, "4x512": 200}
ASKED = {"tiny": {}, "3x128": {}, "4x512": {**dict.fromkeys(METHODS, 1.3), "qc": 1.4}}


def measure(name: str, size: str) -> None:
    """Calls of the actor and of its floor in turn."""
    build, c = configured(name, Size((16,), 2) if SMOKE else SIZES[size])
    given, algorithm = given_of(c), build(c)
    vars = view(jax.jit(lambda: algorithm.init(jax.random.key(0), spec_of(c), given))(), given)
    obs = jax.tree.map(lambda n: jax.random.normal(jax.random.key(4), (1, n)), spec_of(c).obs)
    key, decide = jax.random.key(5), deciding(algorithm.act)
    own = acting(build, c, 1)
    sides, only = arrays(own), jax.jit(lambda sides, x: products(own, sides, x))
    zero = jnp.zeros(())  # made once: making it takes as long as a small floor
    t = times(REPEATS[size], floor=lambda: only(sides, zero), act=lambda: decide(vars, key, obs))
    p50, p99 = np.percentile(t["act"], [50, 99]) * 1e3
    floor = float(np.median(t["floor"])) * 1e3
    tell(
        f"act {name} {size}",
        p50_ms=float(p50),
        p99_ms=float(p99),
        floor_ms=floor,
        ratio=float(p50) / floor,
        better="lower",
        asked=ASKED[size].get(name),
    )


if __name__ == "__main__":
    for name in asked():
        for size in REPEATS:
            measure(name, size)
