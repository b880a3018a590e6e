"""Numbers that follow the count of updates."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from qchunk.types import Algorithm, Array, Chunk, Key, Learner, Spec


def scheduled(algorithm: Algorithm, name: str, value: Callable[[Array], Array]) -> Algorithm:
    """The same algorithm with ``value(updates done)`` [] in ``Vars.stats[name]``, where its policies and losses read it.

    It is set in ``prepare``, before every update, and on policy before an iteration's rollout, so that what is played is judged by the number that
    it was played with. After the last one it stays as that saw it.
    """

    def at(learner: Learner) -> Learner:
        found = jnp.asarray(value(learner.step), jnp.float32)
        return learner._replace(stats={**learner.stats, name: found})

    def init(key: Key, spec: Spec, given: dict | None = None) -> Learner:
        return at(algorithm.init(key, spec, given))

    def prepare(learner: Learner, given: dict, key: Key, chunk: Chunk) -> tuple[Learner, Chunk]:
        return algorithm.prepare(at(learner), given, key, chunk)

    return algorithm._replace(init=init, prepare=prepare, refresh=lambda learner: at(algorithm.refresh(learner)))


def linear(start: Array | float, end: Array | float, steps: int) -> Callable[[Array], Array]:
    """From ``start`` to ``end`` in so many updates, then ``end``; at once with 0."""
    return lambda done: end + (start - end) * jnp.clip(1.0 - done / max(steps, 1), 0.0, 1.0) * (steps > 0)
