"""Minari's data sets: a folder ``data`` with ``metadata.json`` and ``main_data.hdf5``, in which ``episode_0`` has ``actions``, ``rewards``,
``terminations`` and ``truncations`` of L steps and ``observations`` (an array, or a group of parts) of L + 1."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data import hdf5, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey
from qchunk.system.errors import UserError

MAIN, ABOUT = "main_data.hdf5", "metadata.json"
NAMES = {"actions": "action", "rewards": "reward", "terminations": "terminal", "infos/success": "success"}


def folder(path: Path | str) -> Path | None:
    """Where the files of a data set lie, by the path of its main file, of its folder or of the folder ``data`` within that."""
    path = Path(path)
    found = [p for p in (path.parent if path.name in (MAIN, ABOUT) else path, path / "data") if (p / ABOUT).is_file()]
    with contextlib.suppress(OSError, ValueError):
        return next((p for p in found if "data_format" in (p / ABOUT).read_text()), None)
    return None


def survey(path: Path, reading: Reading) -> Survey:
    """What such a folder holds."""
    place = folder(path)
    if place is None:
        raise UserError(f"{path} is no data set of Minari", f"give the folder with {ABOUT} and {MAIN}")
    said = described(place)
    if said.get("data_format", "hdf5") != "hdf5" or not (place / MAIN).is_file():
        problem = f"{place} is kept as {said.get('data_format')}, without a file {MAIN}"
        raise UserError(problem, "create it in Minari with data_format='hdf5'")
    found = recorded.nothing()
    with hdf5.opened(place / MAIN) as f:
        episodes = hdf5.numbered(f, "episode_")
        parts = [episode(f[name], name, reading, str(path), found) for name in episodes]
    columns = hdf5.stacked(parts)
    counts = {"total_steps": len(columns.get("action", ())), "total_episodes": len(parts)}
    odd = [n for n, count in counts.items() if said.get(n, count) != count]
    for what in odd[:1]:  # of lost episodes, steps are lost, too
        line = f"{path} says {what} {said[what]}, and holds {counts[what]}"
        found.faults.append(UserError(line, "download it again: minari download"))
    return recorded.survey(columns, reading, about(said), str(path), found)


def described(place: Path) -> dict[str, Any]:
    """What metadata.json says, its JSON within JSON opened.

    Raises:
        UserError: it is damaged.
    """
    try:
        said = dict(json.loads((place / ABOUT).read_text()))
        return {
            n: json.loads(x) if n in ("env_spec", "action_space") and isinstance(x, str) else x for n, x in said.items()
        }
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"{place / ABOUT} cannot be read ({e})", "download it again: minari download") from e


def about(said: dict[str, Any]) -> dict[str, Any]:
    """The environment's name and the bounds of its actions, where they are known."""
    kept: dict[str, Any] = {}
    if spec := said.get("env_spec"):
        kept["env"] = f"gymnasium/{spec['id']}"
    box = said.get("action_space") or {}
    if box.get("type") == "Box":
        with contextlib.suppress(ValueError, TypeError):
            low, high = (np.asarray(box[n], np.float64).ravel() for n in ("low", "high"))
            if np.isfinite(low).all() and np.isfinite(high).all():
                kept["action_bounds"] = (low.tolist(), high.tolist())
    return kept


def episode(group: Any, name: str, reading: Reading, where: str, found: recorded.Findings) -> dict[str, Any]:
    """The columns of one episode; its final observations are [1, ...]."""
    columns = {
        ours: group[theirs][()] for theirs, ours in NAMES.items() if theirs in group and hasattr(group[theirs], "shape")
    }
    steps = len(columns.get("action", ()))
    if "success" in columns:  # also told of the reset
        columns["success"] = columns["success"][-steps:] if steps else columns["success"][:0]
    for part, x in hdf5.leaves(group.get("observations", {})).items():
        part = part or "obs"
        if hdf5.is_image(x) and part not in reading.obs_keys:
            continue
        if len(x) != steps + 1:
            line = f"{where}: {name} has {len(x)} observations and {steps} actions"
            found.faults.append(UserError(line, "record one observation more than actions: the last is the final one"))
            continue
        columns |= {f"obs/{part}": x[:-1], f"final/{part}": x[-1:]}
    flags = {n: np.ravel(group[n][()]) > 0 for n in ("terminations", "truncations") if n in group}
    if any(flag[:-1].any() for flag in flags.values()):
        line = f"{where}: {name} goes on after a termination or truncation"
        found.doubts.append(UserError(line, "record each episode by itself"))
    return columns


READER = Reader(lambda path: folder(path) is not None, survey)
