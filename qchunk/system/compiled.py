"""Compiled programs on disk, so that the next command need not compile them again: JAX's persistent compilation cache, on by default."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
LIMIT = "JAX_COMPILATION_CACHE_MAX_SIZE"
MOST = 2 * 2**30  # bytes; what was used longest ago goes first
_WHOLE_AFTER = 60.0  # seconds within which another process may be writing a program


def keep() -> None:
    """Names the folder to JAX, which reads it when it is imported; the user's own ``FOLDER`` or ``SWITCH`` stays.

    Where the folder cannot be written programs are compiled anew, as they were before.
    """
    if {FOLDER, SWITCH} & set(os.environ):
        return
    folder = home()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            tidy(folder)
            os.environ[FOLDER] = str(folder)
            os.environ.setdefault(LIMIT, str(MOST))


def home() -> Path:
    """The folder for programs of this machine's kind: in ``QCHUNK_HOME``, by default where the user's caches lie."""
    own = os.environ.get("QCHUNK_HOME")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qchunk"
    return root / "programs" / _processor()


def tidy(folder: Path) -> None:
    """Removes programs whose writing was cut short: JAX writes when one was last used after the program itself."""
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        with contextlib.suppress(FileNotFoundError):  # another process tidies, too
            if not used.exists() and time.time() - program.stat().st_mtime > _WHOLE_AFTER:
                program.unlink()


def _processor() -> str:
    """A name for processors that run the same programs: those in a home of several machines may differ."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
