"""Q of a whole chunk: an ensemble Q_i(s, a_{t:t+H}) (2507.07969, section 4). With H = 1 it is Q of one action."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.types import Array, Critic, Key, Module, Slow, Spec, Vars

AGGREGATES: dict[str, Callable[..., Array]] = {"mean": jnp.mean, "min": jnp.min}


def chunk_q(c: CriticConfig, name: str = "critic") -> Critic:
    """An ensemble of ``c.members`` critics with a Polyak target that lags by one update, as in the papers' code."""
    net = nets.MLP(c.hidden, (), c.layer_norm)

    def init(key: Key, spec: Spec):
        return nets.init_ensemble(net, c.members, key, spec.obs, spec.horizon * spec.action)

    def apply(params, obs, action: Array) -> Array:
        return nets.apply_ensemble(net, params, nets.flatten_obs(obs), nets.flatten_chunk(action))

    def values(vars: Vars, obs, action: Array, t: float = 1.0) -> Array:
        del t  # values clean chunks only
        return apply(vars.params[name], obs, action)

    def aggregate(q: Array) -> Array:
        return AGGREGATES[c.aggregate](q, axis=0)

    return Critic(
        modules=(Module(name, init, apply, Slow(c.tau)),),
        values=values,
        aggregate=aggregate,
        score=lambda vars, obs, action, t=1.0: aggregate(values(vars, obs, action, t)),
    )
