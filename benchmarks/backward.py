"""Memory of an update whose gradient goes back through K denoising steps, beside one that takes a single step: 4 x 512, batch 256.

Temporaries of the compiled program; nothing is run.
"""

from __future__ import annotations

import jax
from _methods import SIZES, configured, data_for, data_set, drawn, one_update, shapes
from _timing import tell

THROUGH = ("dql", "fbrac", "qam", "bam")  # through the chain; qam by its adjoint, which keeps the path alone
STEPS = (5, 10, 20)


def temporaries(name: str, steps: int) -> float:
    """MiB of one update."""
    build, c = configured(name, SIZES["4x512"], steps)
    data = data_for(c, data_set(1002))
    chunk = jax.eval_shape(lambda key, data: drawn(build, c, key, data), jax.random.key(0), data)
    compiled = jax.jit(one_update(build, c)).lower(*shapes(build, c), jax.random.key(0), chunk).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    once = temporaries("edp", STEPS[0])
    for name in THROUGH:
        for steps in STEPS:
            mib = temporaries(name, steps)
            tell(f"backward {name}, K = {steps}", mib=mib, one_step_mib=once, ratio=mib / once, better="lower")


if __name__ == "__main__":
    main()
