"""A Gaussian over whole chunks with a full covariance: its numbers may depend on each other, within an action and along the chunk."""

from __future__ import annotations

import math
from typing import Any

import distrax
import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.actor_configs import FullGaussianConfig
from qchunk.actors.one_step import one_step
from qchunk.target_networks import ema
from qchunk.trust_region import Normal, NormalFn
from qchunk.types import Array, Chunk, Kernel, Key, Module, PyTree, Spec, Vars

FLAT = 0.01  # how much smaller the first weights of the head are: means begin near 0 (2410.09536)


def full_gaussian(c: FullGaussianConfig, name: str = "actor") -> Kernel:
    """The Gaussian N(mean(s), L L^T): means are tanh of a network, L is one lower triangle for all observations (2410.09536, section 4)."""
    return of_gaussian(*full_gaussian_of(c, name))


def full_gaussian_of(c: FullGaussianConfig, name: str = "actor") -> tuple[Module, NormalFn]:
    """Its parameters, and the Gaussian that they are.

    Parameters are "net" of the means, and "root" [H A, H A]: L with the logarithms of its diagonal, diag(c.std) at first.
    """

    def init(key: Key, spec: Spec) -> PyTree:
        net = nets.init(_net(c, (spec.horizon, spec.action)), key, spec.obs)
        root = jnp.log(c.std) * jnp.eye(spec.horizon * spec.action)
        return {"net": {**net, "head_kernel": FLAT * net["head_kernel"]}, "root": root}

    module = Module(name, init, lambda params, obs: _apply(c, params, obs), ema(c.ema))
    return module, lambda vars, obs: module.apply(vars.params[name], obs)


def _net(c: FullGaussianConfig, out: tuple[int, ...]) -> nets.MLP:
    return nets.MLP(c.hidden, out, c.layer_norm)


def _apply(c: FullGaussianConfig, params: PyTree, obs: PyTree) -> Normal:
    out = nets.apply(_net(c, nets.output_shape(params)), params["net"], nets.flatten_obs(obs))
    root = jnp.tril(params["root"], -1) + jnp.diag(jnp.exp(jnp.diagonal(params["root"])))
    return Normal(nets.flatten_chunk(jnp.tanh(out)), root)


def of_gaussian(module: Module, gaussian: NormalFn, still: bool = False) -> Kernel:
    """The Kernel of a Gaussian: noise z becomes mean + L z. Its density is that of each number given those before it in the chunk.

    Loss: minus the log-density of the data's chunk, the mean over its numbers. Masked steps lie behind the others, so that what is
    left is the density of the beginning, exactly.

    Args:
        module: whose parameters it has.
        gaussian: over chunks of D = H A numbers, row after row, by its Cholesky factor.
        still: generate the mean whatever the noise; the loss and the density stay.
    """

    def step(vars: Vars, obs, x: Array, k) -> tuple[Array, float]:
        del k
        g = gaussian(vars, obs)
        moved = 0.0 if still else _through(g.root, nets.flatten_chunk(x))
        return jnp.broadcast_to((g.mean + moved).reshape(*g.mean.shape[:-1], *x.shape[-2:]), x.shape), 0.0

    def density(vars: Vars, obs, noise: Array) -> Array:
        diagonal = jnp.log(jnp.diagonal(gaussian(vars, obs).root, axis1=-2, axis2=-1))
        return distrax.Normal(0.0, 1.0).log_prob(noise) - diagonal.reshape(*diagonal.shape[:-1], *noise.shape[-2:])

    def loss(vars: Vars, noise: Any, chunk: Chunk) -> Array:
        del noise
        g = gaussian(vars, chunk.obs)
        away = nets.flatten_chunk(chunk.action) - g.mean
        root = jnp.broadcast_to(g.root, (*away.shape[:-1], *g.root.shape[-2:]))
        z = jax.lax.linalg.triangular_solve(root, away[..., None], left_side=True, lower=True)
        each = density(vars, chunk.obs, z.reshape(chunk.action.shape))
        return -jnp.sum(each * chunk.mask[..., None], axis=(-2, -1)) / math.prod(chunk.action.shape[-2:])

    shape = lambda params: nets.output_shape(params)[-2:]  # noqa: E731
    return one_step(module, shape, step, False, loss)._replace(density=density)


def _through(root: Array, z: Array) -> Array:
    """root z, for z [*B, D]."""
    return jnp.einsum("...ij,...j->...i", root, z, precision="highest")
