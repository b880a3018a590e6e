"""A short run of ``qc`` and of ``ppo`` whose programs lie on disk over the same run that compiles them: processor time of the whole command.

Each is a command in a fresh process, as users start it; programs are those that ``system/compiled.py`` lets JAX keep.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import tell

from qchunk.system import compiled

ENV, REPEATS = "tabletop/cube-single-task1", 3
HIDDEN = ["128", "128", "128"]
SIZES = ["--critic.hidden", *HIDDEN, "--episodes", "10", "--seeds", "2", "--quiet"]
RUNS = {
    "qc": [
        "--actor.hidden",
        *HIDDEN,
        "--data",
        "d.npz",
        "--n",
        "8",
        "--offline-steps",
        "200",
        "--online-steps",
        "2000",
        "--envs",
        "16",
        "--update-ratio",
        "0.1",
    ],
    "ppo": ["--tuned.hidden", *HIDDEN, "--online-steps", "20000", "--rollout.envs", "64", "--rollout.decisions", "10"],
}


def seconds(folder: Path, *argv: str, keeping: bool = True) -> float:
    """Processor time of a command in ``folder``, of it and of what it starts."""
    env = {k: v for k, v in os.environ.items() if k not in (compiled.FOLDER, compiled.SWITCH)}
    env |= {"QCHUNK_HOME": str(folder / "home")} | ({} if keeping else {compiled.SWITCH: "false"})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "qchunk", *argv], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def short(folder: Path, name: str, keeping: bool) -> float:
    """A run of a method, whose folder goes again."""
    took = seconds(folder, "train", name, "--env", ENV, "--out", "run", *SIZES, *RUNS[name], keeping=keeping)
    shutil.rmtree(folder / "run")
    return took


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(folder, "collect", "tabletop/cube-single", "--out", "d.npz", "--steps", "20000", "--quiet")
        for method in RUNS:
            short(folder, method, True)  # fills the folder
            found = [[short(folder, method, keeping) for keeping in (True, False)] for _ in range(REPEATS)]
            kept, anew = (statistics.median(column) for column in zip(*found, strict=True))
            tell(f"start up {method}", seconds=kept, anew_seconds=anew, ratio=kept / anew, better="lower")
