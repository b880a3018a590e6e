"""What a command and its workers tell each other, as files in ROOT/workers: ::

claims/            who does what (claims.py), of all sessions
SESSION/job.json   the command line, its folder, and what decides on bits: the number of devices and of threads
SESSION/stop       the workers are to save and end
SESSION/failed/    a file for each job that failed: why
SESSION/NAME.log   what a worker printed
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, unquote

from qchunk.engines.claims import Claims
from qchunk.system import schema
from qchunk.system.files import atomic_write, make_folder, write_json
from qchunk.system.processes import cores

_PACKAGE = str(Path(__file__).resolve().parents[2])


class Session(NamedTuple):
    """One call of a command that hands out its jobs."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.root / "workers" / self.name

    @property
    def stop(self) -> Path:
        """The file that asks its workers to save and end."""
        return self.folder / "stop"

    def claims(self) -> Claims:
        """Who does what."""
        return Claims(self.root / "workers" / "claims")

    def fail(self, job: str, why: str) -> None:
        """Keeps why a job failed: nobody tries it again in this session."""
        make_folder(self.folder / "failed")
        atomic_write(self.folder / "failed" / quote(job, safe=""), why)

    def failed(self) -> dict[str, str]:
        """The jobs that failed, and why."""
        files = [p for p in (self.folder / "failed").glob("*") if not p.name.startswith(".")]
        return {unquote(p.name): p.read_text() for p in files}

    def job(self) -> dict[str, Any]:
        """What job.json holds.

        Raises:
            UserError: it is damaged.
        """
        return schema.read(self.folder / "job.json", dict[str, Any], "start the suite again")

    def log(self, worker: str) -> Path:
        """What a worker printed."""
        return self.folder / f"{worker}.log"


def begin(root: Path, argv: Sequence[str]) -> Session:
    """A new session of a command line.

    Raises:
        UserError: the disk refuses.
    """
    root = root.absolute()
    session = Session(root, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    make_folder(session.folder)
    # the same numbers for all: XLA may round otherwise with others, and a run that is taken over shall end with the same bits
    same = {"JAX_NUM_CPU_DEVICES": os.environ.get("JAX_NUM_CPU_DEVICES", "1"), "PJRT_NPROC": str(cores())}
    kept = {"argv": list(argv), "cwd": os.getcwd(), "env": same}
    write_json(session.folder / "job.json", kept)
    return session


def started(session: Session, worker: str, shared: Sequence[int] = ()) -> subprocess.Popen:
    """A worker in a fresh interpreter, in a process group of its own: Ctrl-C reaches the command alone, which then asks it to stop.

    It is told which process this is: where this one is killed while the worker still imports, it would take init for who started it.

    Args:
        shared: the cores that it may use; by default all.
    """
    job = session.job()
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    env = {**os.environ, **job["env"], "PYTHONPATH": os.pathsep.join([*paths, *([] if _PACKAGE in paths else [_PACKAGE])])}  # fmt: skip
    command = [sys.executable, "-P", "-m", "qchunk", "worker", str(session.root), session.name, worker]
    log: IO[bytes]
    with open(session.log(worker), "ab") as log:
        return subprocess.Popen(
            [*command, ",".join(map(str, shared)), str(os.getpid())],
            env=env,
            cwd=job["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def serve(root: str, session: str, worker: str) -> int:
    """What engines on other hosts call: a worker beside the calling process; its exit code."""
    return started(Session(Path(root), session), worker).wait()
