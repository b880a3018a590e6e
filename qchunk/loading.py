"""A user's own functions, by "module:function" or "path/to/file.py:function"."""

from __future__ import annotations

import importlib
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path

from qchunk.errors import UserError, unknown


def function(target: str) -> Callable:
    """The function of that name.

    Raises:
        UserError: no such module, file or function.
    """
    place, _, name = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place, target)
    found = getattr(module, name, None)
    if found is None:
        raise unknown(f"function of {place}", name, [n for n in vars(module) if not n.startswith("_")])
    return found


def _import(place: str, target: str) -> types.ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as e:
        fix = "give module:function or file.py:function"
        raise UserError(f"cannot import {target!r}: {e}", fix) from e


def _load_file(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"there is no file {path}", "give file.py:function with the path of an existing file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
