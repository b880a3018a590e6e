"""Frozen configuration dataclasses.

A field of type ``float`` is traced (it may be a tracer and be vmapped); a field that is itself a configuration, or one of
several told apart by ``kind`` (an ``ActorConfig``, or a union), is descended into; every other field is static. ``@config``
registers the class as a pytree accordingly, so that a whole configuration is an argument of a jitted function and two that
differ in floats alone share one program.

What a number may be is part of its field's annotation, ``gamma: Annotated[float, Range(0, 1)] = 0.99``; what several
fields must be together is a method ``check(self, where)`` of the class. ``validate`` looks at both. Without a ``Range``,
floats must be finite and whole numbers fit int32.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints

import jax

from qchunk import registry
from qchunk.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Widths,
    check_numbers,
    fits,
    kind_of,
    spelled,
)
from qchunk.system.errors import UserError, unknown
from qchunk.system.schema import as_json


def members(hint: Any) -> tuple[type, ...]:
    """The configurations that a field of this type may hold; none where it holds something else."""
    found = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return found if all(dataclasses.is_dataclass(t) for t in found) else ()


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type) -> Any:
    """Makes a frozen dataclass whose floats are traced and whose other fields are static."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    hints = get_type_hints(cls)
    traced = [n for n, t in hints.items() if t is float or members(t)]
    return jax.tree_util.register_dataclass(cls, traced, [n for n in hints if n not in traced])


def has_kinds(hint: Any) -> bool:
    """Whether a field of this type holds one of several configurations."""
    return ActorConfig in members(hint) or len(members(hint)) > 1


def of_kind(hint: Any, kind: str) -> Any:
    """The default configuration of a kind, for a field of this type.

    Raises UserError where there is no such kind; the nearest ones are offered.
    """
    closed = {getattr(t, "kind", ""): t for t in members(hint) if t is not ActorConfig}
    if kind in closed:
        return closed[kind]()
    if ActorConfig not in members(hint):
        raise unknown("kind", kind, closed)
    cls = registry.actor(kind)[1]
    if not issubclass(cls, ActorConfig):
        fix = f"write class {cls.__name__}(ActorConfig)"
        raise UserError(f"{cls.__name__} of {kind} is no configuration of an actor", fix)
    return cls(kind=kind)


