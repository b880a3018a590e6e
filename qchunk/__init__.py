"""Reinforcement learning with policies that generate chunks of actions, as short compositions of pure JAX functions.

What a method's file and a notebook need stands here, and is imported when it is first used: ``import qchunk`` alone loads no jax.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "qchunk.config": (
        *("ActorConfig", "ChunkConfig", "CriticConfig", "OptimConfig", "RolloutConfig", "Stands", "ValueConfig"),
    ),
    "qchunk.ranges": ("NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt", "Range", "Widths"),
    "qchunk.actor_configs": (
        "DiffusionConfig",
        "FlowConfig",
        "GaussianConfig",
        "OneStepConfig",
        "RegressionConfig",
        "TanhGaussianConfig",
    ),
    "qchunk.types": (
        "Algorithm",
        "Chunk",
        "Critic",
        "Kernel",
        "Learner",
        "Module",
        "Old",
        "Plan",
        "Policy",
        "Spec",
        "Term",
        "Vars",
    ),
    "qchunk.actors": ("actor",),
    "qchunk.actors.paths": ("decode",),
    "qchunk.critics.chunk_q": ("chunk_q",),
    "qchunk.critics.noisy_value": ("noisy_value",),
    "qchunk.critics.state_v": ("state_v",),
    "qchunk.losses.cloning": ("bc",),
    "qchunk.losses.implicit_q": ("implicit_q",),
    "qchunk.losses.proposals": ("ascend", "distil", "proposing"),
    "qchunk.losses.td": ("td",),
    "qchunk.losses.terms": ("together", "weighed", "weighted_mean"),
    "qchunk.compose": ("acting", "frozen", "lagging", "learner", "seeing", "shortened", "warm_started"),
    "qchunk.sampling": ("sample", "sample_path"),
    "qchunk.improve": ("best_of_n", "diffuser", "guide", "smoothed"),
    "qchunk.envs": ("make",),
    "qchunk.data.formats": ("for_env",),
    "qchunk.drivers": ("agent", "train"),
    "qchunk.drivers.online": ("OnlineSettings",),
    "qchunk.drivers.on_policy": ("OnPolicySettings",),
    "qchunk.deploy.policy": ("load",),
}
_HOME = {name: module for module, found in _HOMES.items() for name in found}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qchunk' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
