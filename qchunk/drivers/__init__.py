"""Who trains: each regime is a generator of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qchunk import registry
from qchunk.data.chunks import Dataset
from qchunk.drivers.common import Common, Event, assemble
from qchunk.program import Build
from qchunk.types import Learner


def train(
    build: Build,
    c: Any,
    *,
    env: Any,
    settings: Common,
    data: Dataset | None = None,
    given: dict | None = None,
    learner: Learner | None = None,
    state: Any = None,
) -> Iterator[Event]:
    """Trains a method by the driver that its configuration names.

    Args:
        build: config -> Algorithm.
        c: its configuration.
        settings: of that driver, such as ``OnlineSettings``.
        data: the data set of methods that learn from one.
        given: frozen modules of an earlier stage, of every seed [S, ...] (``seeds.for_each`` where they share one).
        learner, state: an event's, to go on from; both are donated.

    Yields:
        See ``common.events``.

    Raises:
        UserError: impossible values.
    """
    program, x = assemble(build, c, env, settings, given, data)
    yield from registry.driver_of(type(c)).run(program, x, settings, learner, state)
