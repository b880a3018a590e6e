"""A suite handed out to workers (``--on``): its runs and data sets as jobs. Without workers it is ``suite.train_all``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qchunk.comparison import estimate
from qchunk.comparison.list_flags import ListFlags, PageFlags
from qchunk.comparison.suite import (
    Data,
    Run,
    Trained,
    check,
    collected,
    file_of,
    finished,
    folder_of,
    made_otherwise,
    needs,
    train_all,
    train_one,
)
from qchunk.engines import overseeing, starting
from qchunk.engines.session import Session, begin
from qchunk.engines.working import Chore, work
from qchunk.runs import run_folder, sinks
from qchunk.system import stopping
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write, hold, make_folder


class Listed(NamedTuple):
    """What a command line asks to be trained, and where."""

    name: str
    runs: Sequence[Run]
    root: Path
    log_to: tuple[str, ...] = ()


def check_flags(how: ListFlags) -> None:
    """Refuses sinks and an engine that cannot be, before anything is made.

    Raises:
        UserError: see ``sinks.check`` and ``starting.parse``.
    """
    sinks.check(how.log_to)
    if how.on:
        starting.parse(how.on)


def as_asked(how: PageFlags, argv: Sequence[str], listed: Listed, shown: Sequence[Run]) -> Trained:
    """``so_far`` where that is asked for, otherwise ``trained_on``.

    Raises:
        UserError: see these.
    """
    return so_far(listed, shown) if how.so_far else trained_on(how, argv, listed)


def trained_on(how: ListFlags, argv: Sequence[str], listed: Listed) -> Trained:
    """Trains what is missing, by workers of an engine; here, one run after the other, where ``how.on`` is "".

    Args:
        argv: the command line; workers make the same list from it.

    Raises:
        UserError: an engine or a suite that cannot be; or another command trains in this folder.
    """
    with alone(listed.root):
        return _trained_on(how.on, argv, listed, how.quiet or how.json)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Holds a folder of runs against another command that would train in it.

    Raises:
        UserError: one does.
    """
    make_folder(root)
    fix = "wait for it, pass --so-far for the page of what is finished, or stop it and pass --on local:2 to train several runs at once"
    lock = hold(root / run_folder.LOCK, f"training in {root}", fix)
    try:
        yield
    finally:
        os.close(lock)


def _trained_on(on: str, argv: Sequence[str], listed: Listed, quiet: bool) -> Trained:
    name, suite, root, log_to = listed
    if not on:
        return train_all(name, suite, root, quiet, log_to, estimate.left)
    sinks.check(log_to)
    check(suite, root)
    made_otherwise(name, suite, root)
    jobs, failed = jobs_of(listed), dict[str, str]()
    if left := sum(not job.done() for job in jobs):
        session = begin(root, argv)
        atomic_write(session.folder / "digest", digest(suite))
        with stopping.hint("the same command goes on"):
            failed = overseeing.oversee(name, jobs, session, starting.engine(on, session, left), quiet)
    return Trained({r.name: folder_of(r, root) for r in suite if finished(r, root)}, failed)


def so_far(listed: Listed, shown: Sequence[Run]) -> Trained:
    """What is finished by now; nothing is trained.

    Args:
        shown: the runs that a page is about.

    Raises:
        UserError: none of those is finished, or a folder was made otherwise.
    """
    check(listed.runs, listed.root)
    found = Trained({r.name: folder_of(r, listed.root) for r in listed.runs if finished(r, listed.root)}, {})
    if not any(r.name in found.folders for r in shown):
        raise UserError(f"nothing in {listed.root} is finished yet", "leave --so-far out, or wait")
    told = f"{len(found.folders)} of {len(listed.runs)} runs are finished; the same command without --so-far trains the others"
    print(f"[{listed.name}] {told}", file=sys.stderr, flush=True)
    return found


def not_yet(trained: Trained, suite: Sequence[Run]) -> list[dict[str, str]]:
    """The runs that are not finished, a line each, for a page."""
    missing = [r for r in suite if r.name not in trained.folders]
    return [{"environment": r.env, "method": r.label + r.batch} for r in missing]


def serve(listed: Listed, session: Session, worker: str, parent: int | None = None) -> None:
    """A worker's part: whatever is ready and nobody's.

    Args:
        parent: see ``working.work``.

    Raises:
        UserError: the list is another than the command's, such as after its file was edited.
    """
    if (session.folder / "digest").read_text() != digest(listed.runs):
        raise UserError(f"the runs of {listed.name} have changed since the command began", "start it again")
    sinks.check(listed.log_to)
    with stopping.hint("another worker goes on"):
        work(jobs_of(listed), session, worker, parent)


def digest(suite: Sequence[Run]) -> str:
    """Of all that makes a list of runs."""
    told = [[*r._replace(config=dataclasses.asdict(r.config), settings=dataclasses.asdict(r.settings))] for r in suite]
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()


def jobs_of(listed: Listed) -> list[Chore]:
    """The runs of a suite and the data sets that are collected for them, once each, as jobs that need each other."""
    suite, root = listed.runs, listed.root
    names, found = {r.name for r in suite}, dict[str, Chore]()
    for run in suite:
        own = tuple(n for n in needs(run) if n in names)
        if isinstance(run.data, Data):
            data, path = run.data, file_of(run.data, root)
            users = [r for r in suite if r.data == data]
            job = f"data {path.name}"
            found[job] = Chore(
                job,
                tuple(p for p in data.policies if p in names),
                functools.partial(_there, path, users, root),
                functools.partial(collected, data, root, True),
            )
            own = (*own, job)
        folder = folder_of(run, root)
        found[run.name] = Chore(
            run.name,
            own,
            functools.partial(finished, run, root),
            functools.partial(train_one, run, root, True, listed.log_to),
            folder / run_folder.LOCK,
            functools.partial(_size, folder / run_folder.METRICS),
        )
    return list(found.values())


def _there(path: Path, users: Sequence[Run], root: Path) -> bool:
    """Whether a data set needs no collecting: it is there, or nobody needs it any more."""
    return path.exists() or all(finished(r, root) for r in users)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
