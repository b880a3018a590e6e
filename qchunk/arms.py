"""The arms of a comparison: every method at the same sizes, with the settings that a few runs on another task chose.

An arm is an algorithm's name, or ``ALGORITHM@KIND`` with another kind of actor (``dppo@diffusion``), or a function of the
user's own as ``file.py:function``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qchunk import flags
from qchunk.config import (
    ActorConfig,
    ChunkConfig,
    CriticConfig,
    DiffusionConfig,
    FlowConfig,
    GaussianConfig,
    OptimConfig,
    RegressionConfig,
    ValueConfig,
)
from qchunk.errors import UserError, unknown

DEFAULT = ("bc", "qc", "qc-frozen", "value-guided", "v-gps", "dppo", "dppo@diffusion", "ppo")
KINDS = {"flow": FlowConfig, "diffusion": DiffusionConfig, "gaussian": GaussianConfig, "regression": RegressionConfig}
OWN_KIND = {"ppo": "gaussian"}  # of those that a flow does not fit


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every arm shares."""

    hidden: tuple[int, ...] = (128, 128, 128)
    """Widths of the hidden layers of every network."""
    horizon: int = 5
    """H, actions per chunk."""
    n: int = 8
    """N, candidates of the methods that choose among some."""
    steps: int = 10
    """K, denoising steps of every flow (diffusion: as many of 20 levels for imitation, all of them for dppo)."""


# learning rate and target rate: of qc on another task, then held for every method that has them
TUNED: dict[str, dict[str, Any]] = {
    "bc": {"optim": OptimConfig(1e-3)},
    "qc": {"optim": OptimConfig(1e-3)},
    "qc-frozen": {"optim": OptimConfig(1e-3)},
    "value-guided": {"optim": OptimConfig(1e-3), "weight": 0.3},
    "v-gps": {"optim": OptimConfig(1e-3)},
    "dppo": {"clip": 0.01, "clip_base": 0.01, "tuned_steps": 5},
    "ppo": {"clip": 0.01},
}
TRIALS = "qchunk reproduce tuning: three runs of each method on tabletop/cube-single-task2, one seed, half of the default updates"


def split(arm: str) -> tuple[str, str]:
    """(algorithm, kind of its actor) of an arm's name.

    Raises:
        UserError: no such kind.
    """
    name, _, kind = arm.partition("@")
    if kind and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return name, kind or OWN_KIND.get(name, "flow")


def actor_of(kind: str, sizes: Sizes) -> ActorConfig:
    """An actor of a kind; it acts with a moving average of its weights."""
    h = sizes.hidden
    if kind == "flow":
        return FlowConfig(h, steps=sizes.steps, ema=True)
    if kind == "diffusion":
        return DiffusionConfig(h, residual=len(h) % 2 == 1 and len(set(h)) == 1, ema=True)
    return KINDS[kind](h, ema=True)


def config_of(arm: str, sizes: Sizes) -> Any:
    """The configuration of an arm.

    Raises:
        UserError: an unknown algorithm or kind, or a kind for a method without an actor.
    """
    name, kind = split(arm)
    c = flags.builder(name)[1]()
    found = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    actors = [field for field in ("actor", "given", "tuned") if field in found]
    if "@" in arm and not actors:
        raise UserError(f"{name} has no actor of its own", f"give {name} without @{kind}")
    made: dict[str, Any] = {field: actor_of(kind, sizes) for field in actors}
    made["chunk"] = dataclasses.replace(c.chunk, horizon=sizes.horizon)
    for field, value in found.items():
        if isinstance(value, CriticConfig):
            made[field] = dataclasses.replace(value, hidden=sizes.hidden, tau=0.01)
        elif isinstance(value, ValueConfig):
            made[field] = dataclasses.replace(value, hidden=sizes.hidden)
    if "n" in found:
        made["n"] = sizes.n
    return dataclasses.replace(c, **made, **TUNED.get(name, {}))


def prior_of(arm: str, sizes: Sizes) -> tuple[str, Any] | None:
    """(kind, configuration of ``bc``) of the prior that an arm stands on; None for one that trains its own actor."""
    kind = split(arm)[1]
    c = config_of(arm, sizes)
    if not (hasattr(c, "given") or hasattr(c, "tuned")):
        return None
    cloned = config_of(f"bc@{kind}", sizes)
    return kind, dataclasses.replace(cloned, chunk=ChunkConfig(sizes.horizon))
