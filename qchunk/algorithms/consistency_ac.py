"""Consistency-AC (2309.16984): Diffusion-QL with a consistency model, whose two steps the critic's gradient goes through."""

from __future__ import annotations

from qchunk.actor_configs import ConsistencyConfig
from qchunk.algorithms.dql import DQL, dql
from qchunk.config import ActorConfig, config
from qchunk.types import Algorithm


@config
class ConsistencyAC(DQL):
    """A consistency actor-critic."""

    actor: ActorConfig = ConsistencyConfig(ema=True)


def consistency_ac(c: ConsistencyAC) -> Algorithm:
    """Consistency-AC: ``dql`` through a consistency model's path, which learns from data beside it."""
    return dql(c)
