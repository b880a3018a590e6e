"""What every driver is made of. Drivers know only Algorithm: a method is a function ``build(config) -> Algorithm``.

A driver is a generator of events; whoever runs it decides what to print, log and save. Every random draw is a
function of (seed, number of the update), so that a run restored at any update goes on to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import normalise
from qchunk.config import ChunkConfig, config, refuse_unread, validate
from qchunk.data import buffer
from qchunk.data.buffer import Ring
from qchunk.data.chunks import Dataset
from qchunk.envs import checked
from qchunk.envs.base import called, obs_like
from qchunk.play import evaluation
from qchunk.play.execute import Execution, parse
from qchunk.play.on_host import seen
from qchunk.play.program import Build, Inputs, Program, reads
from qchunk.play.rollout import extras_of
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.seeds import Share, divided, for_each, mesh, one, over_seeds, stream
from qchunk.seeds import check as check_seeds
from qchunk.system import hosts
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Chunk, Learner
from qchunk.varied import Swept, lanes_of, put


@config
class DriverSettings:
    """What every driver needs besides the algorithm's own configuration."""

    offline_steps = online_steps = 0  # no fields here: a driver that has such a part makes its steps one

    seed: NonNegativeInt = 0
    """The first seed."""
    seeds: PositiveInt = 1
    """S, seeds trained in one program: seed, seed + 1, ..."""
    episodes: PositiveInt = 50
    """Episodes per evaluation and seed."""
    execute: str = "open-loop"
    """How chunks are played: open-loop (whole), receding:STEPS (their first STEPS actions), another of qchunk list schemes, or a function of yours as my_file.py:my_function:NUMBERS."""
    delay: NonNegativeInt = 0
    """Steps between the observation that a plan is made from and its first action that is played; the old plan plays meanwhile."""
    normalise_obs: Literal["none", "min-max", "standard"] = "none"
    """How observations are scaled before networks see them, by statistics of the data: not at all, to [-1, 1], or to mean 0 and deviation 1."""
    normalise_action: Literal["none", "min-max", "standard"] = "none"
    """The same of actions; what is played is scaled back."""
    devices_per_seed: PositiveInt = dataclasses.field(default=1, kw_only=True)
    """D, devices that share each seed's batches and environments; seeds are spread over what is left of the devices."""


class Batches(NamedTuple):
    """How the batches of updates are drawn."""

    size: int
    mix: str = "uniform"  # of data and of what was played, see ``OnlineSettings.mix``


class Amount(NamedTuple):
    """What a run will do, for each seed."""

    updates: int
    env_steps: int  # evaluations not counted
    last: int  # the last event's ``step``


class Driver(NamedTuple):
    """A regime: where data come from, and when updates are made. A new one is a file and a row of ``names.DRIVERS``."""

    name: str
    settings: type  # its settings, a dataclass that inherits from DriverSettings; they are flags of ``qchunk train``
    takes_data: bool  # whether it learns from a data set, where there is one; one that does not refuses it
    check: Callable  # (program, inputs, settings) raises UserError, before anything is compiled or written
    run: Callable  # (program, inputs, settings, learner or None, state or None) -> Iterator[Event]
    state_like: Callable  # (program, inputs, settings, learner) -> shapes of an event's ``state``
    amount: Callable  # (algorithm, config, settings) -> Amount
    # (program, inputs, settings) -> Learner: a run from its start to its end, without events; traceable
    whole: Callable
    unit: Callable  # (program, inputs, settings) -> (fn, its arguments, how often a run calls it): what costs are counted of
    resolve: Callable = lambda s: s  # settings -> the same with every 0 that means "choose" replaced
    # (field of a configuration's ``chunk``, why nothing reads it under this driver), ...
    unread: tuple[tuple[str, str], ...] = ()

    def unread_by(self, cls: type) -> dict[str, str]:
        """{field: why} of a method whose configuration is of this class, which may say so by an attribute ``unread``, too."""
        return {**getattr(cls, "unread", {}), **dict(self.unread)}

    def check_read(self, c: Any) -> None:
        """Refuses windows that are to be cut otherwise where nothing reads that (a backup point at the horizon is every method's own), and
        what a method ``c``, or a part of it, refuses by a ``check_read`` of its own. For new runs: older ones may have been given it.

        Raises:
            UserError: names the flag.
        """
        for name, why in self.unread_by(type(c)).items():
            if name != "backup" or c.chunk.points != (c.chunk.horizon,):
                refuse_unread(c.chunk, getattr(type(c), "chunk", ChunkConfig), (name,), "chunk.", why, "leave it out")
        parts = {field.name: getattr(c, field.name) for field in dataclasses.fields(c)}
        for name, part in {"": c, **parts}.items():
            if check := getattr(type(part), "check_read", None):
                check(part, f"{name.replace('_', '-')}." if name else "")


def seed_keys(s: DriverSettings, settings: int = 1) -> jax.Array:
    """One key per seed [S]: seed i alone or among others draws the same, and in each of several settings.

    Raises UserError where one is out of range.
    """
    seeds = s.seeds // settings
    check_seeds(s.seed, seeds)
    return jax.vmap(jax.random.key)(s.seed + np.tile(np.arange(seeds), settings))


