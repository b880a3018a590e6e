"""Episodes -> returns and success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qchunk.play.rollout import Player, Simulator, Steps, decision
from qchunk.types import Array


class Episodes(NamedTuple):
    """Outcome of episodes, leaves [n] or [S, n]."""

    ret: Array  # undiscounted return
    success: Array | None  # 1.0 if it was ever reached; None where the environment has no notion of it
    length: Array  # steps
    terms: dict = {}  # noqa: RUF012  (never written to)  sums of what an objective is made of


class Tally(NamedTuple):
    """Which decisions belong to which episodes."""

    going: Callable  # state -> whether any episode is left to play
    label: Callable  # number of the decision -> label of the player's noise
    add: Callable  # (state, total, Episodes [E] of one decision) -> total


def episodes(sim: Simulator, player: Player, tally: Tally, start: tuple[Any, Any], none_yet: Episodes) -> Episodes:
    """Plays episodes, each to its own end; stops when the last one has ended.

    Args:
        start: (state, carry).
        none_yet: the total to begin with.
    """

    def body(loop: Any) -> Any:
        played, i, total = loop
        played, _, steps = decision(sim, player, tally.label(i), played)
        return played, i + 1, tally.add(played[0], total, of_steps(steps))

    return sim.repeat(lambda loop: tally.going(loop[0][0]), body, (start, 0, none_yet))[2]


def of_steps(s: Steps) -> Episodes:
    """What the steps [n, E] of one decision add to their episodes [E]."""
    success = None if s.success is None else ((s.success + 1) * s.alive - 1).max(axis=0)  # -1 of a step that was not
    terms = {name: (x * s.alive).sum(axis=0) for name, x in s.terms.items()}
    return Episodes((s.reward * s.alive).sum(axis=0), success, s.alive.sum(axis=0), terms)


def summary(e: Episodes, goals: int = 0) -> dict[str, Array]:
    """Means over episodes: ``return``, ``length`` (steps), where it has a meaning ``success`` (share), and an objective's terms.

    An episode whose return is not finite was played with actions or shown states that are no numbers: it is no success.

    Args:
        goals: how many the episodes had in turn, for ``success_goal1`` and so on beside ``success``.
    """
    success: dict[str, Array] = {}
    if e.success is not None:
        reached = e.success * (abs(e.ret) < np.inf)
        each = {f"success_goal{i + 1}": reached[..., i::goals] for i in range(min(goals, reached.shape[-1]))}
        success = {name: x.mean(axis=-1) for name, x in {"success": reached, **each}.items()}
    terms = {n: x.mean(axis=-1) for n, x in e.terms.items()}
    return {**success, "return": e.ret.mean(axis=-1), "length": e.length.mean(axis=-1), **terms}
