"""How much of a chunk is played before the next is planned. The same schemes train, evaluate, collect and deploy.

A scheme sees a batch of E environments through their ``State`` (of which a policy's scheme reads ``obs`` only).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import names, registry
from qchunk.envs.base import Behaviour, where
from qchunk.system.errors import UserError
from qchunk.types import Old, Plan, Policy, Vars

NO_POLICY = Policy(*[lambda *args: None] * 3)  # of a scheme whose numbers are looked at only


class Scheme(NamedTuple):
    """Execution as pure functions around a carry, which outlives a decision; the actor runs in ``decide`` only.

    A scheme whose boundaries are not known beforehand has ``steps`` 1 and keeps the plan that it is playing in its carry.
    """

    steps: int  # environment steps per decision
    init: Callable  # (vars, key, State) -> carry, for environments at their episode's start
    decide: Callable  # (vars, key, State, carry) -> (carry, plan), once per decision
    act: Callable  # (vars, i, State, plan) -> action [E, A], at step i < steps of a decision


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["floats"], meta_fields=["name", "make", "whole", "horizon"]
)
@dataclasses.dataclass(frozen=True)
class Execution:
    """A scheme by its name: static but for the floats among its numbers, which are traced."""

    name: str  # such as receding:3; without the numbers of a user's own
    make: Callable  # (policy, H, *numbers) -> Scheme
    horizon: int  # H, actions in the chunks of policies that do not say otherwise
    whole: tuple = ()  # the numbers in order; None where a float stands
    floats: tuple = ()

    def scheme(self, policy: Policy) -> Scheme:
        """The scheme around a policy."""
        floats = iter(self.floats)
        numbers = (next(floats) if n is None else n for n in self.whole)
        return self.make(policy, policy.length or self.horizon, *numbers)


def receding(policy: Policy, horizon: int, steps: int) -> Scheme:
    """Plays the first ``steps`` of the ``horizon`` actions of each chunk, then plans again.

    The policy is shown its last plan, and how much of it is left (``Old``).
    """
    if not (isinstance(steps, int) and 1 <= steps <= horizon):
        problem = f"--execute receding:{steps} does not fit chunks of {horizon} actions"
        raise UserError(problem, f"give receding:1 to receding:{horizon}")

    def init(vars: Vars, key, state: Any) -> Old:
        return nothing_left(policy, vars, key, state.obs)

    def decide(vars: Vars, key, state: Any, old: Old) -> tuple[Old, Plan]:
        plan = policy.plan(vars, policy.draw(vars, key, state.obs), state.obs, old)
        if plan.action.shape[-2] != horizon:
            raise ValueError(
                f"the policy's chunks have {plan.action.shape[-2]} actions, and it says {horizon}: give it length={plan.action.shape[-2]}"
            )
        return played(plan, steps), plan

    def act(vars: Vars, i, state: Any, plan: Plan):
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, init, decide, act)


def nothing_left(policy: Policy, vars: Vars, key, obs) -> Old:
    """The old plan of environments at their episode's start: of the right shapes, and nothing of it is left."""
    like = jax.eval_shape(lambda key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None), key, obs)
    plan = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return Old(plan, jnp.zeros(plan.action.shape[:-1]))


def played(plan: Plan, steps: int) -> Old:
    """A plan of which ``steps`` actions have been played: the rest moves to the front, zeros follow it."""
    gone = jnp.zeros_like(plan.action[..., :steps, :])
    action = jnp.concatenate([plan.action[..., steps:, :], gone], axis=-2)
    left = (jnp.arange(action.shape[-2]) < action.shape[-2] - steps).astype(action.dtype)
    return Old(plan._replace(action=action), jnp.broadcast_to(left, action.shape[:-1]))


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


def open_loop(policy: Policy, horizon: int) -> Scheme:
    """Plays whole chunks."""
    return receding(policy, horizon, horizon)


def parse(text: str, horizon: int) -> Execution:
    """The execution of a name: ``open-loop``, ``receding:3``, or a function of the user's own, ``file.py:function:NUMBER,...``.

    The function takes the policy, H and the numbers, and returns a Scheme. Numbers with a point or an exponent are traced.

    Raises:
        UserError: unknown, or numbers that do not fit.
    """
    registry.function(
        names.SCHEMES, text, "execution", "policy", "horizon"
    )  # says which numbers are missing or too many
    make, numbers = registry.named(names.SCHEMES, text, "execution")
    if wrong := [n for n in numbers if isinstance(n, str)]:
        raise UserError(f"--execute {text}: {wrong[0]} is no number", "give numbers behind the function")
    floats = tuple(n for n in numbers if isinstance(n, float))
    whole = tuple(None if isinstance(n, float) else n for n in numbers)
    found = Execution(text.partition(":")[0] if floats else text, make, horizon, whole, floats)
    if make is receding:
        found.scheme(NO_POLICY)
    return found


def restart(scheme: Scheme, vars: Vars, key, state: Any, fresh: jax.Array, carry: Any) -> Any:
    """The carry with a new start wherever ``fresh`` [E] is set: nothing survives its episode."""

    def begin(carry: Any) -> Any:
        return where(fresh, scheme.init(vars, key, state), carry)

    return jax.lax.cond(jnp.any(fresh), begin, lambda carry: carry, carry)
