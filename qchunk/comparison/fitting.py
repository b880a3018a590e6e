"""How many lanes of a program this machine holds: an estimate by what is kept of each."""

from __future__ import annotations

import jax

from qchunk.play.on_host import SLOTS
from qchunk.runs.opened import Opened, bytes_of
from qchunk.system import memory

COPIES = 4  # of what is kept of a lane, while a block runs and while it is saved: before, after, gradients, on its way to disk
SHARE = 0.5  # of the memory; the rest is for activations, and for whoever else is there


def available() -> int:
    """Bytes of memory of the devices that programs run on; of a CPU that of the machine."""
    found = [d.memory_stats() or {} for d in jax.local_devices()]
    limits = [stats.get("bytes_limit", 0) for stats in found]
    return sum(limits) if all(limits) else memory.installed()


def of_lane(p: Opened) -> int:
    """Bytes that are kept of one lane of a run: its learner, what it stands on, its environments and replay."""
    kept = sum(bytes_of(p)) + memory.of_arrays(jax.tree.leaves(p.inputs.given))
    return -(-kept // p.settings.seeds)


def most_lanes(p: Opened, held: int | None = None) -> int:
    """Lanes of one program: as many as fit beside the data, and no more than host environments are kept open.

    Args:
        held: bytes of memory; by default those that are there.
    """
    held = available() if held is None else held
    there = [a for a in jax.tree.leaves(p.inputs.data) if isinstance(a, jax.Array)]  # others stay on disk
    data = memory.of_arrays(there) * (1 if p.program.on_host else jax.local_device_count())
    fit = int(max(SHARE * held - data, 0) // (COPIES * of_lane(p)))
    return max(1, min(fit, SLOTS) if p.program.on_host else fit)
