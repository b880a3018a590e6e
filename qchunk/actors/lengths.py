"""How much of a plan to play: a categorical over its length, by a network that sees the observation and the plan (2606.11408)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.config import ValueConfig
from qchunk.types import LENGTH, Array, Key, Module, Old, Plan, Policy, Spec, Vars

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
