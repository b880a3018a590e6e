"""Learning from a data set that stays on disk over learning from the same one in memory, in one process: updates per second.

The files are in the system's cache: what is measured is drawing, reading and carrying over, beside the updates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _timing import medians, tell

from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import CriticConfig
from qchunk.data import formats, npy_folder, on_disk
from qchunk.data.formats import Rows
from qchunk.drivers.common import assemble
from qchunk.drivers.offline import OfflineSettings, run
from qchunk.envs.held_out import make

ROWS, LENGTH, O, A = 250_000, 250, 37, 5
WIDTHS = (256,) * 3


def rows() -> Rows:
    """Episodes of noise."""
    noise, end = np.random.default_rng(0), np.arange(ROWS) % LENGTH == LENGTH - 1
    obs, action = noise.normal(size=(ROWS, O)), noise.uniform(-1, 1, (ROWS, A))
    reward, terminal = np.zeros(ROWS, np.float32), np.zeros(ROWS, bool)
    return Rows(obs.astype(np.float32), action.astype(np.float32), reward, terminal, end)


def going(data: Any, s: OfflineSettings) -> Any:
    """A function that makes the next ``log_every`` updates of a run."""
    c = QC(actor=FlowConfig(WIDTHS), critic=CriticConfig(WIDTHS), n=8)
    program, x = assemble(qc, c, make(f"{O},{A}"), s, data=data)
    events = run(program, x, s)
    next(events)  # compiled
    return lambda: jax.block_until_ready(next(events).learner.params)


if __name__ == "__main__":
    updates, repeats = 50, 3
    total = updates * (repeats + 2)
    s = OfflineSettings(offline_steps=total, log_every=updates, eval_every=total, checkpoint_every=total)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "set"
        npy_folder.write(there, [(rows(), "")], dict)
        found = npy_folder.mapped(there)[0]
        t = medians(repeats, memory=going(formats.to_device(found), s), disk=going(on_disk.of_rows(found), s))
        rate = {name: updates / seconds for name, seconds in t.items()}
        tell(
            "streaming qc 3x256, 250,000 rows of 37 + 5 numbers",
            updates_per_second=rate["disk"],
            memory_updates_per_second=rate["memory"],
            ratio=rate["disk"] / rate["memory"],
            better="higher",
            asked=0.8,
        )
