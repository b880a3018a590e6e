"""Actors of one step: regression, a Gaussian, a mixture of Gaussians. They show what averaging does to several modes."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from qchunk import nets
from qchunk.actor_configs import GaussianConfig, RegressionConfig
from qchunk.actors.one_step import one_step
from qchunk.target_networks import ema
from qchunk.types import Array, Chunk, Kernel, Key, Module, Spec, Vars

NARROWEST, WIDEST = 0.01, 1.0  # standard deviations, in units of action


def regression(c: RegressionConfig, name: str = "actor") -> Kernel:
    """The deterministic actor: tanh of an MLP, by mean squared error, which learns the mean of what was done."""

    def init(key: Key, spec: Spec):
        return nets.init(nets.MLP(c.hidden, (spec.horizon, spec.action), c.layer_norm), key, spec.obs)

    def apply(params, obs) -> Array:
        net = nets.MLP(c.hidden, nets.output_shape(params), c.layer_norm)
        return jnp.tanh(nets.apply(net, params, nets.flatten_obs(obs)))

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, float]:
        del k
        return jnp.broadcast_to(apply(vars.params[name], obs), x.shape), 0.0

    def loss(vars: Vars, noise, chunk: Chunk) -> Array:
        del noise
        error = apply(vars.params[name], chunk.obs) - chunk.action
        return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

    return one_step(Module(name, init, apply, ema(c.ema)), nets.output_shape, step, False, loss)


def gaussian(c: GaussianConfig, name: str = "actor") -> Kernel:
    """The Gaussian actor: a mixture of ``c.components`` diagonal Gaussians over whole chunks, by maximum likelihood.

    Means are tanh of the network's first column, standard deviations lie in [0.01, 1], and a component's logit is the
    mean of the third column over the chunk. Which component a sample takes is read off its starting noise (the normal
    distribution function of its first number is uniform), so that noise decides everything, as in every Kernel.
    """

    def net(out: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, out, c.layer_norm)

    def init(key: Key, spec: Spec):
        return nets.init(net((c.components, spec.horizon, spec.action, 3)), key, spec.obs)

    def apply(params, obs) -> tuple[Array, Array, Array]:
        """Means and standard deviations [*B, M, H, A], log-weights [*B, M]."""
        out = nets.apply(net(nets.output_shape(params)), params, nets.flatten_obs(obs))
        low, high = np.log(NARROWEST), np.log(WIDEST)
        std = jnp.exp(low + (high - low) * jax.nn.sigmoid(out[..., 1]))
        return jnp.tanh(out[..., 0]), std, jax.nn.log_softmax(jnp.mean(out[..., 2], axis=(-2, -1)))

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, Array]:
        del k
        mean, std, weight = apply(vars.params[name], obs)
        uniform = jax.scipy.stats.norm.cdf(x[..., :1, 0])  # [*B, 1]
        index = jnp.sum(uniform > jnp.cumsum(jnp.exp(weight), axis=-1)[..., :-1], axis=-1)
        pick = jax.nn.one_hot(index, c.components)[..., None, None]  # [*B, M, 1, 1]
        return jnp.sum(pick * mean, axis=-3), jnp.sum(pick * std, axis=-3)

    def loss(vars: Vars, noise, chunk: Chunk) -> Array:
        del noise
        mean, std, weight = apply(vars.params[name], chunk.obs)
        each = distrax.Normal(mean, std).log_prob(chunk.action[..., None, :, :]) * chunk.mask[..., None, :, None]
        joint = jax.nn.logsumexp(weight + jnp.sum(each, axis=(-2, -1)), axis=-1)
        # a window with nothing inside its episode has only the weights left, which sum to 1
        return -joint / (chunk.action.shape[-1] * chunk.action.shape[-2])

    module = Module(name, init, apply, ema(c.ema))
    return one_step(module, lambda params: nets.output_shape(params)[1:3], step, True, loss)
