"""Signals that ask this process to stop: Ctrl-C (SIGINT), SIGTERM (Slurm, preemption) and SIGHUP (a closed terminal).

The first one ends the process after what is ``undone`` then, or waits for the next moment to save (``saving``). A second one ends
it at once. Both say one line and leave by ``os._exit``: threads of jax crash an interpreter that finishes while they work,
and an exception raised in the midst of an import or a callback may be printed or lost. A thread watches beside the main one,
because Python's own handlers wait until compiled code returns.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 1.0  # seconds that compiled code has to return, where nothing waits to be saved


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to stop."""


class _Asked:
    """What is known of stopping, of this process. No dataclass: until this module is imported, Python answers signals itself."""

    def __init__(self) -> None:
        self.watched = False
        self.signal: int | None = None  # the first that came
        self.saving = 0  # contexts of ``saving`` that are open
        self.note = ""  # what was kept
        self.hint = ""  # how to go on
        self.leaving = False
        self.undo: list[Callable[[], Any]] = []


_asked = _Asked()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Signals are answered as this module says, until the end of the outermost context; only in the main thread of a process.

    A signal that the process was started to ignore (nohup) stays ignored.
    """
    if _asked.watched or threading.current_thread() is not threading.main_thread():
        yield
        return
    vars(_asked).update(vars(_Asked()), watched=True)
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = {s: signal.getsignal(s) for s in SIGNALS}
    for s, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(s, _answer)
    wakeup = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reads,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for s, handler in before.items():
            signal.signal(s, handler)
        os.close(writes)  # the watcher sees the end of its pipe
        watcher.join()
        os.close(reads)
        _asked.watched = False


def _answer(number: int, frame: Any) -> None:
    """Python's handler, in the main thread."""
    del frame
    if _asked.signal is None:
        _asked.signal = number
        if not _asked.saving:
            leave()
        if sys.stderr.isatty():
            say("stopping as soon as all is saved; a second signal ends at once")


def _watch(pipe: int) -> None:
    """Ends the process at the second signal, or when the first was not answered in time."""
    first: int | None = None
    since = 0.0
    while True:
        ready = select.select([pipe], [], [], None if first is None else 0.1)[0]
        found = os.read(pipe, 64) if ready else b""
        if ready and not found:
            return
        for number in filter(SIGNALS.__contains__, found):  # others are somebody else's
            if first is not None:
                leave(first, at_once=True)
            first, since = number, time.monotonic()
        if _asked.saving:
            since = time.monotonic()
        elif first is not None and not _asked.leaving and time.monotonic() - since > PATIENCE:
            leave(first)


def asked() -> bool:
    """Whether a signal has asked to stop."""
    return _asked.signal is not None


def ask() -> None:
    """As a signal would, where none has come: another process of the same run was asked."""
    _asked.signal = _asked.signal or signal.SIGTERM


def check() -> None:
    """Raises Stopped where a signal has asked to stop; what closes then may take its time."""
    if asked():
        _asked.leaving = True
        raise Stopped


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it the first signal raises nothing: who opened it asks ``asked()``, saves, and calls ``check()``."""
    _asked.saving += 1
    try:
        yield
    finally:
        _asked.saving -= 1


@contextlib.contextmanager
def hint(text: str) -> Iterator[None]:
    """How to go on if a signal comes now; the outermost hint holds."""
    before, _asked.hint = _asked.hint, _asked.hint or text
    stopped = False
    try:
        yield
    except KeyboardInterrupt:
        stopped = True  # the line at the end shows it
        raise
    finally:
        if not stopped:
            _asked.hint = before


@contextlib.contextmanager
def undone(fn: Callable[[], Any]) -> Iterator[None]:
    """Calls ``fn`` where the context ends by an exception, or with this process by the first signal."""
    _asked.undo.append(fn)
    try:
        yield
    except BaseException:
        fn()
        raise
    finally:
        _asked.undo.remove(fn)


def note(text: str) -> None:
    """What was kept, for the line at the end."""
    _asked.note = text


def leave(number: int | None = None, at_once: bool = False) -> NoReturn:
    """Says one line and ends this process by 128 + the signal, without finishing the interpreter.

    Args:
        at_once: undo nothing.
    """
    _asked.leaving = True
    for fn in () if at_once else reversed(_asked.undo):
        with contextlib.suppress(Exception):
            fn()
    said = f"stopped ({_asked.note})" if _asked.note and not at_once else "stopped at once" if at_once else "stopped"
    say("; ".join(filter(None, (said, _asked.hint))))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(128 + (number or _asked.signal or signal.SIGINT))


def say(line: str) -> None:
    """Writes a line to stderr, where that is still there: a closed terminal is one of the reasons to stop."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))
