"""Settings beside each other in one program: floats of a configuration that differ between its lanes.

A lane is one setting with one seed. G settings of S seeds are the G * S lanes of a program, all seeds of the first setting, then
all of the second; to drivers and players they are its seeds. A setting's seed has the key that it has in a run of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

import jax.numpy as jnp
import numpy as np

from qchunk.config import members, validate
from qchunk.system.errors import UserError, unknown
from qchunk.types import Array

Swept = Sequence[
    Mapping[str, float]
]  # settings: floats by their flags, such as {"optim.lr": 1e-3}; all name the same ones


def hints(c: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(flag without its dashes, type) of every field of a configuration, those of nested ones joined by dots."""
    for name, hint in get_type_hints(type(c)).items():
        flag = f"{before}{name}".replace("_", "-")
        if members(hint):
            yield from hints(getattr(c, name), f"{flag}.")
        else:
            yield flag, hint


def put(c: Any, values: Mapping[str, Any] | None) -> Any:
    """The configuration with other values of fields, by their flags; they may be tracers. None: as it is."""
    for flag, value in (values or {}).items():
        first, _, rest = flag.replace("-", "_").partition(".")
        c = dataclasses.replace(c, **{first: put(getattr(c, first), {rest: value}) if rest else value})
    return c


def lanes_of(c: Any, swept: Swept, lanes: int) -> dict[str, Array] | None:
    """The floats of every lane [lanes], by their flags; None without settings.

    Raises:
        UserError: another field than a float, a value out of its range, or lanes that the settings do not share equally.
    """
    if not swept:
        return None
    floats = [flag for flag, hint in hints(c) if hint is float]
    for setting in swept:
        if set(setting) != set(swept[0]):
            raise UserError("the settings of one program name different fields", "give all of them the same fields")
        for flag in setting:
            if flag not in floats:
                raise unknown("float", flag, floats)
        validate(put(c, setting))
    if lanes % len(swept):
        raise UserError(f"{lanes} lanes are no whole seeds of {len(swept)} settings", "give settings times seeds")
    each = lanes // len(swept)
    return {flag: jnp.asarray(np.repeat([s[flag] for s in swept], each), jnp.float32) for flag in swept[0]}


def lane_names(swept: Swept, seed: int, lanes: int) -> list[str]:
    """What each lane is called: its seed, and with several settings its setting."""
    if not swept:
        return [str(seed + i) for i in range(lanes)]
    each = lanes // len(swept)
    return [f"{seed + i} of {told(setting)}" for setting in swept for i in range(each)]


def told(setting: Mapping[str, Any]) -> str:
    """A setting as text, such as "optim.lr 0.001, expectile 0.9"."""
    return ", ".join(
        f"{flag} {value:g}" if type(value) is float else f"{flag} {value}" for flag, value in setting.items()
    )
