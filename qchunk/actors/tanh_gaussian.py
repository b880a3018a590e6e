"""A diagonal Gaussian squashed by tanh, whose density is known: the actor of soft actor-critic."""

from __future__ import annotations

import distrax
import jax.numpy as jnp

from qchunk import nets
from qchunk.actor_configs import TanhGaussianConfig
from qchunk.actors.one_step import one_step
from qchunk.target_networks import ema
from qchunk.types import EDGE, Array, Chunk, Kernel, Key, Module, Spec, Vars

LOG_STD = (-20.0, 2.0)  # bounds of the logarithm of a standard deviation before tanh


def tanh_gaussian(c: TanhGaussianConfig, name: str = "actor") -> Kernel:
    """The squashed Gaussian: noise z becomes tanh(mean + std z), and its density is known (1801.01290, appendix C).

    The network's head gives each number's mean and log-std, the latter bounded to [-20, 2]. Loss: minus the log-density of the
    data's chunk, bounded to +-(1 - 1e-5), the mean over its numbers.
    """

    def net(shape: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, shape, c.layer_norm, nets.ACTIVATIONS[c.activation])

    def init(key: Key, spec: Spec):
        return nets.init(net((spec.horizon, spec.action, 2)), key, spec.obs)

    def apply(params, obs) -> distrax.Normal:
        """The Gaussian before tanh [*B, H, A]."""
        out = nets.apply(net(nets.output_shape(params)), params, nets.flatten_obs(obs))
        return distrax.Normal(out[..., 0], jnp.exp(jnp.clip(out[..., 1], *LOG_STD)))

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, float]:
        del k
        before = apply(vars.params[name], obs)
        return jnp.tanh(before.loc + before.scale * x), 0.0

    def squashed(before: distrax.Normal, u: Array) -> Array:
        """Log-density of tanh(u), from u: tanh of a large number has none of its digits left."""
        return before.log_prob(u) - distrax.Tanh().forward_log_det_jacobian(u)

    def density(vars: Vars, obs, noise: Array) -> Array:
        before = apply(vars.params[name], obs)
        return squashed(before, before.loc + before.scale * noise)

    def loss(vars: Vars, noise, chunk: Chunk) -> Array:
        del noise
        each = squashed(apply(vars.params[name], chunk.obs), jnp.arctanh(jnp.clip(chunk.action, -EDGE, EDGE)))
        return -jnp.mean(each * chunk.mask[..., None], axis=(-2, -1))

    def shape(params) -> tuple[int, ...]:
        return nets.output_shape(params)[:2]

    return one_step(Module(name, init, apply, ema(c.ema)), shape, step, False, loss)._replace(density=density)
