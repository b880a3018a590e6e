"""The command's side of its workers: it keeps them going, shows how all of it stands, and stops them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from qchunk.engines.claims import Claims
from qchunk.engines.session import Session
from qchunk.engines.starting import Engine
from qchunk.engines.working import PATIENCE, POLL, Chore, why_not
from qchunk.system import stopping

RESTARTS = 10  # workers in place of lost ones while no job ends, for each one that is to work
REFUSED = 2  # exit code of a user's mistake, which the next worker would make, too


def oversee(title: str, jobs: Sequence[Chore], session: Session, engine: Engine, quiet: bool = False) -> dict[str, str]:
    """Waits until every job is done or has failed: those that failed, and why.

    Raises:
        Stopped: a signal asked to stop; the workers have saved and ended.
    """
    board, claims = Overview(title, jobs, quiet), session.claims()
    crew: dict[str, Any] = {}
    with stopping.saving(), board:
        try:
            _keep_going(jobs, session, engine, crew, board, claims)
        finally:
            _dismiss(session, engine, crew)
    stopping.check()
    return session.failed()


def _keep_going(
    jobs: Sequence[Chore], session: Session, engine: Engine, crew: dict[str, Any], board: Overview, claims: Claims
) -> None:
    """Starts workers, and others in place of those that are gone, until nothing is left or a signal asks to stop."""
    begun, lost, refused, before = 0, 0, False, -1
    while not stopping.asked():
        failed = session.failed()
        left = [job for job in jobs if job.name not in failed and not job.done()]
        board.show(states(jobs, failed, claims))
        if not left:
            return
        lost, before = (lost if len(left) == before else 0), len(left)
        for worker, handle in list(crew.items()):
            if (code := engine.poll(handle)) is not None:
                del crew[worker]
                lost += 1
                refused |= code == REFUSED
        if refused or lost > RESTARTS * engine.workers:
            if not crew:
                for job in left:
                    session.fail(job.name, f"no worker is left for it: {last_line(session, begun)}")
        elif missing := max(0, min(engine.workers, len(left)) - len(crew)):
            names = [str(begun + i) for i in range(1, missing + 1)]
            begun += missing
            crew.update(zip(names, engine.start(names), strict=True))
        time.sleep(POLL)


def _dismiss(session: Session, engine: Engine, crew: dict[str, Any]) -> None:
    """Asks the workers to save and end, waits for them, and ends what is left."""
    session.stop.touch()
    engine.end([handle for worker, handle in crew.items() if not session.log(worker).exists()])  # they wait for a turn
    until = time.monotonic() + PATIENCE
    while (left := [h for h in crew.values() if engine.poll(h) is None]) and time.monotonic() < until:
        time.sleep(POLL / 5)
    engine.end(left)
    engine.close()


def last_line(session: Session, begun: int) -> str:
    """What the newest worker said last."""
    for worker in range(begun, 0, -1):
        if session.log(str(worker)).exists():
            lines = session.log(str(worker)).read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else f"it said nothing ({session.log(str(worker))})"
    return "none has begun"


def states(jobs: Sequence[Chore], failed: Mapping[str, str], claims: Claims) -> dict[str, str]:
    """How each job stands, in words."""
    newest = claims.newest()
    done = {job.name for job in jobs if job.done()}

    def state(job: Chore) -> str:
        if job.name in failed:
            return f"failed: {failed[job.name]}"
        if job.name in done:
            return "finished"
        if why := why_not(job, dict(failed)):
            return f"failed: {why}"
        if (found := newest.get(job.name)) and (owner := claims.owner(found)):
            return f"running, worker {owner}"
        waits = [n for n in job.needs if n not in done]
        return f"waits for {', '.join(waits)}" if waits else "left"

    return {job.name: state(job) for job in jobs}


class Overview:
    """All jobs on stderr: a table where that is a terminal, elsewhere a line for each change."""

    def __init__(self, title: str, jobs: Sequence[Chore], quiet: bool):
        self.title, self.total, self.on = title, len(jobs), not quiet and sys.stderr.isatty()
        self.shown: dict[str, str] = {}

    def __enter__(self) -> Overview:
        if self.on:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False)
            self.live.start()
        return self

    def show(self, found: Mapping[str, str]) -> None:
        """Shows the states of all jobs, see ``states``."""
        ended = sum(text.startswith(("finished", "failed")) for text in found.values())
        if self.on:
            from rich.table import Table

            table = Table(title=f"{self.title}: {ended} of {self.total}", title_justify="left")
            for column in ("job", "state"):
                table.add_column(column)
            for name, text in found.items():
                table.add_row(name, text)
            self.live.update(table, refresh=True)
        else:
            for name, text in found.items():
                if self.shown.get(name) != text and text.startswith(("finished", "failed", "running")):
                    print(f"[{self.title} {ended}/{self.total}] {name}: {text}", file=sys.stderr, flush=True)
        self.shown = dict(found)

    def __exit__(self, *_: object) -> None:
        if self.on:
            self.live.stop()
