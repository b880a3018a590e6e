"""Schemes that set the ends of their plans themselves: when to look again.

Each takes a policy, the length H of its chunks, and the numbers behind its name in ``--execute``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import coherence, improve, sampling
from qchunk.envs.base import where
from qchunk.play.execute import NO_POLICY, Scheme, check_steps, nothing_left, played, receding
from qchunk.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range
from qchunk.system.errors import UserError
from qchunk.types import LENGTH, PLAN_STEP, Array, Choice, Old, Plan, Policy, PyTree, Vars

BLOCK = 256  # environments that decide at once, where only some of many are due


class Playing(NamedTuple):
    """The plans that E environments are playing."""

    old: Old  # what is left of each, up to its boundary
    age: Array  # [E] int32, steps of it that have been played


def open_loop(policy: Policy, horizon: int) -> Scheme:
    """Plays whole chunks; of a policy whose plans have lengths of their own, each to its end."""
    if not policy.ends:
        return receding(policy, horizon, horizon)

    def choose(vars: Vars, key, obs: PyTree, old: Old) -> tuple[Plan, Array]:
        plan = sampling.act(policy, vars, key, obs, old)
        return plan, plan.extras[LENGTH]

    return _by_length(policy, choose)._replace(own=True)


def zero_noise(policy: Policy, horizon: int) -> Scheme:
    """Plays whole chunks that are made of noise 0, the same for the same observation (zero sampling, 2602.02481); of a Gaussian its mean.

    Candidates are then alike, so that a best of N is one of them.
    """
    return open_loop(sampling.from_zero(policy), horizon)._replace(own=False)


def supported(
    policy: Policy, horizon: int, n: PositiveInt = 16, tolerance: PositiveFloat = 0.5, steps: PositiveInt = 1
) -> Scheme:
    """Goes on with its plan for as long as a fresh sample agrees with it.

    Every ``steps`` steps ``n`` plans are drawn. One agrees if none of its next 3 actions differs by more than ``tolerance`` from
    the old plan's. While one does, and 3 actions will be left at the next look, the old plan goes on; else the nearest of those
    that agree takes over, and where none does any sample. Several good plans are no reason to change, and a change of what is seen
    is one: no sample agrees any more.

    Args:
        tolerance: delta, in units of action; 2 to 3 times the noise of the data.
    """
    check_steps(steps, horizon, f"supported:{n},{tolerance},{{}}")
    least = steps + coherence.WINDOW  # actions that a plan must have left to go on
    chooser = coherence.supporter(policy, n, tolerance)

    def decide(vars: Vars, key, state: Any, carry: Playing) -> tuple[Playing, Plan]:
        fresh = sampling.act(chooser, vars, key, state.obs, carry.old)
        keeps = (coherence.apart(fresh, carry.old) <= tolerance) & (jnp.sum(carry.old.left, axis=-1) >= least)
        now = where(keeps, carry, Playing(Old(fresh, jnp.ones_like(carry.old.left)), jnp.zeros_like(carry.age)))
        return _going_on(now, steps)

    return _self_set(policy, steps, decide, min(least, horizon), looks=True)


def dispersion(policy: Policy, horizon: int, tolerance: PositiveFloat, n: PositiveInt = 16) -> Scheme:
    """Plays a plan up to the first step at which ``n`` samples differ: after AAC (2604.04161), with a bound in place of a jump.

    How much they differ is the root mean square over the actions of their standard deviation; at least one step is played.

    Args:
        tolerance: tau, in units of action.
    """

    def choose(vars: Vars, key, obs: PyTree, old: Old) -> tuple[Plan, Array]:
        many = improve.candidates(policy, vars, key, obs, n, old)
        spread = jnp.sqrt(jnp.mean(jnp.var(many.action, axis=1), axis=-1))  # [B, H]
        agreed = jnp.sum(jnp.cumprod(spread <= tolerance, axis=-1), axis=-1)
        return jax.tree.map(lambda x: x[:, 0], many), jnp.maximum(agreed, 1)

    return _by_length(policy, choose)


def random_k(policy: Policy, horizon: int) -> Scheme:
    """Plays 1 to H actions of each plan, drawn uniformly: the baseline of schemes that look at observations or values to choose."""

    def choose(vars: Vars, key, obs: PyTree, old: Old) -> tuple[Plan, Array]:
        plan_key, length_key = jax.random.split(key)
        plan = sampling.act(policy, vars, plan_key, obs, old)
        return plan, jax.random.randint(length_key, plan.action.shape[:1], 1, horizon + 1)

    return _by_length(policy, choose)


def longest_safe(
    policy: Policy,
    horizon: int,
    tolerance: NonNegativeFloat = 0.1,
    cost: NonNegativeFloat = 0.0,
    pessimism: NonNegativeFloat = 0.5,
) -> Scheme:
    """The longest prefix of the best chunk whose value is near that of its best prefix.

    With n the best candidate by whole chunks and g_k = mean - ``pessimism`` * std of the critics' values of its first k actions:
    the largest k with g_k >= max_j g_j - ``tolerance`` * std over candidates of the value of whole chunks - ``cost``. Without a
    tolerance or a cost the shortest would do: to look again is free.

    Args:
        tolerance: kappa, in units of the candidates' spread; large is open loop. One candidate (``sear``) has no spread: give a cost.
        cost: of a look, in units of return.
    """

    def pick(key, values: Array, choice: Choice) -> tuple[Array, Array]:
        whole = choice.aggregate(values)[..., -1]  # [B, N]
        best = jnp.argmax(whole, axis=-1)
        members = jnp.take_along_axis(values, best[None, :, None, None], axis=2)[:, :, 0]  # [members, B, J]
        sure = jnp.mean(members, axis=0) - pessimism * jnp.std(members, axis=0)
        near = jnp.max(sure, axis=-1) - tolerance * jnp.std(whole, axis=-1) - cost
        safe = sure >= near[:, None]
        return best, safe.shape[-1] - 1 - jnp.argmax(safe[:, ::-1], axis=-1)

    return _by_critic(policy, "longest-safe", pick)


def argmax_k(policy: Policy, horizon: int) -> Scheme:
    """The candidate and the prefix of the highest value (ACSAC, 2605.11009); of equal ones the first candidate's shortest."""

    def pick(key, values: Array, choice: Choice) -> tuple[Array, Array]:
        return _best(choice.aggregate(values))

    return _by_critic(policy, "argmax-k", pick)


