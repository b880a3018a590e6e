"""Frozen configuration dataclasses.

A field of type ``float`` is traced (it may be a tracer and be vmapped); a field that is itself a configuration, or one of
several (a union, told apart by ``kind``), is descended into; every other field is static. ``@config`` registers the class as a pytree accordingly, so that a whole
configuration is an argument of a jitted function and two that differ in floats alone share one program.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
from typing import Any, Literal, Union, dataclass_transform, get_args, get_origin, get_type_hints

import jax

from qchunk.system.errors import UserError


def members(hint: Any) -> tuple[type, ...]:
    """The configurations that a field of this type may hold; none where it holds something else."""
    found = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return found if all(dataclasses.is_dataclass(t) for t in found) else ()


@dataclass_transform(frozen_default=True)
def config(cls: type) -> Any:
    """Makes a frozen dataclass whose floats are traced and whose other fields are static."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    hints = get_type_hints(cls)
    traced = [n for n, t in hints.items() if t is float or members(t)]
    return jax.tree_util.register_dataclass(cls, traced, [n for n in hints if n not in traced])


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A configuration from what JSON kept of it.

    Raises:
        UserError: a field that this version does not know, or lacks.
    """
    hints = get_type_hints(cls)
    if set(values) != set(hints):
        odd = sorted(set(values) ^ set(hints))
        raise UserError(f"the run's {cls.__name__} differs from this version's in {', '.join(odd)}", "train it anew")

    def field(hint: Any, value: Any) -> Any:
        if found := members(hint):
            return from_dict(next((t for t in found if getattr(t, "kind", None) == value.get("kind")), found[0]), value)
        if hint is float:
            return float(value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{n: field(hints[n], v) for n, v in values.items()})


class Stands(enum.Enum):
    """How a method stands on the actor of an earlier run; the annotation of the field that holds that actor's configuration."""

    FROZEN = "frozen"  # it is read and never trained
    WARM_STARTED = "warm-started"  # training goes on from its weights


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
    """How windows are cut from data. The only home of gamma besides ``data/chunks.py``, which uses it."""

    horizon: int = 5
    """H, actions per chunk."""
    backup: tuple[int, ...] = ()
    """J backup points in environment steps, ascending; empty means the horizon itself."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1]."""
    padding: Literal["masked", "repeated", "whole"] = "masked"
    """What imitation learns from steps past an episode's end: nothing, the last action again, or nothing from such a chunk."""
    history: int = 1
    """To, observations seen at once, the newest last; before an episode's start its first one is repeated."""
    discount: Literal["step", "decision"] = "step"
    """Whether gamma counts once per environment step, or once per chunk (2409.00588): rewards inside one then count alike."""
    starts: Literal["step", "decision", "episode"] = "step"
    """Where windows start: at any step, where a policy decided (at any step where data do not say), or at an episode's first."""

    @property
    def points(self) -> tuple[int, ...]:
        """The backup points n_1 < ... < n_J, in environment steps."""
        return self.backup or (self.horizon,)


@config
class FlowConfig:
    """A flow-matching actor (2507.07969, appendix: 4 layers of 512, 10 Euler steps)."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    steps: int = 10
    """K, Euler steps from noise to data."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: Literal["flow"] = "flow"


@config
class DiffusionConfig:
    """A diffusion actor (2409.00588, appendix: residual network of 3 x 512, 20 steps)."""

    hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the hidden layers."""
    residual: bool = True
    """Blocks of two layers with a skip: an odd number of equal widths."""
    layer_norm: bool = False
    """LayerNorm: before each activation of a residual network, after it otherwise."""
    activation: Literal["mish", "gelu", "relu"] = "mish"
    """Of the hidden layers."""
    time_features: int = 16
    """Size of the embedding of the noise level; even, at least 4."""
    steps: int = 20
    """K, noise levels that are trained."""
    schedule: Literal["cosine", "vp"] = "cosine"
    """Noise levels."""
    predict: Literal["noise", "clean"] = "noise"
    """What the network tells."""
    clip: bool = True
    """Bound every clean estimate to [-1, 1]."""
    ddim: int = 0
    """Sample along so many of the levels without noise (DDIM); 0: along all of them with noise (DDPM)."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: Literal["diffusion"] = "diffusion"


@config
class GaussianConfig:
    """A Gaussian actor, or a mixture."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    components: int = 1
    """Gaussians in the mixture."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: Literal["gaussian"] = "gaussian"


