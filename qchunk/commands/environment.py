"""``qchunk env``: interpreters of their own for environments."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.system import interpreters
from qchunk.system.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class SetupFlags:
    """An interpreter to make."""

    to: Path | None = None
    """Folder of the virtual environment; by default one for all runs, in the user's data folder or QCHUNK_HOME."""
    python: str = ""
    """Interpreter to make it from; by default the one that runs this."""


HELP = (
    "qchunk env setup NAME makes a virtual environment with a simulator from a pinned list and remembers it, so that its "
    "environments run there; qchunk env list shows what is remembered."
)


def env(argv: list[str]) -> None:
    """``qchunk env setup NAME [--to DIR] [--python PYTHON]`` and ``qchunk env list``."""
    from qchunk.envs.host.setups import SETUPS

    word, rest = positional("env", argv, "setup or list")
    if word == "list":
        for name, python in interpreters.known().items():
            print(f"{name} = {python}")
        return
    if word == "":
        print(f"usage: {HELP}\nsetups: {', '.join(SETUPS)}")
        return
    if word != "setup":
        raise unknown("word", word, ["setup", "list"])
    name, rest = positional("env setup", rest, f"one of {', '.join(SETUPS)}")
    if name and name not in SETUPS:
        raise unknown("setup", name, SETUPS)
    (f,) = flags.parse("env setup", rest, SetupFlags, text=HELP)
    setup(name, f)


def setup(name: str, f: SetupFlags) -> None:
    """Makes the interpreter, plays one step in it and remembers it; what fails is not remembered.

    Raises:
        UserError: it cannot be made, or its environment cannot be stepped there.
    """
    from qchunk import envs
    from qchunk.envs.host import setups

    folder = (f.to or interpreters.home() / "venvs" / name).absolute()
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise UserError(f"{folder} exists and is no virtual environment", "give --to with a new folder")
    found = setups.SETUPS[name]
    print(f"installing {' '.join(found.packages) or 'nothing'} into {folder}", file=sys.stderr, flush=True)
    python = setups.made(name, folder, f.python)
    one = envs.make(found.example, python=python)
    for remembered in found.names:
        path = interpreters.remember(remembered, python)
    versions = ", ".join(f"{n} {v}" for n, v in one.versions.items())
    print(f"{one.name} runs in {python} ({versions}); {path} says so")