def assemble(
    build: Build,
    c: Any,
    env: Any,
    s: DriverSettings,
    given: dict | None = None,
    data: Dataset | None = None,
    swept: Swept = (),
) -> tuple[Program, Inputs]:
    """What is run, from its parts.

    Args:
        build: config -> Algorithm; the config has a field ``chunk`` (ChunkConfig).
        given: frozen modules of an earlier stage, of every seed [S, ...] (``seeds.for_each`` where they share one).
        swept: settings beside each other, see varied.py; the S seeds of ``s`` are then the lanes of all of them.

    Raises:
        UserError: impossible values, an environment that cannot be used, or an execution that does not fit the chunks.
    """
    validate(c)
    validate(s)
    varied = lanes_of(c, swept, s.seeds)
    check_build(build, c)
    if jax.config.jax_enable_x64:
        raise UserError("jax_enable_x64 is set, and qchunk computes in 32 bits", "leave it unset")
    program = Program(build, env, (s.normalise_obs, s.normalise_action))
    if not program.on_host:
        checked.check(env, called(env))
    return program, Inputs(
        c, execution(s, c), given or {}, seed_keys(s, len(swept) or 1), data, varied, Share(s.devices_per_seed)
    )


def check_devices(program: Program, s: DriverSettings, asked: bool = True) -> None:
    """Refuses more devices for each seed than there are, and what cannot run over several processes.

    Args:
        asked: whether so many devices for each seed are asked for here; a run from elsewhere takes those that are there.

    Raises:
        UserError: names the fix.
    """
    here = jax.device_count()
    if asked and s.devices_per_seed > here:
        fix = f"give {here} or less; on a CPU JAX_NUM_CPU_DEVICES says how many there are"
        raise UserError(f"--devices-per-seed {s.devices_per_seed} is more than the {here} devices here", fix)
    if not hosts.several():
        return
    if program.on_host:
        fix = "train it in one process, or an environment on the device: tabletop/, brax/ or gymnax/"
        raise UserError(f"{program.env.name} runs in worker processes, which several hosts cannot share", fix)
    if mesh(s.seeds, Share(s.devices_per_seed)).size < here:
        problem = f"{s.seeds} seeds with {s.devices_per_seed} devices each leave some of the {here} devices of all processes out"
        raise UserError(problem, f"give --devices-per-seed {here // math.gcd(s.seeds, here)}")


def execution(s: DriverSettings, c: Any) -> Execution:
    """How the policies of a run are played: as its settings say, in chunks of its configuration's horizon."""
    return parse(s.execute, c.chunk.horizon, s.delay)


def init(program: Program, x: Inputs) -> Learner:
    """The learners of all seeds, stacked. Units are those ``given``, or those of the data."""
    made = _init(program, x._replace(data=None))
    if normalise.STATS not in made.stats or (x.data is None and normalise.STATS not in x.given):
        return made
    if normalise.STATS in x.given:
        units = normalise.of_given(x.given)
    else:
        units = for_each(len(x.keys), normalise.of_data(x.data, *program.units))
    return made._replace(stats={**made.stats, normalise.STATS: units})


def check_build(build: Any, c: Any) -> None:
    """Refuses what is no function of a configuration, or one of another configuration.

    Raises:
        UserError: names both.
    """
    if not callable(build) or isinstance(build, type):
        raise UserError(f"build is {repr(build)[:60]}", "give a method's function, such as qchunk.algorithms.qc.qc")
    with contextlib.suppress(NameError, TypeError):  # annotations that nobody can read
        wanted = [h for n, h in typing.get_type_hints(build).items() if n != "return"][:1]
        if wanted and dataclasses.is_dataclass(wanted[0]) and not isinstance(c, wanted[0]):
            name, theirs = getattr(build, "__name__", "build"), getattr(wanted[0], "__name__", "dataclass")
            problem, fix = f"{name} takes a {theirs}, and c is a {type(c).__name__}", "give its own configuration"
            if type(c).__name__ == theirs:  # a file that was imported, and loaded by its path
                problem += " of another copy of its file"
                fix = 'take the class of the copy that is loaded: qchunk.registry.builder("FILE.py:FUNCTION")[1]'
            raise UserError(problem, fix)


def acting(program: Program, x: Inputs, role: str) -> tuple[Callable, tuple]:
    """(what one seed plays first after a decision: (learner, given, obs, key) -> (actions [1, A], the plan's extras); its arguments by shape).

    Args:
        role: of the policy: act, explore or random.
    """
    learner, given = jax.eval_shape(lambda tree: one(tree, 0), (learner_like(program, x), x.given))
    obs = jax.tree.map(lambda o: jax.ShapeDtypeStruct((1, *o.shape), o.dtype), obs_like(program.env))

    def played(learner: Learner, given: dict, obs: Any, key: jax.Array) -> tuple[jax.Array, dict]:
        mine = x._replace(given=given)
        state, vars, scheme = seen(obs), reads(learner, mine), program.scheme(mine, role)
        _, plan = scheme.decide(vars, key, state, scheme.init(vars, key, state))
        return scheme.act(vars, 0, state, plan), extras_of(plan)

    return played, (learner, given, obs, jax.random.key(0))


