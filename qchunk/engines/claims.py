"""Who does what, where several processes on several hosts share nothing but a folder.

A claim is a file ``NAME.G``, made by O_EXCL: of all who try, one makes it. Its owner touches it while it lives, and gives the time 0
to it when it lets go. Whoever finds that it was let go, or that its owner is lost, makes ``NAME.(G + 1)``; nothing is ever removed, so that
nobody can remove what another has just made. An owner that finds a newer claim beside its own was taken for lost: it has to end at once.

Lost is an owner on this host whose process has ended, and any other whose claim was not touched for ``LEASE`` seconds of the one who
looks: clocks of several hosts are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from qchunk.system.files import explain_oserror, make_folder

LEASE, BEAT = 60.0, 5.0  # seconds without a sign of life after which an owner is lost; seconds between two signs


class Newest(NamedTuple):
    """The newest claim of a name."""

    generation: int
    path: Path
    mtime_ns: int  # 0: let go


class Claim:
    """A claim that this process owns."""

    def __init__(self, found: Newest):
        self.path, self.generation = found.path, found.generation
        self._next = found.path.with_suffix(f".{found.generation + 1}")
        self._lock, self._held = threading.Lock(), True

    def beat(self) -> None:
        """Says that the owner lives; nothing once it was let go, and nothing where the disk refuses."""
        with self._lock, contextlib.suppress(OSError):
            if self._held:
                os.utime(self.path)

    def superseded(self) -> bool:
        """Whether another has taken its owner for lost."""
        return self._held and self._next.exists()

    def release(self) -> None:
        """Lets go; harmless the second time."""
        with self._lock, contextlib.suppress(OSError):
            if self._held:
                self._held = False
                os.utime(self.path, (0, 0))


class Claims:
    """The claims of a folder, as one process sees them.

    Args:
        lease: seconds, see above.
    """

    def __init__(self, folder: Path, lease: float = LEASE):
        make_folder(folder)
        self.folder, self.lease = folder, lease
        self._seen: dict[Path, tuple[int, float]] = {}  # the last sign of life, and when it was first seen here

    def newest(self) -> dict[str, Newest]:
        """The newest claim of every name."""
        found: dict[str, Newest] = {}
        for entry in os.scandir(self.folder):
            name, _, number = entry.name.rpartition(".")
            if name and number.isdigit() and (name not in found or int(number) > found[name].generation):
                found[name] = Newest(int(number), Path(entry.path), entry.stat().st_mtime_ns)
        return {unquote(name): f for name, f in found.items()}

    def take(self, name: str, worker: str, progress: int = 0) -> Claim | None:
        """Claims a name; None where another has it.

        Args:
            worker: who takes it, for those who look.
            progress: how far the work had come, see ``losses``.

        Raises:
            UserError: the disk refuses; a claim that was cut short is let go.
        """
        before = self.newest().get(name)
        if before and not self.free(before):
            return None
        generation = before.generation + 1 if before else 0
        path = self.folder / f"{quote(name, safe='')}.{generation}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        except OSError as err:
            raise explain_oserror(err, path) from err
        owner = {"worker": worker, "host": socket.gethostname(), "place": place(), "pid": os.getpid()}
        claim = Claim(Newest(generation, path, 1))
        try:
            with os.fdopen(fd, "w") as file:
                json.dump({**owner, "started": started(os.getpid()), "progress": progress}, file)
        except OSError as err:
            claim.release()
            raise explain_oserror(err, path) from err
        return claim

    def free(self, found: Newest) -> bool:
        """Whether a claim was let go, or its owner is lost."""
        return not found.mtime_ns or self.lost(found)

    def lost(self, found: Newest) -> bool:
        """Whether the owner of a claim that was not let go is lost."""
        owner = read(found.path)
        if owner and owner["place"] == place() and not alive(owner["pid"], owner["started"]):
            return True
        seen, now = self._seen.get(found.path), time.monotonic()
        if seen is None or seen[0] != found.mtime_ns:
            self._seen[found.path] = (found.mtime_ns, now)
            return False
        return now - seen[1] > self.lease

    def owner(self, found: Newest) -> str:
        """Who holds a claim: "WORKER on HOST"; "" where nobody does."""
        owner = {} if self.free(found) else read(found.path)
        return f"{owner['worker']} on {owner['host']}" if owner else ""

    def losses(self, claim: Claim, progress: int) -> int:
        """How many owners in a row, the last ones before this claim, were lost without getting further than ``progress``."""
        count = 0
        for generation in range(claim.generation - 1, -1, -1):
            path = claim.path.with_suffix(f".{generation}")
            if not path.stat().st_mtime_ns or read(path).get("progress") != progress:
                break
            count += 1
        return count


def read(path: Path) -> dict[str, Any]:
    """What a claim says of its owner; {} where it is just being written, or was cut short."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    kinds = {"worker": str, "host": str, "place": str, "pid": int, "started": str, "progress": int}
    return found if isinstance(found, dict) and all(isinstance(found.get(n), k) for n, k in kinds.items()) else {}


def place() -> str:
    """Where process numbers mean the same: the host, since it was started, and its container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def started(pid: int) -> str:
    """When a process of this host began, in the kernel's ticks, so that a number in use again is another process; "" where unknown."""
    with contextlib.suppress(OSError, IndexError):
        return _stat(pid)[19]
    return ""


def alive(pid: int, since: str) -> bool:
    """Whether the process that began at ``since`` is there, and has not ended unwatched."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError, IndexError):
        fields = _stat(pid)
        return fields[0] not in "ZX" and fields[19] == since
    return not since or bool(started(pid))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
