"""An actor that edits the chunks of another: it sees the observation and the chunk (2601.14234's FEdit and QAM-E)."""

from __future__ import annotations

from typing import Any

from qchunk import nets
from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors.tanh_gaussian import tanh_gaussian
from qchunk.types import Array, Kernel, built_for


def editor(c: TanhGaussianConfig, name: str = "editor") -> Kernel:
    """A squashed Gaussian over edits in [-1, 1], whose observations are those of ``beside``."""
    pair = lambda spec: spec._replace(obs={"obs": spec.obs, "plan": spec.horizon * spec.action})  # noqa: E731
    return built_for(tanh_gaussian(c, name), pair)


def beside(obs: Any, action: Array) -> dict[str, Any]:
    """What an editor sees of an observation [*B, O] and a chunk [*B, H, A]."""
    return {"obs": obs, "plan": nets.flatten_chunk(action)}
