"""Optimism about data without rewards: novelty as a bonus, and rewards and ends as online experience predicts them (SUPE, 2410.18076)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from qchunk.data.buffer import SOURCE
from qchunk.losses.terms import module_names, no_noise, weighted_mean
from qchunk.types import Array, Chunk, Critic, Metrics, Term, Vars


def online(chunk: Chunk) -> Array:
    """1 for windows of online experience [*B], 0 for the data set's; those that do not say are taken for online ones."""
    return chunk.extras.get(SOURCE, jnp.ones_like(chunk.last))


def familiar(new: Critic, name: str = "novelty") -> Term:
    """Lowers the novelty of what was seen online: the mean error of online windows. (The published code takes one step for each new transition; here each update's online windows count.)"""

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        error = new.score(vars, chunk.obs, chunk.action)
        seen = online(chunk)
        return weighted_mean(seen, error), {"offline": weighted_mean(1.0 - seen, error)}

    return Term(name, module_names(new), no_noise, fn)


def predicted(reward: Critic, going: Critic, name: str = "prediction") -> Term:
    """Rewards (squared error) and the chance that the episode goes on (cross-entropy, of logits), from online windows alone."""

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        seen = online(chunk) * chunk.weight[..., 0]
        off = jnp.square(reward.score(vars, chunk.obs, chunk.action) - chunk.reward[..., 0])
        goes_on = (chunk.discount[..., 0] > 0).astype(jnp.float32)
        wrong = optax.sigmoid_binary_cross_entropy(going.score(vars, chunk.obs, chunk.action), goes_on)
        return weighted_mean(seen, off + wrong), {"reward": weighted_mean(seen, off), "end": weighted_mean(seen, wrong)}

    return Term(name, (*module_names(reward), *module_names(going)), no_noise, fn)


def optimistic(term: Term, new: Critic, going: Critic, earned: Any, discount: Any, bonus: Any) -> Term:
    """The term on relabelled windows: those of the data set have ``earned`` this, and their episodes go on with the predicted chance; all earn a bonus for novelty.

    The optimism is in the ends: the low rewards behind a probable end do not count (2410.18076, section 4.2). How an episode of the data
    ended is not looked at: a window that reaches beyond it has weight 0.

    Args:
        earned: what windows of data are taken to earn: a number, the lowest return of a window; or (vars, obs, action) -> [*B], what online
            ones say of it (2410.18076's kitchen).
        discount: gamma^h, of a whole window.
        bonus: per unit of novelty.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        fixed, seen = jax.lax.stop_gradient(vars), online(chunk)
        news = bonus * new.score(fixed, chunk.obs, chunk.action)
        goes_on = jax.nn.sigmoid(going.score(fixed, chunk.obs, chunk.action))
        taken = earned(fixed, chunk.obs, chunk.action) if callable(earned) else earned
        reward = jnp.where(seen > 0, chunk.reward[..., 0], taken) + news
        kept = jnp.where(seen > 0, chunk.discount[..., 0], discount * goes_on)
        counts = chunk.weight[..., 0] * jnp.where(seen > 0, 1.0, chunk.mask[..., -1])
        relabelled = {"reward": reward[..., None], "discount": kept[..., None], "weight": counts[..., None]}
        loss, metrics = term.fn(vars, noise, chunk._replace(**relabelled))
        return loss, {**metrics, "bonus": jnp.mean(news)}

    return term._replace(fn=fn)
