"""Networks: perceptrons over several inputs, ensembles of them, those along a chunk, and the denoiser of diffusion actors.

Kernels are Xavier-uniform, biases 0; LayerNorm's epsilon is 1e-6, and that of ``Zooms`` 1e-5.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qchunk import trees
from qchunk.system.errors import UserError
from qchunk.types import Array, Key, PyTree


def flatten_obs(obs: PyTree) -> Array:
    """An observation as one vector of floats: [*B, O]. The leaves of a dictionary are joined in the order of its sorted keys.

    uint8 leaves are images, whose 0 to 255 become 0 to 1; other whole numbers keep their values.
    """
    leaves = [_floats(x) for x in jax.tree.leaves(obs)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


def _floats(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.float32) / (255.0 if x.dtype == jnp.uint8 else 1.0)


def flatten_chunk(chunk: Array) -> Array:
    """[*B, H, A] -> [*B, H * A], row-major."""
    return chunk.reshape(*chunk.shape[:-2], chunk.shape[-2] * chunk.shape[-1])


def large_products() -> bool:
    """Whether few large products are to stand for many small ones: on everything but a CPU, where each small one costs a launch.

    Programs compiled for an H100 had 423 launches an update of Q-chunking (4 x 512, N = 32) as a CPU likes it and 272 so.
    """
    return jax.default_backend() != "cpu"


def gelu(x: Array) -> Array:
    """The tanh approximation of GELU; on a CPU factored so that XLA needs a fifth less time for it than for ``jax.nn.gelu``,
    which compilers for GPUs know, and join with the product before it."""
    if large_products():
        return jax.nn.gelu(x)
    half, c = 0.5 * x, math.sqrt(2 / math.pi)
    return half + half * jnp.tanh(x * (c + c * 0.044715 * (x * x)))


def mish(x: Array) -> Array:
    """x tanh(softplus(x))."""
    return x * jnp.tanh(jax.nn.softplus(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "mish": mish, "relu": jax.nn.relu}


def affine(x: Array, kernel: Array, bias: Array | float = 0.0) -> Array:
    """x [*B, I] times kernel [I, J] plus bias, all leading axes as one: for the gradients XLA would otherwise sum over
    several axes, and transpose its operands for that."""
    return (x.reshape(-1, x.shape[-1]) @ kernel + bias).reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """A dense layer over several inputs, whose leading axes broadcast.

    The same numbers as a dense layer over their concatenation, but on a CPU an observation shared by N candidates or K denoising
    steps is multiplied once and nothing is repeated in memory.
    """

    features: int

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        sizes = [part.shape[-1] for part in parts]
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (sum(sizes), self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if len(parts) > 1 and large_products():
            lead = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
            parts = (jnp.concatenate([jnp.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], axis=-1),)
        if len(parts) == 1:
            return affine(parts[0], kernel, bias)
        start, total = 0, bias
        for part, size in zip(parts, sizes, strict=True):
            rows = kernel[start : start + size]
            total = total + (part * rows[0] if size == 1 else affine(part, rows))
            start += size
        return total


class MLP(nn.Module):
    """[*B, ...] inputs -> [*B, *out], blocks of Dense -> activation -> LayerNorm (if on), then a linear head.

    The head's bias keeps the shape ``out``, so parameters tell what they produce. ``norm_first``: LayerNorm before the activation.
    """

    hidden: tuple[int, ...]
    out: tuple[int, ...]
    layer_norm: bool = False
    activation: Callable = gelu
    norm_first: bool = False

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        for i, width in enumerate(self.hidden):
            x = Dense(width, name=f"dense_{i}")(*parts)
            norm = nn.LayerNorm(epsilon=1e-6, name=f"norm_{i}") if self.layer_norm else lambda x: x
            parts = (self.activation(norm(x)) if self.norm_first else norm(self.activation(x)),)
        return _head(self, parts[0])


class ResidualMLP(nn.Module):
    """Blocks x + Dense(act(Dense(act(x)))) of one width between a first Dense and a linear head (2409.00588's network).

    ``hidden`` counts the outputs: of the first Dense, then two a block, all of one width. LayerNorm stands before each
    activation. No activation before the head.
    """

    hidden: tuple[int, ...]
    out: tuple[int, ...]
    layer_norm: bool = False
    activation: Callable = mish

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        x = Dense(self.hidden[0], name="dense_0")(*parts)
        for i in range(1, len(self.hidden) - 1, 2):
            y = x
            for j in (i, i + 1):
                if self.layer_norm:
                    y = nn.LayerNorm(epsilon=1e-6, name=f"norm_{j}")(y)
                y = Dense(self.hidden[j], name=f"dense_{j}")(self.activation(y))
            x = x + y
        return _head(self, x)


class PrefixTransformer(nn.Module):
    """(observation [*B, O], chunk [*B, H * A]) -> [*B, J], one number for the first n_j actions each, in one pass.

    A token for the observation and one for each action, learned positions, causal blocks of attention and a perceptron of
    four times the width, LayerNorm before both; the token of action n_j says the number of its prefix (2605.11009, section 4),
    and that of the observation the number of the prefix of no action.
    """

    hidden: tuple[int, ...]
    heads: int
    horizon: int
    points: tuple[int, ...]
    out: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, obs: Array, chunk: Array) -> Array:
        width, last = self.hidden[0], max(self.points)  # what comes after that token is not looked at
        actions = chunk.reshape(*chunk.shape[:-1], self.horizon, -1)[..., :last, :]
        parts = Dense(width, name="state")(obs)[..., None, :], Dense(width, name="action")(actions)
        lead = jnp.broadcast_shapes(*(part.shape[:-2] for part in parts))
        x = jnp.concatenate([jnp.broadcast_to(part, (*lead, *part.shape[-2:])) for part in parts], axis=-2)
        x = x + self.param("position", nn.initializers.normal(0.02), (self.horizon + 1, width))[: last + 1]
        causal = nn.make_causal_mask(jnp.ones(last + 1))
        for i in range(len(self.hidden)):
            y = nn.LayerNorm(epsilon=1e-6, name=f"norm_{i}_attention")(x)
            attend = nn.MultiHeadDotProductAttention(self.heads, use_bias=False, name=f"attention_{i}")
            x = x + attend(y, mask=causal)
            y = nn.LayerNorm(epsilon=1e-6, name=f"norm_{i}_mlp")(x)
            y = gelu(Dense(4 * width, name=f"dense_{i}_in")(y))
            x = x + Dense(width, name=f"dense_{i}_out")(y)
        return _head(self, nn.LayerNorm(epsilon=1e-6, name="norm")(x[..., jnp.asarray(self.points), :]))


class Zooms(nn.Module):
    """(observation [*B, O], centres [*B, l, H, A], levels [l, L]) -> logits [*B, l, H, A, bins, atoms] of l of the L zooms.

    Two streams, whose sum the logits are: the advantage of each bin, less its mean over the bins, and the value of all (2411.12155,
    section 4); or the first one alone as it is. Heads are 0 at first.
    """

    hidden: tuple[int, ...]
    out: tuple[int, int, int, int]  # H, A, bins, atoms
    dueling: bool = True

    @nn.compact
    def __call__(self, obs: Array, centres: Array, levels: Array) -> Array:
        horizon, actions, bins, atoms = self.out
        gain = ZoomStream(self.hidden, horizon, (actions, bins, atoms), name="advantage")(obs, centres, levels)
        if not self.dueling:
            return gain
        value = ZoomStream(self.hidden, horizon, (actions, 1, atoms), name="value")(obs, centres, levels)
        return value + gain - jnp.mean(gain, axis=-2, keepdims=True)


class ZoomStream(nn.Module):
    """Blocks of Dense -> LayerNorm -> SiLU for each action of the chunk, a GRU along the chunk, and a linear head."""

    hidden: tuple[int, ...]
    horizon: int
    out: tuple[int, ...]

    @nn.compact
    def __call__(self, obs: Array, centres: Array, levels: Array) -> Array:
        parts: tuple[Array, ...] = (obs[..., None, None, :], centres, levels[:, None, :])
        for i, width in enumerate(self.hidden):
            x = Dense(width, name=f"dense_{i}")(*parts)
            if i == 0:  # as an input that says which action it is
                x = x + self.param("position", nn.initializers.normal(0.02), (self.horizon, width))
            parts = (nn.silu(nn.LayerNorm(epsilon=1e-5, name=f"norm_{i}")(x)),)
        along: Any = nn.RNN(nn.GRUCell(self.hidden[-1], name="gru"))(parts[0])
        return _head(self, along, nn.initializers.zeros_init())


class SkillEncoder(nn.Module):
    """(observations [*B, H, O], actions [*B, H, A]) -> [*B, *out]: two recurrent layers over a window, in both directions."""

    hidden: tuple[int, ...]
    out: tuple[int, ...]

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        for i, width in enumerate(self.hidden):
            obs = nn.relu(Dense(width, name=f"dense_{i}")(obs))
        x: Any = jnp.concatenate([obs, action], axis=-1)
        for i in range(2):
            on, back = (nn.RNN(nn.GRUCell(self.hidden[-1], name=f"{way}_{i}")) for way in ("forward", "backward"))
            x = nn.Bidirectional(on, back)(x)
        return _head(self, flatten_chunk(x))


class Denoiser(nn.Module):
    """(chunk [.., H * A], level [.., 1], observation [.., O]) -> [.., *out].

    The level's number goes through sines and cosines of ``features`` / 2 frequencies, from 1 down to 1/10000, and two
    Dense layers with Mish between them.
    """

    hidden: tuple[int, ...]
    out: tuple[int, ...]
    residual: bool = True
    layer_norm: bool = False
    activation: str = "mish"
    features: int = 16

    @nn.compact
    def __call__(self, x: Array, level: Array, obs: Array) -> Array:
        time = Dense(2 * self.features, name="time_0")(sinusoid(level, self.features))
        time = Dense(self.features, name="time_1")(mish(time))
        kind = ResidualMLP if self.residual else MLP
        return kind(self.hidden, self.out, self.layer_norm, ACTIVATIONS[self.activation], name="net")(x, time, obs)


def sinusoid(t: Array, features: int) -> Array:
    """[*B, 1] -> [*B, features]: sines, then cosines, of t exp(-ln(10000) j / (features / 2 - 1))."""
    angles = t * jnp.exp(-math.log(10000.0) * jnp.arange(features // 2) / (features // 2 - 1))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _head(module: nn.Module, x: Array, init: Callable | None = None) -> Array:
    out: tuple[int, ...] = module.out  # type: ignore[attr-defined]
    kernel = module.param("head_kernel", init or nn.initializers.xavier_uniform(), (x.shape[-1], math.prod(out)))
    bias = module.param("head_bias", nn.initializers.zeros_init(), out)
    return affine(x, kernel, bias.reshape(-1)).reshape(*x.shape[:-1], *out)


def output_shape(params: PyTree) -> tuple[int, ...]:
    """The shape ``out`` of the network that these parameters belong to."""
    return params.get("net", params)["head_bias"].shape


def init(net: nn.Module, key: Key, *sizes: PyTree) -> PyTree:
    """Parameters of a network whose inputs have these last axes; a tree of sizes is one input (``flatten_obs``)."""
    return net.init(key, *(jnp.zeros((trees.total(size),)) for size in sizes))["params"]


def precision() -> str:
    """How networks round what they multiply: the user's ``JAX_DEFAULT_MATMUL_PRECISION`` (such as tensorfloat32), by default float32."""
    return jax.config.jax_default_matmul_precision or "highest"  # type: ignore[attr-defined]  # made when jax is imported


SAMPLING = "QCHUNK_SAMPLING_PRECISION"
ROUNDINGS = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}  # as jax calls them


