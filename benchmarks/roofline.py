"""An update of Q-chunking at the paper's sizes on paper: FLOPs and bytes of its compiled program; where a GPU is, its time over that.

4 x 512, N = 32, K = 10, batch 256, 37 numbers of observation, chunks of 5 actions of 5 numbers. A floor is the longer one of two: all FLOPs at
the card's rate, all bytes at its memory's. FLOPs and bytes are those that XLA counts in the program that it compiled for this machine, with
networks as accelerators have them and loops unrolled, of which it would count one round. What a GPU keeps in its caches needs no bytes, so that
a measured time may be below the floor of its bytes.
"""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import jax
from _accelerator import ASKED, ROUNDINGS, SMOKE, Card, card, on_cpu, rounded
from _methods import Size, configured, data_set, drawn, going_on, one_update, shapes, updating
from _timing import medians, tell

from qchunk import improve, nets
from qchunk.reporting import cost

TITLE, SIZE, STEPS, COUNT, REPEATS = (
    ("qc tiny", Size((16,), 2), 2, 2, 1) if SMOKE else ("qc 4x512", Size((512,) * 4, 32), 10, 50, 7)
)


def counted(build: Any, c: Any) -> tuple[float, float]:
    """(FLOPs, bytes) of an update on one batch; nothing is computed."""
    key, data = jax.random.key(0), data_set(1002)
    chunk = jax.eval_shape(lambda key, data: drawn(build, c, key, data), key, data)
    unrolled = mock.patch.object(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True))
    large = mock.patch.object(nets, "large_products", lambda: True)
    at_once = mock.patch.object(improve, "CPU_ROWS", improve.DEVICE_ROWS)  # candidates that are looked at together
    with unrolled, large, at_once:
        compiled = jax.jit(one_update(build, c)).lower(*shapes(build, c), key, chunk).compile()
    found = compiled.cost_analysis() or {}
    return found["flops"], found["bytes accessed"]


def floors(flops: float, moved: float, against: Card) -> dict[str, float]:
    """Milliseconds at each precision of products."""
    rates = {name: getattr(against, name) for name in ("float32", "tensorfloat32", "bfloat16")}
    return {name: 1e3 * max(flops / rate, moved / against.memory) for name, rate in rates.items()}


def measured(build: Any, c: Any) -> float:
    """Milliseconds of an update of the driver, batch and all."""
    return medians(REPEATS, update=going_on(build, c, data_set(), COUNT))["update"] / COUNT * 1e3


def main() -> None:
    build, c = configured("qc", SIZE, steps=STEPS)
    name, against = card()
    flops, moved = counted(build, c)
    floor = floors(flops, moved, against)
    tell(
        f"{TITLE} on paper",
        card=name,
        gflop=flops / 1e9,
        gbyte=moved / 1e9,
        **{f"ms_{k}": ms for k, ms in floor.items()},
        ratio=flops / (2 * cost.count(updating(build, c))),
        better="lower",
    )
    if on_cpu() and not SMOKE:
        return
    for rounding in ASKED:
        products = ROUNDINGS[rounding][0]
        with rounded(rounding):
            ms = measured(build, c)
        least = floor["float32" if products == "highest" else products]  # of sampling in bfloat16, too: it learns so
        tell(f"{TITLE}, {rounding}", ms=ms, floor_ms=least, card=name, ratio=ms / least, better="lower")


if __name__ == "__main__":
    main()
