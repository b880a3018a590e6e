"""Files of JSON, read by what they must hold: a TypedDict of plain types. Whatever else they hold is a user's error."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from qchunk.system.errors import UserError

MOST_BYTES = 1 << 28  # of a file
MOST_LEVELS = 40  # of lists and dictionaries within each other
_INT, _WORDS = 2**53, {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "an object", type(None): "null"}  # fmt: skip


def read(path: Path, hint: Any, fix: str) -> Any:
    """What a file holds, checked.

    Args:
        hint: a TypedDict, or int, float, str, bool, None, Any, list[...], dict[str, ...] and unions of them.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        UserError: it cannot be read, is too large or nested too deep, or holds something else. ``fix`` is its fix.
    """
    try:
        with open(path, "rb") as f:
            data = f.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}", fix) from e
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} is damaged: it is larger than {MOST_BYTES >> 20} MiB", fix)
    try:
        return parsed(data, hint)
    except ValueError as e:
        raise UserError(f"{path} is damaged: {e}", fix) from e


def parsed(data: bytes, hint: Any) -> Any:
    """The value of a JSON text. Raises ValueError, which says in a few words what is wrong."""
    try:
        value = json.loads(data)
    except RecursionError as e:
        raise ValueError("it is nested too deep") from e
    except ValueError as e:
        raise ValueError("it is no JSON") from e
    if _levels(value) > MOST_LEVELS:
        raise ValueError("it is nested too deep")
    if why := mismatch(value, hint):
        raise ValueError(why)
    return value


def as_json(value: Any) -> Any:
    """A value as such a file holds it: tuples are lists, paths and whatever else JSON has no word for are texts."""
    return json.loads(json.dumps(value, default=str))


def mismatch(value: Any, hint: Any, where: str = "it") -> str:
    """What keeps a value from being what ``hint`` says, in a few words; "" where nothing does."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return ""
    if is_typeddict(hint):
        if not isinstance(value, dict):
            return f"{where} is {_short(value)}, not an object"
        hints = get_type_hints(hint, include_extras=True)
        # __required_keys__ is wrong where annotations are texts
        required = (n for n, h in hints.items() if hint.__total__ and get_origin(h) is not NotRequired)
        if missing := sorted(n for n in required if n not in value):
            return f"{where} lacks {', '.join(missing)}"
        at = "" if where == "it" else f"{where}."
        return _first(mismatch(value[n], h, at + n) for n, h in hints.items() if n in value)
    if origin is NotRequired:
        return mismatch(value, args[0], where)
    if origin in (Union, types.UnionType):
        found = [mismatch(value, arm, where) for arm in args]
        return "" if "" in found else next((f for f in found if f" is {_short(value)}, not" not in f), found[0])
    if origin is list:
        if not isinstance(value, list):
            return f"{where} is {_short(value)}, not a list"
        return _first(mismatch(x, args[0], f"{where}[{i}]") for i, x in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            return f"{where} is {_short(value)}, not an object"
        return _first(mismatch(x, args[1], f"{where}.{_short(k)}") for k, x in value.items())
    return "" if _is(value, hint) else f"{where} is {_short(value)}, not {_WORDS[hint]}"


def _is(value: Any, hint: type) -> bool:
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INT
        return whole or (hint is float and isinstance(value, float))
    return isinstance(value, hint)


def _first(found: Any) -> str:
    return next((why for why in found if why), "")


def _short(x: Any) -> str:
    """A value in messages: of a list or an object, only what it is."""
    if isinstance(x, (list, dict)):
        return "a list" if isinstance(x, list) else "an object"
    if isinstance(x, int) and abs(x) > 10**30:
        return "a number of more than 30 digits"
    text = ascii(x)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _levels(value: Any) -> int:
    """How deep lists and dictionaries are nested; stops counting above what is allowed."""
    layer, depth = [value], 0
    while layer and depth <= MOST_LEVELS:
        inside = [x for x in layer if isinstance(x, (list, dict))]
        depth += bool(inside)
        layer = [y for x in inside for y in (x.values() if isinstance(x, dict) else x)]
    return depth
