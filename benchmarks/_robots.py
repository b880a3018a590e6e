"""Robots that ask a server for actions, each in a thread: how late answers are, of openpi's own clients where its package is there.

A program of its own, for an interpreter that may lack qchunk: PORT ROBOTS HZ SECONDS OBSERVATION_SIZE. Prints JSON: whose clients they
are, and for every answer the milliseconds from when it was due to when it was there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

try:
    from openpi_client.websocket_client_policy import WebsocketClientPolicy as Client

    WHOSE = "openpi"
except ImportError:
    from websockets.sync.client import connect

    from qchunk.deploy.wire import packed, unpacked

    WHOSE = "qchunk"

    class Client:  # type: ignore[no-redef]
        def __init__(self, host: str, port: int):
            self.server = connect(f"ws://{host}:{port}", compression=None)
            self.server.recv()  # what the policy says about itself

        def infer(self, message: dict) -> dict:
            self.server.send(packed(message))
            return unpacked(self.server.recv())


def control(robot: Client, ready: threading.Barrier, seed: int, hz: int, seconds: int, size: int) -> list[float]:
    """A robot's milliseconds, at every step of ``seconds``; ``ready`` is when all of them have had an answer."""
    obs = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    robot.infer({"obs": obs, "period": 1 / hz})
    ready.wait()
    began, late = time.perf_counter(), []
    for step in range(seconds * hz):
        due = began + step / hz
        time.sleep(max(0.0, due - time.perf_counter()))
        robot.infer({"obs": obs})
        late.append(1e3 * (time.perf_counter() - due))
    return late


def main() -> None:
    port, count, hz, seconds, size = map(int, sys.argv[1:])
    robots, ready = [Client("127.0.0.1", port) for _ in range(count)], threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        found = pool.map(lambda i: control(robots[i], ready, i, hz, seconds, size), range(count))
        print(json.dumps([WHOSE, [ms for late in found for ms in late]]))


if __name__ == "__main__":
    main()
