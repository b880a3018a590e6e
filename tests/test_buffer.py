"""The online buffer against plain lists of steps."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qchunk.config import ChunkConfig
from qchunk.data import buffer, chunks
from qchunk.data.demonstrations import DEMONSTRATION, draw_with_demonstrations
from qchunk.data.played import PLAYED, its_plan
from qchunk.system.errors import UserError
from qchunk.types import EDGE, PLAN_STEP, Steps

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
    extras = {PLAN_STEP: np.arange(N, dtype=np.int32)[:, None].repeat(E, 1) % 2, "serial": serial.astype(np.int32)}
    return Steps(obs, action, reward, *floats, obs + 0.5, None, alive.astype(np.float32), extras=extras)


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
    ring, lists = played(rng, writes)
    slow = [slow_window(one[i:], c) for one in lists for i in range(len(one))]
    assert int(buffer.size(ring)[0].sum()) == len(slow)
    index = jnp.arange(E * CAPACITY)  # one compile; what is beyond the last step is left out
    found = buffer.windows(ring, *buffer.starts(ring, index), c, per_step=("serial",))
    w = jax.tree.map(lambda x: np.asarray(x)[: len(slow)], found)
    obs, action, mask, backups = (np.asarray(x, np.float32) for x in zip(*slow, strict=True))
    np.testing.assert_array_equal(w.obs, obs)
    np.testing.assert_array_equal(w.action, action)
    np.testing.assert_array_equal(w.mask, mask)
    ours = np.concatenate([np.stack([w.reward, w.discount, w.weight], axis=-1), w.next_obs], axis=-1)
    np.testing.assert_allclose(ours, backups, atol=1e-5)
    np.testing.assert_array_equal(w.extras["serial"][..., 0], [row["serial"] for row in slow_extras(lists, c)])
    np.testing.assert_array_equal(w.extras[PLAN_STEP], [row[PLAN_STEP] for row in slow_extras(lists, c)])


def played(rng, writes):
    """A ring, and the steps of each environment that it holds as a plain list."""
    ring = buffer.empty_for(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, steps_of(rng, 0))), CAPACITY)
    lists = [[] for _ in range(E)]
    for i in range(writes):
        s = steps_of(rng, 100 * i)
        ring = write(ring, s)
        for n, e in zip(*np.nonzero(s.alive), strict=True):
            row = {k: getattr(s, k)[n, e] for k in ("obs", "action", "reward", "terminal", "next_obs")}
            row |= {k: x[n, e] for k, x in s.extras.items()}
            lists[e].append(
                {**row, "end": s.terminal[n, e] or s.truncation[n, e], "first": not lists[e] or lists[e][-1]["end"]}
            )
    return ring, [one[-CAPACITY:] for one in lists]


def slow_extras(lists, c):
    for steps in (one[i:] for one in lists for i in range(len(one))):
        left = next((i + 1 for i, s in enumerate(steps) if s["end"]), len(steps))
        serial = [int(steps[min(k, left - 1)]["serial"][0]) for k in range(c.horizon)]
        yield {"serial": serial, PLAN_STEP: int(steps[0][PLAN_STEP])}


@pytest.mark.parametrize("writes", [1, 2, 5])
def test_consecutive_chunks_equal_windows_of_lists(writes):
    """Each is the window that starts there; from the episode's end, or the write pointer, on it counts nowhere."""
    ring, lists = played(np.random.default_rng(writes), writes)
    c, count = ChunkConfig(2, (), 0.9), sum(map(len, lists))
    env, position = buffer.starts(ring, jnp.arange(count))
    found = jax.tree.map(np.asarray, jax.jit(buffer.consecutive, static_argnums=3)(ring, env, position, 3, c))
    for b, steps in enumerate(one[i:] for one in lists for i in range(len(one))):
        left = next((i + 1 for i, s in enumerate(steps) if s["end"]), len(steps))
        for u in range(3):
            one = jax.tree.map(lambda x: x[b, u], found)
            if 2 * u < left:
                obs, action, mask, backups = slow_window(steps[2 * u :], c)
                np.testing.assert_array_equal(one.obs, obs)
                np.testing.assert_array_equal(one.mask, mask)
                np.testing.assert_allclose(one.action, np.asarray(action))
                np.testing.assert_allclose(
                    [*one.reward, *one.discount, *one.weight, *one.next_obs[0]], backups[0], atol=1e-5
                )
            else:
                assert not one.mask.any() and not one.weight.any() and not one.reward.any() and one.last == 1
                np.testing.assert_array_equal(one.obs, steps[left - 1]["next_obs"])


