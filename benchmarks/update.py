"""One update of every method over the floor of its matrix products (and one Adam step); and what drawing batches adds.

The floor runs the products of the update's own program, forward and backward, and ``optax.adam`` on the same tree; no
activation, no normalisation, no sampling, no batch. What is trained in every second update (``dacer``'s actor, ``rebrac``'s) counts in
each of the floor's, so that such a ratio may be below 1. On-policy methods: see on_policy.py.
``python benchmarks/update.py --only qc`` measures some methods alone.
"""

from __future__ import annotations

from typing import Any

import jax
from _methods import (
    SIZES,
    asked,
    configured,
    data_for,
    data_set,
    drawn,
    given_of,
    going_on,
    offline_run,
    on_policy,
    one_update,
    updating,
)
from _products import arrays, with_adam
from _timing import medians, tell

from qchunk.data.chunks import Dataset
from qchunk.drivers.common import init
from qchunk.seeds import one

COUNTS = {"3x128": 15, "4x512": 5}  # updates a dispatch
FIRST = ("bc", "bc (diffusion)", "qc-frozen", "qc-fql", "value-guided", "v-gps", "ifql", "iql", "rebrac", "rlpd", "dqc")
ASKED = {  # else 1.3
    **{f"{name} 4x512": 1.2 for name in FIRST},
    "qc 4x512": 1.15,
    **{f"{name} {size}": 2.0 for name in ("vpn", "muzero") for size in SIZES},
}


def repeat(fn, args, count: int):
    """``count`` rounds of (i, loop) -> loop in one dispatch."""
    run = jax.jit(lambda args: jax.lax.fori_loop(0, count, fn, args))
    return lambda: run(args)


def measure(title: str, build: Any, c: Any, data: Dataset, count: int, bound: float) -> None:
    """An update on one batch beside its floor, and the driver, which draws batches besides, beside that."""
    given = given_of(c)
    program, x = offline_run(build, c, data)
    state = one(init(program, x), 0)
    fixed, update = drawn(build, c, jax.random.key(3), data_for(c, data)), one_update(build, c)

    def one_batch(i, state):
        # what depends on the batch alone is not to leave the loop
        state, chunk = jax.lax.optimization_barrier((state, fixed))
        return update(state, given, jax.random.fold_in(jax.random.key(0), i), chunk)[0]

    products = updating(build, c)
    start, floor = with_adam(products, arrays(products))
    t = medians(
        7,
        floor=repeat(floor, start(state.params), count),
        update=repeat(one_batch, state, count),
        driver=going_on(build, c, data, count),
    )
    ms, least = t["update"] / count * 1e3, t["floor"] / count * 1e3
    tell(f"update {title}", ms=ms, floor_ms=least, ratio=ms / least, better="lower", asked=bound)
    tell(f"update with batch {title}", ratio=t["driver"] / t["update"], better="lower", asked=1.1)


def main() -> None:
    data = data_set()
    for size in SIZES:
        for name in asked():
            build, c = configured(name, SIZES[size])
            if not on_policy(c):
                title = f"{name} {size}"
                measure(title, build, c, data, COUNTS[size], ASKED.get(title, 1.3))


if __name__ == "__main__":
    main()
