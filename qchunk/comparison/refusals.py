"""Arms that cannot be made: each says why, and costs no other."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from qchunk import registry
from qchunk.comparison import arms
from qchunk.comparison.arms import Sizes
from qchunk.system import tracebacks
from qchunk.system.errors import UserError


def without(algos: Sequence[str], sizes: Sizes) -> tuple[tuple[str, ...], dict[str, str]]:
    """(the arms that can be made, by arm why the others cannot).

    Raises:
        UserError: a name, of a method or of a setting, that does not exist or a value that cannot be read, which are typing
            mistakes; or none can be made.
    """
    refused: dict[str, Exception] = {}
    for arm in algos:
        plain, given = arms.named_settings(arm)
        build, _ = registry.builder(arms.split(plain)[0])
        try:
            c = arms.config_of(plain, sizes)
        except UserError as e:
            refused[arm] = e
            continue
        c = arms.with_settings(c, given)
        try:
            build(c)
        except Exception as e:  # a function of the user's own raises what it likes
            refused[arm] = e
    if refused and len(refused) == len(algos):
        raise next(iter(refused.values()))
    return tuple(arm for arm in algos if arm not in refused), {arm: tracebacks.why(e) for arm, e in refused.items()}


def told(refused: Mapping[str, str]) -> None:
    """A line for each to stderr."""
    for arm, why in refused.items():
        print(f"[compare] refused: {arm}: {why}", file=sys.stderr, flush=True)
