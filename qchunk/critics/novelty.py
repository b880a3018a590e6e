"""How new a pair of observation and chunk is: the error of predicting a random network's output (1810.12894, section 2.2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.types import CLEAN, Algorithm, Array, Chunk, Critic, Key, Learner, Metrics, Module, PyTree, Spec, Vars

FEATURES = 256  # of the random network whose output is predicted (2410.18076, code)


def novelty(c: CriticConfig, name: str = "novelty") -> Critic:
    """The mean squared error of that prediction [1, *B], a critic of one member: "guess" is trained, "random" has no gradient (``with_random_kept``)."""
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


def with_random_kept(algorithm: Algorithm, name: str = "novelty") -> Algorithm:
    """The same algorithm, whose random network stays what it was whatever the optimiser: weight decay needs no gradient to move it."""

    def update(state: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Metrics]:
        moved, metrics = algorithm.update(state, given, key, chunk)
        kept = {**moved.params[name], "random": state.params[name]["random"]}
        return moved._replace(params={**moved.params, name: kept}), metrics

    return algorithm._replace(update=update)
