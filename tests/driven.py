"""What tests of drivers share: rows of random play, events that are kept, and equality to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.play import collecting


def rows_of(env, behaviour, steps, envs, **how):
    """Rows of a scripted behaviour's play, always of the same key."""
    scheme = collecting.scheme_of(env, behaviour)
    return collecting.collect(env, scheme, collecting.NO_VARS, jax.random.key(0), steps=steps, envs=envs, **how)


def random_rows(env, steps, envs, **how):
    """``rows_of`` random play."""
    return rows_of(env, "random", steps, envs, **how)


def keep(tree):
    """A copy: the driver reuses a yielded state's memory."""
    return jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else jnp.copy(x), tree)


def kept(events):
    """All events, with copies of what they carry."""
    return [e._replace(learner=keep(e.learner), state=keep(e.state)) for e in events]


def same(a, b):
    """Asserts that two trees are equal to the bit, random keys by their data."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)
