"""Networks: a multi-layer perceptron over several inputs, and ensembles of it.

Block (q_chunking_family spec, section 0): ``Dense -> GELU -> LayerNorm (if on)``, linear head; kernels Xavier-uniform,
biases 0. LayerNorm follows the activation, and its epsilon is 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qchunk.types import Array, Key, PyTree


def flatten_obs(obs: PyTree) -> Array:
    """An observation as one vector: [*B, O]. The leaves of a dictionary are joined in the order of its keys."""
    leaves = jax.tree.leaves(obs)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


def flatten_chunk(chunk: Array) -> Array:
    """[*B, H, A] -> [*B, H * A], row-major."""
    return chunk.reshape(*chunk.shape[:-2], chunk.shape[-2] * chunk.shape[-1])


def gelu(x: Array) -> Array:
    """The tanh approximation of GELU, factored so that XLA needs a fifth less time for it than for ``jax.nn.gelu``."""
    half, c = 0.5 * x, math.sqrt(2 / math.pi)
    return half + half * jnp.tanh(x * (c + c * 0.044715 * (x * x)))


class Dense(nn.Module):
    """A dense layer over several inputs, whose leading axes broadcast.

    The same numbers as a dense layer over their concatenation, but an observation shared by N candidates or K denoising
    steps is multiplied once and nothing is repeated in memory.
    """

    features: int

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        sizes = [part.shape[-1] for part in parts]
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (sum(sizes), self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        start, total = 0, bias
        for part, size in zip(parts, sizes, strict=True):
            rows = kernel[start : start + size]
            total = total + (part * rows[0] if size == 1 else part @ rows)
            start += size
        return total


class MLP(nn.Module):
    """[*B, ...] inputs -> [*B, *out]. The head's bias keeps the shape ``out``, so parameters tell what they produce."""

    hidden: tuple[int, ...]
    out: tuple[int, ...]
    layer_norm: bool = False
    activation: Callable = gelu

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        for i, width in enumerate(self.hidden):
            parts = (self.activation(Dense(width, name=f"dense_{i}")(*parts)),)
            if self.layer_norm:
                parts = (nn.LayerNorm(epsilon=1e-6, name=f"norm_{i}")(*parts),)
        (x,) = parts
        kernel = self.param("head_kernel", nn.initializers.xavier_uniform(), (x.shape[-1], math.prod(self.out)))
        bias = self.param("head_bias", nn.initializers.zeros_init(), self.out)
        return (x @ kernel).reshape(*x.shape[:-1], *self.out) + bias


def output_shape(params: PyTree) -> tuple[int, ...]:
    """The shape ``out`` of the MLP that these parameters belong to."""
    return params["head_bias"].shape


def init(net: nn.Module, key: Key, *sizes: int) -> PyTree:
    """Parameters of a network whose inputs have these last axes."""
    return net.init(key, *(jnp.zeros((size,)) for size in sizes))["params"]


def apply(net: nn.Module, params: PyTree, *parts: Array) -> Any:
    """Runs a network, with products in float32 on every backend (GPUs would round to TF32, TPUs to bfloat16)."""
    with jax.default_matmul_precision("highest"):
        return net.apply({"params": params}, *parts)


def init_ensemble(net: nn.Module, members: int, key: Key, *sizes: int) -> PyTree:
    """Parameters of ``members`` independent networks, stacked along a leading axis."""
    return jax.vmap(lambda k: init(net, k, *sizes))(jax.random.split(key, members))


def apply_ensemble(net: nn.Module, params: PyTree, *parts: Array) -> Array:
    """Runs every member on the same inputs: [members, *B, *out].

    A loop, not a vmap: ensembles are small, and XLA's batched products were measured 1.2 to 1.4 times slower on a CPU.
    """
    members = jax.tree.leaves(params)[0].shape[0]
    return jnp.stack([apply(net, jax.tree.map(lambda p, i=i: p[i], params), *parts) for i in range(members)])