def sampled_k(
    policy: Policy, horizon: int, temperature: PositiveFloat = 1.0, uniform: Annotated[float, Range(0, 1)] = 0.05
) -> Scheme:
    """A prefix of the best chunk, drawn by its value (after ACH, 2605.10044): softmax(Q_k / ``temperature``), mixed with a uniform draw.

    Args:
        temperature: in units of return.
        uniform: share of the uniform draw, in [0, 1].
    """

    def pick(key, values: Array, choice: Choice) -> tuple[Array, Array]:
        q = choice.aggregate(values)  # [B, N, J]
        best = jnp.argmax(q[..., -1], axis=-1)
        of_best = jnp.take_along_axis(q, best[:, None, None], axis=1)[:, 0]
        chance = (1.0 - uniform) * jax.nn.softmax(of_best / temperature, axis=-1) + uniform / q.shape[-1]
        return best, jax.random.categorical(key, jnp.log(chance), axis=-1)

    return _by_critic(policy, "sampled-k", pick)


def advantage_k(policy: Policy, horizon: int) -> Scheme:
    """The candidate and the prefix of the highest (Q_k - V_k) / gamma^k (AQC, 2605.05544).

    V_k is the mean of Q_k over the candidates, which are samples of the cloned policy, in place of a learned expectile.

    Raises:
        UserError: the policy draws one candidate, whose advantage is 0 at every length.
    """

    def pick(key, values: Array, choice: Choice) -> tuple[Array, Array]:
        q = choice.aggregate(values)
        return _best((q - jnp.mean(q, axis=1, keepdims=True)) / choice.gamma ** jnp.asarray(choice.points))

    if policy.choice is not None and policy.choice.n == 1:
        problem = "--execute advantage-k compares candidates, and this policy draws one"
        raise UserError(problem, "take argmax-k or longest-safe, or qc-prefix with --n 2 or more")
    return _by_critic(policy, "advantage-k", pick)


def _best(score: Array) -> tuple[Array, Array]:
    """The places (n [B], j [B]) of the highest of scores [B, N, J]."""
    at = jnp.argmax(score.reshape(len(score), -1), axis=-1)
    return at // score.shape[-1], at % score.shape[-1]


