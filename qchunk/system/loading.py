"""A user's own functions, by "module:function" or "path/to/file.py:function"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from qchunk.system.errors import UserError, unknown

COPIES: dict[
    Path, Path
] = {}  # a run's copy of a file -> where the file lay, beside which its code looks for what it reads
# No ARGS hold another file's function: the path to a run's copy of a file may pass the folder of an arm, mine.py:mine:n=4/sources/mine.py:mine
PLACED = re.compile(
    r"(?P<place>.+?\.py|[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)(?::(?P<args>(?:(?!\.py:[A-Za-z_]).)*))?", re.DOTALL
)

_LOADED: list[str] = []


class Entry(NamedTuple):
    """Where a thing is built, and one line about it."""

    target: str  # "module:function", or a suite's file
    text: str


def function(target: str) -> Callable:
    """The function, or whatever else has that name.

    Raises:
        UserError: no such module, file or function, or a file that cannot be read as Python or imports what is not there.
    """
    place, _, name = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place, target)
    if not hasattr(module, name):
        mine = lambda n: getattr(vars(module)[n], "__module__", "") == module.__name__  # noqa: E731
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"function of {place}", name, sorted(public, key=mine, reverse=True))  # not what it imports first
    return getattr(module, name)


def note(name: str) -> None:
    """Remembers what the user named that is no file of theirs: a function of a library, or a name with arguments of theirs."""
    if not name.partition(":")[0].endswith(".py"):
        _LOADED.append(name)


def loaded() -> list[str]:
    """The files of the user's own that this process has loaded, by their names, and what else they named (``note``)."""
    return list(dict.fromkeys(_LOADED))


def beside(folder: str) -> Path:
    """A folder of the repository that is not part of the package.

    Raises:
        UserError: this is an install without it.
    """
    found = Path(__file__).resolve().parents[2] / folder
    if not found.is_dir():
        raise UserError(f"this install has no {folder}/: it lies in the repository, not in the wheel", "clone it and run make install")  # fmt: skip
    return found


def _import(place: str, target: str) -> types.ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as e:
        fix = "give module:function or file.py:function"
        raise UserError(f"cannot import {target!r}: {e}", fix) from e


def _load_file(path: Path) -> types.ModuleType:
    """The file as a module, known to Python (whatever looks up a class's source wants that); loaded once as it stands."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give the path of a file that exists")
    mark = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"{path.stem}_{mark}"
    _LOADED.append(path.name)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        module.__file__ = str(COPIES.get(path.resolve(), path))
        try:
            spec.loader.exec_module(module)
        except BaseException as e:
            del sys.modules[name]
            if isinstance(e, SyntaxError):
                raise UserError(f"{path} is no Python: line {e.lineno}: {e.msg}", "fix it") from e
            if isinstance(e, ImportError):
                raise UserError(f"{path} cannot be loaded: {e}", "install that, or fix its import") from e
            raise
    return sys.modules[name]


def is_own(name: str) -> bool:
    """Whether a name is a function of the user's own, as ``file.py:function`` or ``file.py:function:ARGS``."""
    return bool((own := PLACED.fullmatch(name)) and own["place"].endswith(".py"))


def place(name: str) -> str:
    """The path of the file of a function of the user's own, as it was given; "" for any other name."""
    return own["place"] if is_own(name) and (own := PLACED.fullmatch(name)) else ""


def short(name: str) -> str:
    """What a thing is called: a function of the user's own, and its ARGS, without the place where it lies."""
    return name[own.start("function") :] if (own := PLACED.fullmatch(name)) else name


def stem(name: str) -> str:
    """What folders of a thing are called: its name, or that of the user's own file, as one word of a path."""
    return Path(name).stem.replace(":", "-")


def readable(data: Path) -> bool:
    """Whether a data set is there; a reader of the user's own finds its data itself."""
    return data.exists() or is_own(str(data))
