"""LeRobot's data sets, versions 2 and 3: a folder with ``meta/info.json`` and parquet files below ``data/`` (one per episode in version 2,
many episodes each in version 3), of frames with ``observation...``, ``action``, ``episode_index``, ``frame_index``, ``timestamp`` and, in some,
``next.reward``, ``next.done`` and ``next.success``. Images and videos are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data import arrow_tables, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey
from qchunk.system.errors import UserError

INFO = Path("meta/info.json")
KNOWN = {
    "action": ("action",),
    "reward": ("next.reward",),
    "terminal": ("next.success", "next.done"),  # done only says that the recording ended
    "success": ("next.success",),
    "episode": ("episode_index",),
    "frame": ("frame_index",),
    "time": ("timestamp",),
}


def survey(path: Path, reading: Reading) -> Survey:
    """What such a folder holds."""
    path = Path(path)
    said = described(path)
    found = recorded.nothing()
    frames = in_order(read(path, found))
    names = recorded.renamed(frames, reading, str(path), KNOWN)
    columns = {ours: frames[theirs] for ours, theirs in names.items()}
    features = said["features"] if isinstance(said.get("features"), dict) else {}
    if lost := [n for n in features if n.startswith("observation") and n not in frames and not found.faults]:
        found.notes.append(f"images and the like are left out: {', '.join(lost)}")
    if not any(n.startswith("obs") for n in columns):
        wanted = [n for n in frames if n.startswith("observation") or n in reading.obs_keys]
        columns |= {f"obs/{n}": frames[n] for n in wanted}
    counts = {"total_frames": len(columns.get("action", ()))}
    counts["total_episodes"] = len(np.unique(columns.get("episode", ())))
    odd = [n for n, count in counts.items() if said.get(n, count) != count]
    for what in odd[:1]:  # of lost frames, episodes are lost, too
        line = f"{path} says {what} {said[what]}, and holds {counts[what]}"
        found.faults.append(UserError(line, "download it again, with all its files below data/"))
    if names.get("terminal") == "next.done":
        found.notes.append("next.done is taken for terminals, though it only says that an episode is over")
    kept = {"recorded_in": said.get("robot_type"), "frequency": said.get("fps")}
    action = features.get(names.get("action"))
    kept["action_names"] = named(action.get("names") if isinstance(action, dict) else None)
    return recorded.survey(columns, reading, {n: x for n, x in kept.items() if x}, str(path), found)


def described(path: Path) -> dict[str, Any]:
    """What meta/info.json says.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        said = dict(json.loads((path / INFO).read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise UserError(f"{path / INFO} cannot be read ({e})", "download the data set again") from e
    version = str(said.get("codebase_version", "none"))
    if version.removeprefix("v").partition(".")[0] not in ("2", "3"):
        raise UserError(f"{path} is of LeRobot's version {version}", "convert it to version 2.1 or 3.0 in LeRobot")
    return said


def named(names: Any) -> list[str]:
    """The names of a feature's numbers, which are kept as a list, or as lists in a dictionary."""
    if isinstance(names, dict):
        return [n for part in names.values() for n in named(part)]
    return [str(n) for n in names] if isinstance(names, list) else []


def read(path: Path, found: recorded.Findings) -> dict[str, np.ndarray]:
    """The columns of all files that hold numbers or vectors.

    Raises:
        UserError: pyarrow is missing, there is no file, or one is damaged or has other columns than the first.
    """
    files = sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise UserError(f"there is no parquet file below {path / 'data'}", "download the data set again")
    tables = [arrow_tables.table(file) for file in files]
    names = tables[0].column_names
    if odd := [f for f, t in zip(files, tables, strict=True) if t.column_names != names]:
        raise UserError(f"{odd[0]} has other columns than {files[0]}", "give the files of one data set")
    columns = {}
    for name in names:
        try:
            columns[name] = np.concatenate([arrow_tables.column(t.column(name)) for t in tables])
        except ValueError:
            line = f"{path}: {name} has vectors of several lengths, or empty entries"
            found.faults.append(UserError(line, "record the same number of values at each step"))
    return columns


def in_order(frames: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The frames by episode, and within each by frame."""
    if not {"episode_index", "frame_index"} <= set(frames):
        return frames
    order = np.lexsort((frames["frame_index"], frames["episode_index"]))
    return {n: x[order] for n, x in frames.items()} if (np.diff(order) != 1).any() else frames


READER = Reader(lambda path: (Path(path) / INFO).is_file(), survey)
