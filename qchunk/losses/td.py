"""Temporal-difference learning of a chunk critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qchunk import improve, sampling
from qchunk.losses.terms import module_names, own_key, weighted_mean
from qchunk.system.errors import UserError, shaped
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Key, Metrics, Plan, Policy, PyTree, Term, Vars


def td(critic: Critic, policy: Policy, name: str = "td") -> Term:
    """Temporal differences: regression on y = R + gamma^n m agg_i Qtarget_i(s', a'), a' ~ policy(s') (2507.07969, eq. 8).

    The policy is the one that acts: for Q-chunking it picks a' with the ONLINE critics, and the target networks value it.
    """

    return regression(critic, lambda vars, key, obs: planned(critic, policy, vars, key, obs)[1], name)


def planned(critic: Critic, policy: Policy, vars: Vars, key: Key, obs: PyTree) -> tuple[Plan, Array]:
    """(a plan of the policy, what the target networks say of it [*B])."""
    plan = sampling.act(policy, vars, key, obs)
    return plan, critic.aggregate(critic.values(target_view(vars), obs, plan.action))


def td_of_state(critic: Critic, state: Critic, name: str = "td") -> Term:
    """Temporal differences through V: regression on y = R + gamma^n m V(s') (2110.06169, eq. 6): no chunk but those of the data is ever valued."""
    return regression(critic, lambda vars, key, obs: state.score(vars, obs), name)


def regression(critic: Critic, value: Callable[[Vars, Any, PyTree], Array], name: str = "td") -> Term:
    """Regression of every member on R + gamma^n m value(vars, key, s'), value [*B]; among terms ``together`` what they share stands for the key.

    Windows that a time-out cuts have weight 0 and are left out of the mean (the published code counts them in it).
    Needs one backup point: ``chunk.reward`` [B, 1].
    """

    def first(vars: Vars, key, chunk: Chunk) -> tuple[Array, Array]:
        reward, discount, next_obs = one_point(chunk, name)
        return reward + discount * value(vars, key, next_obs), chunk.weight[..., 0]

    return toward(critic, first, name)


def one_point(chunk: Chunk, name: str) -> tuple[Array, Array, PyTree]:
    """(reward [*B], discount [*B], next_obs [*B, O]) at the one backup point, for the term of this name.

    Raises:
        UserError: there are several.
    """
    if (points := chunk.reward.shape[-1]) != 1:
        raise UserError(f"--chunk.backup names {points} points, and {name} regresses on one", "give one backup point")
    return chunk.reward[..., 0], chunk.discount[..., 0], jax.tree.map(lambda o: o[..., 0, :], chunk.next_obs)


def td_of_prefixes(critic: Critic, policy: Policy, n: int, joint: bool = False, name: str = "td") -> Term:
    """Temporal differences of every prefix in one pass: Q_k on y_k = R_k + gamma^k m_k V(s_{t+k}) at all J backup points.

    V(s) = max_i agg Qtarget_H(s, a^i) over ``n`` chunks of the policy; a maximum of the target networks, as nothing is chosen by
    others.

    Args:
        critic: its values are [members, *B, J]; its ``score`` is the value of the longest prefix, or of what the policy plans.
        policy: one sample of it is a candidate.
        joint: the maximum is over the candidates' prefixes, too (2605.11009, with target networks, which that leaves out).
    """

    def value(vars: Vars, key, obs) -> Array:
        action = improve.candidates(policy, vars, key, obs, n).action  # [*B, N, H, A]
        seen = target_view(vars), jax.tree.map(lambda o: o[..., None, :], obs), action
        if joint:
            return jnp.max(critic.aggregate(critic.values(*seen)), axis=(-2, -1))
        return jnp.max(critic.score(*seen), axis=-1)

    def every(vars: Vars, key, chunk: Chunk) -> tuple[Array, Array]:
        return chunk.reward + chunk.discount * value(vars, key, chunk.next_obs), chunk.weight

    return toward(critic, every, name)


def toward(critic: Critic, aim: Callable, name: str, see: Callable[[Chunk], Chunk] = lambda chunk: chunk) -> Term:
    """Regression of every member on ``aim(vars, key, chunk)``: (targets, their weights), [*B] or [*B, J] as the critic's values.

    Args:
        see: the chunk whose observation and actions the critic values.
    """

    def fn(vars: Vars, key, chunk: Chunk) -> tuple[Array, Metrics]:
        target, weight = aim(jax.lax.stop_gradient(vars), key, chunk)
        seen = see(chunk)
        q = critic.values(vars, seen.obs, seen.action)
        shaped(target, q.shape[1:], f"the target of the term {name}", "return one number for each value of the critic")
        loss = weighted_mean(weight, jnp.square(q - target))
        return loss, {"q": weighted_mean(weight, q), "target": weighted_mean(weight, target)}

    return Term(name, module_names(critic), own_key, fn)
