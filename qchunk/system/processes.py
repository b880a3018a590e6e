"""Fresh interpreters for work beside this process, such as simulators, and how many cores there are for all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hush_mujoco() -> None:
    """Sends MuJoCo's warnings to stderr; by itself it writes them into MUJOCO_LOG.TXT in the folder that it runs in."""
    if mujoco := sys.modules.get("mujoco"):
        mujoco.set_mju_user_warning(lambda text: print(f"MuJoCo: {text}", file=sys.stderr))


def start(module: str, *args: str, **more: Any) -> subprocess.Popen:
    """``python -m module args``: as multiprocessing's spawn, but the user's script is not run again.

    It finds the modules that this process finds, in this folder too, and computes on one thread.

    Args:
        more: of subprocess.Popen.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", module, *args], stdin=subprocess.DEVNULL, env=env, **more)
