"""How new a pair of observation and chunk is: the error of predicting a random network's output (1810.12894, section 2.2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.types import CLEAN, Array, Critic, Key, Module, PyTree, Spec, Vars

FEATURES = 256  # of the random network whose output is predicted (2410.18076, code)


def novelty(c: CriticConfig, name: str = "novelty") -> Critic:
    """The mean squared error of that prediction [1, *B], a critic of one member: "guess" is trained, "random" never."""
    net = nets.MLP(c.hidden, (FEATURES,), activation=jax.nn.relu)

    def init(key: Key, spec: Spec) -> PyTree:
        found = {part: k for part, k in zip(("guess", "random"), jax.random.split(key), strict=True)}
        return {part: nets.init(net, k, spec.obs, spec.horizon * spec.action) for part, k in found.items()}

    def apply(params: PyTree, *parts: Array) -> Array:
        guess, aim = (nets.apply(net, params[part], *parts) for part in ("guess", "random"))
        return jnp.mean(jnp.square(guess - jax.lax.stop_gradient(aim)), axis=-1)

    def values(vars: Vars, obs: PyTree, action: Any = None, level: Any = CLEAN) -> Array:
        return apply(vars.params[name], nets.flatten_obs(obs), nets.flatten_chunk(action))[None]

    score = lambda *args: values(*args)[0]  # noqa: E731
    return Critic((Module(name, init, apply),), values, lambda x: x[0], score)
