"""What a worker does: it takes a job whose needs are there, does it, and takes the next, until nothing is left."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from qchunk.engines.claims import BEAT, Claim
from qchunk.engines.session import Session
from qchunk.system import stopping, tracebacks
from qchunk.system.files import acquire

POLL = 0.5  # seconds between two looks
AGAIN = 10.0  # seconds until a job that another process holds without a claim is tried again
PATIENCE = 120.0  # seconds that a worker has to save once it is told to end
LOSSES = 5  # workers in a row that may be lost at one place of a job
FENCED = 75  # exit code of a worker that was taken for lost while it stood still


class Chore(NamedTuple):
    """A piece of work that any worker may do, at once or where another one was stopped."""

    name: str
    needs: tuple[str, ...]  # names of jobs that come before it
    done: Callable[[], bool]
    do: Callable[[], object]
    lock: Path | None = None  # a file that whoever does it holds locked, also without a claim
    progress: Callable[[], int] = lambda: 0


def why_not(job: Chore, failed: dict[str, str]) -> str:
    """Why a job can never be done: what it needs has failed; or ""."""
    broken = next((n for n in job.needs if n in failed), "")
    return f"it stands on {broken}, which failed" if broken else ""


def work(jobs: Sequence[Chore], session: Session, worker: str, parent: int | None = None) -> None:
    """Does jobs as long as any is left, beside other workers.

    Args:
        parent: the process that started this one, with which it ends; by default the one that it belongs to now.

    Raises:
        Stopped: a signal, or the session, asks to stop; what was begun is saved.
    """
    claims, known = session.claims(), {job.name: job for job in jobs}
    later: dict[str, float] = {}  # when jobs that are locked are looked at again
    with _pulse(session, parent or os.getppid()) as holding:
        while True:
            stopping.check()
            failed = session.failed()
            left = [job for job in jobs if job.name not in failed and not job.done()]
            if not left:
                return
            for job in left:
                if why := why_not(job, failed):
                    session.fail(job.name, why)
                    break
                if time.monotonic() < later.get(job.name, 0.0) or not all(known[n].done() for n in job.needs):
                    continue
                progress = job.progress()
                if claim := claims.take(job.name, worker, progress):
                    if claims.losses(claim, progress) >= LOSSES:
                        _give_up(job, claim, session)
                    elif not _do(job, claim, session, holding):
                        later[job.name] = time.monotonic() + AGAIN
                    break
            else:
                time.sleep(POLL)


def _give_up(job: Chore, claim: Claim, session: Session) -> None:
    session.fail(job.name, f"{LOSSES} workers in a row were lost at it, such as for want of memory")
    claim.release()


def _do(job: Chore, claim: Claim, session: Session, holding: list[Claim]) -> bool:
    """Does a claimed job, or says why it failed. False: another process holds its lock."""
    holding.append(claim)
    try:
        with stopping.undone(claim.release):
            if job.done():  # it has ended since it was looked at
                return True
            if locked(job.lock):  # asked by the owner of its claim alone: to ask is to hold it for a moment
                return False
            print(f"took {job.name}", flush=True)
            job.do()
            print(f"finished {job.name}", flush=True)
    except (Exception, SystemExit) as e:  # code of the user's may end a program, but not the other jobs
        print(f"failed {job.name}: {(why := tracebacks.line_of(e))}", file=sys.stderr, flush=True)
        session.fail(job.name, why)
    finally:
        holding.remove(claim)
        claim.release()
    return True


def locked(path: Path | None) -> bool:
    """Whether another process holds the lock of a job, such as a command without workers."""
    if path is None or not path.exists():
        return False
    try:
        os.close(acquire(path))
    except BlockingIOError:
        return True
    except OSError:  # it was there a moment ago, or the disk refuses, which the job itself will say
        pass
    return False


def _seen(look: Callable[[], bool]) -> bool:
    """What a look says; False where the disk refuses it for a moment, such as a share that is mounted again: the next look says more."""
    try:
        return look()
    except OSError:
        return False


@contextmanager
def _pulse(session: Session, parent: int) -> Iterator[list[Claim]]:
    """Beside the work: signs of life for the claims in the list, and an end where the session or who started this process is gone."""
    holding: list[Claim] = []
    over = threading.Event()

    def run() -> None:
        beaten, told = time.monotonic(), math.inf
        while not over.wait(POLL):
            held = list(holding)
            if any(_seen(claim.superseded) for claim in held):
                os._exit(FENCED)
            if time.monotonic() - beaten > BEAT:
                beaten = time.monotonic()
                for claim in held:
                    claim.beat()
            if told == math.inf and (os.getppid() != parent or _seen(session.stop.exists)):
                told = time.monotonic()
                if not stopping.asked():
                    os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() - told > PATIENCE:  # who started it may be gone, and ends nobody
                for claim in held:
                    claim.release()
                stopping.say(f"ended: it had nothing to save within {PATIENCE:.0f} seconds")
                os._exit(128 + signal.SIGKILL)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield holding
    finally:
        over.set()
        thread.join()
