"""Learning how much of a plan to play: a categorical over its length, by PPO over decisions of any length (2606.11408)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.config import ValueConfig
from qchunk.losses.gae import gae_of_plans, values_around
from qchunk.losses.ppo_path import POLICY, standardised, surrogate
from qchunk.losses.terms import no_noise, weighted_mean
from qchunk.system.errors import UserError
from qchunk.types import (
    LENGTH,
    PLAN_STEP,
    Array,
    Chunk,
    Critic,
    Key,
    Learner,
    Metrics,
    Module,
    Old,
    Plan,
    Policy,
    PrepareFn,
    Spec,
    Term,
    Vars,
    view,
)

CHUNK, LOG_PROB = "chunk", "log_prob"  # of ``extras``: the plan when it was made [*B, H, A]; of its length [*B]


def lengths(c: ValueConfig, name: str = "lengths") -> Module:
    """Logits of the lengths 1 to H of a chunk: apply(params, obs [*B, O], action [*B, H, A]) -> [*B, H]."""

    def net(horizon: int) -> nets.MLP:
        return nets.MLP(c.hidden, (horizon,), c.layer_norm)

    def init(key: Key, spec: Spec):
        return nets.init(net(spec.horizon), key, spec.obs, spec.horizon * spec.action)

    def apply(params, obs, action: Array) -> Array:
        return nets.apply(net(action.shape[-2]), params, nets.flatten_obs(obs), nets.flatten_chunk(action))

    return Module(name, init, apply)


def with_length(policy: Policy, head: Module, drawn: bool) -> Policy:
    """The same plans, each with its length in ``extras``: ``drawn`` from the head's categorical, or its likeliest."""

    def draw(vars: Vars, key, obs):
        key, length_key = jax.random.split(key)
        noise = policy.draw(vars, key, obs)
        like = jax.eval_shape(lambda: policy.plan(vars, noise, obs, None).action)
        return noise, jax.random.gumbel(length_key, like.shape[:-1])

    def plan(vars: Vars, noise, obs, old: Old | None = None) -> Plan:
        made = policy.plan(vars, noise[0], obs, old)
        logits = head.apply(vars.params[head.name], obs, made.action)
        index = jnp.argmax(logits + noise[1] if drawn else logits, axis=-1)
        extras = {LENGTH: index.astype(jnp.int32) + 1, LOG_PROB: log_prob_of(logits, index), CHUNK: made.action}
        return made._replace(extras={**made.extras, **extras})

    return policy._replace(draw=draw, plan=plan, ends=True)


def log_prob_of(logits: Array, index: Array) -> Array:
    """Log-probabilities [*B] of a categorical's entries ``index`` [*B]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1)[..., 0]


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


def ppo_length(head: Module, clip: float, entropy: float, name: str = POLICY) -> Term:
    """PPO's clipped surrogate over the lengths of the plans that begin, minus ``entropy`` times their entropy. Trains the head."""

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

    return Term(name, (head.name,), no_noise, fn)
