"""Consistency-AC (2309.16984): Diffusion-QL with a consistency model, whose two steps the critic's gradient goes through.

Its code learns from data by squared errors on a grid that grows to 150 levels, counted 100 over the levels' difference, with eta from 0.01 to 4.5 by task.
Ours (``actors.consistency``) holds an actor less firmly: in a bandit with two narrow modes eta 1 took it off the data, where 0.1, and the code's loss with 1, did not.
"""

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
