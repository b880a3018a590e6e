"""Devices that share each update of one seed, over one device on the same cores: Q-chunking, 3 x 128, N = 8.

Eight simulated devices of one process, and two processes of one device each that talk over loopback. Rounds of both sides alternate,
the lone device's in the process, or the first of the processes, that has a part of the shared ones.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
from collections.abc import Callable

import jax
from _methods import SIZES, configured, data_set, going_on
from _timing import tell, times

from qchunk.seeds import Share, mesh
from qchunk.system import hosts

DEVICES, PROCESSES = 8, 2
UPDATES, ROUNDS = 50, 8
PART = "--part"  # before a process's number and the port that it meets the other at


def running(devices: int) -> Callable:
    """Goes on training one seed with every call, on so many devices."""
    return going_on(*configured("qc", SIZES["3x128"]), data_set(), UPDATES, devices=devices)


def compare(name: str, devices: int, asked: float) -> None:
    """Medians of rounds; several processes all come here, and the first tells."""
    shared = running(devices)
    if not hosts.first():
        times(ROUNDS, shared=shared)
        return
    t = {n: statistics.median(s) for n, s in times(ROUNDS, shared=shared, alone=running(1)).items()}
    ms = {f"{n}_ms": 1e3 * s / UPDATES for n, s in t.items()}
    tell(f"sharding qc 3x128-N8 {name}", **ms, ratio=t["shared"] / t["alone"], better="lower", asked=asked)


def in_processes() -> None:
    """Starts the processes, and waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = [a for a in sys.argv[1:] if a == "--json"]
    started = [subprocess.Popen([sys.executable, __file__, PART, str(i), port, *flags]) for i in range(PROCESSES)]
    if any([process.wait() for process in started]):
        sys.exit(1)


if __name__ == "__main__":
    if PART in sys.argv:
        me, port = sys.argv[sys.argv.index(PART) + 1 :][:2]
        jax.config.update("jax_num_cpu_devices", 1)
        hosts.join(hosts.HostFlags(f"127.0.0.1:{port}", PROCESSES, int(me)))
        hosts.meet(mesh(1, Share(PROCESSES)))
        compare(f"{PROCESSES} processes", PROCESSES, 1.15)
    else:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        compare(f"{DEVICES} devices", DEVICES, 1.1)
        in_processes()
