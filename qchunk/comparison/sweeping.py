"""From flags with several values to settings, and from settings to runs: floats side by side in one program, the rest apart."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import numpy as np

from qchunk.comparison.suite import Data, Run
from qchunk.config import validate
from qchunk.ranges import kind_of, read
from qchunk.system.errors import UserError, unknown
from qchunk.varied import hints, put

Setting = dict[str, str]  # values as the command line spells them, by flags without their dashes
MIXED = ("seed", "seeds", "episodes", "execute", "delay")  # what settings must share to be judged alike
DIGITS = 4  # of a number that is drawn: it is then what its text says


class Field(NamedTuple):
    """What is swept of a field: values, or a range to draw from."""

    flag: str
    hint: Any
    values: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False

    @property
    def drawn(self) -> bool:
        """Whether it is a range."""
        return not self.values

    def draw(self, rng: np.random.Generator) -> str:
        """One value of a range, or one of the values."""
        if self.values:
            return self.values[rng.integers(len(self.values))]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        whole = self.hint is int
        x = rng.uniform(low - 0.5, high + 0.5) if whole and not self.log else rng.uniform(low, high)
        x = min(max(math.exp(x) if self.log else x, self.low), self.high)
        return str(min(max(round(x), math.ceil(self.low)), math.floor(self.high))) if whole else f"{x:.{DIGITS}g}"


def words(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The command line as (flag without its dashes, its values); what stands before the first flag is left out."""
    found: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            found.append((flag.replace("_", "-"), [value] if equals else []))
        elif found:
            found[-1][1].append(word)
    return found


def fields_of(argv: Sequence[str], parts: Sequence[Any]) -> tuple[list[Field], list[str]]:
    """(the fields that have several values or a range, the command line without them).

    Args:
        parts: a method's configuration and its driver's settings, whose fields may be swept. Several values of a field that
            holds several, such as widths, are written with commas: 64,64 128,128.

    Raises:
        UserError: a field that all settings must share, or an odd range.
    """
    known = {flag: hint for part in parts for flag, hint in hints(part)}
    swept, rest = list[Field](), list[str]()
    for flag, values in words(argv):
        if flag in known and _several(known[flag], values):
            if flag in MIXED:
                raise UserError(f"--{flag} has several values", "give one: all settings are judged alike")
            swept.append(field(flag, known[flag], values))
        else:
            rest += [f"--{flag}", *values]
    if twice := next((f.flag for i, f in enumerate(swept) if f.flag in [g.flag for g in swept[:i]]), ""):
        raise UserError(f"--{twice} is swept twice", "give all its values behind one flag")
    return swept, rest


def _several(hint: Any, values: list[str]) -> bool:
    if get_origin(hint) is tuple:
        return any("," in v for v in values)
    return len(values) > 1 or (hint in (int, float) and any(".." in v for v in values))


def field(flag: str, hint: Any, values: Sequence[str]) -> Field:
    """A swept field from the words behind its flag: values, or LOW..HIGH, or log:LOW..HIGH.

    Raises:
        UserError: a range that is none.
    """
    if hint not in (int, float) or not any(
        ".." in v for v in values
    ):  # a file of the user's own may be ../mine.py:name
        if not values:
            raise UserError(f"--{flag} has no values", "give one or more")
        if len(set(values)) < len(values):
            raise UserError(f"--{flag} names a value twice", "give each once")
        return Field(flag, hint, tuple(values))
    fix = f"write --{flag} LOW..HIGH, or --{flag} log:LOW..HIGH, with LOW below HIGH"
    kind, _, ends = values[0].rpartition(":")
    try:
        low, high = (float(x) for x in ends.split(".."))
    except ValueError as e:
        raise UserError(f"--{flag} {' '.join(values)} is no range", fix) from e
    log, ends_well = kind == "log", math.isfinite(low) and math.isfinite(high) and low < high
    if len(values) > 1 or kind not in ("", "log") or not ends_well or (log and low <= 0):
        raise UserError(f"--{flag} {' '.join(values)} is no range", fix)
    if hint is int and math.ceil(low) > math.floor(high):
        raise UserError(f"--{flag} {values[0]} holds no whole number", "give ends that are whole numbers")
    return Field(flag, hint, (), low, high, log)


def grid(fields: Sequence[Field]) -> list[Setting]:
    """Every combination of values, the last field fastest.

    Raises:
        UserError: a range, which has no end of values.
    """
    if drawn := [f.flag for f in fields if f.drawn]:
        raise UserError(f"--{drawn[0]} is a range", "say how many settings to draw: --trials N")
    return [
        dict(zip([f.flag for f in fields], values, strict=True))
        for values in itertools.product(*(f.values for f in fields))
    ]


def drawn(fields: Sequence[Field], trials: int, seed: int) -> list[Setting]:
    """``trials`` settings drawn at random; of a grid without ranges none twice.

    Raises:
        UserError: the grid has fewer.
    """
    rng = np.random.default_rng(seed)
    if not any(f.drawn for f in fields):
        every = grid(fields)
        if trials > len(every):
            problem = f"{trials} trials are more than the {len(every)} settings of the grid"
            raise UserError(problem, "ask for fewer, or give more values")
        return [every[i] for i in sorted(rng.permutation(len(every))[:trials])]
    return [{f.flag: f.draw(rng) for f in fields} for _ in range(trials)]


def listed(path: Path) -> list[Setting]:
    """The settings of a csv file (a header of flags, a setting a line) or of a json file (a list of objects).

    Raises:
        UserError: it cannot be read so, or its settings name different fields.
    """
    fix = 'write a csv with a header of flags, or a json list such as [{"optim.lr": 0.001}, ...]'
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text)
            if path.suffix == ".json"
            else list(csv.DictReader(text.splitlines(), restval="", strict=True))
        )
    except (OSError, ValueError, csv.Error) as e:
        raise UserError(f"{path} cannot be read as settings: {' '.join(str(e).split())[:80]}", fix) from e
    return settings_from(rows, str(path), fix)


