"""What a name stands for: the functions behind the tables of names, and the user's own. No jax here."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qchunk import names
from qchunk.system import loading
from qchunk.system.errors import UserError, shaped


class Named(NamedTuple):
    """A function, and the values that its name brought."""

    function: Callable
    args: tuple
    fixed: tuple[tuple[str, Any], ...]  # (name, value)


def named(table: Mapping[str, names.Entry], text: str, what: str) -> tuple[Callable, tuple]:
    """The function of ``NAME``, ``NAME:ARGS``, ``file.py:function`` or ``file.py:function:ARGS``, and the values of ARGS.

    ARGS are values between commas: whole numbers, floats, or else texts. A ``name=value`` among them is no value of the
    tuple but fixed in the function. The same text gives the same function object, so that it may be static under jit.

    Args:
        what: what the table holds, for messages.

    Raises:
        UserError: no such name (the nearest ones are offered), file, function or argument.
    """
    found = _found(table, text, what)
    _check(found, text, what)
    return _with(found.function, (), found.fixed, repr(found.fixed)), found.args


def function(table: Mapping[str, names.Entry], text: str, what: str, *leading: str) -> Callable:
    """The function of a name, as a function of its ``leading`` arguments alone: ARGS follow them.

    Args:
        leading: what it will be called with, for the message.

    Raises:
        UserError: see ``named``; or it cannot be called with these and ARGS.
    """
    found = _found(table, text, what)
    _check(found, text, what, leading)
    return _with(*found, repr(found[1:]))


def value(text: str) -> int | float | str:
    """A whole number or a float where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _found(table: Mapping[str, names.Entry], text: str, what: str) -> Named:
    target, args = names.target(table, text, what)
    parts = [part.partition("=") for part in args.split(",")] if args else []
    fixed = tuple((name.strip(), value(v.strip())) for name, is_fixed, v in parts if is_fixed)
    if len({name for name, _ in fixed}) < len(fixed):
        raise UserError(f"{what} {text} gives one argument twice", "give each once")
    if text not in table:
        loading.note(text)
    return Named(loading.function(target), tuple(value(v.strip()) for v, is_fixed, _ in parts if not is_fixed), fixed)


def _check(found: Named, text: str, what: str, leading: tuple[str, ...] | None = None) -> None:
    """Refuses ARGS that the function does not take; without ``leading`` others may come before them."""
    try:
        takes = inspect.signature(found.function)
    except (TypeError, ValueError):  # no function, or one of C without a signature
        return
    fixed = dict(found.fixed)
    try:
        takes.bind_partial(**fixed) if leading is None else takes.bind(*leading, *found.args, **fixed)
    except TypeError as e:
        fix = f"it takes ({', '.join(takes.parameters)})"
        raise UserError(
            f"{what} {text}: {e}", fix + (f", of which {' and '.join(leading)} come first" if leading else "")
        ) from e


@functools.cache
def _with(function: Callable, args: tuple, fixed: tuple[tuple[str, Any], ...], shown: str) -> Callable:
    """The function of its leading arguments; the same object for the same values as ``shown`` (1 and 1.0 are not)."""
    del shown
    if not args and not fixed:
        return function
    return lambda *leading: function(*leading, *args, **dict(fixed))


def builder(name: str) -> tuple[Callable, type]:
    """The function ``build(config) -> Algorithm`` of an algorithm's name or target, and its config's class.

    A target is ``module:function`` or ``path/to/file.py:function``; the class is the annotation of its argument.

    Raises:
        UserError: no such algorithm, file or function, or an argument without a config's class.
    """
    build, config_class = _configured(names.ALGORITHMS, name, "algorithm", "(c: Config) -> Algorithm", "c")
    if "chunk" not in typing.get_type_hints(config_class):
        fix = "add chunk: ChunkConfig = ChunkConfig()"
        raise UserError(f"the configuration of {loading.short(name)} has no field chunk", fix)
    return build, config_class


def actor(kind: str) -> tuple[Callable, type]:
    """The function ``make(config, name) -> Kernel`` of a kind of actor, and its config's class.

    Raises:
        UserError: see ``builder``.
    """
    wanted = '(c: Config, name: str = "actor") -> Kernel'
    return _configured(names.ACTORS, kind, "kind", wanted, "c", "name")


def aggregate(name: str) -> Callable:
    """How the values of an ensemble become one: [members, *B] -> [*B]."""
    return _of_members(function(names.AGGREGATES, name, "aggregate", "values"), name)


@functools.cache
def _of_members(found: Callable, name: str) -> Callable:
    """An aggregate that is refused where it returns another shape than [*B]."""

    @functools.wraps(found)
    def aggregated(values: Any) -> Any:
        what, wanted = f"the aggregate {name} of values {values.shape}", "aggregate along the first axis: axis=0"
        return shaped(found(values), values.shape[1:], what, wanted)

    return aggregated


def optimiser(kind: str) -> Callable:
    """The function (learning rate, or its schedule) -> optax.GradientTransformation of an optimiser's name."""
    return function(names.OPTIMISERS, kind, "optimiser", "rate")


def _configured(
    table: Mapping[str, names.Entry], text: str, what: str, form: str, *leading: str
) -> tuple[Callable, type]:
    """A function of a configuration, and the class of that: the annotation of its first argument."""
    make, target = function(table, text, what, *leading), names.target(table, text, what)[0]
    hints: list[Any] = [h for n, h in typing.get_type_hints(loading.function(target)).items() if n != "return"]
    if not hints or not dataclasses.is_dataclass(hints[0]):
        fix = f"write def {target.rpartition(':')[2]}{form}, with Config made by qchunk.config.config"
        raise UserError(f"{target} does not take a configuration", fix)
    cls = typing.cast(Any, hints[0])
    without = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if without:
        raise UserError(f"{without[0]} of {cls.__name__} has no default", "give every field of a configuration one")
    return make, cls


def driver(name: str) -> Any:
    """The ``Driver`` of this name.

    Raises:
        UserError: no such driver.
    """
    return named(names.DRIVERS, name, "driver")[0]


def driver_of(config_class: type) -> Any:
    """The ``Driver`` that a method's configuration asks for by its attribute ``driver``."""
    return driver(getattr(config_class, "driver", next(iter(names.DRIVERS))))
