"""Schemes whose plans are of one length: ensembles of plans, coherent choices, plans made while older ones play.

Each takes a policy, the length H of its chunks, and the numbers behind its name in ``--execute``.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import coherence, sampling
from qchunk.play.execute import NO_POLICY, Scheme, check_steps, delayed, later, nothing_left, played, receding
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


Decay = Annotated[float, Range(above=0, high=1)]  # how much each further action of the old plan counts


def coherent(policy: Policy, horizon: int, n: PositiveInt, steps: PositiveInt = 1, decay: Decay = 0.5) -> Scheme:
    """Backward coherence (BID, 2408.17355): of ``n`` plans the one nearest to what is left of the old one (``coherence.coherent``)."""
    check_steps(steps, horizon, f"coherent:{n},{{}}")
    return receding(coherence.coherent(policy, n, decay), horizon, steps)._replace(own=False)


WEAKER = "weaker"  # what ``Vars.given`` calls all that a weaker policy reads: qchunk eval --weaker


def contrast(policy: Policy, horizon: int, n: PositiveInt, steps: PositiveInt = 1, decay: Decay = 0.5) -> Scheme:
    """Bidirectional decoding (BID, 2408.17355): ``coherent``, and a contrast to the plans of a weaker policy (``coherence.contrasted``)."""
    check_steps(steps, horizon, f"contrast:{n},{{}}")

    def seen(vars: Vars) -> Vars:
        if WEAKER not in vars.given:
            raise UserError(
                f"--execute contrast:{n} has no weaker policy to differ from",
                "qchunk eval RUN --weaker OTHER, a run of the same kind that was trained less, or take coherent",
            )
        return vars.given[WEAKER]

    weaker = policy._replace(
        draw=lambda vars, *rest: policy.draw(seen(vars), *rest), plan=lambda vars, *rest: policy.plan(seen(vars), *rest)
    )
    return receding(coherence.contrasted(policy, weaker, n, decay), horizon, steps)._replace(own=False)


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


def committed(policy: Policy, horizon: int, delay: NonNegativeInt, steps: PositiveInt) -> Scheme:
    """Training-time real-time chunking (2512.05964): the actions that are played meanwhile are given, and the actor goes on from them.

    It has learned to (``--actor.committed``), so that a plan costs no vector-Jacobian product.

    Args:
        delay: d, steps that a plan takes to be ready.
        steps: s, environment steps from one plan to the next, d <= s <= H - d.

    Raises:
        UserError: numbers that do not fit, or an actor that has not learned to go on from so many actions.
    """
    check_overlap(horizon, delay, steps, f"committed:{delay},{{}}")
    _check_language(policy, delay, steps, f"committed:{delay},{{}}")
    if policy is not NO_POLICY and policy.committed < delay:
        most = policy.committed
        problem = f"--execute committed:{delay},{steps} gives the actor {delay} actions to go on from, and it has learned {most or 'none'}"
        raise UserError(problem, f"train a flow with --actor.committed {delay}, or take --execute rtc:{delay},{steps}")
    if delay == 0:  # nothing is given: any actor can do that
        return naive(policy, horizon, 0, steps)
    weight = (np.arange(horizon) < delay).astype(np.float32)
    return _held(policy, horizon, delay, steps, None, weight, f"committed:{delay},{{}}")


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
    """A receding horizon whose plans are pulled to the old one by ``weight`` [H], ready after ``delay`` steps."""
    check_overlap(horizon, delay, steps, name)
    _check_language(policy, delay, steps, name)
    if not policy.pulled:
        problem = f"--execute {name.format(steps)} pulls chunks while they denoise, and this policy's do not denoise along levels"
        raise UserError(problem, f"take a flow or diffusion actor, or --execute async:{delay},{steps}")
    return _held(policy, horizon, delay, steps, limit, weight, name)


def _check_language(policy: Policy, delay: int, steps: int, name: str) -> None:
    """Refuses to hold actions of the old plan in a chunk that is none of actions while it is made."""
    if policy.speaks:
        problem = f"--execute {name.format(steps)} holds actions of the old plan while the next one is made, and this policy makes {policy.speaks}"
        raise UserError(problem, f"take --execute async:{delay},{steps}, which holds none")


def _held(policy: Policy, horizon: int, delay: int, steps: int, limit, weight: np.ndarray, name: str) -> Scheme:
    """The same by either way of holding on; see ``Pull``."""

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        if old is not None:
            bound = None if limit is None else jnp.broadcast_to(limit, old.left.shape[:-1])
            old = old._replace(pull=Pull(weight * old.left, bound))
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
