"""What the critics share: an ensemble of networks behind the Critic interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from qchunk import nets, registry
from qchunk.config import CriticConfig
from qchunk.types import CLEAN, Array, Critic, Key, Module, Spec, TargetNetwork, ValueFn, Vars


def mean(values: Array) -> Array:
    """[members, *B] -> [*B], the mean over the members."""
    return jnp.mean(values, axis=0)


def minimum(values: Array) -> Array:
    """[members, *B] -> [*B], the lowest member (1802.09477, section 4.2)."""
    return jnp.min(values, axis=0)


def pessimistic(values: Array, rho: float) -> Array:
    """[members, *B] -> [*B], mean minus ``rho`` standard deviations (of the population) of the members (2601.14234, section 5)."""
    # the bound keeps the gradient of the root finite where members agree
    return jnp.mean(values, axis=0) - rho * jnp.sqrt(jnp.maximum(jnp.var(values, axis=0), 1e-12))


def opinion(critic: Critic, aggregate: Callable[[Array], Array]) -> ValueFn:
    """``critic.score`` by another aggregate of its members."""
    return lambda vars, obs, action=None, level=CLEAN: aggregate(critic.values(vars, obs, action, level))


def as_clean(value: ValueFn) -> ValueFn:
    """A value that takes every chunk for a clean one, whatever its noise level."""
    return lambda vars, obs, action=None, level=CLEAN: value(vars, obs, action, CLEAN)


def scaled(value: ValueFn, scale: float) -> ValueFn:
    """A value of ``scale`` times the chunk."""
    return lambda vars, obs, action=None, level=CLEAN: value(vars, obs, scale * action, level)


def ensemble(
    c: CriticConfig,
    name: str,
    sizes: Callable[[Spec], tuple[int, ...]],
    parts: Callable[..., tuple[Array, ...]],
    target: bool = True,
    net: nn.Module | None = None,
) -> Critic:
    """``c.members`` critics with target networks (Polyak) that lag by one update, as in the papers' code, and of which an update may read a few; or without ``target``.

    Args:
        sizes: Spec -> the last axes of the networks' inputs.
        parts: (obs, action [*B, H, A], level [.., 2]) -> the inputs.
        net: of each member; by default a perceptron.
    """
    net = net or nets.MLP(c.hidden, (), c.layer_norm, nets.ACTIVATIONS[c.activation], c.norm_first)

    def init(key: Key, spec: Spec):
        return nets.init_ensemble(net, c.members, key, *sizes(spec))

    def apply(params, *inputs: Array) -> Array:
        return nets.apply_ensemble(net, params, *inputs)

    def values(vars: Vars, obs, action: Array | None = None, level: Any = CLEAN) -> Array:
        return apply(vars.params[name], *parts(nets.flatten_obs(obs), action, jnp.asarray(level)))

    aggregate = registry.aggregate(c.aggregate)
    return Critic(
        modules=(Module(name, init, apply, TargetNetwork(c.tau, drawn=c.subset) if target else None),),
        values=values,
        aggregate=aggregate,
        score=lambda vars, obs, action=None, level=CLEAN: aggregate(values(vars, obs, action, level)),
    )


def as_one(critic: Critic) -> Critic:
    """The critic as if it had one member, whose opinion is the aggregated one: [1, *B]. It is to be read, not trained."""
    return critic._replace(values=lambda *at: critic.score(*at)[None])
