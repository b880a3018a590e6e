"""Advantages of chunks that were played, for cloning by weight: from rewards alone, or from TD(lambda) values."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.losses.gae import gae, values_around
from qchunk.losses.ppo_path import standardised
from qchunk.types import Chunk, Critic, Learner, PrepareFn, view


def returns_to_go() -> PrepareFn:
    """A ``prepare`` for rollouts [T, E, ...]: discounted rewards from each decision to its episode's end, a time-out too, standardised.

    A decision whose episode is still under way when the rollout ends has no return: it counts nothing (2409.00588, code of DRWR, where
    one that began before the rollout counts nothing either). Adds "advantage" [T, E] to ``extras``.
    """

    def prepare(learner: Learner, given: dict, key, chunk: Chunk) -> tuple[Learner, Chunk]:
        del given, key
        none, whole = jnp.zeros_like(chunk.last), jax.lax.cummax(chunk.last, axis=0, reverse=True)
        total, _ = gae(chunk.reward[..., 0], chunk.discount[..., 0], none, none, chunk.last, 1.0)
        told = {"advantage": standardised(total, whole)}
        return learner, chunk._replace(weight=chunk.weight * whole[..., None], extras={**chunk.extras, **told})

    return prepare


def lambda_returns(state: Critic, lam: float) -> PrepareFn:
    """A ``prepare`` for consecutive chunks [B, U, ...]: the first ones [B, ...], with what the others say of them.

    "return" is the TD(lambda) return over the U chunks, which ends in V's value behind the last, and "advantage" what it has over V,
    standardised over the batch (2409.00588, code of DAWR; AWR, 1910.00177).
    """

    def prepare(learner: Learner, given: dict, key, chunk: Chunk) -> tuple[Learner, Chunk]:
        del key
        vars = view(learner, given)
        value, next_value = values_around(state, vars, chunk)
        # a chunk that a time-out cuts has no whole return: the one before it ends in V
        whole = jnp.pad(chunk.weight[:, 1:, 0], ((0, 0), (0, 1)), constant_values=1.0)
        cut = 1.0 - (1.0 - chunk.last) * whole
        reward, discount = chunk.reward[..., 0], chunk.discount[..., 0]
        advantage, total = (x[0] for x in gae(reward.T, discount.T, value.T, next_value.T, cut.T, lam))
        first: Chunk = jax.tree.map(lambda x: x[:, 0], chunk)
        told = {"advantage": standardised(advantage, first.weight[..., 0]), "return": total}
        return learner, first._replace(extras={**first.extras, **told})

    return prepare
