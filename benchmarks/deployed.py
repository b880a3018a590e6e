"""One call of a policy for one observation, at which a chunk is planned: in process, from an exported file's programs, and asked of a server over loopback.

Flows of ten steps and of one, and the best of 8 and of 32, each with a new plan at every call. Ratios are against the call in process.
Then what an exported flow saves whose plans end by chance (``random-k``, three steps on average), over one that plans at every call.
Last robots that ask a server at 50 Hz for a minute: openpi's own clients where QCHUNK_OPENPI names an interpreter with openpi-client, else ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _methods import SIZES, SPEC, configured
from _timing import tell, times

from qchunk.deploy.artefact import serialised
from qchunk.deploy.control import narrowed, programs_of
from qchunk.deploy.standalone import DeployedPolicy, Programs
from qchunk.play.execute import parse
from qchunk.types import view

try:
    from websockets.sync.client import connect

    from qchunk.deploy.server import PolicyServer
    from qchunk.deploy.wire import packed, unpacked
except ImportError as e:
    print(f"{e.name} is missing: pip install 'qchunk[deploy]'", file=sys.stderr)
    sys.exit(2)

POLICIES = {
    "flow, 10 steps": ("bc", 10, 1),
    "flow, 1 step": ("bc", 1, 1),
    "best of 8": ("qc", 10, 8),
    "best of 32": ("qc", 10, 32),
}
ABOUT: dict[str, Any] = {
    "obs": {"obs": [SPEC.obs, "float32"]},
    "action": SPEC.action,
    "steps": 1,
    "length": 1,
    "delay": 0,
}
REPEATS = {"3x128": 500, "4x512": 100}
ROBOTS = Path(__file__).with_name("_robots.py")


def policies(
    name: str, steps: int, n: int, size: str, execute: str = "receding:1"
) -> tuple[DeployedPolicy, DeployedPolicy]:
    """A policy with random weights, in process and by its serialised programs."""
    build, c = configured(name, SIZES[size]._replace(n=n), steps)
    algorithm, obs = build(c), jax.ShapeDtypeStruct((SPEC.obs,), jnp.float32)
    vars = view(jax.jit(lambda: algorithm.init(jax.random.key(0), SPEC, {}))(), {})
    scheme = parse(execute, SPEC.horizon).scheme(algorithm.act)
    made, weights = narrowed(programs_of(scheme, vars, obs), vars, obs)
    written = serialised(made, weights, obs, ["cpu"])
    again = Programs(*(jax.jit(jax.export.deserialize(bytearray(p)).call) for p in written))
    return DeployedPolicy(Programs(*map(jax.jit, made)), weights, ABOUT), DeployedPolicy(again, weights, ABOUT)


@contextlib.contextmanager
def served(policy: DeployedPolicy) -> Iterator[int]:
    """The port at which a server of the policy listens, in a thread of this process."""
    server, loop, ready = PolicyServer(policy, by_step=True), asyncio.new_event_loop(), threading.Event()
    server.warm()
    ports: list[int] = []

    async def serve(stop: asyncio.Event) -> None:
        async with server.running("127.0.0.1", 0) as listening:
            ports.append(listening.sockets[0].getsockname()[1])
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stop),))
    thread.start()
    ready.wait()
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def measure(title: str, size: str) -> None:
    """Calls of the three in turn."""
    own, exported = policies(*POLICIES[title], size)
    obs = np.random.default_rng(0).normal(size=SPEC.obs).astype(np.float32)
    request = packed({"obs": obs})
    with served(own) as port, connect(f"ws://127.0.0.1:{port}", compression=None) as robot:
        robot.recv()

        def ask() -> np.ndarray:
            robot.send(request)
            return unpacked(robot.recv())["actions"]

        t = times(REPEATS[size], own=lambda: own(obs), exported=lambda: exported(obs), served=ask)
    ms = {name: np.percentile(found, [50, 99]) * 1e3 for name, found in t.items()}
    for name in ("exported", "served"):
        p50, p99 = (float(x) for x in ms[name])
        own_p50, own_p99 = (float(x) for x in ms["own"])
        tell(
            f"{name} {title} {size}", p50_ms=p50, p99_ms=p99, own_p50_ms=own_p50, own_p99_ms=own_p99, ratio=p50 / own_p50, better="lower"
        )  # fmt: skip


def seldom(title: str, size: str, robots: int) -> None:
    """Mean calls of two exported policies in turn: one plans where a plan has ended, one always."""
    some, each = (policies(*POLICIES[title], size, execute)[1] for execute in ("random-k", "receding:1"))
    obs = np.random.default_rng(0).normal(size=(robots, SPEC.obs)).astype(np.float32)
    t = times(REPEATS[size], some=lambda: some(obs), each=lambda: each(obs))
    ms, always = (1e3 * float(np.mean(t[name])) for name in ("some", "each"))
    told = f"exported random-k over receding:1, {title} {size}, robots: {robots}"
    tell(told, mean_ms=ms, always_ms=always, ratio=ms / always, better="lower")


def robots(title: str, size: str, count: int = 8, hz: int = 50, seconds: int = 60) -> None:
    """Each answer is a new plan. Robots are in another process of the same cores; an answer that comes after the next was due is a deadline missed."""
    with served(policies(*POLICIES[title], size)[0]) as port:
        argv = map(str, (ROBOTS, port, count, hz, seconds, SPEC.obs))
        python = os.environ.get("QCHUNK_OPENPI", sys.executable)
        done = subprocess.run([python, *argv], capture_output=True, text=True, check=True)
    client, late = json.loads(done.stdout)
    period = 1e3 / hz
    told = {"answers": len(late), "missed": sum(ms > period for ms in late)}
    p50, p99, worst = (float(np.percentile(late, q)) for q in (50, 99, 100))
    name = f"{count} robots at {hz} Hz for {seconds} s, {title} {size}, clients of {client}"
    tell(name, **told, p50_ms=p50, p99_ms=p99, worst_ms=worst, ratio=worst / period, better="lower", asked=1.0)


if __name__ == "__main__":
    for size in SIZES:
        for title in POLICIES:
            measure(title, size)
        for count in (1, 4):
            seldom("flow, 10 steps", size, count)
    robots("best of 8", "3x128")
