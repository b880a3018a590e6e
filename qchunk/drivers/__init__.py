"""Who trains: each regime is a generator of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from qchunk import registry
from qchunk.data.chunks import Dataset
from qchunk.drivers.common import Common, Event, assemble
from qchunk.play import on_device
from qchunk.play.program import Build
from qchunk.seeds import stream
from qchunk.system.errors import UserError
from qchunk.types import Array, Key, Learner


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


def agent(
    build: Build,
    c: Any,
    key: Key,
    *,
    env: Any,
    settings: Common,
    data: Dataset | None = None,
    given: dict | None = None,
) -> dict[str, Array]:
    """A whole run of one seed, trained and evaluated on the device, as one pure function: jit it, and vmap it over keys and over
    the floats of its configuration. ::

        rate = lambda lr, key: agent(qc, dataclasses.replace(c, optim=OptimConfig(lr)), key, env=env, data=data, settings=s)
        jax.jit(jax.vmap(jax.vmap(rate, (None, 0)), (0, None)))(rates, keys)["success"]  # [rates, seeds]

    Args:
        key: [] of the seed, in place of ``settings.seed`` and ``settings.seeds``.
        given: frozen modules of an earlier stage, of this seed.

    Returns:
        The figures of the last evaluation, [] each: "return", "length" and, where it has a meaning, "success".

    Raises:
        UserError: impossible values, or a host environment.
    """
    program, x = assemble(build, c, env, settings, jax.tree.map(lambda a: a[None], given or {}), data)
    if program.on_host:
        fix = "take one on the device, or train()"
        raise UserError(f"{env.name} runs in worker processes, which no compiled program can hold", fix)
    x, driver = x._replace(keys=key[None]), registry.driver_of(type(c))
    learner = driver.whole(program, x, settings)
    keys = jax.vmap(lambda k: stream(k, "evaluation"))(x.keys)
    values = on_device.evaluate(program, settings.episodes, learner, x._replace(keys=keys, data=None))
    return {name: value[0] for name, value in values.items()}
