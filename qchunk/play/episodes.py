"""Episodes -> returns and success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qchunk.envs.base import where
from qchunk.play.rollout import Player, Simulator, Steps, decision
from qchunk.types import PLAN_STEP, Array


class Manner(NamedTuple):
    """How episodes were played, sums over their steps: leaves [n] or [S, n]."""

    looks: Array  # decisions in which the policy was called
    plans: Array  # plans that began to be played
    jump: Array  # change of the action (mean over its numbers) from the step before, where a plan begins ...
    jumps: Array  # ... and at how many steps that is
    change: Array  # the same inside of plans
    changes: Array


class Episodes(NamedTuple):
    """Outcome of episodes, leaves [n] or [S, n]."""

    ret: Array  # undiscounted return
    success: Array | None  # 1.0 if it was ever reached; None where the environment has no notion of it
    length: Array  # steps
    manner: Manner
    terms: dict = {}  # noqa: RUF012  (never written to)  sums of what an objective is made of


class Before(NamedTuple):
    """What was played before a decision, in E environments."""

    action: Array  # [E, A] the last action, NaN where an episode begins
    made: Array  # [delay, E] 1 where a plan was made at each of the last steps, which takes over when it is ready


class Tally(NamedTuple):
    """Which decisions belong to which episodes."""

    going: Callable  # state -> whether any episode is left to play
    label: Callable  # number of the decision -> label of the player's noise
    add: Callable  # (state, total, Episodes [E] of one decision) -> total


def episodes(
    sim: Simulator,
    player: Player,
    tally: Tally,
    start: tuple[Any, Any],
    none_yet: Episodes,
    before: Array,
) -> Episodes:
    """Plays episodes, each to its own end; stops when the last one has ended.

    Args:
        start: (state, carry).
        none_yet: the total to begin with.
        before: the action [E, A] before the first one, NaN.
    """

    def body(loop: Any) -> Any:
        played, i, total, before = loop
        ended = sim.show(played[0]).done > 0
        played, _, steps = decision(sim, player, tally.label(i), played)
        before = before._replace(action=where(ended, before.action * jnp.nan, before.action))
        manner, before = manner_of(steps, before, player)
        return played, i + 1, tally.add(played[0], total, of_steps(steps, manner)), before

    nothing = Before(before, before.__array_namespace__().zeros((player.delay, len(before)), before.dtype))
    return sim.repeat(lambda loop: tally.going(loop[0][0]), body, (start, 0, none_yet, nothing))[2]


def no_manner(zeros: Array) -> Manner:
    """The manner of no steps, like ``zeros`` [n] or [S, n]; every leaf is its own array."""
    return Manner(*[zeros + 0 for _ in Manner._fields])


def manner_of(s: Steps, before: Before, player: Player) -> tuple[Manner, Before]:
    """How the steps [n, E] of one decision were played: (leaves [E], what the next one has before it)."""
    xp = s.action.__array_namespace__()  # numpy where environments are processes
    made = (s.extras.get(PLAN_STEP, xp.zeros_like(s.alive)) == 0).astype(before.made.dtype)
    fresh = xp.isnan(before.action).all(axis=-1)
    first = fresh * (xp.arange(len(made)) == 0)[:, None]
    # a plan takes over when it is ready, not when it is made; but an episode's first is waited for, and plays at once
    ready = xp.concatenate([xp.where(fresh, 0, before.made), xp.where(first, 0, made)])
    begins = xp.maximum(ready[: len(made)], first) * s.alive
    change = xp.mean(abs(s.action - xp.concatenate([before.action[None], s.action[:-1]])), axis=-1)
    change = xp.asarray(change, float)  # of numpy twice as exact, so that sums are the same in whatever order
    known = xp.isfinite(change) * s.alive
    of = lambda where: xp.sum(where * xp.nan_to_num(change), axis=0)  # noqa: E731
    joint, inside = begins * known, (1 - begins) * known
    plans = xp.sum(begins, axis=0)
    sums = of(joint), xp.sum(joint, axis=0), of(inside), xp.sum(inside, axis=0)
    manner = Manner(s.alive[0] + 0.0 if player.looks else plans, plans, *sums)
    return manner, Before(s.action[-1], ready[len(made) :])


def of_steps(s: Steps, manner: Manner) -> Episodes:
    """What the steps [n, E] of one decision add to their episodes [E]."""
    success = None if s.success is None else ((s.success + 1) * s.alive - 1).max(axis=0)  # -1 of a step that was not
    terms = {name: (x * s.alive).sum(axis=0) for name, x in s.terms.items()}
    return Episodes((s.reward * s.alive).sum(axis=0), success, s.alive.sum(axis=0), manner, terms)


def summary(e: Episodes, goals: int = 0) -> dict[str, Array]:
    """Means over episodes: ``return``, ``length`` (steps), where it has a meaning ``success`` (share), and an objective's terms.

    An episode whose return is not finite was played with actions or shown states that are no numbers: it is no success.

    Also, of an episode, ``looks`` and ``plans``, and the mean change of an action where plans begin, ``jump``, and inside of
    them, ``change``.

    Args:
        goals: how many the episodes had in turn, for ``success_goal1`` and so on beside ``success``.
    """
    success: dict[str, Array] = {}
    if e.success is not None:
        reached = e.success * (abs(e.ret) < np.inf)
        each = {f"success_goal{i + 1}": reached[..., i::goals] for i in range(min(goals, reached.shape[-1]))}
        success = {name: x.mean(axis=-1) for name, x in {"success": reached, **each}.items()}
    terms = {n: x.mean(axis=-1) for n, x in e.terms.items()}
    m, total = e.manner, lambda x: x.sum(axis=-1)
    changes = {"jump": (m.jump, m.jumps), "change": (m.change, m.changes)}
    manner = {name: total(x) / jnp.maximum(total(count), 1) for name, (x, count) in changes.items()}
    manner |= {"looks": m.looks.mean(axis=-1), "plans": m.plans.mean(axis=-1)}
    return {**success, "return": e.ret.mean(axis=-1), "length": e.length.mean(axis=-1), **terms, **manner}
