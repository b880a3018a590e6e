"""The folder of a run: configuration, lock, metrics, summary. No jax in here: reports read it too. ::

config.json      the resolved configuration, versions, git commit and a digest of the code, platform
metrics.jsonl    one JSON object a line
summary.json     final figures, each {"mean":, "per_seed": []}
checkpoints/     see checkpoint.py
lock             held (flock) by the process that writes
given/           frozen modules that the run stands on, see opened.py
sources/         files of the user's own that it names, see sources.py
tensorboard/     where the run logs there, see sinks.py

What a finished run was asked besides (``comparison/afterwards.py``) lies there, too: ::

cost.json        what acting costs, and how far chunks are from the data
executions.json  figures of the run played by other schemes
episode.gif      an episode, and episode.png, its last frame
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from qchunk.runs.schemas import About, Line
from qchunk.system import installed, schema, stopping
from qchunk.system.answers import finite
from qchunk.system.errors import UserError, typed
from qchunk.system.files import (
    acquire,
    append,
    atomic_write,
    check_place,
    explain_oserror,
    hold,
    is_taken,
    remove,
    write_json,
    write_synced,
)

FORMAT, VERSION = "qchunk", 2  # 1: learners kept their target networks under another name
MOST_METRICS = 1 << 30  # bytes of a metrics.jsonl that is read: years of evaluations
CONFIG, METRICS, SUMMARY, LOCK = "config.json", "metrics.jsonl", "summary.json", "lock"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """A run folder that this process may write to. Made by ``create`` or ``open_run``; usable in a ``with``.

    Attributes:
        path: the folder.
        about: what config.json holds: ``config``, ``versions``, ``git_commit``, ``code``, ``platform``, ...
        sinks: where else ``log`` sends its values.
    """

    def __init__(self, path: Path, about: dict, lock: int, made: Sequence[Path] = ()):
        self.path, self.about, self.sinks = path, about, list[Any]()
        self._lock: int | None = lock
        self._made = made  # the parents that were made for it, the nearest first
        self._waiting: list[dict] | None = None  # what metrics.jsonl will hold from ``settle`` on, where it went back
        self._start(self.lines())

    @property
    def config(self) -> dict:
        """The resolved configuration, as it was given to ``create``."""
        return self.about["config"]

    @property
    def checkpoints(self) -> Path:
        """The folder for ``checkpoint.save``."""
        return self.path / CHECKPOINTS

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl; when this returns, a kill of the process cannot lose it.

        After a ``rewind`` that drops lines, they and the file wait for ``settle``.

        Args:
            kind: "train", "eval" or another word.
            step: the step that the values belong to.
            values: name -> number, or list (or array) with one number per seed; NaN and inf become null.

        Raises:
            UserError: the disk is full or refuses; the lines before this one are intact.
        """
        values = {name: _plain(v) for name, v in values.items()}
        seconds = round(self._seconds + time.monotonic() - self._since, 3)
        line = {"kind": kind, "step": int(step), "seconds": seconds, "values": finite(values)}
        if self._waiting is None:
            append(self.path / METRICS, _line(line))
        else:
            self._waiting.append(line)
        for sink in self.sinks if values else ():
            sink.log(kind, int(step), values)

    def rewind(self, step: int) -> None:
        """Drops the metrics of steps after ``step`` and a torn last line; a resumed run does this first.

        Where lines are dropped, the folder stays as it was until ``settle``: until a checkpoint is saved, later ones are still there.

        Raises:
            UserError: a line in the middle is damaged, or the disk refuses; the file is as before.
        """
        lines = self.lines()
        kept = [line for line in lines if line["step"] <= step]
        self._waiting = kept if len(kept) < len(lines) else None
        self._start(kept)

    @property
    def finished(self) -> bool:
        """Whether its final figures are there."""
        return (self.path / SUMMARY).exists()

    def lines(self) -> list[dict]:
        """The metrics so far."""
        path = self.path / METRICS
        return self._waiting if self._waiting is not None else read_metrics(path) if path.exists() else []

    def settle(self) -> None:
        """What a ``rewind`` dropped goes, with the summary of it; the lines since then are in the file. After each checkpoint."""
        if self._waiting is not None:
            (self.path / SUMMARY).unlink(missing_ok=True)
            atomic_write(self.path / METRICS, b"".join(map(_line, self._waiting)))
            self._waiting = None

    def change(self, config: Mapping[str, Any]) -> None:
        """Replaces what config.json holds under these names of the configuration."""
        self.about["config"].update(config)
        write_json(self.path / CONFIG, self.about, indent=2, default=_jsonable)

    def discard(self) -> bool:
        """Removes the folder, and the parents made for it, unless something was trained: whether it is gone."""
        if self.checkpoints.exists() or any(line["kind"] == "train" for line in self.lines()):
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty(self._made)
        return True

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json in one step.

        Args:
            summary: name -> ``figure(...)``, or a number or list per seed, which becomes one.

        Raises:
            UserError: the disk is full or refuses.
        """
        figures = {name: finite(v if isinstance(v, Mapping) else figure(v)) for name, v in summary.items()}
        write_json(self.path / SUMMARY, figures, indent=2, allow_nan=False)

    def close(self) -> None:
        """Closes the sinks and frees the lock, whatever a sink raises. Harmless the second time."""
        sinks, self.sinks = self.sinks, []
        with contextlib.ExitStack() as stack:
            stack.callback(self._free)
            for sink in sinks:
                stack.callback(sink.close)

    def _free(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, lines: Sequence[dict]) -> None:
        """Sets the clock: a resumed run goes on from the seconds of its last line."""
        self._seconds, self._since = (lines[-1]["seconds"] if lines else 0.0), time.monotonic()


def create(out: Path, config: Mapping[str, Any], fill: Callable[[Path], Any] = lambda folder: None) -> RunFolder:
    """Makes a run folder and locks it. It appears under its name complete with config.json, or not at all.

    Args:
        out: the folder; it must not exist. Missing parents are made.
        config: the resolved configuration, with ``algorithm`` and ``env`` by name. Paths, dataclasses,
            tuples and numpy numbers become what JSON has for them; infinities stay (Python's json).
        fill: writes what else must be there from the start, into the folder before it has its name.

    Raises:
        UserError: there is something of that name but for an empty folder, or the disk is full or refuses; nothing is left behind.
        TypeError: the configuration holds what JSON cannot.
    """
    out = Path(out)
    check_place(out)
    if is_taken(out):
        going_on = f", or --resume {typed(out)} to go on with that run" if out.is_dir() else ""
        raise UserError(f"{out} exists already", f"Pass --out with a new folder{going_on}")
    text = json.dumps(_describe(config), indent=2, default=_jsonable) + "\n"
    made = [p for p in out.absolute().parents if not p.exists()]
    temp = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    lock = None

    def undo() -> None:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(temp, ignore_errors=True)
        _remove_empty(made)

    with stopping.undone(undo):  # a signal too leaves nothing behind
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            temp.mkdir()
            lock = acquire(temp / LOCK)
            write_synced(temp / CONFIG, text.encode())
            fill(temp)
            os.rename(temp, out)
        except OSError as err:
            raise explain_oserror(err, out) from err
    return RunFolder(out, json.loads(text), lock, made)


def open_run(path: Path) -> RunFolder:
    """Opens a run folder for writing, to go on with it.

    Raises:
        UserError: it is no run, another process is writing to it, or the disk refuses.
    """
    path = Path(path)
    about = read_config(path)
    fix = "Wait for it or stop it, or pass --out with a new folder"
    lock = hold(path / LOCK, f"writing to the run {path}", fix)
    try:
        for pattern in (".*.tmp-*", f"{CHECKPOINTS}/.tmp-*", f"{CHECKPOINTS}/.gone-*"):  # what a kill left half done
            for left in path.glob(pattern):
                remove(left)
        return RunFolder(path, about, lock)
    except BaseException:
        os.close(lock)
        raise


def read_config(path: Path) -> dict:
    """What config.json of a run holds; takes no lock. Raises UserError where ``path`` is no run."""
    path, fix = Path(path), "Pass the folder that `qchunk train --out` made"
    try:
        about = schema.read(path / CONFIG, dict[str, Any], fix)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise UserError(f"{path} is not a run: there is no {CONFIG} in it", fix) from err
    except UserError as err:
        raise UserError(f"{path} is not a run: its {CONFIG} cannot be read ({err.problem})", fix) from err
    if about.get("format") != FORMAT or "config" not in about:
        raise UserError(f"{path} is not a run: its {CONFIG} is not qchunk's", fix)
    if (version := about.get("version")) != VERSION:
        older = isinstance(version, int) and version < VERSION
        raise UserError(
            f"run {path} has format version {version}, this qchunk reads {VERSION}",
            f"{'Train it again, or install' if older else 'Install'} the version of qchunk that wrote it",
        )
    if why := schema.mismatch(about, About):
        raise UserError(f"{path / CONFIG} is damaged: {why}", "Put it back as it was, or train the run again")
    return about


def label_of(path: Path) -> str:
    """What a run is called, even one that cannot be read: by its folder, where its config.json says nothing."""
    with contextlib.suppress(UserError):
        c = read_config(path)["config"]
        return str(c.get("label") or c.get("algorithm") or path.name)
    return path.name


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl (or of the one in a run folder), in order; a torn last line is left out.

    Raises:
        UserError: there is none, or a line before the last is damaged.
    """
    path = Path(path)
    path = path / METRICS if path.is_dir() else path
    try:
        if path.stat().st_size > MOST_METRICS:
            raise UserError(
                f"{path} is damaged: it is larger than {MOST_METRICS >> 30} GiB", "Start a new run with --out"
            )
        data = path.read_bytes()
    except OSError as err:
        raise UserError(f"cannot read the metrics {path}: {err.strerror}", "Check the path of the run") from err
    lines, found = data.split(b"\n"), []
    for i, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty, or torn
        try:
            found.append(schema.parsed(line, Line))
        except ValueError as err:
            fix = f"Delete line {i}, or start a new run with --out"
            raise UserError(f"line {i} of {path} is damaged: {err}", fix) from err
    return found


COMPARED = ("success", "return", "explained")  # by the first of these runs are compared; more is better


def compared(values: Container[str]) -> str:
    """What runs are compared by, of the figures of an evaluation."""
    return next((name for name in COMPARED if name in values), "return")


def judged(lines: list[dict], known: bool = False) -> list[dict]:
    """The lines of metrics, in which all evaluations speak of success where one does.

    An environment may say only where success was reached: an evaluation without it is one in which nobody succeeded.

    Args:
        known: whether another run of the environment speaks of it.
    """
    known = known or any(line["kind"] == "eval" and "success" in line["values"] for line in lines)

    def filled(line: dict) -> dict:
        values = line["values"]
        if line["kind"] != "eval" or "success" in values or not isinstance(earned := values.get("return"), list):
            return line
        none = [None if x is None else 0.0 for x in earned]  # a seed without a return has no figure
        return {**line, "values": {"success": none, **values}}

    return [filled(line) for line in lines] if known else lines


def diverged(lines: list[dict]) -> dict[str, list[float]]:
    """Of a run whose loss or parameters became NaN or infinite: which seeds [S], and after how many updates the first one; or {}."""
    found = [line["values"] for line in lines if line["kind"] == "diverged"]
    if not found:
        return {}
    ever = [
        float(any(flags)) for flags in zip(*(v["diverged"] for v in found), strict=True)
    ]  # a run that goes on says anew
    return {**found[-1], "diverged": ever, "diverged_at": found[0]["diverged_at"]}


def figure(per_seed: Any) -> dict[str, Any]:
    """``{"mean":, "per_seed": []}`` of one number per seed (a single number is one seed); None, as in metrics, is NaN."""
    flat = _plain(per_seed)
    flat = [math.nan if x is None else float(x) for x in (flat if isinstance(flat, list) else [flat])]
    mean = math.fsum(flat) / len(flat) if flat and all(map(math.isfinite, flat)) else math.nan
    return {"mean": mean, "per_seed": flat}


# --------------------------------------------------------------------------------------------------- writing


def _line(line: dict) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()


def _remove_empty(parents: Sequence[Path]) -> None:
    """Removes folders, the nearest first; stops at the first that is not there or not empty."""
    with contextlib.suppress(OSError):
        for parent in parents:
            parent.rmdir()


def _plain(x: Any) -> Any:
    """Numbers and (nested) lists of them, from numpy, JAX or Python."""
    if hasattr(x, "tolist"):
        return x.tolist()
    return [_plain(v) for v in x] if isinstance(x, (list, tuple)) else x


def _jsonable(x: Any) -> Any:
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    if isinstance(x, os.PathLike):
        return os.fspath(x)
    if isinstance(x, Mapping):
        return dict(x)
    if not isinstance(x, type) and hasattr(x, "tolist"):
        return x.tolist()
    raise TypeError(f"a run's configuration cannot hold {x!r}")


def _describe(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": dict(config),
        **installed.everything(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
