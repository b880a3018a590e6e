"""Minari's data sets: a folder ``data`` with ``metadata.json`` and ``main_data.hdf5``, in which ``episode_0`` has ``actions``, ``rewards``,
``terminations`` and ``truncations`` of L steps and ``observations`` (an array, or a group of parts) of L + 1; or the same as a
folder of Arrow or Parquet for each episode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data import arrow_tables, hdf5, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey
from qchunk.system.errors import UserError

MAIN, ABOUT = "main_data.hdf5", "metadata.json"
SEEN = "observations"
READ = (SEEN, "actions", "rewards", "terminations", "truncations", "infos/success")
JSON = ("env_spec", "action_space", "observation_space")
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
        raise UserError(f"{path} is no data set of Minari", f"give the folder with {ABOUT}")
    said = described(place)
    found = recorded.nothing()
    images = {n for n, space in spaces(said.get("observation_space")).items() if len(space.get("shape") or ()) == 3}
    images -= set(reading.obs_keys)
    if images:
        found.notes.append(f"images are left out: {', '.join(sorted(images))}")
    every = {
        name: columns(one, name, images, str(path), found)
        for name, one in episodes(place, said.get("data_format", "hdf5"))
    }
    parts = {name: one for name, one in every.items() if len(one.get("action", (0,)))}
    if empty := len(every) - len(parts):
        found.notes.append(f"{empty} episodes without a step are left out")
    stacked = recorded.stacked(parts, str(path), found)
    counts = {"total_steps": len(stacked.get("action", ())), "total_episodes": len(every)}
    counted = "action" in stacked and not found.faults
    odd = [n for n, count in counts.items() if said.get(n, count) != count and counted]
    for what in odd[:1]:  # of lost episodes, steps are lost, too
        line = f"{path} says {what} {said[what]}, and holds {counts[what]}"
        found.faults.append(UserError(line, "download it again: minari download"))
    return recorded.survey(stacked, reading, about(said), str(path), found)


def episodes(place: Path, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arrays of each episode, by their path within it; ``observations`` are of one step more.

    Raises:
        UserError: its files are missing or damaged, or need a package that is missing.
    """
    if kind == "hdf5":
        if not (place / MAIN).is_file():
            raise UserError(f"{place} has no file {MAIN}", "download it again: minari download")
        with hdf5.opened(place / MAIN) as f:
            for name in hdf5.numbered(f, "episode_"):
                yield name, {n: hdf5.array(x) for n, x in hdf5.leaves(f[name]).items() if n.startswith(READ)}
        return
    if kind not in ("arrow", "parquet"):
        raise UserError(f"{place} is kept as {kind}", "create it in Minari with data_format='hdf5'")
    for name in hdf5.numbered([p.name for p in place.iterdir()], ""):
        table = arrow_tables.table(place / name, kind, numeric=False).combine_chunks()
        found: dict[str, Any] = {}
        try:
            for key in table.column_names:
                found |= arrow_tables.leaves(key, table.column(key).combine_chunks())
        except ValueError as e:
            raise UserError(f"{place / name} is damaged ({e})", "download it again: minari download") from e
        steps = len(table) - 1  # all but observations have an entry for the final one, too
        yield (
            f"episode_{name}",
            {n: x if n.startswith((SEEN, "infos")) else x[:steps] for n, x in found.items() if n.startswith(READ)},
        )


def described(place: Path) -> dict[str, Any]:
    """What metadata.json says, its JSON within JSON opened.

    Raises:
        UserError: it is damaged.
    """
    try:
        said = dict(json.loads((place / ABOUT).read_text()))
        return {n: json.loads(x) if n in JSON and isinstance(x, str) else x for n, x in said.items()}
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise UserError(f"{place / ABOUT} cannot be read ({e})", "download it again: minari download") from e


def spaces(space: Any, path: str = "") -> dict[str, dict]:
    """The spaces of the parts of observations, by their path; "obs" where there are no parts."""
    if not isinstance(space, dict):
        return {}
    below = space.get("subspaces")
    if below is None:
        return {path.removeprefix("/") or "obs": space}
    parts = below.items() if isinstance(below, dict) else ((f"_index_{i}", x) for i, x in enumerate(below))
    return {n: x for key, part in parts for n, x in spaces(part, f"{path}/{key}").items()}


def about(said: dict[str, Any]) -> dict[str, Any]:
    """The environment's name and the bounds of its actions, where they are known."""
    kept: dict[str, Any] = {}
    spec, box = (x if isinstance(x, dict) else {} for x in (said.get("env_spec"), said.get("action_space")))
    if "id" in spec:
        kept["env"] = f"gymnasium/{spec['id']}"
    if box.get("type") == "Box":
        with contextlib.suppress(ValueError, TypeError, KeyError):
            low, high = (np.asarray(box[n], np.float64).ravel() for n in ("low", "high"))
            if np.isfinite(low).all() and np.isfinite(high).all():
                kept["action_bounds"] = (low.tolist(), high.tolist())
    return kept


def columns(
    arrays: dict[str, Any], name: str, images: set[str], where: str, found: recorded.Findings
) -> dict[str, Any]:
    """The columns of one episode; its final observations are [1, ...]."""
    made = {ours: arrays[theirs] for theirs, ours in NAMES.items() if theirs in arrays}
    steps = len(made.get("action", ()))
    if "success" in made:  # also told of the reset
        made["success"] = made["success"][len(made["success"]) - steps :]
    for path, x in arrays.items():
        part = path.removeprefix(SEEN).removeprefix("/") or "obs"
        if not path.startswith(SEEN) or part in images:
            continue
        if "action" in made and len(x) != steps + 1:
            line = f"{where}: {name} has {len(x)} observations and {steps} actions"
            found.faults.append(UserError(line, "record one observation more than actions: the last is the final one"))
            continue
        made |= {f"obs/{part}": x[:-1], f"final/{part}": x[-1:]}
    flags = [np.ravel(arrays[n]) > 0 for n in ("terminations", "truncations") if n in arrays]
    if any(flag[:-1].any() for flag in flags):
        line = f"{where}: {name} goes on after a termination or truncation"
        found.doubts.append(UserError(line, "record each episode by itself"))
    return made


READER = Reader(lambda path: folder(path) is not None, survey)