def _by_critic(policy: Policy, name: str, pick: Callable) -> Scheme:
    """A scheme that picks among candidates and their prefixes: pick(key, values [members, B, N, J], choice) -> (n [B], j [B]).

    Raises:
        UserError: the policy has no opinion of prefixes.
    """
    if policy is NO_POLICY:
        return Scheme(1, *[lambda *a: None] * 3, own=False, looks=False)  # type: ignore[arg-type]
    if (choice := policy.choice) is None:
        problem = f"--execute {name} asks a critic of prefixes how far to play, and this policy has none"
        raise UserError(problem, "train qc-prefix, or take dispersion:0.3, supported or random-k")

    def choose(vars: Vars, key, obs: PyTree, old: Old) -> tuple[Plan, Array]:
        plan_key, pick_key = jax.random.split(key)
        plans = improve.candidates(choice.policy, vars, plan_key, obs, choice.n, old)  # [B, N, ...]
        values = choice.values(vars, jax.tree.map(lambda o: o[:, None], obs), plans.action)
        place = _sound(values)
        n, j = pick(pick_key, jnp.take_along_axis(values, place[None, ..., None], axis=2), choice)
        row = jnp.arange(len(n))
        n = place[row, n]
        return jax.tree.map(lambda x: x[row, n], plans), jnp.asarray(choice.points)[j]

    return _by_length(policy, choose)


def _sound(values: Array) -> Array:
    """Of values [members, B, N, J] the place [B, N] of each candidate; that of the first finite one where its own are not."""
    sound = jnp.all(jnp.isfinite(values), axis=(0, -1))
    return jnp.where(sound, jnp.arange(sound.shape[-1]), jnp.argmax(sound, axis=-1, keepdims=True))


def _by_length(policy: Policy, choose: Callable) -> Scheme:
    """A scheme that says how far it will play when it plans: choose(vars, key, obs [B], Old [B]) -> (Plan [B], actions of it [B])."""

    def decide(vars: Vars, key, state: Any, carry: Playing) -> tuple[Playing, Plan]:

        def begin(block: Array | int, at: tuple[PyTree, Playing]) -> Playing:
            obs, playing = at
            plan, length = choose(vars, jax.random.fold_in(key, block), obs, playing.old)
            left = (jnp.arange(playing.old.left.shape[-1]) < length[:, None]).astype(playing.old.left.dtype)
            return Playing(Old(plan, left), jnp.zeros_like(playing.age))

        due = carry.old.left[:, 0] == 0
        return _going_on(where_due(due, begin, (state.obs, carry), carry), 1)

    return _self_set(policy, 1, decide, 1, looks=False)


def where_due(due: Array, fn: Callable, args: PyTree, otherwise: PyTree, block: int = BLOCK) -> PyTree:
    """``fn(i, args)`` where ``due`` [E], else ``otherwise``; leaves lead with E. What is not due costs nothing but a share of a block.

    Args:
        fn: (number of the block, some rows of ``args``) -> as many rows.
        block: rows that are worked on at once.
    """
    rows = len(due)
    if rows <= block:
        # at most once: a condition that is vmapped (over seeds, over robots) would become a choice, which costs both sides and copies the weights
        once = jnp.any(due).astype(jnp.int32)
        return jax.lax.fori_loop(0, once, lambda i, found: where(due, fn(i, args), found), otherwise)
    # those that are due first, then anything; not by sorting, which takes a CPU nine times as long
    place = jnp.where(due, jnp.cumsum(due) - 1, rows + block)
    order = jnp.zeros(rows + -rows % block, jnp.int32).at[place].set(jnp.arange(rows), mode="drop")

    def body(i: Array, found: PyTree) -> PyTree:
        at = jax.lax.dynamic_slice_in_dim(order, i * block, block)
        counts = i * block + jnp.arange(block) < jnp.sum(due)
        to = jnp.where(counts, at, rows)  # out of range: dropped
        made = fn(i, jax.tree.map(lambda x: x[at], args))
        return jax.tree.map(lambda old, new: old.at[to].set(new, mode="drop"), found, made)

    return jax.lax.fori_loop(0, -(-jnp.sum(due) // block), body, otherwise)


def _going_on(now: Playing, steps: int) -> tuple[Playing, Plan]:
    """What is played from now on: (how it stands ``steps`` later, the plan, which says how far it has come)."""
    later = Playing(played(now.old.plan, steps, now.old.left), now.age + steps)
    plan = now.old.plan
    return later, plan._replace(extras={**plan.extras, PLAN_STEP: now.age})


def _self_set(policy: Policy, steps: int, decide: Any, length: int, looks: bool) -> Scheme:
    """A scheme that keeps its plan in its carry, of which ``length`` actions are always left to play."""

    def init(vars: Vars, key, state: Any) -> Playing:
        old = nothing_left(policy, vars, key, state.obs)
        return Playing(old, jnp.zeros(old.left.shape[0], jnp.int32))

    def act(vars: Vars, i, state: Any, plan: Plan) -> Array:
        return policy.emit(vars, plan, i, state.obs)

    return Scheme(steps, init, decide, act, length, own=False, looks=looks)
