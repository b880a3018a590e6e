"""A model of whole chunks: where a chunk leads, what it earns on the way, and whether the episode goes on (2512.08108)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk import nets, sampling
from qchunk.config import Widths, config
from qchunk.types import Array, Key, Module, Policy, PyTree, Spec, Vars


@config
class ModelConfig:
    """Three networks of one size (2512.08108: 4 x 1024)."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation."""


class Ahead(NamedTuple):
    """What a model expects of a chunk."""

    obs: Array  # [*B, O] behind it, as one vector
    reward: Array  # [*B] its discounted return
    going: Array  # [*B] logit of the chance that the episode goes on


class WorldModel(NamedTuple):
    """A model of whole chunks."""

    modules: tuple[Module, ...]
    ahead: Callable[[Vars, PyTree, Array], Ahead]  # (vars, obs [*B, O], action [*B, H, A])


class Imagined(NamedTuple):
    """D chunks that a policy and a model imagine one behind the other."""

    obs: Array  # [D, B, O] where each begins
    action: Array  # [D, B, H, A]
    reward: Array  # [D, B]
    going: Array  # [D, B] 1 where the episode goes on
    next_obs: Array  # [D, B, O]


def chunk_model(c: ModelConfig, name: str = "model") -> WorldModel:
    """The next observation is the last one plus what a network adds; reward and end have networks of their own."""

    def net(out: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, out, c.layer_norm)

    def init(key: Key, spec: Spec) -> PyTree:
        size = nets.flatten_obs(jax.tree.map(jnp.zeros, spec.obs)).shape
        keys = jax.random.split(key, 3)
        sizes = (spec.obs, spec.horizon * spec.action)
        outs = {"change": size, "reward": (), "going": ()}
        return {part: nets.init(net(out), k, *sizes) for k, (part, out) in zip(keys, outs.items(), strict=True)}

    def apply(params: PyTree, obs: Array, chunk: Array) -> Ahead:
        found = {part: nets.apply(net(nets.output_shape(p)), p, obs, chunk) for part, p in params.items()}
        return Ahead(obs + found["change"], found["reward"], found["going"])

    def ahead(vars: Vars, obs: PyTree, action: Array) -> Ahead:
        return apply(vars.params[name], nets.flatten_obs(obs), nets.flatten_chunk(action))

    return WorldModel((Module(name, init, apply),), ahead)


def imagine(model: WorldModel, policy: Policy, vars: Vars, key: Key, obs: PyTree, depth: int) -> Imagined:
    """``depth`` chunks of the policy from observations [B, O], each from where the model says that the one before led."""

    def further(now: Array, key: Key) -> tuple[Array, Imagined]:
        action = sampling.act(policy, vars, key, now).action
        found = model.ahead(vars, now, action)
        return found.obs, Imagined(now, action, found.reward, (found.going > 0).astype(jnp.float32), found.obs)

    return jax.lax.scan(further, nets.flatten_obs(obs), jax.random.split(key, depth))[1]
