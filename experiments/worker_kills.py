"""Kills workers of a suite at random moments, and compares its end with that of an undisturbed one, bit by bit.

``python experiments/worker_kills.py [KILLS] [ENGINE] [RUNS] [WORKERS]``: by default 20 kills over 12 small runs on 3 workers. ENGINE is
local, or ray: a cluster of two nodes here, of which every fifth kill takes the second one, and another one joins.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kills import end

from qchunk.engines import claims
from qchunk.engines.working import LOSSES

FILE = """
import dataclasses
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings

def runs(scale):
    c = BC(ChunkConfig(2), FlowConfig(hidden=(16,), steps=2))
    s = OnlineSettings(seeds=2, episodes=4, batch=32, offline_steps={steps}, eval_every={steps} // 4, log_every=5)
    first = [Run("bc", "probe/two-step", Data("probe/two-step", 400, (), 100), c, s, f"run{{i}}") for i in range({runs})]
    played = Data("probe/two-step", 300, ("probe/two-step/run0",), 100)  # collected once run0 is trained
    return [r._replace(data=played) if i in (1, 2) else r for i, r in enumerate(first)]

SUITE = Suite(runs)
"""


def started(folder: Path, out: Path, on: str) -> subprocess.Popen:
    """The suite, in a process of its own."""
    words = ["reproduce", str(folder / "killed_suite.py"), "--out", str(out), "--quiet", *(["--on", on] if on else [])]
    log = open(folder / "said.log", "ab")  # noqa: SIM115 the process keeps it
    return subprocess.Popen([sys.executable, "-m", "qchunk", *words], stdout=log, stderr=log)


def owners(out: Path) -> dict[str, int]:
    """The processes that hold a claim now, by what they hold."""
    if not (out / "workers" / "claims").exists():
        return {}
    found = claims.Claims(out / "workers" / "claims")
    held = {name: claims.read(f.path).get("pid", 0) for name, f in found.newest().items() if not found.free(f)}
    return {name: pid for name, pid in held.items() if pid}


def ended_once(out: Path) -> int:
    """How often a job ended, at most once each; how often one was begun.

    Raises:
        AssertionError: one ended twice.
    """
    lines = [line for log in out.glob("workers/*/*.log") for line in log.read_text(errors="replace").splitlines()]
    over = [line for line in lines if line.startswith("finished ")]
    assert len(over) == len(set(over)), "a job ended twice"
    return sum(line.startswith("took ") for line in lines)


def main() -> None:
    """Prints what each kill struck, and fails where the ends differ."""
    given = dict(enumerate(sys.argv[1:]))
    kills, engine, runs, workers = int(given.get(0, 20)), given.get(1, "local"), int(given.get(2, 12)), int(given.get(3, 3))  # fmt: skip
    root, chance = Path(tempfile.mkdtemp()), random.Random(0)
    (root / "killed_suite.py").write_text(FILE.format(steps=400, runs=runs))
    cluster: Any = None
    on = f"local:{workers}"
    if engine == "ray":
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers - 1, "include_dashboard": False})
        second = cluster.add_node(num_cpus=1)
        on = f"ray:{cluster.address},workers={workers}"
    assert started(root, root / "whole", "").wait() == 0
    wanted, struck, ends, begun = end(root / "whole"), 0, 0, 0
    assert len(wanted) == runs
    while struck < kills or (root / "killed").exists():
        process, at = started(root, root / "killed", on), Counter[str]()
        while process.poll() is None:
            until = time.monotonic() + chance.uniform(0.5, 8.0)
            while process.poll() is None and (time.monotonic() < until or not owners(root / "killed")):
                time.sleep(0.05)
            # a job at which LOSSES workers in a row are lost is given up, as it should be
            found = {name: pid for name, pid in owners(root / "killed").items() if at[name] < LOSSES - 1}
            if struck == kills or not found:
                continue
            struck += 1
            if cluster and struck % 5 == 0:
                cluster.remove_node(second, allow_graceful=False)
                second = cluster.add_node(num_cpus=1)
                at.update(found)
                print(f"{struck:2}: a node", flush=True)
                continue
            name = chance.choice(sorted(found))
            try:
                os.kill(found[name], signal.SIGKILL)
            except ProcessLookupError:
                struck -= 1
                continue
            at[name] += 1
            print(f"{struck:2}: {name}", flush=True)
        assert process.returncode == 0, (root / "said.log").read_text()[-2000:]
        assert end(root / "killed") == wanted, "the ends differ"
        ends, begun = ends + 1, begun + ended_once(root / "killed")
        shutil.rmtree(root / "killed")
    if cluster:
        cluster.shutdown()
    print(f"{struck} kills on {on}, {runs} runs: {ends} suites ended, all bitwise equal; {begun} jobs begun")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