def from_dict(cls: type, values: Any) -> Any:
    """A configuration from what JSON kept of it. A field that it lacks, as one that is newer has it, is the default, which is what was done before.

    Raises UserError for a field that this version does not know; one that is lacking and has no default; or something else than fields.
    """
    hints = get_type_hints(cls)
    if not isinstance(values, dict):
        raise UserError(f"the run's {cls.__name__} is {repr(values)[:60]}, which holds no fields", "train it again")
    no_default = lambda f: f.default is f.default_factory is dataclasses.MISSING  # noqa: E731
    needed = {f.name for f in dataclasses.fields(cls) if no_default(f)}
    if odd := sorted(set(values) - set(hints) | needed - set(values)):
        raise UserError(f"the run's {cls.__name__} differs from this version's in {', '.join(odd)}", "train it again")

    def field(hint: Any, value: Any) -> Any:
        if found := members(hint):
            kind = value.get("kind", "") if isinstance(value, dict) else ""
            return from_dict(type(of_kind(hint, str(kind))) if has_kinds(hint) and kind else found[0], value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
            return float(value)  # JSON keeps 0.0 as it likes
        return tuple(value) if isinstance(value, list) else value

    return cls(**{n: field(hints[n], v) for n, v in values.items()})


def filled(classes: Mapping[str, type], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of what JSON kept of a run, such as its settings, with the defaults of what has become a field since.

    Args:
        classes: of each part, by its name in ``kept``.

    Raises:
        UserError: see ``from_dict``; a part is lacking.
    """
    return {n: as_json(dataclasses.asdict(from_dict(cls, kept.get(n)))) for n, cls in classes.items()}


class Stands(enum.Enum):
    """How a method stands on the actor of an earlier run; the annotation of the field that holds that actor's configuration.

    The annotation lets --prior fill the field in; that the weights are used is the method's to say, for the module "actor", as written behind each.
    """

    FROZEN = "frozen"  # it is read and never trained: compose.frozen(actor(c.given))
    CLONED = "cloned"  # it is cloned here; on a prior it is the prior's, read and never trained: learner(..., prior=pi)
    WARM_STARTED = "warm-started"  # training goes on from its weights: warm_started(learner(...), "actor")


def actor_fields(cls: type) -> list[str]:
    """The fields of a method's configuration that hold an actor's."""
    return [name for name, hint in get_type_hints(cls).items() if hint == ActorConfig]


def stands_on(c: Any) -> tuple[str, Stands] | None:
    """The field of a configuration (or of its class) that a prior's actor fills in, and how; None for a method without one."""
    cls = c if isinstance(c, type) else type(c)
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Stands):
                return name, mark
    return None


@config
class ChunkConfig:
    """How windows (an observation and the H actions after it) are cut from data, and how their rewards are discounted."""

    horizon: PositiveInt = 5
    """H, actions per chunk."""
    backup: Annotated[tuple[int, ...], Range(1)] = ()
    """After how many environment steps a critic's target bootstraps: ascending, several for a critic of prefixes; empty: after the horizon."""
    gamma: Annotated[float, Range(0, 1)] = 0.99
    """Discount per environment step, in [0, 1]."""
    padding: Literal["masked", "repeated", "whole"] = "masked"
    """What imitation learns of a chunk that reaches past an episode's end: masked, its actions before the end; repeated, the last of these again to its length; whole, nothing."""
    history: Annotated[int, Range(1, 1000)] = 1
    """To, observations seen at once, the newest last; before an episode's start its first one is repeated."""
    discount: Literal["step", "decision"] = "step"
    """Whether gamma counts once per environment step, or once per chunk (2409.00588): rewards inside one then count alike."""
    starts: Literal["step", "decision", "episode", "whole"] = "step"
    """Where windows start: step, at any; decision, where a policy decided (at any where data do not say); episode, at its first; whole, at any from which the window lies inside its episode."""

    codec: Literal["none", "prodmp", "promp"] = "none"
    """Movement primitives: actors and critics see a chunk as the weights of a smooth trajectory, which is played; by a damped spring (prodmp, 2210.01531) or by bumps (promp)."""
    basis: PositiveInt = 5
    """With a codec, W, weights for each number of an action: at most the horizon; at least 4 for prodmp, 2 for promp."""
    replan: Literal["free", "smooth"] = "free"
    """With a codec, how a plan begins that is made while an old one is under way: free, as it was made; smooth, with the old one's next two actions, which suits actions that are positions; velocities then miss what they aim at."""

    @property
    def points(self) -> tuple[int, ...]:
        """The backup points n_1 < ... < n_J, in environment steps."""
        return self.backup or (self.horizon,)

    def check(self, where: str) -> None:
        """Raises UserError where backup points do not ascend."""
        if list(self.backup) != sorted(set(self.backup)):
            problem = f"--{where}backup {spelled(self.backup)} is not ascending"
            raise UserError(problem, "give each backup point once, smallest first")
        if any(n % self.horizon for n in self.backup):
            self.must_count_steps(where)

    def must_back_up_whole(self, where: str, why: str) -> None:
        """Raises UserError where a chunk's backup is not its end.

        Args:
            why: what looks ahead to there.
        """
        if self.points != (h := self.horizon,):
            problem = f"--{where}backup {spelled(self.backup)} is not the horizon, to which {why}"
            raise UserError(problem, f"leave it out, or give {h}")

    def must_count_steps(self, where: str) -> None:
        """Raises UserError where gamma counts once per chunk, and so not at all within one: for backups from inside a chunk."""
        if self.discount == "decision":
            problem = f"--{where}discount decision discounts nothing within a chunk, where returns are backed up here"
            raise UserError(problem, "leave it out")


@config
class ActorConfig:
    """The configuration of an actor: one class for each kind, derived from this one."""

    kind: str = dataclasses.field(default="", kw_only=True)
    """Family of actors: flow, diffusion, gaussian, full-gaussian, regression, one-step, consistency, shortcut, meanflow, distilled, reflow, skills or
    tanh-gaussian, or yours as my_file.py:my_function."""

    def check(self, where: str) -> None:
        """Raises UserError where there is no such kind, or where it has a class of its own."""
        cls = registry.actor(self.kind)[1]
        if not isinstance(self, cls):
            problem = f"--{where}kind {self.kind} is of a {cls.__name__}, and this is a {type(self).__name__}"
            raise UserError(problem, f"give a {cls.__name__}")

    def averaged(self, on: bool) -> Any:
        """The same actor, which acts with a moving average of its weights or not; as it is where its kind keeps none (no field ``ema``)."""
        return dataclasses.replace(self, ema=on) if hasattr(self, "ema") else self  # type: ignore[call-arg]


@config
class CriticConfig:
    """An ensemble of chunk critics."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation."""
    norm_first: bool = False
    """LayerNorm before each activation in place of after it (2302.02948)."""
    activation: Literal["gelu", "mish", "relu"] = "gelu"
    """Activation of the hidden layers."""
    members: PositiveInt = 2
    """Critics in the ensemble."""
    aggregate: str = "mean"
    """How the values of the ensemble become one: qchunk list aggregates, or yours as my_file.py:my_function."""
    tau: Annotated[float, Range(above=0, high=1)] = 0.005
    """Polyak rate of the target copy, in (0, 1]."""
    subset: NonNegativeInt = 0
    """How many members' target networks an update reads, drawn anew each time (2101.05982, algorithm 1); 0: all."""

    def check(self, where: str) -> None:
        """Raises UserError where there is no such aggregate, or fewer members than are to be drawn."""
        registry.aggregate(self.aggregate)
        if self.subset > self.members:
            problem = f"--{where}subset {self.subset} is more than --{where}members {self.members}"
            raise UserError(problem, f"give {self.members} or less")

    def must_read_all(self, where: str, why: str) -> None:
        """Raises UserError where an update reads a few members' target networks only.

        Args:
            why: what speaks against it.
        """
        if self.subset:
            problem = f"--{where}subset {self.subset} picks among target networks, but {why}"
            raise UserError(problem, f"give --{where}subset 0")


@config
class ValueConfig:
    """The value of a state."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""


@config
class OptimConfig:
    """An optimiser; its learning rate is constant, or follows a cosine after a linear warm-up."""

    lr: PositiveFloat = 3e-4
    """Learning rate, the highest one."""
    final_lr: NonNegativeFloat = 0.0
    """Learning rate before the warm-up and after the decay."""
    warmup: NonNegativeInt = 0
    """Updates from final_lr to lr."""
    decay: NonNegativeInt = 0
    """Updates until final_lr is reached again, the warm-up among them; 0: lr is kept."""
    kind: str = "adam"
    """Optimiser: qchunk list optimisers, or yours as my_file.py:my_function."""

    def check(self, where: str) -> None:
        """Raises UserError where there is no such optimiser, or the warm-up does not end before the decay does."""
        registry.optimiser(self.kind)
        if 0 < self.decay < self.warmup:
            problem = f"--{where}warmup {self.warmup} is longer than --{where}decay {self.decay}"
            raise UserError(problem, "give a longer decay")

    def check_read(self, where: str) -> None:
        """Raises UserError where a last learning rate is given, and the rate is constant."""
        if type(self.final_lr) is float and not (self.warmup or self.decay):  # traced ones cannot be looked at
            why, fix = "the rate is constant", f"give --{where}decay or --{where}warmup"
            refuse_unread(self, OptimConfig, ("final_lr",), where, why, fix)


@config
class NoiseConfig:
    """Noise that is learned, between bounds."""

    hidden: Widths = (64, 64)
    """Widths of the hidden layers."""
    min_std: PositiveFloat = 0.08
    """Least standard deviation, in units of action."""
    max_std: PositiveFloat = 0.16
    """Largest one."""
    updates: NonNegativeInt = 0
    """Updates during which the largest shrinks, in their last 65 %, to 0.3 of the least plus 0.7 of itself; 0: it stays."""

    def check(self, where: str) -> None:
        """Raises UserError where the least is more than the largest."""
        if self.min_std > self.max_std:
            raise UserError(
                f"--{where}min-std {self.min_std} is more than --{where}max-std {self.max_std}",
                f"give {self.max_std} or less",
            )


@config
class RolloutConfig:
    """One iteration of an on-policy method: what is played, and how often it is learned from."""

    envs: PositiveInt = 512
    """E, environments in parallel."""
    decisions: PositiveInt = 40
    """T, chunks that each of them plays."""
    epochs: PositiveInt = 5
    """Passes over what was played."""
    minibatches: PositiveInt = 4
    """Updates per pass."""
    scale_rewards: bool = True
    """Divide rewards by the running deviation of the discounted return, and bound them to [-10, 10]."""

    def check(self, where: str) -> None:
        """Raises UserError where there are more minibatches than decisions to fill them."""
        if self.minibatches > (most := self.envs * self.decisions):
            problem = f"--{where}minibatches {self.minibatches} is more than the decisions of an iteration"
            raise UserError(problem, f"give {most} or less")


def refuse_unread(c: Any, usual: Any, fields: Sequence[str], where: str, why: str, fix: str) -> None:
    """Refuses values other than the usual ones in fields that nothing reads here: whoever gave one would believe that it acts.

    Args:
        usual: a configuration, or its class, whose values are meant.
        where: see ``validate``.

    Raises:
        UserError: names the first such flag.
    """
    for name in fields:
        if (value := getattr(c, name)) != getattr(usual, name):
            raise UserError(f"--{where}{name.replace('_', '-')} {spelled(value)} has no effect: {why}", fix)


# of a method's ``unread``, see ``Driver.unread_by``
BACKS_NOTHING_UP = types.MappingProxyType({"backup": "imitation backs nothing up"})
IMITATES_NOTHING = types.MappingProxyType({"padding": "this method imitates no windows"})


def validate(c: Any, where: str = "") -> None:
    """Refuses impossible values, before anything is traced: other types than their fields', numbers outside of their ranges,
    then what ``check`` finds.

    Args:
        c: a configuration, which may hold others, or any dataclass.
        where: what stands before its fields' names on the command line, such as "actor.".

    Raises:
        UserError: names the flag, its value and what it may be.
    """
    hints = get_type_hints(type(c), include_extras=True)
    for field in dataclasses.fields(c):
        value, name = getattr(c, field.name), f"{where}{field.name}".replace("_", "-")
        if not fits(value, hints[field.name]):
            raise UserError(f"--{name} is {repr(value)[:60]}", f"give {kind_of(hints[field.name])}")
        if dataclasses.is_dataclass(value):
            validate(value, f"{name}.")
        else:
            check_numbers(f"--{name} {spelled(value)}".rstrip(), value, hints[field.name])
    if callable(check := getattr(type(c), "check", None)):
        check(c, where)
