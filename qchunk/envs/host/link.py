"""A worker process and the pipe to it, and single questions to one that ends with its answer. No jax here."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from multiprocessing import Pipe
from typing import Any

import numpy as np

from qchunk.envs.host import failures
from qchunk.system import processes
from qchunk.system.errors import UserError

START_SECONDS = 300.0  # what takes longer hangs: starting or replaying episodes, an answer to ``asked``


class Worker:
    """One process and the pipe to it.

    Args:
        name: for messages.
        description: see ``HostEnv``.
        python: the interpreter; "" is the one that runs this.
    """

    def __init__(self, name: str, description: dict[str, Any], python: str = ""):
        self.name = name
        self.pipe, theirs = Pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        args = (str(theirs.fileno()), json.dumps(description))
        # what an interpreter prints as it starts is no part of this command's output
        said = {"stdout": self.errors, "stderr": self.errors}
        more: dict[str, Any] = {"python": python, "pass_fds": [theirs.fileno()], **said}
        self.process = processes.start("qchunk.envs.host.worker", *args, **more)
        theirs.close()

    def send(self, op: bytes, m: np.ndarray) -> None:
        """Asks; a dead worker is found out when its answer is waited for."""
        m = np.ascontiguousarray(m, np.float64)
        head = op.ljust(8) + np.asarray(m.shape, np.int64).tobytes()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send_bytes(head + m.tobytes())

    def last_words(self) -> str:
        """The last line that the process wrote to stderr."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""

    def end(self) -> None:
        """Kills the process, if it is not gone."""
        self.pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.2)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def asked(name: str, description: dict[str, Any], python: str, op: bytes, m: np.ndarray) -> bytes:
    """The answer of a worker of its own to one message, see ``worker``.

    Raises:
        UserError: the environment raised, or the process died or hung.
    """
    w = Worker(name, description, python)
    where = f" in {python}" if python else ""
    try:
        w.send(op, m)
        if not w.pipe.poll(START_SECONDS):
            problem = f"{name} did not answer{where} in {START_SECONDS:g} s"
            raise UserError(problem, "see whether gymnasium alone can make and step it there")
        answer = w.pipe.recv_bytes()
    except (EOFError, ConnectionError) as e:
        problem = f"a process that makes {name}{where} died{w.last_words()}"
        raise UserError(problem, "see whether gymnasium alone can make and step it there") from e
    finally:
        w.end()
    if answer[:1] == b"-":
        raise failures.error(json.loads(answer[1:]), name, python)
    return answer[1:]
