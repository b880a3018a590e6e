"""Returns as distributions over fixed ones, the atoms, learned by cross-entropy (1707.06887); also with atoms that stand closer near 0 (1911.08265)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from qchunk.system.errors import UserError
from qchunk.types import Array

BEND = 0.001  # of ``squashed``: keeps its inverse from growing too fast (1805.11593, proposition A.2)
Support = tuple[float, float]  # of the first and the last atom


def check_support(support: Support, where: str) -> None:
    """Raises UserError where the support is empty; ``where`` stands before the flag's name, such as "critic."."""
    low, high = support
    if not low < high:
        raise UserError(f"--{where}support {low:g} {high:g} does not ascend", "give the lowest return first")


def atoms(support: Support, count: int) -> Array:
    """What ``count`` atoms stand for, evenly spaced: [atoms]."""
    return jnp.linspace(*support, count)


def mean(logits: Array, support: Support) -> Array:
    """The expectation of logits [..., atoms]: [...]."""
    return jnp.sum(jax.nn.softmax(logits) * atoms(support, logits.shape[-1]), axis=-1)


def two_hot(value: Array, support: Support, count: int) -> Array:
    """Values [...] shared by their two neighbours among the atoms, in proportion to how near they are: [..., atoms], whose mean they are.

    Values beyond the support are moved to its end.
    """
    low, high = support
    place = (jnp.clip(value, low, high) - low) / (high - low) * (count - 1)  # in atoms, from the first one on
    return jnp.maximum(0.0, 1.0 - jnp.abs(place[..., None] - jnp.arange(count)))


def squashed(x: Array) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x: large returns closer together (1805.11593; 1911.08265, appendix F)."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1.0) - 1.0) + BEND * x


def stretched(x: Array) -> Array:
    """The inverse of ``squashed``, written so that it does not lose digits in float32."""
    u = jnp.abs(x) + 1.0 + BEND
    return jnp.sign(x) * (jnp.square(2.0 * u / (jnp.sqrt(1.0 + 4.0 * BEND * u) + 1.0)) - 1.0)


def read(out: Array, support: Support) -> Array:
    """The returns [...] that a network's outputs [..., atoms] mean: one atom is the number itself, several are logits on the squashed scale."""
    return out[..., 0] if out.shape[-1] == 1 else stretched(mean(out, _squashed(support)))


def error(out: Array, target: Array, support: Support) -> Array:
    """What outputs [..., atoms] pay beside returns [...]: Huber's loss of one atom (1707.03497), cross-entropy of several: [...]."""
    if out.shape[-1] == 1:
        return optax.huber_loss(out[..., 0], target)
    aim = two_hot(squashed(target), _squashed(support), out.shape[-1])
    return -jnp.sum(aim * jax.nn.log_softmax(out), axis=-1)


def _squashed(support: Support) -> Support:
    low, high = (math.copysign(math.sqrt(abs(x) + 1.0) - 1.0, x) + BEND * x for x in support)
    return low, high
