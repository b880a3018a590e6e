"""The stock Brax environments behind our interface. They reward every step and have no notion of success."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax

from qchunk import trees
from qchunk.envs.base import Env, State, Wrapper, quiet

EPISODE_LENGTH = 1000  # brax's own default, in environment steps


class Stock(Wrapper):
    """A stock environment with the two attributes that ours have besides brax's interface."""

    def __init__(self, env: Env, name: str):
        super().__init__(env)
        self.data_name = name
        self.episode_length = EPISODE_LENGTH

    @functools.cached_property
    def observation_size(self) -> Any:
        """Traced: brax runs a reset operation by operation to learn it, which takes up to 30 s."""
        return trees.sizes(jax.eval_shape(self.reset, jax.random.key(0)).obs)

    def reset(self, rng) -> State:
        with quiet():
            return self.env.reset(rng)


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """MuJoCo says nothing about the stock model files, whose words have aged; else each load prints it and makes a MUJOCO_LOG.TXT."""
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def make(name: str) -> Stock:
    """``halfcheetah`` or ``halfcheetah@spring``; without a backend, brax's default."""
    base, _, backend = name.partition("@")
    with quiet(), _unwarned():
        from brax import envs

        return Stock(envs.get_environment(base, **({"backend": backend} if backend else {})), f"brax/{name}")
