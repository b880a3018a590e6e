"""The online buffer against plain lists of steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qchunk.config import ChunkConfig
from qchunk.data import buffer, chunks
from qchunk.system.errors import UserError
from qchunk.types import Steps

E, N, CAPACITY = 3, 4, 8  # environments, steps per write, rows of each environment
write = jax.jit(buffer.write)


def steps_of(rng, start):
    """N steps of E environments; an environment that ends rests for what is left of them."""
    alive, done = np.ones((N, E)), rng.uniform(size=(N, E)) < 0.25
    for e in range(E):
        if done[:, e].any():
            alive[np.argmax(done[:, e]) + 1 :, e] = 0
    terminal = done & (rng.uniform(size=(N, E)) < 0.5)
    serial = start + np.arange(N * E, dtype=np.float32).reshape(N, E, 1)
    obs = serial + rng.normal(size=(N, E, 1)).astype(np.float32) * 0.1
    action = rng.uniform(-0.9, 0.9, (N, E, 2)).astype(np.float32)
    reward = rng.normal(size=(N, E)).astype(np.float32)
    floats = (x.astype(np.float32) for x in (terminal, done & ~terminal))
    return Steps(obs, action, reward, *floats, obs + 0.5, None, alive.astype(np.float32))


def slow_window(steps, c):
    """The window at the first of ``steps``, up to its episode's end or to what has been written."""
    left = next((i + 1 for i, s in enumerate(steps) if s["end"]), len(steps))
    action = [steps[min(k, left - 1)]["action"] for k in range(c.horizon)]
    mask = [float(k < left) for k in range(c.horizon)]
    backups = []
    for n in c.points:
        total, alive = 0.0, True
        for k in range(min(n, left)):
            total += alive * c.gamma**k * steps[k]["reward"]
            alive = alive and not steps[k]["terminal"]
        weight = float(n <= left or not alive)
        backups.append((total, alive * c.gamma**n, weight, *steps[min(n, left) - 1]["next_obs"]))
    return steps[0]["obs"], action, mask, backups


@settings(max_examples=20, deadline=None)
@given(writes=st.integers(1, 6), backup=st.sampled_from([(), (1, 4)]), seed=st.integers(0, 10_000))
def test_windows_equal_lists(writes, backup, seed):
    rng, c = np.random.default_rng(seed), ChunkConfig(3, backup, 0.9)
    ring = buffer.empty(E, CAPACITY, 1, 2)
    lists = [[] for _ in range(E)]
    for i in range(writes):
        s = steps_of(rng, 100 * i)
        ring = write(ring, s)
        for n, e in zip(*np.nonzero(s.alive), strict=True):
            row = {k: getattr(s, k)[n, e] for k in ("obs", "action", "reward", "terminal", "next_obs")}
            lists[e].append({**row, "end": s.terminal[n, e] or s.truncation[n, e]})
    lists = [one[-CAPACITY:] for one in lists]
    slow = [slow_window(one[i:], c) for one in lists for i in range(len(one))]
    assert int(buffer.size(ring)[0].sum()) == len(slow)
    index = jnp.arange(E * CAPACITY)  # one compile; what is beyond the last step is left out
    w = jax.tree.map(lambda x: np.asarray(x)[: len(slow)], buffer.windows(ring, *buffer.starts(ring, index), c))
    obs, action, mask, backups = (np.asarray(x, np.float32) for x in zip(*slow, strict=True))
    np.testing.assert_array_equal(w.obs, obs)
    np.testing.assert_array_equal(w.action, action)
    np.testing.assert_array_equal(w.mask, mask)
    ours = np.concatenate([np.stack([w.reward, w.discount, w.weight], axis=-1), w.next_obs], axis=-1)
    np.testing.assert_allclose(ours, backups, atol=1e-5)


@pytest.fixture(scope="module")
def both():
    """An offline data set of 30 transitions whose observations are negative, and a ring of 24 steps, positive."""
    rng = np.random.default_rng(0)
    end = np.zeros(33, bool)
    end[[10, 21, 32]] = True
    obs = -1.0 - np.arange(33, dtype=np.float32)[:, None]
    data = chunks.dataset(obs, rng.uniform(-1, 1, (33, 2)), np.zeros(33), np.zeros(33), end)
    ring, written = buffer.empty(E, CAPACITY, 1, 2), 0
    while int(ring.written.min()) < CAPACITY:
        ring, written = write(ring, steps_of(rng, 10.0 + 100 * written)), written + 1
    return data, ring


def test_uniform_mix(both):
    """Every transition of either source is drawn equally often, and its source is told."""
    data, ring = both
    chunk = buffer.draw(jax.random.key(0), buffer.Source(data, ring), ChunkConfig(3), 54_000)
    values, counts = np.unique(np.asarray(chunk.obs), return_counts=True)
    assert len(values) == 54 and counts.min() > 850 and counts.max() < 1150  # 1000 +- 5 deviations
    np.testing.assert_array_equal(chunk.extras["source"], np.asarray(chunk.obs[:, 0] > 0, np.float32))


def test_share_mix(both):
    data, ring = both
    chunk = buffer.draw(jax.random.key(0), buffer.Source(data, ring, "share:0.25"), ChunkConfig(3), 40)
    assert int((np.asarray(chunk.obs) > 0).sum()) == 10 == int(chunk.extras["source"].sum())


def test_an_empty_ring_is_never_drawn_from(both):
    data, _ = both
    source = buffer.Source(data, buffer.empty(E, CAPACITY, 1, 2))
    chunk = buffer.draw(jax.random.key(0), source, ChunkConfig(3), 1000)
    assert (np.asarray(chunk.obs) < 0).all() and not chunk.extras["source"].any()


@pytest.mark.parametrize("mix", ["half", "share:", "share:2", "share:nan", "uniform:1"])
def test_unknown_mixes(mix):
    with pytest.raises(UserError, match="share:0.5"):
        buffer.share_of(mix)
