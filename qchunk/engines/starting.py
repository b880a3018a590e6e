"""Where workers run: on this machine, as a job array of Slurm, as tasks of Ray. Each only starts them; what they do is the same."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qchunk import names
from qchunk.engines.session import Session, serve, started
from qchunk.system import loading
from qchunk.system.errors import UserError, unknown

LOST = -9  # in place of an exit code: the worker is gone, nobody knows how


class Engine(NamedTuple):
    """How workers are started and ended."""

    workers: int  # how many are to work
    start: Callable[[Sequence[str]], list[Any]]  # names of workers -> a handle each
    poll: Callable[
        [Any], int | None
    ]  # of a handle: the worker's exit code, LOST, or None while it works or waits for its turn
    end: Callable[[Sequence[Any]], None]  # at once: those that are left
    close: Callable[[], None] = lambda: None


class Place(NamedTuple):
    """``NAME[:ARGUMENT][,KEY=VALUE...]``, as ``--on`` has it."""

    name: str
    argument: str
    options: dict[str, str]


def parse(on: str) -> Place:
    """What ``--on`` asks for; whether that can be here, too.

    Raises:
        UserError: an unknown engine, an option that is none, or a package that is not installed.
    """
    text, *more = on.split(",")
    name, _, argument = text.partition(":")
    if name not in names.ENGINES:
        raise unknown("engine", name, names.ENGINES, "write --on local:2, --on slurm:PARTITION or --on ray")
    options = dict(part.partition("=")[::2] for part in more)
    if odd := [key for key, value in options.items() if not (key and value)]:
        raise UserError(f"--on {on} has an option {odd[0]!r}", "write options as KEY=VALUE, such as workers=4")
    place = Place(name, argument, options)
    _number(options.get("workers", "1"), on)
    if name == "local":
        _number(argument or "1", on)
        if options:
            raise UserError(f"--on {on} has options, and local has none", "write --on local:WORKERS")
    elif name == "slurm":
        if not argument:
            raise UserError("--on slurm names no partition", "write --on slurm:PARTITION")
        _extra("submitit", "slurm")
    elif name == "ray":
        _extra("ray", "ray")
    return place


def engine(on: str, session: Session, jobs: int) -> Engine:
    """The engine that ``--on`` asks for.

    Args:
        jobs: how many are left to do: more workers than these are never started.

    Raises:
        UserError: see ``parse``, and what the engine itself refuses.
    """
    place = parse(on)
    return loading.function(names.ENGINES[place.name].target)(place, session, jobs)


def local(place: Place, session: Session, jobs: int) -> Engine:
    """``local:N``: N processes here, each with its share of the cores where there are enough."""
    count = min(int(place.argument or 1), jobs)
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = [own[i::count] for i in range(count)] if 1 < count <= len(own) else [[]]
    running: list[tuple[subprocess.Popen, int]] = []

    def start(workers: Sequence[str]) -> list[Any]:
        handles = []
        for worker in workers:
            taken = [i for p, i in running if p.poll() is None]
            least = min(range(len(shares)), key=taken.count)  # of a worker that is gone, or the first
            running.append((handle := started(session, worker, shares[least]), least))
            handles.append(handle)
        return handles

    def end(handles: Sequence[subprocess.Popen]) -> None:
        for handle in handles:
            handle.kill()
            handle.wait()

    return Engine(count, start, subprocess.Popen.poll, end)


def slurm(place: Place, session: Session, jobs: int) -> Engine:
    """``slurm:PARTITION``: one job array of submitit; its options are submitit's (timeout_min, cpus_per_task, gpus_per_node ...)."""
    submitit = _extra("submitit", "slurm")
    options: dict[str, Any] = {n: int(v) if v.isdigit() else v for n, v in place.options.items()}
    count, cluster = min(int(options.pop("workers", jobs)), jobs), options.pop("cluster", "slurm")
    cores = int(session.job()["env"]["JAX_NUM_CPU_DEVICES"])
    asked = {"name": "qchunk", "timeout_min": 240, "cpus_per_task": cores, "slurm_partition": place.argument}
    try:
        executor = submitit.AutoExecutor(folder=session.folder / "submitit", cluster=cluster)
        executor.update_parameters(**{**asked, **options})
    except (NameError, RuntimeError, ValueError, TypeError, AssertionError) as e:
        told = " ".join(str(e).split())[:200]
        raise UserError(f"submitit refuses: {told}", "run it where sbatch is, with options that submitit has") from e

    def start(workers: Sequence[str]) -> list[Any]:
        n = len(workers)
        try:
            return executor.map_array(serve, [str(session.root)] * n, [session.name] * n, list(workers))
        except (submitit.core.utils.FailedJobError, OSError) as e:
            told = " ".join(str(e).split())[:300]
            raise UserError(f"Slurm takes no jobs: {told}", "give another partition, or options that it allows") from e

    def poll(job: Any) -> int | None:
        if not job.done():
            return None
        try:
            return job.result()
        except Exception:  # of submitit: no result was written, the node failed, it was cancelled ...
            return LOST

    def end(handles: Sequence[Any]) -> None:
        for job in handles:
            job.cancel()

    return Engine(count, start, poll, end)


def ray(place: Place, session: Session, jobs: int) -> Engine:
    """``ray[:ADDRESS]``: tasks of a Ray cluster; its options are those of a task (num_cpus, num_gpus)."""
    ray = _extra("ray", "ray")
    options: dict[str, Any] = {n: float(v) if _is_number(v) else v for n, v in place.options.items()}
    count = min(int(options.pop("workers", jobs)), jobs)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        if not ray.is_initialized():
            ray.init(address=place.argument or None, log_to_driver=False)
        task = ray.remote(serve).options(**{"num_cpus": 1, "max_retries": 0, **options})
    except (ConnectionError, ValueError, TypeError, RuntimeError) as e:
        told = " ".join(str(e).split())[:200]
        raise UserError(f"Ray refuses: {told}", "give the address of a cluster (ray start --head says it)") from e
    finally:
        for (
            s,
            handler,
        ) in before.items():  # ray answers SIGTERM itself, and would end this process before its workers have saved
            signal.signal(s, handler)

    def start(workers: Sequence[str]) -> list[Any]:
        return [task.remote(str(session.root), session.name, worker) for worker in workers]

    def poll(handle: Any) -> int | None:
        try:
            return ray.get(handle, timeout=0) if ray.wait([handle], timeout=0)[0] else None
        except Exception:  # of ray: the node or the task is gone
            return LOST

    def end(handles: Sequence[Any]) -> None:
        for handle in handles:
            ray.cancel(handle, force=True)

    return Engine(count, start, poll, end, ray.shutdown)


def _extra(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise UserError(f"{package} is not installed", f'Run: pip install "qchunk[{extra}]"') from e


def _number(text: str, on: str) -> None:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UserError(f"--on {on} asks for {text!r} workers", "give a whole number from 1, such as local:2")


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
