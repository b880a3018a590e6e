"""What a run that is there stands on, against what the same run of a suite would: its objective, its prior, its data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qchunk.data import npz
from qchunk.envs import objective
from qchunk.runs import run_folder
from qchunk.system.errors import UserError, typed


def otherwise(run: Any, kept: Mapping[str, Any], root: Path) -> str:
    """What of a run was made otherwise, in words; "" where nothing was. Which data those are is another question: ``refuse_other``.

    Args:
        run: the ``suite.Run``.
        kept: what config.json keeps of it.
        root: the folder of its suite.
    """
    if dict(kept.get("objective") or {}) != objective.parse(run.objective):
        return "another objective"
    prior = kept.get("prior")
    if bool(prior) != bool(run.prior):
        return "a prior" if prior else "no prior"
    if prior and not _is_prior(Path(prior["path"]), run.prior, root):
        return "another prior"
    if bool(kept.get("data")) != bool(run.data):
        return "a data set" if kept.get("data") else "no data set"
    return ""


def _is_prior(kept: Path, name: str, root: Path) -> bool:
    """Whether a run stands on the prior of this name, also where the folder of the suite has moved since."""
    tail = ("runs", *Path(name).parts)
    within = not Path(name).is_absolute() and kept.parts[-len(tail) :] == tail
    return within or kept == (root / "runs" / name).resolve()


def mark_of(file: Path) -> str:
    """The fingerprint of a data set that was collected, as its file says; its arrays are not read.

    Raises:
        UserError: it is damaged.
    """
    with npz.opened(file, f"remove it, and it is collected again: rm {typed(file)}") as z:
        return str(json.loads(str(z["about"]))["fingerprint"])


def refuse_other(file: Path, mark: str, kept: Mapping[str, Any], folder: Path) -> None:
    """Refuses a run on other data than a suite would give it now.

    Args:
        file: where those lie, or would.
        mark: their fingerprint; "" where they are not there: then a run on data that were collected by another description is refused.
        kept: what config.json keeps of the run's own.

    Raises:
        UserError: says which file, and of which run.
    """
    own, fix = Path(kept["path"]), "remove the folder, or pass --out with a new one"
    if mark and mark != kept["fingerprint"]:
        raise UserError(f"{file} has changed since {folder} was made", f"put it back; otherwise {fix}")
    if not mark and own.parent.name == file.parent.name and own.name != file.name:
        raise UserError(f"{folder} was made with another data set, {own.name}, not {file.name}", fix)


def same_as_before(file: Path, root: Path) -> None:
    """Refuses a data set that was collected anew and is not what runs of the suite were made with, before anything learns from it.

    Raises:
        UserError: see ``refuse_other``.
    """
    for config in sorted((root / "runs").rglob(run_folder.CONFIG)):
        kept = None
        with contextlib.suppress(UserError):  # what cannot be read is refused where it is asked for
            kept = run_folder.read_config(config.parent)["config"].get("data")
        if kept and Path(kept["path"]).name == file.name:
            refuse_other(file, mark_of(file), kept, config.parent)
