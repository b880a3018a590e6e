"""How much of a chunk is played before the next is planned. The same schemes train, evaluate and deploy.

A scheme sees a batch of E environments through their ``State`` (of which a policy's scheme reads ``obs`` only).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk.envs.base import Behaviour, where
from qchunk.system.errors import UserError, unknown
from qchunk.types import Plan, Policy, Vars

NAMES = ("open-loop", "receding:STEPS")


class Scheme(NamedTuple):
    """Execution as pure functions around a carry, which outlives a decision; the actor runs in ``decide`` only."""

    steps: int  # environment steps per decision
    init: Callable  # (vars, key, State) -> carry, for environments at their episode's start
    decide: Callable  # (vars, key, State, carry) -> (carry, plan), once per decision
    act: Callable  # (vars, i, State, plan) -> action [E, A], at step i < steps of a decision


def receding(policy: Policy, steps: int) -> Scheme:
    """Plays the first ``steps`` actions of each chunk, then plans anew (open loop where that is the whole chunk).

    Plans are made afresh: ``old`` is None until a policy that warm-starts from it exists.
    """

    def decide(vars: Vars, key, state: Any, carry: tuple) -> tuple[tuple, Plan]:
        return carry, policy.plan(vars, policy.draw(vars, key, state.obs), state.obs, None)

    def act(vars: Vars, i, state: Any, plan: Plan):
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, lambda vars, key, state: (), decide, act)


def scripted(behaviour: Behaviour) -> Scheme:
    """A scripted behaviour, which decides at every step, vmapped over E environments."""

    def keys(key, state: Any):
        return jax.random.split(key, state.done.shape[0])

    def init(vars: Vars, key, state: Any) -> Any:
        return jax.vmap(behaviour.init)(keys(key, state), state)

    def decide(vars: Vars, key, state: Any, carry: Any) -> Any:
        action, carry = jax.vmap(behaviour.act)(keys(key, state), state, carry)
        return carry, action

    return Scheme(1, init, decide, lambda vars, i, state, action: action)


def parse(text: str, horizon: int) -> Callable[[Policy], Scheme]:
    """The scheme of a name: ``open-loop`` or ``receding:3``.

    Raises:
        UserError: unknown, or more steps than the chunk has.
    """
    name, _, steps = text.partition(":")
    if name == "open-loop" and not steps:
        return lambda policy: receding(policy, horizon)
    if name != "receding":
        raise unknown("execution", text, NAMES)
    if not steps.isdigit() or not 1 <= int(steps) <= horizon:
        raise UserError(
            f"--execute {text} does not fit chunks of {horizon} actions", f"give receding:1 to receding:{horizon}"
        )
    return lambda policy: receding(policy, int(steps))


def restart(scheme: Scheme, vars: Vars, key, state: Any, fresh: jax.Array, carry: Any) -> Any:
    """The carry with a new start wherever ``fresh`` [E] is set: nothing survives its episode."""

    def begin(carry: Any) -> Any:
        return where(fresh, scheme.init(vars, key, state), carry)

    return jax.lax.cond(jnp.any(fresh), begin, lambda carry: carry, carry)
