"""Models of whole chunks: where a chunk leads, what it earns on the way, and whether the episode goes on.

One speaks of observations (2512.08108), one of latent states that know only what rewards, ends and values need (1707.03497, 1911.08265).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import nets, sampling
from qchunk.config import config
from qchunk.critics import categorical
from qchunk.ranges import PositiveInt, Range, Widths
from qchunk.types import Array, Key, Module, Policy, PyTree, Spec, TargetNetwork, Vars


@config
class ModelConfig:
    """Three networks of one size (2512.08108: 4 x 1024)."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = True
    """LayerNorm after each activation."""


@config
class LatentConfig:
    """A model of latent states (1911.08265; sizes of its published ports: two layers of 256)."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers, of each of its networks."""
    layer_norm: bool = True
    """LayerNorm after each activation."""
    size: PositiveInt = 256
    """F, numbers of a latent state."""
    atoms: PositiveInt = 101
    """Of rewards and values, on the scale h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x; 1: a number, learned by Huber's loss."""
    support: tuple[float, float] = (-100.0, 100.0)
    """Returns of the first and the last atom; what lies beyond is moved to them."""
    tau: Annotated[float, Range(above=0, high=1)] = 0.005
    """Polyak rate of the target copy, in (0, 1]."""

    def check(self, where: str) -> None:
        """Raises UserError where the support is empty."""
        categorical.check_support(self.support, where)


class Ahead(NamedTuple):
    """What a model expects of a chunk."""

    state: Array  # [*B, O] the observation behind it, as one vector; or [*B, F] the latent state
    reward: Array  # [*B] its discounted return
    going: Array  # [*B] logit of the chance that the episode goes on


class WorldModel(NamedTuple):
    """A model of whole chunks."""

    modules: tuple[Module, ...]
    ahead: Callable[[Vars, PyTree, Array], Ahead]  # (vars, obs [*B, O], action [*B, H, A])


class LatentModel(NamedTuple):
    """A model of latent states [*B, F], whose leading axes broadcast against those of chunks."""

    modules: tuple[Module, ...]
    encode: Callable[[Vars, PyTree], Array]  # (vars, obs [*B, O]) -> state [*B, F]
    ahead: Callable[[Vars, Array, Array], Ahead]  # (vars, state [*B, F], action [*B, H, A])
    outputs: Callable[[Vars, Array, Array], Ahead]  # likewise, with the reward [*B, atoms] before ``read``
    value: Callable[[Vars, Array], Array]  # (vars, state [*B, F]) -> [*B]
    value_outputs: Callable[[Vars, Array], Array]  # likewise, [*B, atoms]
    choice: Callable[
        [Vars, Array, Array], Array
    ]  # (vars, state [*B, F], action [*B, H, A]) -> logit of choosing it [*B]
    c: LatentConfig


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


def latent_model(c: LatentConfig, name: str = "model", choosing: bool = False) -> LatentModel:
    """An encoder, a network of chunks, which says state, reward and end in one pass, and a value; with a target network.

    The next state is the last one plus what the network adds, and every state is ``rescaled`` (VPN gates what is added, 1707.03497).

    Args:
        choosing: a network of its own says which of several chunks a search would choose.
    """

    def net(out: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, out, c.layer_norm)

    def init(key: Key, spec: Spec) -> PyTree:
        chunk, keys = spec.horizon * spec.action, jax.random.split(key, 4)
        made = {
            "encode": nets.init(net((c.size,)), keys[0], spec.obs),
            "ahead": nets.init(net((c.size + c.atoms + 1,)), keys[1], c.size, chunk),
            "value": nets.init(net((c.atoms,)), keys[2], c.size),
        }
        return {**made, "choice": nets.init(net(()), keys[3], c.size, chunk)} if choosing else made

    def apply(params: PyTree, part: str, *inputs: Array) -> Array:
        return nets.apply(net(nets.output_shape(params[part])), params[part], *inputs)

    def encode(vars: Vars, obs: PyTree) -> Array:
        return rescaled(apply(vars.params[name], "encode", nets.flatten_obs(obs)))

    def outputs(vars: Vars, state: Array, action: Array) -> Ahead:
        out = apply(vars.params[name], "ahead", state, nets.flatten_chunk(action))
        change, reward, going = jnp.split(out, (c.size, c.size + c.atoms), axis=-1)
        return Ahead(rescaled(state + change), reward, going[..., 0])

    def ahead(vars: Vars, state: Array, action: Array) -> Ahead:
        found = outputs(vars, state, action)
        return found._replace(reward=categorical.read(found.reward, c.support))

    def value_outputs(vars: Vars, state: Array) -> Array:
        return apply(vars.params[name], "value", state)

    def value(vars: Vars, state: Array) -> Array:
        return categorical.read(value_outputs(vars, state), c.support)

    def choice(vars: Vars, state: Array, action: Array) -> Array:
        return apply(vars.params[name], "choice", state, nets.flatten_chunk(action))

    module = Module(name, init, apply, TargetNetwork(c.tau))
    return LatentModel((module,), encode, ahead, outputs, value, value_outputs, choice, c)


def rescaled(state: Array) -> Array:
    """Latent states [*B, F], the numbers of each moved to [0, 1] (1911.08265, appendix G), or nearer together where they lie within less than 1.

    The paper divides by any range: where an observation is all zeros, so is a state at first, and gradients of 1e6 were met.
    """
    low, high = jnp.min(state, axis=-1, keepdims=True), jnp.max(state, axis=-1, keepdims=True)
    return (state - low) / jnp.maximum(high - low, 1.0)


def imagine(model: WorldModel, policy: Policy, vars: Vars, key: Key, obs: PyTree, depth: int) -> Imagined:
    """``depth`` chunks of the policy from observations [B, O], each from where the model says that the one before led."""

    def further(now: Array, key: Key) -> tuple[Array, Imagined]:
        action = sampling.act(policy, vars, key, now).action
        found = model.ahead(vars, now, action)
        return found.state, Imagined(now, action, found.reward, (found.going > 0).astype(jnp.float32), found.state)

    return jax.lax.scan(further, nets.flatten_obs(obs), jax.random.split(key, depth))[1]
