"""What a name stands for: the functions behind the tables of names, and the user's own."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

from qchunk import names
from qchunk.system import loading
from qchunk.system.errors import UserError, unknown


def builder(name: str) -> tuple[Callable, type]:
    """The function ``build(config) -> Algorithm`` of an algorithm's name or target, and its config's class.

    A target is ``module:function`` or ``path/to/file.py:function``; the class is the annotation of its argument.

    Raises:
        UserError: no such algorithm, file or function, or an argument without a config's class.
    """
    target = names.algorithm(name)
    build, function = loading.function(target), target.rpartition(":")[2]
    hints: list[Any] = [h for n, h in typing.get_type_hints(build).items() if n != "return"]
    if len(hints) != 1 or not dataclasses.is_dataclass(hints[0]):
        fix = f"write def {function}(c: Config) -> Algorithm, with Config made by qchunk.config.config"
        raise UserError(f"{target} does not take one configuration", fix)
    if "chunk" not in typing.get_type_hints(hints[0]):
        raise UserError(f"the configuration of {target} has no field chunk", "add chunk: ChunkConfig = ChunkConfig()")
    return build, typing.cast(type, hints[0])


def driver(name: str) -> Any:
    """The ``Driver`` of this name.

    Raises:
        UserError: no such driver.
    """
    if name not in names.DRIVERS:
        raise unknown("driver", name, names.DRIVERS)
    return loading.function(names.DRIVERS[name].target)


def driver_of(config_class: type) -> Any:
    """The ``Driver`` that a method's configuration asks for by its attribute ``driver``."""
    return driver(getattr(config_class, "driver", next(iter(names.DRIVERS))))
