"""Files of the user's own that a run names (a method, an environment, a term ...): copied into its folder, so that the run stays what it was.

Only the named files are copied: not what they import from beside them, nor what they read there.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qchunk.system import loading
from qchunk.system.errors import UserError
from qchunk.system.files import sha256

FOLDER = "sources"
NAMING = ("algorithm", "env", "objective", "config", "settings")  # what of a run's configuration may name a file


def digests(kept: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What config.json keeps of the files that a run names, by their paths as they were given: ``sha256`` and the whole ``path``."""
    found = [
        place for place in _places(kept) if Path(place).is_file()
    ]  # what is built in Python may have a name of no file
    return {place: {"sha256": sha256(Path(place)), "path": str(Path(place).resolve())} for place in found}


def save(kept: Mapping[str, Any], folder: Path) -> None:
    """Copies them into a run's folder.

    Raises:
        UserError: one has changed since ``digests`` read it.
    """
    for place, about in kept["sources"].items():
        copy = _copy(folder, place, about["sha256"])
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, copy)
        if sha256(copy) != about["sha256"]:
            raise UserError(f"{place} changed while the run was made", "give the same command again")


def own(kept: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of a run, naming the run's own copies. Says on stderr which file has changed since.

    Raises:
        UserError: a copy is not there, or is damaged.
    """
    copies: dict[str, str] = {}
    for place in _places(kept):
        about = dict(kept.get("sources") or {}).get(place)
        copy = _copy(folder, place, str(about["sha256"])) if about else folder / FOLDER
        if not about or not copy.is_file() or sha256(copy) != about["sha256"]:
            raise UserError(f"{folder} names {place} and holds no whole copy of it", "train it again")
        copies[place] = str(copy.resolve())
        loading.COPIES[copy.resolve()] = Path(about["path"])
    for place in changed(kept):
        print(f"{place} has changed since {folder} was made, which goes on with its own copy", file=sys.stderr)
    return dict(kept) | {part: _renamed(kept.get(part), copies) for part in NAMING if part in kept}


def changed(kept: Mapping[str, Any]) -> list[str]:
    """The named files that are there and are no longer as they were when the run was made."""
    found = dict(kept.get("sources") or {})
    there = [place for place in _places(kept) if Path(place).is_file()]
    return [place for place in there if sha256(Path(place)) != dict(found.get(place) or {}).get("sha256")]


def same(one: str, other: str) -> bool:
    """Whether two names stand for the same: equal, or functions of the user's own of one name in files of equal bytes."""
    places = [loading.place(one), loading.place(other)]
    if one == other or not all(places) or loading.short(one) != loading.short(other):
        return one == other
    return sha256(Path(places[0])) == sha256(Path(places[1]))


def _copy(folder: Path, place: str, digest: str) -> Path:
    """Two files of one name lie apart, by what is in them."""
    return folder / FOLDER / digest[:12] / Path(place).name


def _places(kept: Mapping[str, Any]) -> list[str]:
    found = (text for part in NAMING for text in _texts(kept.get(part)))
    return list(dict.fromkeys(place for text in found if (place := loading.place(text))))


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested dictionaries (their keys, too: terms of an objective) and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield from (*_texts(k), *_texts(v))
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _texts(v)


def _renamed(value: Any, copies: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        place = loading.place(value)
        return copies[place] + value[len(place) :] if place else value
    if isinstance(value, Mapping):
        return {_renamed(k, copies): _renamed(v, copies) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_renamed(v, copies) for v in value)
    return value