def sampling_precision() -> str:
    """How policies round while they sample: the user's ``QCHUNK_SAMPLING_PRECISION`` (one of ``ROUNDINGS``), by default ``precision()``.

    It is read when a program is traced, so it is to stay the same for as long as a process lives. Sums are in float32 in any case.

    Raises:
        UserError: an unknown name.
    """
    if not (asked := os.environ.get(SAMPLING)):
        return precision()
    if asked not in ROUNDINGS:
        raise UserError(f"{SAMPLING} is {asked!r}", f"give it {', '.join(ROUNDINGS)}, or unset it")
    return ROUNDINGS[asked]


def apply(net: nn.Module, params: PyTree, *parts: Array) -> Any:
    """Runs a network, with products in ``precision()`` on every backend (by themselves GPUs round to TF32, TPUs to bfloat16)."""
    with jax.default_matmul_precision(precision()):
        return net.apply({"params": params}, *parts)


def init_ensemble(net: nn.Module, members: int, key: Key, *sizes: PyTree) -> PyTree:
    """Parameters of ``members`` independent networks, stacked along a leading axis."""
    return jax.vmap(lambda k: init(net, k, *sizes))(jax.random.split(key, members))


def apply_ensemble(net: nn.Module, params: PyTree, *parts: Array) -> Array:
    """Runs every member on the same inputs: [members, *B, *out].

    On a CPU a loop, not a vmap: ensembles are small, and XLA's batched products were measured 1.2 to 1.4 times slower there.
    """
    if large_products():
        return jax.vmap(lambda p: apply(net, p, *parts))(params)
    members = jax.tree.leaves(params)[0].shape[0]
    return jnp.stack([apply(net, jax.tree.map(lambda p, i=i: p[i], params), *parts) for i in range(members)])
