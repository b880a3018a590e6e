"""Fresh interpreters for work beside this process, such as simulators, and how many cores there are for all of it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[2])
# what the fresh interpreter runs: -P and its own path keep files of the user's from standing for the standard library's
_CHILD = "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); from qchunk.system.processes import child; child()"
# in another interpreter: of what lies beside this package nothing is found there but the package itself
_GUEST = """
import os, sys
sys.path[:] = [p for p in sys.path if p]  # as -P does, which Python has since 3.11: this folder comes last
from importlib import util
root = sys.argv.pop(1)
spec = util.spec_from_file_location("qchunk", os.path.join(root, "__init__.py"), submodule_search_locations=[root])
sys.modules["qchunk"] = util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["qchunk"])
sys.path.append(os.getcwd())
from qchunk.system.processes import child
child()
"""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hush_mujoco() -> None:
    """Sends MuJoCo's warnings to stderr; by itself it writes them into MUJOCO_LOG.TXT in the folder that it runs in."""
    if mujoco := sys.modules.get("mujoco"):
        mujoco.set_mju_user_warning(lambda text: print(f"MuJoCo: {text}", file=sys.stderr))


def start(module: str, *args: str, python: str = "", **more: Any) -> subprocess.Popen:
    """``python -m module args``: as multiprocessing's spawn, but the user's script is not run again.

    It finds the modules that this process finds, those of this folder last (a ``random.py`` there is not Python's own),
    computes on one thread, and ends with this process.

    Args:
        python: another interpreter, which finds its own modules, those of PYTHONPATH and of this folder, and this package.
        more: of subprocess.Popen.
    """
    code, where = (_GUEST, str(Path(_ROOT) / "qchunk")) if python else (_CHILD, os.pathsep.join(search_path()))
    command = [
        python or sys.executable,
        *([] if python else ["-P"]),
        "-c",
        code,
        where,
        str(os.getpid()),
        module,
        *args,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if python and env.get("PYGLFW_LIBRARY", "").startswith(
        sys.prefix + os.sep
    ):  # this interpreter's own, see cli.name_glfw
        del env["PYGLFW_LIBRARY"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env, **more)


def search_path() -> list[str]:
    """Where this process finds modules, this folder last, and the package itself."""
    here = os.getcwd()
    known = dict.fromkeys([*sys.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    found = [p for p in known if p and os.path.abspath(p) != here]
    return [*found, *([_ROOT] if _ROOT not in (*found, here) else []), here]


def child() -> None:
    """The fresh interpreter: runs the module that the arguments name, and ends when its parent does."""
    parent, module = int(sys.argv.pop(1)), sys.argv.pop(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: int, every: float = 0.5) -> None:
    """Ends this process at once when its parent is gone: a simulator that hangs reads no pipe that closes."""
    while os.getppid() == parent:
        time.sleep(every)
    os._exit(1)
