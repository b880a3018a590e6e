"""Schemes beyond the receding horizon: ensembles of plans, coherent choices, plans made while older ones play.

Each takes a policy, the length H of its chunks, and the numbers behind its name in ``--execute``.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import improve, sampling
from qchunk.envs.base import where
from qchunk.play.execute import Scheme, check_steps, delayed, later, nothing_left, played, receding
from qchunk.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Range
from qchunk.system.errors import UserError
from qchunk.types import Array, Old, Plan, Policy, Pull, Vars


class Opinions(NamedTuple):
    """What the plans that still reach this step say, of E environments; index 0 of P is the newest."""

    old: Old  # the newest one
    action: Array  # [E, P, H, A], aligned to now
    there: Array  # [E, P, H] 1 where a plan says something of a step, whatever it says


def ensemble(policy: Policy, horizon: int, m: float, steps: PositiveInt = 1) -> Scheme:
    """Temporal ensembling (2304.13705, section IV.A): plays the mean of what all plans said of a step.

    The i-th of them weighs exp(-m i), i = 0 the oldest that speaks of the step. Which ones do is kept beside them, so that an
    exact 0 is an action like any other. Averages modes.

    Args:
        m: how fast newer plans lose weight; below 0 they gain.
        steps: environment steps from one plan to the next.
    """
    check_steps(steps, horizon, f"ensemble:{m},{{}}")
    kept = -(-horizon // steps)

    def init(vars: Vars, key, state: Any) -> Opinions:
        old = nothing_left(policy, vars, key, state.obs)
        e, h, a = old.plan.action.shape
        return Opinions(old, jnp.zeros((e, kept, h, a)), jnp.zeros((e, kept, h)))

    def decide(vars: Vars, key, state: Any, carry: Opinions) -> tuple[Opinions, Plan]:
        plan = sampling.act(policy, vars, key, state.obs, carry.old)
        action = jnp.concatenate([plan.action[:, None], carry.action[:, :-1]], axis=1)
        there = jnp.concatenate([jnp.ones_like(carry.there[:, :1]), carry.there[:, :-1]], axis=1)
        ahead = Opinions(played(plan, steps), later(action, steps), later(there[..., None], steps)[..., 0])
        return ahead, plan._replace(action=mean_of(action, there, m))

    def act(vars: Vars, i, state: Any, plan: Plan) -> Array:
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, init, decide, act, horizon, own=False)


def mean_of(action: Array, there: Array, m) -> Array:
    """The mean [E, H, A] of actions [E, P, H, A], the newest first, where they are ``there`` [E, P, H]; weights as in ``ensemble``."""
    rank = jnp.cumsum(there[:, ::-1], axis=1)[:, ::-1] - 1  # 0 is the oldest
    weight = jax.nn.softmax(jnp.where(there > 0, -m * rank, -jnp.inf), axis=1)
    return jnp.sum(weight[..., None] * action, axis=1)


def coherent(
    policy: Policy,
    horizon: int,
    n: PositiveInt,
    steps: PositiveInt = 1,
    decay: Annotated[float, Range(above=0, high=1)] = 0.5,
) -> Scheme:
    """Backward coherence (BID, 2408.17355): of ``n`` plans the one nearest to what is left of the old one (``improve.coherent``)."""
    check_steps(steps, horizon, f"coherent:{n},{{}}")
    return receding(improve.coherent(policy, n, decay), horizon, steps)._replace(own=False)


def rtc(policy: Policy, horizon: int, delay: NonNegativeInt, steps: PositiveInt, limit: PositiveFloat = 5.0) -> Scheme:
    """Real-time chunking (2506.07339): the next chunk is made while the old one plays, and pulled to it while it denoises.

    Args:
        delay: d, steps that a plan takes to be ready; so many actions of the old plan are played meanwhile, and held.
        steps: s, environment steps from one plan to the next, d <= s <= H - d.
        limit: beta, the bound of the pull.

    Raises:
        UserError: numbers that do not fit, or a policy that does not denoise along levels.
    """
    return _inpainted(policy, horizon, delay, steps, limit, soft_mask(horizon, delay, steps), f"rtc:{delay},{{}}")


def hard_mask(
    policy: Policy, horizon: int, delay: NonNegativeInt, steps: PositiveInt, limit: PositiveFloat = 5.0
) -> Scheme:
    """``rtc`` that holds nothing but the ``delay`` actions that are played meanwhile, a baseline of its paper."""
    weight = (np.arange(horizon) < delay).astype(np.float32)
    return _inpainted(policy, horizon, delay, steps, limit, weight, f"hard-mask:{delay},{{}}")


def naive(policy: Policy, horizon: int, delay: NonNegativeInt, steps: NonNegativeInt = 0) -> Scheme:
    """The next chunk is made while the old one plays, and knows nothing of it: a baseline of real-time chunking's paper.

    Args:
        delay: d, steps that a plan takes to be ready.
        steps: s, environment steps from one plan to the next, d <= s <= H - d; 0 is H - d, so that every action that is
            ready in time is played. ``async:0`` is open-loop.
    """
    found = steps or horizon - delay
    check_overlap(horizon, delay, found, f"async:{delay},{{}}")
    return delayed(receding(policy, horizon, found), delay, f"async:{delay}")


def soft_mask(horizon: int, delay: int, steps: int) -> np.ndarray:
    """How firmly each action of the old plan is held, W [H] in [0, 1] (2506.07339, eq. 5).

    1 for i < d; c_i (exp(c_i) - 1) / (e - 1) with c_i = (H - s - i) / (H - s - d + 1) for d <= i < H - s; 0 from there on.
    """
    i = np.arange(horizon)
    c = (horizon - steps - i) / max(horizon - steps - delay + 1, 1)
    soft = np.where(i < horizon - steps, c * np.expm1(np.minimum(c, 1.0)) / np.expm1(1.0), 0.0)
    return np.where(i < delay, 1.0, soft).astype(np.float32)


def _inpainted(policy: Policy, horizon: int, delay: int, steps: int, limit, weight: np.ndarray, name: str) -> Scheme:
    """A receding horizon whose plans hold on to the old one by ``weight`` [H], ready after ``delay`` steps."""
    check_overlap(horizon, delay, steps, name)
    if not policy.pulled:
        problem = f"--execute {name.format(steps)} pulls chunks while they denoise, and this policy's do not denoise along levels"
        raise UserError(problem, f"take a flow or diffusion actor, or --execute async:{delay},{steps}")

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        if old is not None:
            held = Pull(weight * old.left, jnp.broadcast_to(limit, old.left.shape[:-1]))
            old = old._replace(pull=held)
        return policy.plan(vars, noise, obs, old)

    found = receding(policy._replace(plan=plan), horizon, steps)._replace(own=False)
    return delayed(found, delay, name.format(steps))


def check_overlap(horizon: int, delay: int, steps: int, name: str) -> None:
    """Refuses what two plans at a time cannot bridge: d <= s <= H - d.

    Args:
        name: how the scheme is written, with {} where the steps stand.

    Raises:
        UserError: says which numbers fit.
    """
    low, high = max(1, delay), horizon - delay
    if low > high:
        problem = f"a delay of {delay} is more than half of a chunk of {horizon} actions"
        raise UserError(f"--execute {name.format(steps)}: {problem}", f"give a delay of {horizon // 2} or less")
    if not low <= steps <= high:
        problem = f"--execute {name.format(steps)} does not fit chunks of {horizon} actions: a delay of {delay} needs"
        fix = f"give {name.format(low)}" + (f" to {name.format(high)}" if high > low else "")
        raise UserError(f"{problem} {low} to {high} steps a plan", fix)


def supported(
    policy: Policy, horizon: int, n: PositiveInt = 16, tolerance: PositiveFloat = 0.5, steps: PositiveInt = 1
) -> Scheme:
    """Goes on with its plan for as long as a fresh sample agrees with it: a boundary that the policy sets itself.

    Every ``steps`` steps ``n`` plans are drawn. One agrees if none of its next 3 actions differs by more than ``tolerance`` from
    the old plan's. While one does, and 3 actions will be left at the next look, the old plan goes on; else the nearest of those
    that agree takes over, and where none does any sample. Several good plans are no reason to change, and a change of what is seen
    is one: no sample agrees any more.

    Args:
        tolerance: delta, in units of action; 2 to 3 times the noise of the data.
    """
    check_steps(steps, horizon, f"supported:{n},{tolerance},{{}}")
    least = steps + improve.WINDOW  # actions that a plan must have left to go on
    chooser = improve.supporter(policy, n, tolerance)

    def decide(vars: Vars, key, state: Any, old: Old) -> tuple[Old, Plan]:
        fresh = sampling.act(chooser, vars, key, state.obs, old)
        keeps = (improve.apart(fresh, old) <= tolerance) & (jnp.sum(old.left, axis=-1) >= least)
        return _going_on(keeps, old, Old(fresh, jnp.ones_like(old.left)), steps)

    return _self_set(policy, steps, decide, min(least, horizon))


def dispersion(policy: Policy, horizon: int, tolerance: PositiveFloat, n: PositiveInt = 16) -> Scheme:
    """Plays a plan up to the first step at which ``n`` samples differ: after AAC (2604.04161), with a bound in place of a jump.

    How much they differ is the root mean square over the actions of their standard deviation; at least one step is played.

    Args:
        tolerance: tau, in units of action.
    """

    def decide(vars: Vars, key, state: Any, old: Old) -> tuple[Old, Plan]:
        many = improve.samples(policy, vars, policy.draw(vars, key, improve.repeated(state.obs, n)), state.obs, old)
        spread = jnp.sqrt(jnp.mean(jnp.var(many.action, axis=1), axis=-1))  # [E, H]
        agreed = jnp.cumprod(spread <= tolerance, axis=-1).at[:, 0].set(1).astype(spread.dtype)
        fresh = Old(jax.tree.map(lambda x: x[:, 0], many), agreed)
        return _going_on(old.left[:, 0] > 0, old, fresh, 1)

    return _self_set(policy, 1, decide, 1)


def _going_on(keeps: Array, old: Old, fresh: Old, steps: int) -> tuple[Old, Plan]:
    """The old plan where it is kept [E], else the fresh one: (how it stands ``steps`` later, the plan)."""
    now = where(keeps, old, fresh)
    return played(now.plan, steps, now.left), now.plan


def _self_set(policy: Policy, steps: int, decide: Any, length: int) -> Scheme:
    """A scheme that keeps its plan in its carry, of which ``length`` actions are always left to play."""

    def init(vars: Vars, key, state: Any) -> Old:
        return nothing_left(policy, vars, key, state.obs)

    def act(vars: Vars, i, state: Any, plan: Plan) -> Array:
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, init, decide, act, length, own=False)
