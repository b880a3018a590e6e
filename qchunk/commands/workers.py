"""``qchunk worker``: what engines start (``--on``). It makes the list of runs again from the command line that handed it out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from qchunk.engines.session import Session
from qchunk.system import loading
from qchunk.system.errors import UserError

LISTS = {  # of the commands that hand out runs: words of the command line -> comparison.handed.Listed
    "compare": "qchunk.commands.compare:listed",
    "compare-trials": "qchunk.commands.compare:listed_trials",
    "reproduce": "qchunk.commands.reproduce:listed",
    "sweep": "qchunk.commands.sweep:listed",
}


def worker(argv: list[str]) -> None:
    """``qchunk worker ROOT SESSION NAME [CORE,CORE... [PARENT]]``: it ends with the process PARENT."""
    if len(argv) not in (3, 4, 5):
        raise UserError("worker is called by other commands", "use --on of qchunk compare, reproduce or sweep")
    root, name, me, cores, parent = (*argv, "", "")[:5]
    if cores:  # before anything counts them
        os.sched_setaffinity(0, map(int, cores.split(",")))
    # Slurm announces the end of a job's time, and preemption, as submitit asks it to
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    session = Session(Path(root), name)
    command, *words = session.job()["argv"]
    listed = loading.function(LISTS[command])(words)
    from qchunk.comparison import handed

    handed.serve(listed, session, me, int(parent) if parent else None)
