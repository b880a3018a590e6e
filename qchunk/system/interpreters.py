"""Other Python interpreters that environments run in: which one an environment's name means, and whether it can be used.

A file of lines remembers them (``PYTHONS`` in ``home()``), the longest name that fits first::

    metaworld = /home/me/metaworld/bin/python
    gymnasium/FrankaKitchen-v1 = /home/me/kitchen/bin/python
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write, make_folder

PYTHONS = "env-pythons"  # the file of lines
LEAST = (3, 9)  # the oldest Python that worker processes run in: what they import is to be written for it
# in the words of any Python: what an interpreter is asked before it is used
_PROBE = """
import json, sys
found = {"version": list(sys.version_info[:3]), "numpy": ""}
try:
    import numpy
    found["numpy"] = numpy.__version__
except ImportError:
    pass
print(json.dumps(found))
"""
_SECONDS = 120.0  # numpy on a cold network disk takes long


def home() -> Path:
    """The folder for what is made once for all runs: ``QCHUNK_HOME``, by default ``qchunk`` where the user's data lie."""
    if own := os.environ.get("QCHUNK_HOME"):
        return Path(own)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "qchunk"


def known() -> dict[str, str]:
    """The interpreters that the file of lines names, by environments or families of them; {} where there is no file.

    Raises:
        UserError: a line is no ``NAME = PYTHON``.
    """
    path = home() / PYTHONS
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {e}", "make it readable, or remove it") from e
    found = {}
    for i, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, python = (part.strip() for part in line.partition(" = "))
        if not (name and equals and python):
            raise UserError(f"line {i} of {path} is {line.strip()[:60]!r}", "write NAME = PYTHON there")
        found[name] = python
    return found


def remember(name: str, python: str) -> Path:
    """Writes the line ``name = python``; an earlier one of this name goes. Returns the file."""
    path = home() / PYTHONS
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition(" = ")[0].strip() != name]
    make_folder(path.parent)
    atomic_write(path, "\n".join([*kept, f"{name} = {python}"]) + "\n")
    return path


def of(name: str) -> str:
    """The interpreter that the file of lines has for an environment; "" where it has none.

    ``metaworld`` stands for all of ``metaworld/...``, and ``gymnasium/Ant-v5`` for it with any arguments.
    """
    bare, found = name.partition("?")[0], known()
    fits = [key for key in found if key in (name, bare) or bare.startswith(key.rstrip("/") + "/")]
    return found[max(fits, key=len)] if fits else ""


def chosen(name: str, given: str = "", kept: str = "") -> str:
    """The interpreter for an environment's workers, checked, as a whole path; "" is the one that runs this.

    Args:
        given: what the user asks for now.
        kept: what a run was made with. Where it is gone, the file of lines is asked, as for a new run.

    Raises:
        UserError: it cannot be used, see ``checked``.
    """
    if given or (kept and Path(kept).exists()):
        return checked(given or kept)
    if line := of(name):
        return checked(line)
    if kept:
        fix = f"put it back, or write a line into {home() / PYTHONS}: {name} = PYTHON"
        raise UserError(f"{name} ran in {kept}, which is not there", fix)
    return ""


@functools.cache  # of those that can be used: an exception is not kept
def checked(python: str) -> str:
    """The whole path of an interpreter that workers can run in: a path, a virtual environment's folder, or a name in PATH.

    Links stay as they are: a virtual environment's interpreter is a link to another one.

    Raises:
        UserError: it is not there, no Python, too old, or without numpy.
    """
    place, numpy = started(python)
    if not numpy:
        raise UserError(f"{python} has no numpy, which worker processes need", f"{place} -m pip install numpy")
    return place


def started(python: str) -> tuple[str, str]:
    """(the whole path of an interpreter, the version of its numpy or ""), see ``checked``.

    Raises:
        UserError: it is not there, no Python, or too old.
    """
    folder = Path(python).expanduser() / "bin" / "python"
    place = str(folder) if folder.exists() else shutil.which(str(Path(python).expanduser()))
    if not place:
        fix = "give the path of one, such as VENV/bin/python; qchunk env setup makes some"
        raise UserError(f"there is no interpreter {python}", fix)
    place = os.path.abspath(place)
    try:
        told = subprocess.run([place, "-c", _PROBE], capture_output=True, text=True, timeout=_SECONDS, cwd="/")
        found = json.loads(told.stdout.strip().splitlines()[-1])
        version, numpy = tuple(found["version"]), found["numpy"]
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as e:
        raise UserError(f"{python} does not answer as a Python interpreter", "give VENV/bin/python") from e
    if version < LEAST:
        shown, least = (".".join(map(str, v)) for v in (version, LEAST))
        raise UserError(f"{python} is Python {shown}", f"give one of Python {least} or newer")
    return place, numpy
