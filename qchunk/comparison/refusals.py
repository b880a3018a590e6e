"""Arms that cannot be made, or not in an environment: each says why, and costs no other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from qchunk import envs, registry
from qchunk.comparison import arms
from qchunk.comparison.arms import Sizes
from qchunk.config import validate
from qchunk.data import goals
from qchunk.system import tracebacks
from qchunk.system.errors import UserError

Refused = dict[tuple[str, str], str]  # (environment, arm) -> why


def without(algos: Sequence[str], where: Sequence[str], sizes: Sizes) -> tuple[tuple[str, ...], Refused]:
    """(the arms that some environment can have, why others have no run in an environment).

    Args:
        where: the environments.

    Raises:
        UserError: a name, of an environment, a method or a setting, that does not exist or a value that cannot be read, which are
            typing mistakes; or no environment can have any arm.
    """
    found = {arm: made(arm, sizes) for arm in algos}
    refused: dict[tuple[str, str], Exception] = {}
    for env in where:
        for arm, (c, never) in found.items():
            if why := never or lacking(c, env):
                refused[env, arm] = why
    kept = tuple(arm for arm in algos if not all((env, arm) in refused for env in where))
    if refused and not kept:
        raise next(iter(refused.values()))
    return kept, {place: tracebacks.why(e) for place, e in refused.items()}


def made(arm: str, sizes: Sizes) -> tuple[Any, Exception | None]:
    """(the configuration of an arm, why no method can be made of it or would read what it sets; None where one can and would).

    Raises:
        UserError: a typing mistake, see ``without``.
    """
    plain, given = arms.named_settings(arm)
    build, _ = registry.builder(arms.split(plain)[0])
    try:
        c = arms.config_of(plain, sizes)
    except UserError as e:
        return None, e
    c = arms.with_settings(c, given)
    try:
        validate(c)
        build(c)
        registry.driver_of(type(c)).check_read(c)
    except Exception as e:  # a function of the user's own raises what it likes
        return c, e
    return c, None


def lacking(c: Any, env: str) -> UserError | None:
    """What a method needs of an environment that does not have it; None where nothing is missing."""
    return goals.no_goals(c, env) if goals.needs_goals(type(c)) and not envs.has_goals(env) else None


def told(refused: Refused) -> None:
    """A line for each reason to stderr."""
    for arm, why in dict.fromkeys((arm, why) for (_, arm), why in refused.items()):
        print(f"[compare] refused: {arm}: {why}", file=sys.stderr, flush=True)
