"""The flow-matching actor: a velocity field v(s, x, t) over chunks, t = 0 noise, t = 1 data (2507.07969, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.actors import paths
from qchunk.config import FlowConfig
from qchunk.target_networks import ema
from qchunk.types import Array, Chunk, Kernel, Key, Module, Spec, Vars


def flow(c: FlowConfig, name: str = "actor") -> Kernel:
    """The flow-matching actor, an ODE Kernel: x_{k+1} = x_k + v(s, x_k, k/K) / K.

    Loss: z ~ N(0, I), t ~ U[0, 1), x_t = (1 - t) z + t a; regress v(s, x_t, t) on a - z, per step of the chunk.
    The time enters raw, as one number; observation, chunk and time are joined in this order.
    """

    def net(horizon: int, action: int) -> nets.MLP:
        return nets.MLP(c.hidden, (horizon, action), c.layer_norm)

    def init(key: Key, spec: Spec):
        return nets.init(net(spec.horizon, spec.action), key, spec.obs, spec.horizon * spec.action, 1)

    def apply(params, obs, x: Array, t: Array) -> Array:
        return nets.apply(net(*nets.output_shape(params)), params, nets.flatten_obs(obs), nets.flatten_chunk(x), t)

    levels = paths.linear(c.steps)

    def denoise(vars: Vars, obs, x: Array, k) -> Array:
        t, rest = paths.numbers(levels, k)
        return x + rest * apply(vars.params[name], obs, x, t[..., 0])

    def loss(vars: Vars, noise: tuple[Array, Array], chunk: Chunk) -> Array:
        z, t = noise  # [*B, H, A], [*B, 1]
        along = t[..., None]
        x = (1 - along) * z + along * chunk.action
        error = apply(vars.params[name], chunk.obs, x, t) - (chunk.action - z)
        return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

    module = Module(name, init, apply, ema(c.ema))
    return paths.denoiser_kernel(module, levels, 0.0, denoise, paths.drawing(jax.random.uniform), loss)
