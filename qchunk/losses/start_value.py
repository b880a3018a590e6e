"""The value of the noise that a frozen or cloned actor starts from: what a policy over noise climbs (2506.15799, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.improve import START
from qchunk.losses.td import one_point, planned, regression
from qchunk.losses.terms import module_names, own_key, together, weighted_mean
from qchunk.sampling import normal
from qchunk.types import Array, Chunk, Critic, Key, Metrics, Policy, Term, Together, Vars


def start_value(value: Critic, critic: Critic, policy: Policy, name: str = "start_value") -> Term:
    """Regression of V_i(s, z) on Q_i(s, policy's chunk from z), member by member, z ~ N(0, I).

    Args:
        policy: its noise is [*B, H, A], such as ``sample`` of a flow. Neither it nor the critic is trained.
    """

    def draw(key: Key, chunk: Chunk) -> Array:
        return normal(key, chunk.action.shape)

    def fn(vars: Vars, z: Array, chunk: Chunk) -> tuple[Array, Metrics]:
        fixed = jax.lax.stop_gradient(vars)
        aim = critic.values(fixed, chunk.obs, policy.plan(fixed, z, chunk.obs, None).action)
        return jnp.mean(jnp.square(value.values(vars, chunk.obs, z) - aim)), {}

    return Term(name, module_names(value), draw, fn)


class BackedUp(NamedTuple):
    """What a target looked at."""

    start: Array  # [*B, H, A], the noise that was kept
    worth: Array  # [*B], what the target networks say of its chunk


def td_and_start_value(value: Critic, critic: Critic, policy: Policy) -> Together:
    """Temporal differences, and regression of V(s', z) on the value of the chunk that they back up, z the noise that it was made of (2604.19730).

    Args:
        policy: it tells that noise, see ``improve.best_start``.
    """

    def look(vars: Vars, key: Key, chunk: Chunk) -> BackedUp:
        plan, worth = planned(critic, policy, jax.lax.stop_gradient(vars), key, one_point(chunk, "td")[2])
        return BackedUp(plan.extras[START], worth)

    def judge(vars: Vars, kept: BackedUp, chunk: Chunk) -> tuple[Array, Metrics]:
        gap = value.values(vars, one_point(chunk, "start_value")[2], kept.start) - kept.worth
        return weighted_mean(chunk.weight[..., 0], jnp.square(gap)), {}

    both = (*module_names(critic), *module_names(value))  # one look serves terms that train the same
    learn = regression(critic, lambda vars, kept, obs: kept.worth)._replace(wrt=both)
    return together(own_key, [learn, Term("start_value", both, own_key, judge)], look)
