"""Who trains: each regime is a generator of events."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from qchunk import registry
from qchunk.data import chunks, on_disk
from qchunk.data.chunks import Dataset
from qchunk.drivers.common import Driver, DriverSettings, assemble, check_devices, learner_like
from qchunk.drivers.events import Event
from qchunk.play import on_device
from qchunk.play.program import Build, Inputs, Program
from qchunk.seeds import stream
from qchunk.system import compiled
from qchunk.system.errors import UserError
from qchunk.types import Array, Key, Learner


def train(
    build: Build,
    c: Any,
    *,
    env: Any,
    settings: DriverSettings,
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
        See ``events.events``.

    Raises:
        UserError: impossible values.
    """
    compiled.make_room()
    driver = checked_driver(c, settings, data)
    if several := [x.shape for x in jax.tree.leaves(c) if jax.numpy.shape(x)]:
        raise UserError(
            f"a number of c has the shape {several[0]}", "give one number; jax.vmap(qchunk.agent) takes many"
        )
    odd = [x for x in jax.tree.leaves(given or {}) if jax.numpy.shape(x)[:1] != (settings.seeds,)]
    if odd or not isinstance(given or {}, dict):
        problem = f"given is no dictionary of modules whose leaves lead with {settings.seeds} seeds"
        raise UserError(problem, "give what Algorithm.freeze names, or qchunk.seeds.for_each of one seed's")
    if learner is None and state is not None:
        raise UserError("state is given without its learner", "give both of an event, or neither")
    program, x = assemble(build, c, env, settings, given, data)
    check_devices(program, settings)
    if learner is not None:
        check_learner(program, x, learner)
    yield from driver.run(program, x, settings, learner, state)


def checked_driver(c: Any, settings: Any, data: Any) -> Driver:
    """The driver of a configuration, where settings and data are what it takes.

    Raises:
        UserError: no configuration, one that sets what nothing reads, settings of another driver, or data where there are to be none.
    """
    if not dataclasses.is_dataclass(c) or isinstance(c, type) or not hasattr(c, "chunk"):
        raise UserError(f"c is {repr(c)[:60]}", "give a method's configuration, such as qchunk.algorithms.qc.QC()")
    driver = registry.driver_of(type(c))
    if not isinstance(settings, driver.settings):
        fix = f"give {driver.settings.__name__}, which {type(c).__name__} is trained with"
        raise UserError(f"settings are {repr(settings)[:60]}", fix)
    if data is not None and driver.takes_data and not isinstance(data, Dataset):
        fix = "give data=qchunk.for_env(path, env, name)[0], or qchunk.data.formats.to_device(rows)"
        raise UserError(f"data are a {type(data).__name__}, not a Dataset", fix)
    if not driver.takes_data and data is not None:
        raise UserError(f"{type(c).__name__} learns from what it plays", "leave data out")
    driver.check_read(c)
    return driver


def check_learner(program: Program, x: Inputs, learner: Learner) -> None:
    """Refuses a learner to go on from that another configuration, other seeds or another environment made.

    Raises:
        UserError: names the first number of leaves or shape that differs.
    """
    like = learner_like(program, x)
    ours, theirs = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (like, learner))
    for path in [*theirs, *ours]:
        wanted, found = (_shape(leaves.get(path)) for leaves in (ours, theirs))
        if wanted != found:
            problem = f"the learner is of another configuration: {jax.tree_util.keystr(path)} is {found}, not {wanted}"
            raise UserError(problem, "go on with the build, configuration, seeds and environment that made it")


def _shape(x: Any) -> str:
    return "not there" if x is None else f"{getattr(x, 'dtype', type(x).__name__)}{list(jax.numpy.shape(x))}"


def agent(
    build: Build,
    c: Any,
    key: Key,
    *,
    env: Any,
    settings: DriverSettings,
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
    checked_driver(c, settings, data)
    if on_disk.stays(data):
        fix = "read it into memory: qchunk.for_env without stream=True"
        raise UserError("one function holds a whole run, and this data set stays on disk", fix)
    program, x = assemble(build, c, env, settings, jax.tree.map(lambda a: a[None], given or {}), data)
    if data is not None and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(data)):
        chunks.check_rows(data)
        chunks.check_fits(data, c.chunk)
    if program.on_host:
        fix = "take one on the device, or train()"
        raise UserError(f"{env.name} runs in worker processes, which no compiled program can hold", fix)
    x, driver = x._replace(keys=key[None]), registry.driver_of(type(c))
    learner = driver.whole(program, x, settings)
    keys = jax.vmap(lambda k: stream(k, "evaluation"))(x.keys)
    values = on_device.evaluate(program, settings.episodes, learner, x._replace(keys=keys, data=None))
    return {name: value[0] for name, value in values.items()}
