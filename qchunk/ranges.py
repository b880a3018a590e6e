"""What the numbers of a configuration may be: ranges, in the annotations of its fields."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from qchunk.system.errors import UserError

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}  # what a text may say
INT32, FLOAT32 = 2**31 - 1, 3.4028234663852886e38  # the largest numbers that a compiled program holds


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be, or each number of a tuple; stands in an annotation: ``Annotated[float, Range(0.5, below=1)]``."""

    low: float = -math.inf
    """Least number."""
    high: float = math.inf
    """Greatest number."""
    above: float = -math.inf
    """An end that is not itself in the range: every number is greater."""
    below: float = math.inf
    """An end that is not itself in the range: every number is less."""
    empty: bool = True
    """Whether a tuple may hold no number."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        """For messages: "from 1 on", "above 0", "in [0.5, 1)"; "" where every number is in it."""
        low, high = max(self.low, self.above), min(self.high, self.below)
        opening, closing = "(" if self.low <= self.above else "[", ")" if self.below <= self.high else "]"
        if math.isfinite(low) and math.isfinite(high):
            return f"in {opening}{low:g}, {high:g}{closing}"
        if math.isfinite(low):
            return f"from {low:g} on" if opening == "[" else f"above {low:g}"
        return (f"up to {high:g}" if closing == "]" else f"below {high:g}") if math.isfinite(high) else ""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(0)]
Widths = Annotated[tuple[int, ...], Range(1, empty=False)]


def spelled(value: Any) -> str:
    """A value as the command line spells it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read(text: str, hint: Any, between: str = ",") -> Any:
    """The value of the type that an annotation names from its text; the members of a tuple stand ``between`` each other.

    Raises:
        ValueError: it spells none.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in (int, float):
        return hint(text)
    if hint is bool:
        if text.lower() not in TRUTHS:
            raise ValueError(f"{text!r} is neither true nor false")
        return TRUTHS[text.lower()]
    if origin is tuple:
        return tuple(read(part, args[0], between) for part in text.split(between))
    if origin in (Union, types.UnionType):  # such as a number or None
        nothing = type(None) in args and text == "None"
        return None if nothing else read(text, args[0], between)
    return text


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation names; whatever has a dtype may stand for a float (it may be traced)."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, args[0])
    if origin in (Union, types.UnionType):
        return any(fits(value, arm) for arm in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        items = args[:1] * len(value) if args[-1:] == (...,) and isinstance(value, tuple) else args
        return isinstance(value, tuple) and len(items) == len(value) and all(map(fits, value, items))
    if hint is float:
        return hasattr(value, "dtype") or (isinstance(value, numbers.Real) and not isinstance(value, bool))
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def kind_of(hint: Any) -> str:
    """What ``fits`` wants, for messages."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return kind_of(args[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(kind_of, args))
    if origin is tuple:
        return f"a tuple, each {kind_of(args[0])}"
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", type(None): "None"}
    return plain.get(hint, f"a {getattr(hint, '__name__', hint)}")


def check_numbers(flag: str, value: Any, hint: Any, ranges: tuple[Range, ...] = ()) -> None:
    """Walks along a value and its annotation, whose ranges hold for every number further in."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        check_numbers(flag, value, inner, (*ranges, *(m for m in marks if isinstance(m, Range))))
    elif get_origin(hint) in (Union, types.UnionType):  # such as a number or None
        for arm in get_args(hint):
            check_numbers(flag, value, arm, ranges)
    elif isinstance(value, tuple):
        if not value and not all(r.empty for r in ranges):
            raise UserError(f"{flag} is empty", "give one number or more")
        items = get_args(hint) if get_origin(hint) is tuple else (Any, ...)
        items = items[:1] * len(value) if items[-1:] == (...,) else items
        for item, item_hint in zip(value, items, strict=False):
            check_numbers(f"{spelled(item)} in {flag}", item, item_hint, ranges)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        _check_number(flag, value, hint, ranges)


def _check_number(flag: str, value: Any, hint: Any, ranges: tuple[Range, ...]) -> None:
    whole = isinstance(value, numbers.Integral) and hint is not float
    if not whole and not abs(value) <= FLOAT32:
        raise UserError(f"{flag} is not finite in float32", "give a finite number")
    for r in ranges:
        if value not in r:
            raise UserError(f"{flag} is out of range", f"give a {'whole ' * whole}number {r}")
    if whole and abs(value) > INT32:
        least = max([-INT32, *(int(max(r.low, r.above + 1)) for r in ranges if max(r.low, r.above) > -INT32)])
        raise UserError(f"{flag} does not fit in 32 bits", f"give a whole number from {least} to {INT32}")