@pytest.mark.parametrize("starts", ["decision", "episode"])
def test_where_windows_of_the_ring_start(starts):
    """The first step of an episode is known as one while the step before it is there, too, or was never made."""
    c = ChunkConfig(2, starts=starts)

    @jax.jit
    def all_of(ring):
        found = buffer.windows(ring, *buffer.start_at(ring, jnp.arange(E * CAPACITY), c), c)
        return buffer.count_starts(ring, c), found.extras["serial"][:, 0]

    for writes in (1, 2, 5):
        ring, lists = played(np.random.default_rng(10 + writes), writes)
        wanted = []
        for e, one in enumerate(lists):
            whole = int(ring.written[e]) <= CAPACITY
            for i, row in enumerate(one):
                if row[PLAN_STEP] == 0 if starts == "decision" else row["first"] and (i > 0 or whole):
                    wanted.append(int(row["serial"][0]))
        assert wanted and len(set(wanted)) < sum(map(len, lists))
        count, serial = all_of(ring)
        assert count == len(wanted)
        assert sorted(np.asarray(serial)[: len(wanted)]) == sorted(wanted)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_which_windows_one_plan_played(count):
    """Those of whose steps, up to the episode's end, each is as far in its plan as in the window; plans are of two steps or fewer."""
    ring, lists = played(np.random.default_rng(4), 5)
    env, position = buffer.starts(ring, jnp.arange(sum(map(len, lists))))
    found = jax.jit(its_plan, static_argnums=(3, 4))(ring, env, position, count, "serial")
    wanted, serial = [], []
    for steps in (one[i:] for one in lists for i in range(len(one))):
        left = next((i + 1 for i, s in enumerate(steps) if s["end"]), len(steps))
        wanted.append(all(s[PLAN_STEP] == k for k, s in enumerate(steps[: min(left, count)])))
        serial.append(steps[0]["serial"])
    np.testing.assert_array_equal(found[PLAYED], wanted)
    np.testing.assert_array_equal(found["serial"], serial)
    assert 0 < np.mean(wanted) < 1


def test_actions_are_kept_inside_their_range():
    """Of an action at an end of [-1, 1] the density of a squashed Gaussian would not be finite."""
    steps = steps_of(np.random.default_rng(0), 0)
    ring = write(
        buffer.empty_for(jax.tree.map(jnp.asarray, steps), 8), steps._replace(action=2 * np.sign(steps.action))
    )
    held = np.asarray(ring.action)[np.asarray(ring.action) != 0]
    np.testing.assert_array_equal(np.unique(np.abs(held)), np.float32(EDGE))


def test_a_ring_within_one_long_episode_is_drawn_from_anywhere():
    steps = steps_of(np.random.default_rng(0), 0)
    steps = steps._replace(
        terminal=0 * steps.terminal, truncation=0 * steps.truncation, alive=np.ones((N, E), np.float32)
    )
    ring = buffer.empty_for(jax.tree.map(jnp.asarray, steps), 6)
    for _ in range(2):
        ring = write(ring, steps)
    assert int(buffer.count_starts(ring, ChunkConfig(2, starts="episode"))) == 6 * E


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


def drawn(source, batch, **more):
    draw = lambda data, ring: buffer.draw(  # noqa: E731
        jax.random.key(0), source._replace(data=data, ring=ring), ChunkConfig(3), batch, **more
    )
    return jax.jit(draw)(source.data, source.ring)


def test_uniform_mix(both):
    """Every transition of either source is drawn equally often, and its source is told."""
    data, ring = both
    chunk = drawn(buffer.Source(data, ring), 54_000)
    values, counts = np.unique(np.asarray(chunk.obs), return_counts=True)
    assert len(values) == 54 and counts.min() > 850 and counts.max() < 1150  # 1000 +- 5 deviations
    np.testing.assert_array_equal(chunk.extras["source"], np.asarray(chunk.obs[:, 0] > 0, np.float32))


def test_share_mix(both):
    data, ring = both
    chunk = drawn(buffer.Source(data, ring, "share:0.25"), 40)
    assert int((np.asarray(chunk.obs) > 0).sum()) == 10 == int(chunk.extras["source"].sum())


def test_an_empty_ring_is_never_drawn_from(both):
    data, _ = both
    source = buffer.Source(data, buffer.empty(E, CAPACITY, 1, 2))
    chunk = drawn(source, 1000)
    assert (np.asarray(chunk.obs) < 0).all() and not chunk.extras["source"].any()


@pytest.mark.parametrize("mix", ["half", "share:", "share:2", "share:nan", "uniform:1"])
def test_unknown_mixes(mix):
    with pytest.raises(UserError, match="share:0.5"):
        buffer.share_of(mix)


