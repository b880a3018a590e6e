"""Errors in a line, and what code of the user's own raised: whose function failed and where, without the frames between."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from pathlib import Path

from qchunk.system.errors import UserError

_OURS = str(Path(__file__).resolve().parents[1]) + os.sep
_LIBRARIES = [*(p for n, p in sysconfig.get_paths().items() if n.endswith(("lib", "stdlib"))), *site.getsitepackages()]
_INSTALLED = tuple({place + os.sep for p in _LIBRARIES for place in (os.path.abspath(p), os.path.realpath(p))})


# JAX's errors, by name: nothing here imports it
_TRACED = {"ConcretizationTypeError", "TracerBoolConversionError", "TracerIntegerConversionError", "TracerArrayConversionError"}  # fmt: skip
_NO_VALUE = (
    "Python or NumPy asks for the value of a traced number, as if, float() and range() do; arrays and the floats of a configuration have none while "
    "a program is made. Use jax.numpy.where, or make the field an int, a bool or a str"
)


def is_own(file: str) -> bool:
    """Whether a file is the user's: neither of this package, nor installed, nor Python's."""
    places = os.path.abspath(file), os.path.realpath(file)  # installers may link packages from a cache
    return (
        not file.startswith("<")
        and not any(p.startswith((_OURS, *_INSTALLED)) for p in places)
        and os.path.isfile(file)
    )


def own_frames(err: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an exception that lie in files of the user's, the innermost last; of what caused it where it has none."""
    seen: set[int] = set()
    at: BaseException | None = err
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if found := [f for f in traceback.extract_tb(at.__traceback__) if is_own(f.filename)]:
            return found
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return []


def place(frame: traceback.FrameSummary) -> str:
    """``file.py:12``, relative to this folder where that is shorter."""
    return f"{min(frame.filename, os.path.relpath(frame.filename), key=len)}:{frame.lineno}"


def told(err: BaseException) -> str:
    """``ValueError: what it says``, in one line; what JAX says at length of traced numbers in ours."""
    if type(err).__name__ in _TRACED:
        return f"{type(err).__name__}: {_NO_VALUE}"
    return f"{type(err).__name__}: {' '.join(str(err).split()) or '(no message)'}"


def line_of(err: BaseException) -> str:
    """An error as one line; with its kind and its place where it is no mistake of the user's that says its fix."""
    said = " ".join(str(err).split())
    if isinstance(err, UserError):
        return said
    places = traceback.extract_tb(err.__traceback__)
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(err).__name__}: {said[:300]}{where}"


def why(err: BaseException) -> str:
    """An error as one line: which function of the user's raised, or ``line_of`` where none did."""
    return blamed(err) or line_of(err)


def blamed(err: BaseException) -> str:
    """One line: which function of the user's raised, where, and what. "" where no frame is the user's."""
    frames = own_frames(err)
    if not frames:
        return ""
    last = frames[-1]
    entered = next((f.name for f in frames if not f.name.startswith("<")), "the file")
    where = entered if entered != last.name and not last.name.startswith("<") else ""
    inside = f" (called by {where})" if where else ""
    what = "file" if last.name == "<module>" else last.name
    return f"your {what}{inside} failed at {place(last)}: {told(err)}"


def listed(err: BaseException, ours: bool = False) -> list[str]:
    """Frames, a line each, the innermost last: the user's own, or this package's."""
    found = own_frames(err)
    if ours:
        found = [f for f in traceback.extract_tb(err.__traceback__) if os.path.realpath(f.filename).startswith(_OURS)]
    return [f"  {place(f)} in {f.name}: {f.line or ''}".rstrip(": ") for f in found]
