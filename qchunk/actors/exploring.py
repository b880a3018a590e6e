"""Noise that a flow learns to explore with (2505.22094, ReinFlow): its steps become Gaussians, whose deviations a small network says."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from qchunk import nets
from qchunk.actors.paths import count_steps
from qchunk.config import NoiseConfig
from qchunk.types import Array, Kernel, Key, Module, PyTree, Spec, Vars

MOST = "most_noise"  # of ``Vars.stats``: the largest deviation by now


def noise_network(c: NoiseConfig, name: str = "noise") -> Module:
    """(params, obs [*B, O], t [*B, 1]) -> [*B, H, A], whose tanh says where between the least deviation and the largest a number's is."""

    def net(shape: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, shape, activation=jnp.tanh)

    def init(key: Key, spec: Spec) -> PyTree:
        return nets.init(net((spec.horizon, spec.action)), key, 1, spec.obs)

    def apply(params: PyTree, obs, t: Array) -> Array:
        return nets.apply(net(nets.output_shape(params)), params, t, nets.flatten_obs(obs))

    return Module(name, init, apply)


def with_noise(kernel: Kernel, noise: Module, least: float, most: Callable[[Vars], Array]) -> Kernel:
    """The Kernel whose every step is N(its own, within [-1, 1], std^2) with ln std = ln least + (ln most - ln least) (tanh u + 1) / 2.

    Args:
        kernel: its steps draw no noise, such as a flow's.
        noise: u(obs, t), see ``noise_network``; t = k / K.
        most: vars -> the largest deviation.
    """
    steps = count_steps(kernel)

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, Array]:
        mean, _ = kernel.step(vars, obs, x, k)
        u = noise.apply(vars.params[noise.name], obs, jnp.asarray(k, jnp.float32)[..., None] / steps)
        share = (jnp.tanh(u) + 1) / 2
        return jnp.clip(mean, -1.0, 1.0), jnp.exp((1 - share) * jnp.log(least) + share * jnp.log(most(vars)))

    return kernel._replace(modules=(*kernel.modules, noise), step=step, advance=None, noisy=True)


def shrinking(least: float, most: float, updates: int) -> Callable[[Array], Array]:
    """The largest deviation after so many updates: held for 35 % of ``updates``, then a cosine down to 0.3 least + 0.7 most (2505.22094, code)."""
    end = 0.3 * least + 0.7 * most

    def at(done: Array) -> Array:
        along = jnp.clip((done / max(updates, 1) - 0.35) / 0.65, 0.0, 1.0) if updates else 0.0
        return end + (most - end) * (1 + jnp.cos(jnp.pi * along)) / 2

    return at
