"""What surrounds a command: variables that jax reads, this folder, the streams that it prints to."""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from qchunk.system import tracebacks
from qchunk.system.errors import UserError
from qchunk.system.files import FULL

# variables of jax, by the values with which it works here, "" where unset, and what another one would do
_JAX = {
    "JAX_DEFAULT_PRNG_IMPL": (("", "threefry2x32"), "equal seeds would draw other numbers than anywhere else"),
    "JAX_THREEFRY_PARTITIONABLE": (
        ("", "1", "true", "True"),
        "equal seeds would draw other numbers than anywhere else",
    ),
    "JAX_NUMPY_RANK_PROMOTION": (("", "allow", "warn"), "arithmetic here broadcasts"),
    "JAX_NUMPY_DTYPE_PROMOTION": (("", "standard"), "arithmetic here mixes types"),
}


def open_streams() -> None:
    """Streams that were closed lead nowhere, so that no file of ours takes their number; what one cannot spell is escaped."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 it lives as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Writes out what was printed.

    Raises:
        UserError: stdout takes no more, such as a full disk. What is left of it is dropped.
        BrokenPipeError: nobody reads on.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise _no_stdout(e) from e


def drop(stream: TextIO | None = None) -> None:
    """What is still to be printed to a stream, by default stdout, goes nowhere, at the interpreter's end too."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def check() -> None:
    """Refuses surroundings in which nothing would work.

    Raises:
        UserError: names the variable or the folder.
    """
    try:
        os.getcwd()
    except OSError as e:
        raise UserError("this folder is gone: it was removed or renamed", "cd to a folder that is there") from e
    if os.environ.get("JAX_ENABLE_X64", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        raise UserError("JAX_ENABLE_X64 is set, and qchunk computes in 32 bits", "unset JAX_ENABLE_X64")
    for name, (works, why) in _JAX.items():
        if (value := os.environ.get(name, "")) not in works:
            raise UserError(f"{name} is {value!r}, and {why}", f"unset {name}")
    if sys.flags.optimize > 1:
        raise UserError(
            "Python leaves docstrings out, and libraries here read theirs", "unset PYTHONOPTIMIZE, or leave out -OO"
        )
    if odd := _unknown_to_xla(os.environ.get("XLA_FLAGS", "")):
        raise UserError(f"XLA_FLAGS has {' '.join(odd)}, which this jaxlib does not know", "take it out, or unset it")
    count = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if not (count.isascii() and count.isdigit() and 1 <= int(count[:9]) <= 4096):
        fix = "give a whole number from 1 to 4096, or unset it"
        raise UserError(f"JAX_NUM_CPU_DEVICES is {count!r}", fix)


def _unknown_to_xla(flags: str) -> list[str]:
    """Flags whose names stand nowhere in XLA's library: it would end the process, with a core dump, at the first compilation."""
    found = re.findall(r"(?:^|\s)(--(\w+)(?:=\S*)?)", flags)
    package = importlib.util.find_spec("jaxlib") if found else None
    libraries = [p for root in (package.submodule_search_locations or []) for p in Path(root).glob("libjax_common*")] if package else []  # fmt: skip
    if not libraries:
        return []
    with open(libraries[0], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return [flag for flag, name in found if text.find(name.encode() + b"\0") < 0]


def explained(err: BaseException) -> UserError | None:
    """The user's error behind what a library raised because of the surroundings; None where it has another cause."""
    if (wanted := os.environ.get("JAX_PLATFORMS")) and not _has_device():
        problem = f"jax finds no device of the kind that JAX_PLATFORMS={wanted} names"
        return UserError(problem, "install jax for it, such as pip install 'jax[cuda12]', or unset JAX_PLATFORMS")
    named = "environment" in str(err) and "JAX_" in str(err)
    if isinstance(err, ValueError) and (named or "for JAX flag" in str(err)):
        told = re.sub("jax_[a-z_]+", lambda flag: flag[0].upper(), str(err))  # flags are called as their variables
        return UserError(f"jax refuses a variable: {told}", "give it another value, or unset it")
    if isinstance(err, Warning) and not tracebacks.own_frames(err):
        problem = f"a library warns, and here warnings are errors: {tracebacks.told(err)}"
        return UserError(problem, "unset PYTHONWARNINGS, or leave out -W")
    if isinstance(err, FileNotFoundError) and "temporary directory" in str(err):
        return UserError("there is no folder for temporary files", f"make {tempfile.tempdir or '/tmp'} writable, or set TMPDIR to a folder that is")  # fmt: skip
    if isinstance(err, OSError) and err.errno in FULL and err.filename is None:  # of print: files say their names
        return _no_stdout(err)
    if isinstance(err, OSError) and err.filename and not tracebacks.own_frames(err):
        return UserError(f"{err.filename}: {err.strerror}", "give a file or a folder that can be used")
    return None


def _has_device() -> bool:
    """Whether jax finds a device; what it raises where it finds none differs by version and place."""
    jax = sys.modules.get("jax")
    try:
        return jax is None or bool(jax.devices())
    except Exception:
        return False


def _no_stdout(err: OSError) -> UserError:
    drop()
    return UserError(f"cannot write to stdout: {err.strerror}", "free some space there, or send it elsewhere")
