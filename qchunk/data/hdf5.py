"""Files of HDF5 by h5py, an optional package: opened, or refused in a line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data.npz import SHARE, memory_free
from qchunk.system.errors import UserError

MAGIC = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path | str) -> bool:
    """Whether a file is HDF5, by its first bytes; never raises."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as f:
        return f.read(len(MAGIC)) == MAGIC
    return False


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[Any]:
    """The file, as ``h5py.File`` opens it to read.

    Raises:
        UserError: it is no HDF5, h5py is missing, the file is truncated or damaged, or larger than the memory that is free.
    """
    if Path(path).is_file() and not is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file", "take another --reader, or leave it out")
    try:
        import h5py
    except ImportError as e:
        raise UserError(f"{path} is HDF5, which needs h5py", "pip install 'qchunk[hdf5]'") from e
    if (size := Path(path).stat().st_size) > (free := SHARE * memory_free()):
        problem = f"{path} has {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise UserError(problem, "take a smaller data set, or a machine with more memory")
    try:
        with h5py.File(path, "r") as f:
            yield f
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as e:
        raise UserError(f"{path} is truncated or damaged ({e})", "download or record it again") from e


def leaves(group: Any) -> dict[str, Any]:
    """The arrays below a group, not read yet, by their path within it; {"": array} of an array. Raises KeyError where one is not there."""
    if not hasattr(group, "items"):
        return {"": group}
    found: dict[str, Any] = {}
    if None in group.values():
        raise KeyError(f"{group.name} names parts that are not there")
    for name, part in group.items():
        found |= {f"{name}/{below}".rstrip("/"): x for below, x in leaves(part).items()}
    return found


def array(x: Any) -> np.ndarray:
    """An array, read; a single number as an array of one.

    Raises:
        UserError: it is a group of arrays, or claims more than the memory that is free.
    """
    if hasattr(x, "items"):
        raise UserError(f"{x.file.filename}: {x.name} is a group, no array", "record one array there")
    if x.size * x.dtype.itemsize > SHARE * memory_free():
        problem = f"{x.file.filename}: {x.name} needs {x.size * x.dtype.itemsize / 2**30:.1f} GiB, more than is free"
        raise UserError(problem, "take a smaller data set, or a machine with more memory")
    return np.atleast_1d(x[()])


def is_image(x: Any) -> bool:
    """Whether an array that is not read yet has several axes besides that of its rows."""
    return len(x.shape) > 2


def numbered(names: Any, before: str) -> list[str]:
    """The names that are ``before`` and a whole number, in the order of that."""
    found = [n for n in names if n.startswith(before) and n[len(before) :].isdecimal()]
    return sorted(found, key=lambda n: int(n[len(before) :]))
