"""The diffusion actor: a network that tells noise from data on K noise levels (2303.04137, 2409.00588)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import nets
from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import paths
from qchunk.target_networks import ema
from qchunk.types import Array, Chunk, Kernel, Key, Module, Spec, Vars


def diffusion(c: DiffusionConfig, name: str = "actor") -> Kernel:
    """The diffusion actor: DDPM along all K levels (2006.11239, algorithm 2), or DDIM along ``c.ddim`` of them (2010.02502).

    Loss: i ~ U{0 .. K-1}, eps ~ N(0, I), x_i = sqrt(bar_i) a + sqrt(1 - bar_i) eps; regress the network on eps or on a.
    The level's number enters through a sinusoidal embedding; chunk, embedding and observation are joined in this order.
    Clean estimates are clipped to [-1, 1] (``c.clip``): at the noisiest of 20 cosine levels an error of eps counts 400-fold.
    """

    def net(horizon: int, action: int) -> nets.Denoiser:
        return nets.Denoiser(c.hidden, (horizon, action), c.residual, c.layer_norm, c.activation, c.time_features)

    def init(key: Key, spec: Spec):
        return nets.init(net(spec.horizon, spec.action), key, spec.horizon * spec.action, 1, spec.obs)

    def apply(params, obs, x: Array, i: Array) -> Array:
        return nets.apply(net(*nets.output_shape(params)), params, nets.flatten_chunk(x), i, nets.flatten_obs(obs))

    bar = paths.signal(c.schedule, c.steps)
    times = np.arange(c.steps)[:: c.steps // c.ddim][: c.ddim] if c.ddim else np.arange(c.steps)
    times = times[::-1]
    levels = paths.variance_preserving(bar, times)

    def clean_of(x: Array, out: Array, alpha: Array, sigma: Array) -> Array:
        return (x - sigma * out) / alpha if c.predict == "noise" else out

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        i, alpha, sigma = paths.numbers(np.column_stack([times, levels[:-1]]), k)
        return clean_of(x, apply(vars.params[name], obs, x, i[..., 0]), alpha, sigma)

    def level(key: Key, shape: tuple[int, ...]) -> Array:
        return jax.random.randint(key, shape, 0, c.steps)

    def loss(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> Array:
        eps, i = noise  # [*B, H, A], [*B, 1]
        alpha, sigma = (jnp.asarray(x, jnp.float32)[i][..., None] for x in (np.sqrt(bar), np.sqrt(1 - bar)))
        out = apply(vars.params[name], chunk.obs, alpha * chunk.action + sigma * eps, i.astype(jnp.float32))
        error = out - (eps if c.predict == "noise" else chunk.action)
        return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

    module = Module(name, init, apply, ema(c.ema))
    return paths.denoiser_kernel(module, levels, 0.0 if c.ddim else 1.0, denoise, paths.drawing(level), loss, c.clip)