def flag_of(name: Any) -> str:
    """A field as its flag without dashes in front, however a file spells it."""
    return str(name).strip().lstrip("-").replace("_", "-")


def settings_from(rows: Any, where: str, fix: str) -> list[Setting]:
    """Settings of the same fields, from what a file holds.

    Raises:
        UserError: they are no list of objects that name values, or name different fields. ``fix`` is its fix.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and r for r in rows):
        raise UserError(f"{where} holds no list of settings", fix)
    found = [{flag_of(k): spelled(v) for k, v in row.items()} for row in rows]
    if odd := [i for i, row in enumerate(found, 1) if set(row) != set(found[0]) or "" in row.values()]:
        raise UserError(f"setting {odd[0]} of {where} has other fields than the first, or an empty one", fix)
    return [{flag: row[flag] for flag in found[0]} for row in found]


def spelled(value: Any) -> str:
    """A value of a file as the command line spells it."""
    if isinstance(value, list):
        return ",".join(map(spelled, value))
    return repr(value) if isinstance(value, float) else str(value).strip()


def checked(settings: Sequence[Setting], parts: Sequence[Any]) -> list[Setting]:
    """The settings, each once.

    Raises:
        UserError: a field that no part has, or that all must share.
    """
    known = [flag for part in parts for flag, _ in hints(part)]
    for flag in settings[0]:
        if flag not in known:
            raise unknown("field", flag, known)
        if flag in MIXED:
            raise UserError(f"--{flag} is among the swept fields", "leave it out: all settings are judged alike")
    return [dict(s) for s in dict.fromkeys(tuple(s.items()) for s in settings)]


def as_flags(setting: Mapping[str, str], parts: Sequence[Any]) -> list[str]:
    """A setting as words of the command line. Raises UserError where a value is to be true or false, and is neither."""
    known = {flag: hint for part in parts for flag, hint in hints(part)}
    found: list[str] = []
    for flag, value in setting.items():
        hint = known.get(flag)
        if hint is bool:
            head, dot, last = flag.rpartition(".")
            found += [f"--{flag}" if valued(flag, bool, value) else f"--{head}{dot}no-{last}"]
        else:
            found += [f"--{flag}", *(value.split(",") if get_origin(hint) is tuple else [value])]
    return found


def with_values(c: Any, setting: Mapping[str, str]) -> Any:
    """A configuration with the values of a setting.

    Raises:
        UserError: a field that it has not, or a value that it cannot have.
    """
    known = dict(hints(c))
    for flag, text in setting.items():
        if flag not in known:
            raise unknown("field", flag, known)
        c = put(c, {flag: valued(flag, known[flag], text)})
    validate(c)
    return c


def valued(flag: str, hint: Any, text: str) -> Any:
    """A value of a field from its text. Raises UserError where it spells none."""
    try:
        return read(text, hint)
    except ValueError as e:
        raise UserError(f"--{flag} is {text!r}", f"give {kind_of(hint)}") from e


class Group(NamedTuple):
    """Settings that differ in floats of the configuration alone."""

    settings: tuple[int, ...]  # their places in the list of all
    config: Any  # of the first of them, as the two below
    driver_settings: Any
    floats: tuple[dict[str, float], ...]  # of each; {} where nothing is side by side


def groups(settings: Sequence[Setting], c: Any, parse: Any) -> list[Group]:
    """The settings by what they share besides floats, in the order in which they are named first.

    Args:
        c: the method's configuration, whose floats are put side by side.
        parse: words of the command line -> (configuration, settings of the driver) with them.

    Raises:
        UserError: a value that a field cannot have.
    """
    floats = [flag for flag, hint in hints(c) if hint is float and flag in settings[0]]
    apart: dict[tuple, list[int]] = {}
    for i, setting in enumerate(settings):
        apart.setdefault(tuple((k, v) for k, v in setting.items() if k not in floats), []).append(i)
    found = []
    for static, places in apart.items():
        beside = tuple({flag: valued(flag, float, settings[i][flag]) for flag in floats} for i in places)
        config, driver_settings = parse(dict(static))
        for one in beside:
            validate(put(config, one))
        found.append(Group(tuple(places), put(config, beside[0]), driver_settings, beside))
    return found


def split(group: Group, most: int) -> list[Group]:
    """Parts of a group of at most so many settings, of nearly equal sizes."""
    parts = np.array_split(np.asarray(group.settings), math.ceil(len(group.settings) / max(most, 1)))
    return [part_of(group, part.tolist()) for part in parts]


def part_of(group: Group, places: Sequence[int]) -> Group:
    """The settings of a group at these places of the list of all.

    Raises:
        UserError: one of them is not in it.
    """
    if set(places) - set(group.settings):
        raise UserError(
            "settings that are to share a program differ in more than floats", "pass --out with a new folder"
        )
    floats = tuple(group.floats[group.settings.index(i)] for i in places)
    return group._replace(settings=tuple(places), config=put(group.config, floats[0]), floats=floats)


def run_of(group: Group, algorithm: str, env: str, data: Data | Path | None, label: str, **more: Any) -> Run:
    """The run of a group in an environment: one of its own where it is one setting, else all of them in one program."""
    count = len(group.settings)
    if count == 1:
        return Run(algorithm, env, data, group.config, group.driver_settings, label, **more)
    lanes = dataclasses.replace(group.driver_settings, seeds=group.driver_settings.seeds * count)
    return Run(algorithm, env, data, group.config, lanes, label, **more, swept=group.floats)
