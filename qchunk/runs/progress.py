"""Progress on stderr: a bar where that is a terminal, elsewhere a line per evaluation."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


class Bar:
    """Steps done, updates per second, success (or return) so far, time left."""

    def __init__(self, total: int, begin: int, quiet: bool, title: str):
        self.on = not quiet and sys.stderr.isatty()
        self.lines = not quiet and not self.on
        self.notes: dict[str, str] = {}
        self.total, self.begin, self.title = total, begin, title

    def __enter__(self) -> Bar:
        if self.on:
            from rich import progress
            from rich.console import Console

            columns = ["{task.description}", progress.BarColumn(), "{task.completed:,.0f}/{task.total:,.0f}"]
            columns += [progress.TextColumn("{task.fields[note]}"), progress.TimeRemainingColumn()]
            self.bar = progress.Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.begin, note="compiling")
            self.bar.start()
        return self

    def move(self, done: int, note: str = "") -> None:
        """Sets the bar."""
        if self.on:
            self.bar.update(self.task, completed=done, note=note)

    def show(self, event: Any) -> None:
        """Shows a driver's event."""
        for name, word in (("updates_per_second", "updates/s"), ("success", "success"), ("return", "return")):
            if name in event.values and not (name == "return" and "success" in event.values):
                self.notes[name] = f"{np.mean(event.values[name]):.3g} {word}"
        note = "  ".join(self.notes.values())
        self.move(event.step, note)
        if self.lines and event.kind == "eval":
            print(f"{self.title}: {event.step:,}/{self.total:,}  {note}", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self.on:
            self.bar.stop()
