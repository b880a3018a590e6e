"""What is installed here: the versions of packages, the commit of a checkout, a digest of our own code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("qchunk", "jax", "jaxlib", "flax", "optax", "brax", "mujoco", "numpy", "orbax-checkpoint"),
    *("gymnax", "gymnasium", "ogbench", "dm_control"),  # of those that are installed
)
_OURS = Path(__file__).parents[1]


def everything() -> dict[str, Any]:
    """What config.json keeps of it."""
    return {"versions": versions(), "git_commit": git_commit(), "code": code()}


def versions() -> dict[str, str]:
    """The versions of the packages that decide what a run computes, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code() -> str:
    """A digest of this package's modules, 12 hexadecimal digits: the same in a checkout and in an installed copy, whatever the commit is called."""
    found = hashlib.sha256()
    for path in sorted(_OURS.rglob("*.py")):
        found.update(f"{path.relative_to(_OURS).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def git_commit() -> str | None:
    """The commit of the checkout that this code lies in, "-dirty" where files differ; None outside of one."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(_OURS), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # an installed copy may lie in somebody else's checkout
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
