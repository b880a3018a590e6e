"""Playing chunks, written once for environments on the device and in worker processes.

An outer loop over decisions, an inner one over environment steps; the actor runs once per decision. What differs between
the two faces stands in a ``Simulator`` (on_device.py, on_host.py): how environments step, and what a loop is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.config import ChunkConfig
from qchunk.data import chunks
from qchunk.types import Array, Chunk, Metrics, PyTree, Steps


class Outcome(NamedTuple):
    """What a batch of E environments shows after a step."""

    obs: PyTree  # [E, O] the true ones
    reward: Array  # [E]
    terminal: Array  # [E] 1 where the environment ended by itself
    truncation: Array  # [E] 1 where only a limit ended it
    done: Array  # [E] either
    success: Array | None  # [E] see types.Steps; None where the environment has no notion of it
    terms: dict  # [E] each, what an objective is made of


class Simulator(NamedTuple):
    """E environments, and the loops around them."""

    begin: Callable  # state -> (state, fresh [E]): starts the episodes that are due; fresh is None where there never are any
    step: Callable  # (state, action [E, A], alive [E]) -> state; environments that are not alive rest
    show: Callable  # state -> Outcome
    scan: Callable  # (fn, carry, xs) -> (carry, stacked), as jax.lax.scan
    repeat: Callable  # (going, body, carry) -> carry, as jax.lax.while_loop
    # (state, actions [n, E, A], alive [E]) -> [n] states: n steps at once, where that is quicker than one after the other
    play: Callable | None = None


def extras_of(plan: Any) -> dict:
    """What a plan holds besides its actions; nothing where a scheme decides on something else than a Plan."""
    return getattr(plan, "extras", {})


class Player(NamedTuple):
    """A scheme with the variables that it reads, for E environments."""

    steps: int  # environment steps per decision
    decide: Callable  # (label, state, fresh, carry) -> (carry, plan); its noise follows from the label
    act: Callable  # (i, state, plan, alive [E]) -> action [E, A] in [-1, 1], or NaN (``bounded``)
    extras: Callable = extras_of  # plan -> its extras [E, ...]
    looks: bool = True  # see Scheme
    delay: int = 0  # likewise
    # (state, plan) -> all its actions [n, E, A], or None where one of them depends on what is seen while it is played
    ahead: Callable | None = None


def bounded(action: Array) -> Array:
    """Actions clipped to [-1, 1]; numbers that are not finite become NaN, which no environment takes for good."""
    return jnp.where(jnp.isfinite(action), jnp.clip(action, -1.0, 1.0), jnp.nan)


def told(sim: Simulator, state: Any, action: Array, after: Any) -> Steps:
    """One step [E, ...], from ``state`` to ``after``."""
    before, now = sim.show(state), sim.show(after)
    alive = (before.done == 0).astype(np.float32)
    out = (before.obs, action, now.reward, now.terminal, now.truncation, now.obs, now.success)
    return Steps(*out, alive, now.terms)


def play_chunk(sim: Simulator, player: Player, state: Any, plan: Any) -> tuple[Any, Steps]:
    """Executes one decision in E environments. One that ends rests until the next."""

    def step(state: Any, i: Any) -> tuple[Any, Steps]:
        alive = sim.show(state).done == 0
        action = player.act(i, state, plan, alive)
        after = sim.step(state, action, alive)
        return after, told(sim, state, action, after)

    actions = player.ahead(state, plan) if player.ahead else None
    if actions is None or sim.play is None:
        state, steps = sim.scan(step, state, np.arange(player.steps, dtype=np.int32))
    else:
        states = [state, *sim.play(state, actions, sim.show(state).done == 0)]
        each = [told(sim, *seen) for seen in zip(states[:-1], actions, states[1:], strict=True)]
        state, steps = states[-1], jax.tree.map(lambda *x: np.stack(x), *each)
    return state, steps._replace(extras=chunks.kept(player.extras(plan), *steps.reward.shape))


def decision(sim: Simulator, player: Player, label: Any, loop: tuple[Any, Any]) -> tuple[Any, Any, Steps]:
    """Starts the episodes that are due, decides and plays: ((state, carry), plan, Steps [steps, E, ...])."""
    state, carry = loop
    state, fresh = sim.begin(state)
    carry, plan = player.decide(label, state, fresh, carry)
    state, steps = play_chunk(sim, player, state, plan)
    return (state, carry), plan, steps


def rollout(sim: Simulator, player: Player, labels: Any, loop: tuple[Any, Any]) -> tuple[tuple[Any, Any], Steps]:
    """Plays a chunk for each of ``labels``: ((state, carry) to go on from, Steps [decisions * steps, E, ...])."""

    def play(loop: tuple[Any, Any], label: Any) -> tuple[tuple[Any, Any], Steps]:
        loop, _, steps = decision(sim, player, label, loop)
        return loop, steps

    loop, steps = sim.scan(play, loop, labels)
    return loop, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def rollout_chunks(
    sim: Simulator, player: Player, labels: Any, loop: tuple[Any, Any], c: ChunkConfig
) -> tuple[tuple[Any, Any], Chunk, Metrics]:
    """``rollout`` by decisions, for methods that learn from what they just did.

    Returns:
        (state, carry) to go on from; what each decision led to, Chunk [T, E, ...] with the plan's ``extras``; and
        "alive_steps" and "reward_sum", over all steps that were played.
    """

    def play(loop: tuple[Any, Any], label: Any) -> tuple[tuple[Any, Any], tuple[Chunk, Metrics]]:
        loop, plan, s = decision(sim, player, label, loop)
        chunk = chunks.of_decision(s, c)
        return loop, (chunk._replace(extras=plan.extras), tallied(s))

    loop, (found, sums) = sim.scan(play, loop, labels)
    return loop, found, jax.tree.map(jnp.sum, sums)


def tallied(steps: Steps) -> Metrics:
    """How many steps were played, and the sum of their rewards."""
    return {"alive_steps": jnp.sum(steps.alive), "reward_sum": jnp.sum(steps.reward * steps.alive)}
