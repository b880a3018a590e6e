"""Learning the discounted chance to reach a goal, as a logit: one rule for every critic, and the targets that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from qchunk.config import config
from qchunk.critics.chance import chance, logit
from qchunk.losses.td import one_point
from qchunk.losses.terms import module_names, no_noise, weighted_mean
from qchunk.ranges import Range
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Critic, Metrics, Term, Vars

Target: TypeAlias = Callable[[Vars, Chunk], Array]  # (vars, chunk) -> probabilities [members or 1, *B]


@config
class UnevenConfig:
    """A loss of a logit beside a probability that counts targets above the value otherwise than those below."""

    form: Literal["expectile", "quantile"] = "expectile"
    """Cross-entropy, or the distance of the logits."""
    level: Annotated[float, Range(0, 1)] = 0.5
    """kappa, the weight of targets at least as high as the value; the others weigh 1 - kappa. Above 0.5 it is optimistic."""


def reach(critic: Critic, target: Target, name: str, uneven: UnevenConfig | None = None) -> Term:
    """Every member's logit moves towards a probability (2512.10926, section 4). Trains the critic alone.

    Windows of weight 0 are left out of the mean (the published code counts them in it).

    Args:
        target: member i learns from entry i, or all of them from the only one.
        uneven: without it, cross-entropy that weighs all targets 1.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        aim = target(jax.lax.stop_gradient(vars), chunk)
        value = critic.values(vars, chunk.obs, chunk.action)  # [members, *B]
        weight = chunk.weight[..., 0]
        loss = weighted_mean(weight, away(value, aim, uneven))
        chances = (
            weighted_mean(weight, jax.nn.sigmoid(value)),
            weighted_mean(weight, jnp.broadcast_to(aim, value.shape)),
        )
        return loss, dict(zip(("value", "target"), chances, strict=True))

    return Term(name, module_names(critic), no_noise, fn)


def away(value: Array, target: Array, uneven: UnevenConfig | None = None) -> Array:
    """The loss of logits ``value`` beside probabilities ``target``, whose shapes broadcast; see ``reach``."""
    if uneven is None:
        return optax.sigmoid_binary_cross_entropy(value, target)
    cross = uneven.form == "expectile"
    each = optax.sigmoid_binary_cross_entropy(value, target) if cross else jnp.abs(value - logit(target))
    return jnp.where(target >= jax.nn.sigmoid(value), uneven.level, 1.0 - uneven.level) * each


def arrived(state: Critic) -> Target:
    """y = r + gamma^k m sigma(V(s_{t+k}, g)), clipped to [0, 1]: gamma^k where the goal is reached, after k steps of the window.

    V of the goal has no target network, as published. Needs one backup point: ``chunk.reward`` [*B, 1].
    """
    value = chance(state)

    def target(vars: Vars, chunk: Chunk) -> Array:
        reward, discount, next_obs = one_point(chunk, "reach")
        return jnp.clip(reward + discount * value.score(vars, next_obs), 0.0, 1.0)[None]

    return target


def distilled(critic: Critic) -> Target:
    """What each member of another critic says of the whole chunk: a lower horizon learns what the longer one found."""
    return lambda vars, chunk: chance(critic).values(vars, chunk.obs, chunk.action)


def agreed(critic: Critic) -> Target:
    """What the members of a critic's target network agree on, of the data's chunks."""
    return lambda vars, chunk: chance(critic).score(target_view(vars), chunk.obs, chunk.action)[None]
