"""Environment steps per second of a pool with one worker, over as many environments stepped in turn without one (gymnasium alone,
in the interpreter that the worker runs in), by how many actions the worker is sent at once. Simulators that want an interpreter of their
own are measured where ``qchunk env setup`` has made one, others that are missing are left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from _timing import medians, tell

from qchunk import envs
from qchunk.envs.host.pool import HostEnv, Pool
from qchunk.system.errors import UserError

NAMES = (
    "ogbench/cube-single-play-singletask-task1-v0",
    "metaworld/drawer-open-v3",
    "robosuite/Lift",
    "gymnasium/FrankaKitchen-v1",
)
STEPS = 200  # of each slot, in a repeat
CHUNK = 5
ROOT = str(Path(__file__).resolve().parents[1])
# steps environments in turn, each as often as a line says, and answers when it has: nothing of ours is between
ALONE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
sys.path.append(sys.argv[2])
described = json.loads(sys.argv[1])
import gymnasium
for module in described["modules"]:
    importlib.import_module(module)
make = lambda: gymnasium.make(described["id"], disable_env_checker=True, **described["kwargs"])
envs = [make() for _ in range(described["slots"])]
box = envs[0].action_space
action = ((box.low + box.high) / 2).astype(box.dtype)
for line in sys.stdin:
    for i in range(int(line)):
        for env in envs:
            if i % described["length"] == 0:
                env.reset(seed=0)
            env.step(action)
    print("done", flush=True)
"""


class Alone:
    """A process that steps environments by gymnasium's own calls."""

    def __init__(self, env: HostEnv, slots: int, length: int):
        described = json.dumps({**env.description, "slots": slots, "length": length})
        command = [env.python or sys.executable, "-c", ALONE, described, ROOT]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]

    def step(self, steps: int) -> None:
        """Returns when they are done."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline().strip() != "done":
            raise RuntimeError("the environment alone cannot be stepped")


def compare(name: str, slots: int) -> None:
    """One step at a time, and ``CHUNK`` at once."""
    env = envs.make(name)
    length = min(STEPS, env.episode_length)
    pool, alone = Pool(env, slots, workers=1), Alone(env, slots, length)
    everywhere, seeds = np.ones(slots, bool), np.zeros(slots, np.int64)

    def by(at_once: int):
        def run() -> None:
            state = pool.nothing()
            for i in range(0, STEPS, at_once):
                if i % length == 0:
                    state = pool.begin(state, everywhere, seeds)
                state = pool.play(state, np.zeros((at_once, slots, env.action_size), np.float32), everywhere)[-1]

        return run

    t = medians(3, one=by(1), chunk=by(CHUNK), alone=lambda: alone.step(STEPS))
    alone.process.kill()
    env.close()
    pool.close()
    for label, seconds, bound in (
        ("one step at a time", t["one"], {}),
        (f"{CHUNK} at once", t["chunk"], {"asked": 0.9}),
    ):
        rates = {"steps_per_second": STEPS * slots / seconds, "alone": STEPS * slots / t["alone"]}
        ratio = t["alone"] / seconds
        tell(f"host steps {name}, {slots} slots, {label}", **rates, ratio=ratio, better="higher", **bound)


if __name__ == "__main__":
    for name in NAMES:
        for slots in (1, 8, 32):
            try:
                compare(name, slots)
            except UserError as e:  # an extra, or not set up
                print(f"left out: {e}", file=sys.stderr)
                break
