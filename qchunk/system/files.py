"""Files that are whole or not there: writing in one step, and a disk's refusal as a user's error."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from qchunk.system import stopping
from qchunk.system.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
PATIENCE = 3.0  # seconds that other threads are waited for
# tensorstore turns an errno into text; both spellings have been released
_ERRNO_IN_TEXT = re.compile(r"os_error_code='(\d+)'|\[OS error (\d+)")


def write_synced(path: Path, data: bytes) -> None:
    """Writes ``data`` and waits until the disk holds it. Raises OSError."""
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def sync(path: Path) -> None:
    """Waits until the disk holds a file's contents, or a folder's entries. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replaces ``path`` by ``data``; a crash at any moment leaves the old contents or the new, never a part.

    Raises:
        UserError: the disk refuses (full, read-only, ...); the old contents are still there.
    """
    path = Path(path)
    temp = path.with_name(f".{path.name}.tmp-{os.getpid()}")

    def drop() -> None:
        with contextlib.suppress(OSError):  # of a parent that is no folder: the write has told
            temp.unlink()

    with stopping.undone(drop):
        try:
            write_synced(temp, data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            os.replace(temp, path)
            sync(path.parent)
        except OSError as err:
            raise explain_oserror(err, path) from err


def write_json(path: Path, value: Any, indent: int | None = 1, **how: Any) -> None:
    """``atomic_write`` of a value as JSON.

    Args:
        how: of ``json.dumps``.
    """
    atomic_write(path, json.dumps(value, indent=indent, **how) + "\n")


def make_folder(path: Path) -> None:
    """Makes a folder with its parents, where it is not there. Raises UserError where the disk refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise explain_oserror(err, path) from err


def is_taken(path: Path) -> bool:
    """Whether a new folder cannot have this name: something is there, and it is no empty folder, such as ``mktemp -d`` makes."""
    if path.is_symlink() or not path.exists():
        return path.is_symlink()
    return not path.is_dir() or any(path.iterdir())


def path_of(given: Any, what: str) -> Path:
    """A path that a program of the user's gave.

    Raises:
        UserError: it is no text and no path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"{what} is {repr(given)[:60]}", "give its path as a text or a pathlib.Path")
    return Path(given)


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_new(path: Path) -> None:
    """Refuses a name that no new file can have, before the work whose result it is to hold.

    Raises:
        UserError: it exists, or see ``check_place``.
    """
    check_place(path)
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already", "pass --out with a new file")


def check_place(path: Path) -> None:
    """Refuses a name under which nothing can be made: empty, too long, below a file, or in a place that is read-only.

    Raises:
        UserError: says why.
    """
    if not path.name or "\0" in str(path):
        raise UserError(f"--out {str(path)!r} is no name", "pass --out with a new one")
    try:
        above = next(p for p in path.absolute().parents if p.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not (path.exists() or os.access(above, os.W_OK | os.X_OK)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        longest = os.pathconf(above, "PC_NAME_MAX") - len(f"..tmp-{os.getpid()}")  # as it is called while it is made
        if any(len(os.fsencode(part)) > longest for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except OSError as err:
        raise explain_oserror(err, path) from err


def append(path: Path, line: bytes) -> None:
    """Appends a whole line, with its newline, or nothing; a torn line at the end (a kill left it) goes first.

    Raises:
        UserError: the disk refuses (full, read-only, ...); the lines before are still there.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = _end_of_lines(fd)
            os.ftruncate(fd, end)
            written = 0
            try:
                while written < len(line):
                    written += os.pwrite(fd, line[written:], end + written)
            except BaseException:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)
    except OSError as err:
        raise explain_oserror(err, path) from err


def _end_of_lines(fd: int, block: int = 4096) -> int:
    """The position after the last newline of a file."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - block)
        cut = os.pread(fd, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def acquire(path: Path) -> int:
    """Locks a file, made if missing, and writes this process's name into it; returns the descriptor to close.

    The kernel frees the lock when the process ends, however it ends. A child made by fork shares it,
    one made by spawn does not.

    Raises:
        BlockingIOError: another holds it; ``strerror`` is its name, "PID on HOST".
        OSError: the disk refuses.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
    except BlockingIOError as err:
        owner = os.pread(fd, 200, 0).decode(errors="replace") or "(unknown)"
        os.close(fd)
        raise BlockingIOError(err.errno, owner) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def hold(path: Path, doing: str, fix: str) -> int:
    """``acquire``, where another's lock is the user's to mend.

    Args:
        doing: what the process that holds it does, such as "writing to the run X".

    Raises:
        UserError: another holds it, with this ``fix``; or the disk refuses.
    """
    try:
        return acquire(path)
    except BlockingIOError as err:
        raise UserError(f"process {err.strerror} is {doing}", fix) from err
    except OSError as err:
        raise explain_oserror(err, path.parent) from err


def sha256(path: Path) -> str:
    """The hash of a file's contents, in hexadecimal. Raises OSError."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it, if it is there. Raises OSError."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_busy(path: Path) -> None:
    """Removes a folder into which other threads may still write, for at most ``PATIENCE`` seconds."""
    end = time.monotonic() + PATIENCE
    quiet = 0
    while quiet < 4 and time.monotonic() < end:
        quiet = 0 if path.exists() else quiet + 1
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def oserror_in(err: BaseException) -> OSError | None:
    """The operating system's error that is, caused or is spelt out inside ``err``; None if there is none."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [err]
    while todo:
        e = todo.pop(0)
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        if isinstance(e, OSError) and e.errno is not None:
            return e
        if found := _ERRNO_IN_TEXT.search(str(e)):
            number = int(found[1] or found[2])
            return OSError(number, os.strerror(number))
        for number in FULL:
            if os.strerror(number) in str(e):
                return OSError(number, os.strerror(number))
        context = None if e.__suppress_context__ else e.__context__
        todo += [*getattr(e, "exceptions", ()), e.__cause__, context]
    return None


def explain_oserror(err: OSError, path: Path) -> UserError:
    """The user's error for a write to ``path`` (a file or a folder) that the operating system refused."""
    reason = err.strerror or str(err)
    if err.errno in FULL:
        return UserError(
            f"cannot write {path}: the disk is full ({reason})",
            "Free some space there and give the command again (qchunk train with --resume); what was saved before is intact",
        )
    if err.errno == errno.EFBIG:
        return UserError(
            f"cannot write {path}: a file may not grow so large here ({reason})",
            "Lift the limit (ulimit -f unlimited), or take a disk that holds such files, and give the command again (qchunk train with --resume); what was saved before is intact",
        )
    denied = err.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    fix = "Make the folder writable, or pass --out with another" if denied else "Fix that, or pass --out with another"
    return UserError(f"cannot write {path}: {reason}", fix)
