"""What benchmarks of a GPU share: that there is one, what a card can do on paper, and how products may be rounded."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax

from qchunk import nets

SMOKE = "--smoke" in sys.argv  # the same code at tiny sizes, on a CPU, too


class Card(NamedTuple):
    """What a card's data sheet says, of dense products."""

    float32: float  # FLOP/s without tensor cores
    tensorfloat32: float  # FLOP/s
    bfloat16: float  # FLOP/s
    memory: float  # bytes/s


PAPER = "NVIDIA H100"  # every other card is held against it
CARDS = {PAPER: Card(67e12, 495e12, 990e12, 3.35e12), "NVIDIA H200": Card(67e12, 495e12, 990e12, 4.8e12)}
ROUNDINGS = {  # name -> (precision of all products, of those that sample, where it is another)
    "float32": ("highest", ""),
    "tensorfloat32": ("tensorfloat32", ""),
    "float32, sampling bfloat16": ("highest", "bfloat16"),
    "tensorfloat32, sampling bfloat16": ("tensorfloat32", "bfloat16"),
}
ASKED = list(ROUNDINGS)[: 2 if SMOKE else None]


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def needed() -> None:
    """Ends the benchmark where there is no accelerator, but for a smoke run.

    Raises:
        SystemExit: with 2; ``qchunk bench`` says that it was left out.
    """
    if on_cpu() and not SMOKE:
        print("it needs a GPU, and jax finds none: pip install -c constraints.txt -e '.[cuda12]'", file=sys.stderr)
        sys.exit(2)


def card() -> tuple[str, Card]:
    """The card that this one is held against."""
    kind = jax.devices()[0].device_kind
    name = next((name for name in CARDS if kind.startswith(name)), PAPER)
    return name, CARDS[name]


@contextlib.contextmanager
def rounded(name: str) -> Iterator[None]:
    """Programs that are traced within it round so. What was compiled before is forgotten: jit does not know of the variable."""
    products, sampling = ROUNDINGS[name]
    jax.clear_caches()
    before = os.environ.pop(nets.SAMPLING, None)
    if sampling:
        os.environ[nets.SAMPLING] = sampling
    try:
        with jax.default_matmul_precision(products):
            yield
    finally:
        os.environ.pop(nets.SAMPLING, None)
        if before is not None:
            os.environ[nets.SAMPLING] = before
        jax.clear_caches()
