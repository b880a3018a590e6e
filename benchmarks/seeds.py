"""S seeds in one program over S runs one after another: Q-chunking, 3 x 128, N = 8, runs of a minute (on 2 cores).

Both are cut into as many rounds, which alternate, so that other work on the machine meets both alike. Compiling is in
neither: S runs in processes of their own would compile S times. Seeds are spread over the cores.
"""

from __future__ import annotations

import functools
import statistics
from unittest import mock

import jax
from _methods import SIZES, configured, data_set, going_on
from _timing import tell, times

from qchunk import seeds as mapping
from qchunk.system.processes import cores

SEEDS, ROUNDS = (1, 2, 4, 8), 8
UPDATES = 400  # of all seeds together in one round: with 8 rounds a minute at 20 ms each
OTHER_ROUNDS = 2  # of the mapping that is not chosen here
jax.config.update("jax_num_cpu_devices", cores())
DATA = data_set()
BUILD, C = configured("qc", SIZES["3x128"])


def mapped_otherwise(seeds: int, count: int):
    """The same with the mapping that is not chosen: vmapped on a CPU, in turn elsewhere."""
    on_cpu = jax.default_backend() == "cpu"
    other = lambda fn, batched: jax.vmap(fn)(*batched) if on_cpu else jax.lax.map(lambda args: fn(*args), batched)  # noqa: E731
    run = going_on(functools.partial(BUILD), C, DATA, count, seeds)  # another function to jit
    with mock.patch.object(mapping, "mapped", other):
        run()
    return run


def compare(seeds: int) -> None:
    """Seconds are of the whole run; ``ratio`` is of the medians of its rounds."""
    count = UPDATES // seeds
    each = [going_on(BUILD, C, DATA, count, 1, first) for first in range(seeds)]
    t = times(ROUNDS, together=going_on(BUILD, C, DATA, count, seeds), apart=lambda: [go_on() for go_on in each])
    together, apart = statistics.median(t["together"]), statistics.median(t["apart"])
    rounds = [a / b for a, b in zip(t["together"], t["apart"], strict=True)]
    more = {}
    if seeds > 1:
        other = statistics.median(times(OTHER_ROUNDS, other=mapped_otherwise(seeds, count))["other"])
        more = {"vmap_over_map" if jax.default_backend() == "cpu" else "map_over_vmap": other / together}
    tell(
        f"seeds qc 3x128-N8 S={seeds}",
        seconds=sum(t["together"]),
        apart_seconds=sum(t["apart"]),
        updates_per_second=UPDATES / together,
        lowest_round=min(rounds),
        highest_round=max(rounds),
        **more,
        ratio=together / apart,
        better="lower",
        asked=1.1,
    )


if __name__ == "__main__":
    for seeds in SEEDS:
        compare(seeds)
