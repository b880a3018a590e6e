"""The network of most actors: a perceptron of an observation, a chunk and what else it is told."""

from __future__ import annotations

from collections.abc import Callable

from qchunk import nets
from qchunk.actor_configs import PerceptronConfig
from qchunk.target_networks import ema
from qchunk.types import Array, Key, Module, PyTree, Spec


def perceptron(c: PerceptronConfig, name: str, told: Callable[[Spec], tuple[int, ...]] = lambda spec: ()) -> Module:
    """(params, obs [*B, O], x [*B, H, A], *more [*B, size]) -> [*B, H, A], inputs joined in this order.

    Args:
        told: the sizes of ``more``, such as (1,) for a time.
    """

    def net(shape: tuple[int, ...]) -> nets.MLP:
        return nets.MLP(c.hidden, shape, c.layer_norm)

    def init(key: Key, spec: Spec) -> PyTree:
        return nets.init(net((spec.horizon, spec.action)), key, spec.obs, spec.horizon * spec.action, *told(spec))

    def apply(params: PyTree, obs, x: Array, *more: Array) -> Array:
        parts = nets.flatten_obs(obs), nets.flatten_chunk(x), *more
        return nets.apply(net(nets.output_shape(params)), params, *parts)

    return Module(name, init, apply, ema(c.ema))
