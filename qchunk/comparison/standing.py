"""What a run that is there stands on, against what the same run of a suite would: its objective, its prior, its data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from qchunk.data import npz
from qchunk.envs import objective
from qchunk.runs import prior, run_folder
from qchunk.runs.opened import read_given
from qchunk.seeds import repeated
from qchunk.system.errors import UserError, typed


def otherwise(run: Any, kept: Mapping[str, Any], root: Path, folder: Path) -> str:
    """What of a run was made otherwise, in words; "" where nothing was. Which data those are is another question: ``refuse_other``.

    Args:
        run: the ``suite.Run``.
        kept: what config.json keeps of it.
        root: the folder of its suite.
        folder: its own.
    """
    if dict(kept.get("objective") or {}) != objective.parse(run.objective):
        return "another objective"
    stood = kept.get("prior")
    if bool(stood) != bool(run.prior):
        return "a prior" if stood else "no prior"
    if stood and not _is_prior(Path(stood["path"]), run.prior, root) and not _stands_on(folder, run):
        return "another prior"
    if bool(kept.get("data")) != bool(run.data):
        return "a data set" if kept.get("data") else "no data set"
    return ""


def _is_prior(kept: Path, name: str, root: Path) -> bool:
    """Whether a run stands on the prior of this name, also where the folder of the suite has moved since."""
    tail = ("runs", *Path(name).parts)
    within = not Path(name).is_absolute() and kept.parts[-len(tail) :] == tail
    return within or kept == (root / "runs" / name).resolve()


def _stands_on(folder: Path, run: Any) -> bool:
    """Whether the frozen modules that a run keeps are those that it would be given by a prior outside of its suite, which lies elsewhere now."""
    if not Path(run.prior).is_absolute():
        return False
    settings = len(run.swept) or 1
    try:
        given = repeated(prior.load(Path(run.prior), run.settings.seeds // settings).given, settings)
        kept, now = flatten_dict(read_given(folder)), flatten_dict(given)
    except UserError:
        return False
    theirs = {name: x for name, x in kept.items() if name[0] != objective.GIVEN}
    return theirs.keys() == now.keys() and all(np.array_equal(x, now[name]) for name, x in theirs.items())


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
    if mark == kept["fingerprint"]:
        return
    if own.name != file.name and (mark or own.parent.name == file.parent.name):
        raise UserError(f"{folder} was made with another data set, {own.name}, not {file.name}", fix)
    if mark:
        raise UserError(f"{file} has changed since {folder} was made", f"put it back; otherwise {fix}")


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