def check_acting(program: Program, x: Inputs) -> None:
    """Refuses policies and execution that cannot act: by shapes alone, before a run trains what it could not evaluate.

    Raises:
        UserError: the actions that are played have another shape than the environment's.
    """
    held = {}
    for role in ("act", "explore", *(("random",) if program.algorithm(x.c).first else ())):
        played, args = acting(program, x, role)
        found, extras = jax.eval_shape(played, *args)
        held[role] = {name: _shape_of(value) for name, value in extras.items()}
        told, wanted = _shape_of(found), f"float32[1, {program.env.action_size}]"
        if told != wanted:
            problem = f"the actions that are played are {told}, not {wanted}"
            raise UserError(problem, "let the policy's plan, its emit and the execution's act return whole actions")
    if (first := held.get("random", held["explore"])) != held["explore"]:
        problem = f"plans of the method's first policy hold {_spelled(first)} in extras, those of explore {_spelled(held['explore'])}"
        raise UserError(problem, "let both hold the same, as one buffer keeps them")


def _spelled(extras: dict[str, str]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(extras.items())) or "nothing"


def _shape_of(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else f"a {type(x).__name__}"


def learner_like(program: Program, x: Inputs) -> Learner:
    """The shapes of what ``init`` makes, which are the same for all data."""
    return jax.eval_shape(lambda: init(program, x._replace(data=None)))


@functools.partial(jax.jit, static_argnums=0)
def _init(program: Program, x: Inputs) -> Learner:
    def one_seed(key: jax.Array, given: dict, varied: dict | None) -> Learner:
        c = put(x.c, varied)
        return program.algorithm(c).init(stream(key, "init"), program.spec(c), given)

    return over_seeds(one_seed, x.keys, x.given, x.varied, share=x.share)


def run_updates(program: Program, how: Batches, state: Learner, x: Inputs, ring: Ring | None, count, sums: Any = None):
    """``count`` updates of one seed on batches from its data and ``ring``: (learner, ``sums`` of the metrics, with theirs added)."""
    return accumulate(lambda i, state: _update(program, how, state, x, ring), state, count, sums=sums)


# traced once, for all programs of a run that update: tracing a method takes seconds
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _update(program: Program, how: Batches, state: Learner, x: Inputs, ring: Ring | None):
    algorithm, source = program.algorithm(x.c), program.source(x, ring, how.mix)
    draw = algorithm.draw or buffer.draw
    return one_update(algorithm, lambda key: draw(key, source, x.c.chunk, how.size), state, x)


def one_update(algorithm: Algorithm, draw: Callable[[jax.Array], Chunk], state: Learner, x: Inputs):
    """The next update of one seed, on what ``draw`` makes of its key: (learner, metrics)."""
    draw_key, prepare_key, update_key = update_keys(x, state.step)
    chunk = draw(draw_key)
    chunk = divided(chunk, len(chunk.reward))
    state, chunk = algorithm.prepare(state, x.given, prepare_key, chunk)
    return algorithm.update(state, x.given, update_key, chunk)


def update_keys(x: Inputs, step: Any) -> jax.Array:
    """The keys of update number ``step`` of one seed: of its draw, its ``prepare`` and its ``update``."""
    return jax.random.split(jax.random.fold_in(x.keys, step), 3)


def accumulate(fn: Callable, state: Any, count, begin=0, sums: Any = None) -> tuple[Any, Any]:
    """``fn(i, state) -> (state, figures)`` for each i from ``begin`` to ``count``: (state, sums of the figures).

    Args:
        sums: to go on adding to; by default 0.
    """

    def body(i, loop):
        state, figures = fn(i, loop[0])
        return state, jax.tree.map(jnp.add, loop[1], figures)

    if sums is None:
        like = jax.eval_shape(lambda state: fn(0, state)[1], state)
        if odd := {n: x.shape for n, x in like.items() if x.shape}:
            raise UserError(
                f"the metrics of an update have shapes: {odd}", "return one number for each, such as a mean"
            )
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return jax.lax.fori_loop(begin, count, body, (state, sums))


def evaluate(
    program: Program, x: Inputs, s: DriverSettings, learner: Learner, seed: int | None = None
) -> dict[str, np.ndarray]:
    """Figures of an evaluation [S]. Every method and every evaluation of a seed sees the same start states.

    Args:
        seed: of other start states than those that training sees.
    """
    which = ("evaluation",) if seed is None else ("eval", seed)
    keys = jax.vmap(lambda k: stream(k, *which))(x.keys)
    values = evaluation.evaluate(program, s.episodes, learner, x._replace(keys=keys, data=None))
    return {k: hosts.read(v) for k, v in values.items()}
