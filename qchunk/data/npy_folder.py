"""Our own format as a folder of plain arrays, which may be larger than memory: they are mapped, and training reads the rows of its batches.

The arrays of ``formats`` are files of their own, ``obs.npy`` or ``obs/PART.npy``, ``action.npy`` ... ``extras/NAME.npy``; ``about.json`` is its JSON text, with
the number of rows. What is written has been checked; when a run reads it, sizes are compared, and the fingerprint is that of ``about.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from qchunk.data import npz
from qchunk.data.faults import ARRAYS, arrays_of
from qchunk.data.formats import FORMAT, VERSION, Reader, Rows, Survey, adapted_to, digest, rows_of
from qchunk.system import files, stopping
from qchunk.system.errors import UserError

ABOUT = "about.json"
FIX = "write it again: qchunk data convert FILE --folder --out FOLDER"


def is_one(path: Path) -> bool:
    """Whether there is such a folder."""
    return files.is_file(Path(path) / ABOUT) and files.is_file(Path(path) / "action.npy")


def mapped(path: Path) -> tuple[Rows, dict[str, Any]]:
    """The rows, of which observations, actions and extras are memory maps, and what the folder says of itself.

    Raises:
        UserError: a file is missing, truncated or of other rows.
    """
    path = Path(path)
    try:
        about = json.loads((path / ABOUT).read_bytes())
        names, rows = about["arrays"], about["rows"]
        found = {n: np.load(path / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
    except npz.BROKEN as e:
        raise UserError(f"{path} is damaged ({type(e).__name__})", FIX) from e
    if (about.get("format"), about.get("version")) != (FORMAT, VERSION):
        raise UserError(f"{path} is of another format or version", FIX)
    roots = {n.split("/")[0] for n in found}
    if missing := set(ARRAYS) - roots:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}", FIX)
    if odd := [n for n, x in found.items() if x.shape[:1] != (rows,)]:
        raise UserError(f"{path}: {odd[0]} holds {len(found[odd[0]])} rows, not {rows}", FIX)
    plain = {n: np.array(found[n]) for n in ("reward", "terminal", "end")}
    return rows_of({**found, **plain}), about


def survey(path: Path, reading: Any) -> Survey:
    """What such a folder holds, in memory, with its fingerprint checked.

    Raises:
        UserError: it is damaged, or larger than the memory that is free.
    """
    rows, about = mapped(path)
    needed = sum(x.nbytes for x in arrays_of(rows).values())
    if needed > (free := npz.SHARE * npz.memory_free()):
        problem = f"{path}: its arrays need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        fix = "learn from it offline, which streams: without --online-steps, --chunk.history and --objective"
        raise UserError(problem, fix)
    return adapted_to(reading, jax.tree.map(np.array, rows), about, path)


def write(
    path: Path, parts: Iterable[tuple[Rows, str]], about: Callable[[], dict[str, Any]]
) -> tuple[str, dict[str, int]]:
    """Writes a folder, whole or not at all: its fingerprint, and how many transitions and episodes it holds.

    Args:
        parts: checked rows and where they are from, one after the other: only one need be in memory.
        about: what is known besides, asked for when all parts are written.

    Raises:
        UserError: it exists, the disk is full, or parts of other arrays than the first one's.
    """
    files.check_new(path)
    temp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with stopping.undone(lambda: files.remove(temp)):
        try:
            temp.mkdir(parents=True)
            growing: dict[str, Growing] = {}
            figures = {"transitions": 0, "episodes": 0}
            for rows, where in parts:
                arrays = {n: np.ascontiguousarray(x) for n, x in arrays_of(rows).items()}
                growing = growing or {n: Growing(temp / f"{n}.npy", x) for n, x in arrays.items()}
                check_alike(growing, arrays, where)
                for name, x in arrays.items():
                    growing[name].append(x)
                figures["episodes"] += int(rows.end.sum())
                figures["transitions"] += int((~rows.end).sum())
            for one in growing.values():
                one.close()
            found = {n: np.load(temp / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in growing}
            mark = digest(found.items())
            told = {"arrays": [*growing], "rows": sum(figures.values()), "fingerprint": mark}
            text = json.dumps({"format": FORMAT, "version": VERSION, **about(), **told})
            files.atomic_write(temp / ABOUT, text)
            os.replace(temp, path)
            files.sync(path.parent)
        except OSError as e:
            raise files.explain_oserror(e, path) from e
    return mark, figures


def check_alike(first: dict[str, Growing], arrays: dict[str, np.ndarray], where: str) -> None:
    """Refuses rows that cannot follow the first ones. Raises UserError."""
    ours, theirs = ({n: (str(x.dtype), x.shape[1:]) for n, x in found.items()} for found in (first, arrays))
    if odd := sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n)):
        was, now = (" of ".join(map(str, x[odd[0]])) if odd[0] in x else "missing" for x in (ours, theirs))
        raise UserError(
            f"{where}: {odd[0]} is {now}, and {was} in the first file", "convert sets of the same kind together"
        )


class Growing:
    """An array in a file, to which rows are appended. numpy pads a header, so that the first axis may grow in place."""

    def __init__(self, path: Path, like: np.ndarray):
        """Args: like: rows of the same type and shape."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115  (closed by ``close``)
        self.dtype, self.shape = like.dtype, (0, *like.shape[1:])
        self.header = self._write_header()

    def _write_header(self) -> int:
        """Writes it, and returns its size."""
        about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, about)
        return self.file.tell()

    def append(self, x: np.ndarray) -> None:
        """Rows [n, ...] at the end."""
        self.file.write(x)  # type: ignore[call-overload]
        self.shape = (self.shape[0] + len(x), *self.shape[1:])

    def close(self) -> None:
        """The file is whole, and on the disk."""
        if self._write_header() != self.header:
            raise ValueError("numpy's header has grown")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


READER = Reader(is_one, survey, mapped)
