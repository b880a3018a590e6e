"""How much of a chunk is played before the next is planned. The same schemes train, evaluate, collect and deploy.

A scheme sees a batch of E environments through their ``State`` (of which a policy's scheme reads ``obs`` only).
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import names, registry, sampling
from qchunk.envs.base import Behaviour, where
from qchunk.ranges import check_numbers, fits, kind_of
from qchunk.system.errors import UserError
from qchunk.types import Array, Old, Plan, Policy, Vars

# of a scheme whose numbers are looked at only
NO_POLICY = Policy(*[lambda *args: None] * 3, pulled=True)  # type: ignore[arg-type]


class Scheme(NamedTuple):
    """Execution as pure functions around a carry, which outlives a decision; the actor runs in ``decide`` only.

    A scheme whose boundaries are not known beforehand has ``steps`` 1 and keeps the plan that it is playing in its carry.
    """

    steps: int  # environment steps per decision
    init: Callable  # (vars, key, State) -> carry, for environments at their episode's start
    decide: Callable  # (vars, key, State, carry) -> (carry, plan), once per decision
    act: Callable  # (vars, i, State, plan) -> action [E, A], at step i < length of a decision's plan
    length: int = 0  # steps of a plan that ``act`` knows, where these are more than ``steps``
    delay: int = 0  # steps from the observation of a decision to the first action of its plan that is played
    own: bool = True  # whether what is played is what the policy drew at this decision, so that its probabilities hold
    looks: bool = True  # whether the policy is called at every decision, not only where a plan begins


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["floats"], meta_fields=["name", "make", "whole", "horizon", "delay"]
)
@dataclasses.dataclass(frozen=True)
class Execution:
    """A scheme by its name: static but for the floats among its numbers, which are traced."""

    name: str  # such as receding:3; without the numbers of a user's own
    make: Callable  # (policy, H, *numbers) -> Scheme
    horizon: int  # H, actions in the chunks of policies that do not say otherwise
    whole: tuple = ()  # the numbers in order; None where a float stands
    floats: tuple = ()
    delay: int = 0  # of --delay

    def scheme(self, policy: Policy) -> Scheme:
        """The scheme around a policy.

        Raises:
            UserError: the scheme does not go with the policy, or with the delay, or is none.
        """
        floats = iter(self.floats)
        numbers = (next(floats) if n is None else n for n in self.whole)
        found = self.make(policy, policy.length or self.horizon, *numbers)
        if not isinstance(found, Scheme) or not isinstance(found.steps, int) or found.steps < 1:
            what = f"a Scheme of {found.steps!r} steps" if isinstance(found, Scheme) else f"a {type(found).__name__}"
            fix = "return qchunk.play.execute.Scheme(steps, init, decide, act), steps a whole number from 1 on"
            raise UserError(f"--execute {self.name} returns {what}", fix)
        if self.delay and found.delay:
            raise UserError(f"--execute {self.name} has a delay of its own: {found.delay}", "give --delay 0, and no @")
        return delayed(found, self.delay, self.name)


def receding(policy: Policy, horizon: int, steps: int) -> Scheme:
    """Plays the first ``steps`` of the ``horizon`` actions of each chunk, then plans again.

    The policy is shown its last plan, and how much of it is left (``Old``).
    """
    check_steps(steps, horizon, "receding:{}")

    def init(vars: Vars, key, state: Any) -> Old:
        return nothing_left(policy, vars, key, state.obs)

    def decide(vars: Vars, key, state: Any, old: Old) -> tuple[Old, Plan]:
        plan = sampling.act(policy, vars, key, state.obs, old)
        if plan.action.shape[-2] != horizon:
            raise ValueError(
                f"the policy's chunks have {plan.action.shape[-2]} actions, and it says {horizon}: give it length={plan.action.shape[-2]}"
            )
        return played(plan, steps), plan

    def act(vars: Vars, i, state: Any, plan: Plan):
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, init, decide, act, horizon)


def check_steps(steps: int, horizon: int, name: str) -> None:
    """Refuses to play more of a chunk than there is.

    Args:
        name: how the scheme is written, with {} where ``steps`` stands.

    Raises:
        UserError: says which numbers of steps fit.
    """
    if not (isinstance(steps, int) and 1 <= steps <= horizon):
        problem = f"--execute {name.format(steps)} does not fit chunks of {horizon} actions"
        raise UserError(problem, f"give {name.format(1)} to {name.format(horizon)}")


def nothing_left(policy: Policy, vars: Vars, key, obs) -> Old:
    """The old plan of environments at their episode's start: of the right shapes, and nothing of it is left."""
    like = jax.eval_shape(lambda key, obs: sampling.act(policy, vars, key, obs), key, obs)
    plan = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return Old(plan, jnp.zeros(plan.action.shape[:-1]))


