"""What an environment raised, as plain data that crosses from a worker process, and as the user's error. No jax here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from qchunk.system import tracebacks
from qchunk.system.errors import UserError

OURS = ("gymnasium", "ogbench")  # packages that an extra of ours installs
SETUPS = (
    "metaworld",
    "robosuite",
    "gymnasium_robotics",
)  # those that have interpreters of their own: ``qchunk env setup``


class Failed(Exception):
    """What the environment could not be, such as "made"; its cause says why."""


@contextlib.contextmanager
def at(what: str) -> Iterator[None]:
    """Whatever the environment raises inside, as ``Failed``: it cannot be made, stepped or drawn."""
    try:
        yield
    except (UserError, Failed):
        raise
    except Exception as e:  # whatever a user's environment raises
        raise Failed(what) from e


def of(err: Exception) -> dict[str, Any]:
    """An exception as JSON holds it: what it says, whose it is, what is missing; a UserError's problem and fix."""
    what = str(err) if isinstance(err, Failed) else ""
    e = err.__cause__ if isinstance(err, Failed) and isinstance(err.__cause__, Exception) else err
    if isinstance(e, UserError):
        return {"problem": e.problem, "fix": e.fix, "told": str(e)}
    own = tracebacks.own_frames(e)
    where = f", at {tracebacks.place(own[-1])}" if own else ""
    return {
        "what": what,
        "told": f"{tracebacks.told(e)}{where}",
        "said": tracebacks.blamed(e) or tracebacks.told(e),
        "own": bool(own),
        "missing": (e.name or "") if isinstance(e, ImportError) else None,
        "misnamed": type(e).__module__.startswith("gymnasium") or isinstance(e, ValueError),
        "arguments": isinstance(e, TypeError) and "argument" in str(e),
    }


def error(found: dict[str, Any], name: str, python: str = "") -> UserError:
    """The user's error of what ``of`` found.

    Args:
        name: of the environment.
        python: the interpreter that it ran in; "" is this one.
    """
    if "problem" in found:
        return UserError(found["problem"], found["fix"])
    missing = found["missing"]
    package = missing.split(".")[0] if missing else ""
    if package in SETUPS:
        setup = "kitchen" if package == "gymnasium_robotics" else package
        where = f"{python} lacks" if python else "this interpreter lacks"
        fix = f"qchunk env setup {setup}, or give --env-python VENV/bin/python that has it"
        return UserError(f"{name} needs {package}, which {where}", fix)
    if package in OURS:
        if python:
            return UserError(f"{name} needs {package}, which {python} lacks", f"{python} -m pip install {package}")
        return UserError(f"{name} needs {package}, which is missing", "pip install 'qchunk[ogbench]'")
    what = found["what"] or "stepped"
    return UserError(f"{name} cannot be {what}: {found['said']}", _fix(found, what, name, python))


def _fix(found: dict[str, Any], what: str, name: str, python: str) -> str:
    if found["own"]:
        return "fix it there"
    if what != "made":
        fixes = {"drawn": "install what it draws with", "stepped": "let reset and step return what gymnasium.Env says"}
        return fixes[what]
    if found["missing"] is not None:
        where = f" into {python}" if python else ""
        return f"install {found['missing'] or 'what it needs'}{where}, or give the module that registers it"
    if found["arguments"] and "?" in name:
        return f"give arguments that {name.partition('?')[0]} takes after the question mark"
    if found["misnamed"]:
        return "give the id of a gymnasium environment with continuous actions"
    return "see whether gymnasium alone can make and step it"