def test_both_sources_cut_alike(both):
    """Consecutive chunks of data and ring in one batch, with the extras that both have."""
    data, ring = both
    ring = ring._replace(extras={"mine": ring.reward, "latent": jnp.zeros((E * CAPACITY, 2))})
    data = data._replace(extras={"latent": jnp.ones((33, 2)), "theirs": data.reward})
    for mix in ("uniform", "share:0.5"):
        chunk = drawn(buffer.Source(data, ring, mix), 40, count=2, per_step=("latent",))
        assert chunk.action.shape == (40, 2, 3, 2) and chunk.extras["latent"].shape == (40, 2, 3, 2)
        assert set(chunk.extras) == {"latent", "source"} and chunk.extras["source"].shape == (40, 2)
        np.testing.assert_array_equal(chunk.extras["source"], np.asarray(chunk.obs[..., 0] > 0, np.float32))
        np.testing.assert_array_equal(chunk.extras["latent"][..., 0, 0], 1 - chunk.extras["source"])


def test_without_a_ring_the_data_set_is_drawn_from(both):
    chunk = drawn(buffer.Source(both[0]), 10)
    alone = jax.jit(lambda data: chunks.draw(jax.random.key(0), data, ChunkConfig(3), 10))(both[0])
    chex.assert_trees_all_equal(chunk, alone)


def test_demonstrations_are_data_and_episodes_that_ended_well():
    """Four online episodes: a success, a failure with a penalty, a time-out, and one that still runs; two more steps to a success."""
    ends = [(2, 1, 0.0), (3, 1, -100.0), (2, 0, 0.0), (1, 0, None)]  # length, terminal, last reward
    rows, wanted = [], []
    for length, terminal, last in ends:
        for t in range(length):
            over = last is not None and t == length - 1
            rows.append((-1.0 if not over else last, float(over and terminal), float(over)))
        wanted += [float(terminal and last == 0.0)] * length
    reward, terminal, end = (jnp.asarray(x, jnp.float32)[:, None] for x in zip(*rows, strict=True))
    n = len(rows)
    obs = jnp.arange(float(n))[:, None, None]
    steps = Steps(obs, obs, reward, terminal, end - terminal, obs + 1, None, jnp.ones((n, 1)))
    ring = buffer.write(buffer.empty(1, 16, 1, 1), steps)
    data = chunks.dataset(np.full((3, 1), 100.0), np.zeros((3, 1)), np.zeros(3), np.zeros(3), np.asarray([0, 0, 1]))
    chunk = draw_with_demonstrations(jax.random.key(0), buffer.Source(data, ring, "share:0.5"), ChunkConfig(1), 64)
    offline = np.asarray(chunk.extras["source"]) == 0
    shown = np.asarray(chunk.extras[DEMONSTRATION])
    assert offline.sum() == 32 and (shown[offline] == 1).all()
    np.testing.assert_array_equal(shown[~offline], np.asarray(wanted)[np.asarray(chunk.obs)[~offline, 0].astype(int)])
    assert 0 < shown[~offline].sum() < 32
    assert (
        draw_with_demonstrations(jax.random.key(0), buffer.Source(data), ChunkConfig(1), 8).extras[DEMONSTRATION] == 1
    ).all()


def test_demonstrations_among_the_data_may_be_those_that_lead_to_a_success():
    """Episodes of 5 steps: a success, after which data go on to another; a failure with a penalty before a success; a success at last; none."""
    terminal, reward = np.zeros((4, 6)), np.full((4, 6), -1.0)  # the last row is the final observation
    for episode, step, last in [(0, 1, 0.0), (0, 3, 0.0), (1, 2, -100.0), (1, 4, 0.0), (2, 4, 1.0)]:
        terminal[episode, step], reward[episode, step] = 1.0, last
    wanted = {0: [1, 1, 1, 1, 0], 1: [0, 0, 0, 1, 1], 2: [1] * 5, 3: [0] * 5}
    end = np.tile(np.arange(6) == 5, 4)
    obs = np.arange(24.0)[:, None]
    data = chunks.dataset(obs, np.zeros((24, 1)), reward.ravel(), terminal.ravel(), end)
    chunk = draw_with_demonstrations(jax.random.key(0), buffer.Source(data), ChunkConfig(2), 256, "successes")
    episode, step = np.divmod(np.asarray(chunk.obs)[:, 0].astype(int), 6)
    assert len(set(zip(episode, step, strict=True))) == 20
    np.testing.assert_array_equal(
        chunk.extras[DEMONSTRATION], [wanted[e][k] for e, k in zip(episode, step, strict=True)]
    )