def played(plan: Plan, steps: int, left: Array | None = None) -> Old:
    """A plan of which ``steps`` actions have been played: the rest moves to the front, zeros follow it.

    Args:
        left: [*B, H] 1 where it had an action; None is everywhere.
    """
    there = jnp.ones(plan.action.shape[:-1]) if left is None else left
    return Old(plan._replace(action=later(plan.action, steps)), later(there[..., None], steps)[..., 0])


def later(x: Array, steps: int) -> Array:
    """[..., H, n] as it stands ``steps`` later, zeros behind its end."""
    return jnp.concatenate([x[..., steps:, :], jnp.zeros_like(x[..., :steps, :])], axis=-2)


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


class Waiting(NamedTuple):
    """The plans under way, of E environments."""

    plans: Any  # leaves [E, J + 1, ...], the newest first
    made: Array  # [E] int32, how many of them there are

    @property
    def extras(self) -> dict:
        """Those of the plan that was made at this decision [E, ...], though it is played from a later step on."""
        return jax.tree.map(lambda x: x[:, 0], getattr(self.plans, "extras", {}))


def delayed(scheme: Scheme, delay: int, name: str) -> Scheme:
    """The same scheme where a plan is ready ``delay`` steps after the observation that it is made from.

    At step i of a decision the newest plan that is ready is played, at the place that belongs to this step: the one made
    j decisions ago, j the least with i + j steps >= delay. So plans may be under way while older ones are played. At the start of
    an episode the environment waits for its first plan. Delay 0 is the scheme itself.

    Raises:
        UserError: what is left of a plan is shorter than the delay.
    """
    if delay == 0:
        return scheme
    reach = scheme.length or scheme.steps
    if scheme.steps + delay > reach:
        problem = f"--execute {name} plays {scheme.steps} of the {reach} steps of a plan and leaves too few for {delay} of delay"
        fix = f"play {reach - delay} or fewer" if delay < reach else "plan longer chunks"
        if not scheme.looks:  # it learns at the end of a plan alone that the next is due, however long it is
            fix = "take a scheme whose plans are of one length, such as receding:1, or give --delay 0"
        raise UserError(problem, fix)
    back = -(-delay // scheme.steps)  # J, decisions from a plan's own to the last one in which it is played

    def init(vars: Vars, key, state: Any) -> tuple[Any, Waiting]:
        carry = scheme.init(vars, key, state)
        like = jax.eval_shape(scheme.decide, vars, key, state, carry)[1]
        plans = jax.tree.map(lambda x: jnp.zeros((x.shape[0], back + 1, *x.shape[1:]), x.dtype), like)
        return carry, Waiting(plans, jnp.zeros(state.done.shape[0], jnp.int32))

    def decide(vars: Vars, key, state: Any, carry: tuple[Any, Waiting]) -> tuple[tuple[Any, Waiting], Waiting]:
        carry, waiting = carry
        carry, plan = scheme.decide(vars, key, state, carry)
        plans = jax.tree.map(lambda x, old: jnp.concatenate([x[:, None], old[:, :-1]], axis=1), plan, waiting.plans)
        waiting = Waiting(plans, jnp.minimum(waiting.made + 1, back + 1))
        return (carry, waiting), waiting

    def act(vars: Vars, i, state: Any, waiting: Waiting) -> Array:
        def of(j: int) -> Array:
            return scheme.act(vars, i + j * scheme.steps, state, jax.tree.map(lambda x: x[:, j], waiting.plans))

        wanted = jnp.minimum(-((i - delay) // scheme.steps), waiting.made - 1)  # [E]
        action = of(0)
        for j in range(1, back + 1):
            action = jnp.where((wanted >= j)[:, None], of(j), action)
        return action

    return Scheme(scheme.steps, init, decide, act, reach - delay, delay, own=False)


def with_delay(text: str) -> tuple[str, int | None]:
    """The scheme and the delay of a name such as ``coherent:16,1@2``; None where it names no delay, so that the run's own holds."""
    name, _, delay = text.rpartition("@")
    return (name, int(delay)) if name and delay.isdecimal() else (text, None)


def parse(text: str, horizon: int, delay: int = 0) -> Execution:
    """The execution of a name of ``names.SCHEMES``, such as ``receding:3``, or of a function of the user's own,
    ``file.py:function:NUMBER,...``.

    The function takes the policy, H and the numbers, and returns a Scheme. Numbers with a point or an exponent are traced, and
    so is what a scheme of the table takes as a float.

    Args:
        delay: steps between the observation that a plan is made from and the first of its actions that is played.

    Raises:
        UserError: unknown, or numbers that do not fit.
    """
    if text.partition("@")[2] and text.partition(":")[0].partition("@")[0] in names.SCHEMES:
        fix = "eval, compare and load read NAME@D, a whole number of steps; else give --delay D"
        raise UserError(f"--execute {text}: no delay is read behind @", fix)
    registry.function(
        names.SCHEMES, text, "execution", "policy", "horizon"
    )  # says which numbers are missing or too many
    make, numbers = registry.named(names.SCHEMES, text, "execution")
    if wrong := [n for n in numbers if isinstance(n, str)]:
        raise UserError(f"--execute {text}: {wrong[0]} is no number", "give numbers behind the function")
    known = text.partition(":")[0] in names.SCHEMES
    if known and "=" in text:
        raise UserError(f"--execute {text} names its numbers", "give them in order, without names")
    numbers = _checked(f"--execute {text}", make, numbers) if known else numbers
    floats = tuple(n for n in numbers if isinstance(n, float))
    whole = tuple(None if isinstance(n, float) else n for n in numbers)
    found = Execution(text.partition(":")[0] if floats else text, make, horizon, whole, floats, delay)
    if known:
        found.scheme(NO_POLICY)
    return found


def _checked(flag: str, make: Callable, numbers: tuple) -> tuple:
    """The numbers as what their annotations say, the ranges kept; a whole number becomes a float where one is taken."""
    takes = [h for n, h in typing.get_type_hints(make, include_extras=True).items() if n not in ("policy", "horizon")]
    found = []
    for number, hint in zip(numbers, takes, strict=False):
        if not fits(number, hint):
            raise UserError(f"{number} in {flag} does not fit", f"give {kind_of(hint)}")
        check_numbers(f"{number} in {flag}", number, hint)
        found.append(float(number) if kind_of(hint) == "a number" else number)
    return tuple(found)


def restart(scheme: Scheme, vars: Vars, key, state: Any, fresh: jax.Array, carry: Any) -> Any:
    """The carry with a new start wherever ``fresh`` [E] is set: nothing survives its episode."""

    def begin(carry: Any) -> Any:
        return where(fresh, scheme.init(vars, key, state), carry)

    return jax.lax.cond(jnp.any(fresh), begin, lambda carry: carry, carry)
