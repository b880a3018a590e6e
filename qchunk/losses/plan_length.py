"""Learning how much of a plan to play, by PPO over decisions of any length (2606.11408)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.actors.lengths import CHUNK, LOG_PROB, log_prob_of
from qchunk.losses.gae import gae_of_plans, values_around
from qchunk.losses.ppo_path import POLICY, standardised, surrogate
from qchunk.losses.terms import no_noise, weighted_mean
from qchunk.system.errors import UserError
from qchunk.types import LENGTH, PLAN_STEP, Array, Chunk, Critic, Learner, Metrics, Module, PrepareFn, Term, Vars, view


def of_plans(critic: Critic, lam: float, cost: float) -> PrepareFn:
    """A ``prepare`` for rollouts of single steps [T, E, ...]: adds "advantage" and "return" to ``extras``; only where plans begin
    a row has weight.

    Args:
        cost: taken from the reward of the step at which a plan begins.

    Raises:
        UserError: plans that are not played to their own ends.
    """

    def prepare(learner: Learner, given: dict, key, chunk: Chunk) -> tuple[Learner, Chunk]:
        del key
        if PLAN_STEP not in chunk.extras:
            raise UserError("--execute plays other lengths than the plans themselves have", "train with open-loop")
        vars, begins = view(learner, given), (chunk.extras[PLAN_STEP] == 0).astype(jnp.float32)
        value, next_value = values_around(critic, vars, chunk)
        reward = chunk.reward[..., 0] - cost * begins
        found = gae_of_plans(reward, chunk.discount[..., 0], value, next_value, chunk.last, begins, lam)
        extras = {**chunk.extras, "advantage": found[0], "return": found[1]}
        return learner, chunk._replace(extras=extras, weight=begins[..., None])

    return prepare


def ppo_length(head: Module, clip: float, entropy: float, start: int = 0, name: str = POLICY) -> Term:
    """PPO's clipped surrogate over the lengths of the plans that begin, minus ``entropy`` times their entropy. Trains the head.

    Args:
        start: the update that first moves the head.
    """

    def fn(vars: Vars, noise, chunk: Chunk) -> tuple[Array, Metrics]:
        del noise
        weight, extras = chunk.weight[..., 0], chunk.extras
        logits = head.apply(vars.params[head.name], chunk.obs, extras[CHUNK])
        new = log_prob_of(logits, extras[LENGTH] - 1)
        loss, metrics = surrogate(new, extras[LOG_PROB], standardised(extras["advantage"], weight), clip, weight)
        spread = -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1)
        mean = weighted_mean(weight, spread)
        more = {"entropy": mean, "length": weighted_mean(weight, extras[LENGTH].astype(jnp.float32))}
        return loss - entropy * mean, {**metrics, **more}

    return Term(name, (head.name,), no_noise, fn, start=start)
