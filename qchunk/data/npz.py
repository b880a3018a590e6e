"""Files of plain arrays (npz), judged by their headers before anything is allocated."""

from __future__ import annotations

import contextlib
import lzma
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.system.errors import UserError

# what reading a damaged file may raise
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, TypeError, RuntimeError, OSError, EOFError)
BROKEN += (KeyError, IndexError, OverflowError, SyntaxError, MemoryError, NotImplementedError, RecursionError)  # type: ignore[assignment]
MOST_INFLATED = 1100  # times its size in the file that deflate makes of an array, at most
SHARE = 0.9  # of the memory that is free, at most, for the arrays of one file


@contextlib.contextmanager
def opened(path: Path, fix: str) -> Iterator[Any]:
    """The file, as ``np.load`` opens it; what fails inside is a user's error with this ``fix``.

    Raises:
        UserError: it is missing, truncated, no npz, or its arrays are larger than the memory that is free.
    """
    try:
        with warnings.catch_warnings(), np.load(path, allow_pickle=False) as z:
            warnings.simplefilter("ignore")  # of headers that were written by Python 2
            if not isinstance(z, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            check_sizes(z.zip)
            yield z
    except UserError as e:
        raise UserError(e.problem if str(path) in e.problem else f"{path}: {e.problem}", e.fix or fix) from e
    except BROKEN as e:
        raise UserError(f"{path} is empty, truncated or no npz file ({type(e).__name__})", fix) from e


def check_sizes(zipped: zipfile.ZipFile) -> None:
    """Refuses arrays that cannot be what their file says, and those that do not fit into memory.

    Raises:
        UserError: the arrays need more memory than is free, or hold Python objects.
        ValueError: a header claims other than what its entry holds.
    """
    names = [info.filename for info in zipped.infolist()]
    if len(set(names)) != len(names):
        raise ValueError("two arrays share a name")
    needed = 0
    for info in zipped.infolist():
        with zipped.open(info) as f:
            version = np.lib.format.read_magic(f)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read[version](f)
            claimed, begin = math.prod(shape) * dtype.itemsize, f.tell()
        if dtype.hasobject:
            problem = f"{info.filename.removesuffix('.npy')} holds Python objects, which are never unpickled"
            raise UserError(problem, "save plain arrays: numbers of one type, episodes one after the other")
        if min(shape, default=1) < 0 or claimed != info.file_size - begin:
            raise ValueError(f"the header of {info.filename} claims {claimed} bytes")
        if (
            info.file_size > MOST_INFLATED * max(info.compress_size, 1) + 4096
            and info.compress_type == zipfile.ZIP_DEFLATED
        ):
            raise ValueError(f"{info.filename} claims more than its entry can hold")
        needed += claimed
    if needed > (free := SHARE * memory_free()):
        problem = f"its arrays need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise UserError(problem, "take a smaller data set, or a machine with more memory")


def memory_free() -> float:
    """Bytes that this process may still take; infinite where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/meminfo") as f:
            found = {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in f}
        return min(found.get("MemAvailable", math.inf), _of_container())
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _of_container() -> float:
    """What a container (cgroup 2) leaves; infinite outside of one."""
    try:
        most, now = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return math.inf if most == "max" else float(most) - float(now)
    except (OSError, ValueError):
        return math.inf