@config
class RegressionConfig:
    """A deterministic actor by mean squared error."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: Literal["regression"] = "regression"


ActorConfig = FlowConfig | DiffusionConfig | GaussianConfig | RegressionConfig


@config
class CriticConfig:
    """An ensemble of chunk critics."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation."""
    members: int = 2
    """Critics in the ensemble."""
    aggregate: Literal["mean", "min"] = "mean"
    """How the ensemble's opinions become one."""
    tau: float = 0.005
    """Polyak rate of the target copy, in (0, 1]."""


@config
class ValueConfig:
    """The value of a state."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""


@config
class OptimConfig:
    """Adam with optax's defaults for the moments; its rate is constant, or follows a cosine after a linear warm-up."""

    lr: float = 3e-4
    """Learning rate, the highest one."""
    final_lr: float = 0.0
    """Learning rate before the warm-up and after the decay."""
    warmup: int = 0
    """Updates from final_lr to lr."""
    decay: int = 0
    """Updates until final_lr is reached again, the warm-up among them; 0: lr is kept."""


@config
class RolloutConfig:
    """One iteration of an on-policy method: what is played, and how often it is learned from."""

    envs: int = 512
    """E, environments in parallel."""
    decisions: int = 40
    """T, chunks that each of them plays."""
    epochs: int = 5
    """Passes over what was played."""
    minibatches: int = 4
    """Updates per pass."""
    scale_rewards: bool = True
    """Divide rewards by the running deviation of the discounted return, and bound them to [-10, 10]."""


MAY_BE_ZERO = (
    "seed",
    "slice_rows",
    "checkpoint_every",
    "eval_every",
    "offline_steps",
    "online_steps",
    "start_training",
)
MAY_BE_ZERO += ("capacity", "online_eval_every", "ddim", "warmup", "decay", "critic_updates")


def validate(c: Any, where: str = "") -> None:
    """Refuses impossible values, before anything is traced.

    Raises:
        UserError: names the field and what it may be.
    """
    for field in dataclasses.fields(c):
        value, name = getattr(c, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            validate(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} is not finite", "give a finite value")
        elif isinstance(value, tuple) and any(isinstance(v, int) and v < 1 for v in value):
            raise UserError(f"--{name} {value} holds a number below 1", "give positive whole numbers")
        elif type(value) is int and value < (least := int(field.name not in MAY_BE_ZERO)):
            raise UserError(f"--{name} {value} is below {least}", f"give a whole number from {least} on")
    ranges = {"gamma": (0.0, 1.0), "tau": (0.0, 1.0), "expectile": (0.5, 1.0), "temperature": (0.0, math.inf)}
    ranges |= {"lam": (0.0, 1.0), "gamma_denoise": (0.0, 1.0), "explore_std": (0.0, 1.0), "prob_std": (1e-3, 1.0)}
    for name, (low, high) in ranges.items():
        if isinstance(value := getattr(c, name, None), float) and not low <= value <= high:
            raise UserError(f"--{where}{name} {value} is outside [{low:g}, {high:g}]", "give a value inside")
    if isinstance(lr := getattr(c, "lr", None), float) and not lr > 0:
        raise UserError(f"--{where}lr {lr} is not positive", "give a positive learning rate such as 3e-4")
    if isinstance(c, DiffusionConfig):
        _validate_diffusion(c, where)
    if isinstance(c, OptimConfig) and 0 < c.decay < c.warmup:
        raise UserError(f"--{where}warmup {c.warmup} is longer than --{where}decay {c.decay}", "give a longer decay")
    if isinstance(c, RolloutConfig) and c.minibatches > c.envs * c.decisions:
        fix = f"give {c.envs * c.decisions} or less"
        raise UserError(f"--{where}minibatches {c.minibatches} is more than the decisions of an iteration", fix)
    if isinstance(c, ChunkConfig) and list(c.backup) != sorted(set(c.backup)):
        raise UserError(f"--{where}backup {c.backup} is not ascending", "give each backup point once, smallest first")


def _validate_diffusion(c: DiffusionConfig, where: str) -> None:
    if c.residual and (len(c.hidden) % 2 == 0 or len(set(c.hidden)) > 1):
        fix = "give an odd number of equal widths, or --" + where + "no-residual"
        raise UserError(f"--{where}hidden {c.hidden} does not fit a residual network", fix)
    if c.time_features % 2 or c.time_features < 4:
        raise UserError(f"--{where}time-features {c.time_features} does not pair sines and cosines", "give 4, 6, 8 ...")
    if c.ddim > c.steps:
        raise UserError(f"--{where}ddim {c.ddim} is more than --{where}steps {c.steps}", f"give {c.steps} or less")
