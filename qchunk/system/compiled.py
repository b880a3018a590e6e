"""Compiled programs: on disk, so that the next command need not compile them again (JAX's persistent compilation cache, on by
default), and in memory, where there is not room for any number of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import os
import platform
import warnings
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
LIMIT = "JAX_COMPILATION_CACHE_MAX_SIZE"
MOST = 2 * 2**30  # bytes; what was used longest ago goes first
UNBOUNDED = "-1"  # of ``LIMIT``
SHARE = 0.5  # of the mapped regions of memory that Linux allows a process, before programs in memory make way
LOCK = ".lockfile"  # what JAX holds while it reads or writes a program there


def keep() -> None:
    """Names the folder to JAX, which reads it when it is imported; the user's own ``FOLDER`` or ``SWITCH`` stays.

    Where the folder cannot be written, or a program in it was cut short, programs are compiled anew, as they were before, without a word.
    """
    folder = home()
    if os.environ.get(FOLDER) == str(folder):  # the process that started this one has named it
        _say_nothing()
    if {FOLDER, SWITCH} & set(os.environ):
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[FOLDER] = str(folder)
            if os.environ.setdefault(LIMIT, str(MOST)) != UNBOUNDED:
                tidy(folder)
            _say_nothing()


def _say_nothing() -> None:
    """JAX's warnings of programs that it cannot read or write: what they cost is time."""
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def home() -> Path:
    """The folder for programs of this machine's kind: in ``QCHUNK_HOME``, by default where the user's caches lie."""
    own = os.environ.get("QCHUNK_HOME")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qchunk"
    return root / "programs" / _processor()


def tidy(folder: Path) -> None:
    """Removes programs whose writing was cut short, unless another process is at it: JAX, where its folder has a bound, writes when one
    was last used after the program itself. Once it has read one of them it takes that for whole, and compiles it anew for ever.
    """
    with contextlib.suppress(OSError), open(folder / LOCK, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()


def make_room(most: int | None = None) -> None:
    """Lets JAX forget its programs where this process has more than ``most`` mapped regions of memory, by default ``SHARE`` of those that
    Linux allows it: a run's programs take some thousands for as long as JAX keeps them, and where none are left the compiler
    aborts the process. Whoever begins with another run calls it; what is called again is compiled again.
    """
    import jax

    try:
        found = Path("/proc/self/maps").read_bytes().count(b"\n")
        allowed = SHARE * int(Path("/proc/sys/vm/max_map_count").read_text()) if most is None else most
    except (OSError, ValueError):  # another system
        return
    if found > allowed:
        jax.clear_caches()
        gc.collect()


def _processor() -> str:
    """A name for processors that run the same programs: those in a home of several machines may differ."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
