"""Chunk windows against a slow loop, and the data format's refusals."""

from __future__ import annotations

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qchunk import envs
from qchunk.config import ChunkConfig
from qchunk.data import chunks, formats
from qchunk.play import collecting
from qchunk.system.errors import UserError
from qchunk.types import PLAN_STEP

O, A = 2, 1


def make_rows(lengths, terminals, rng):
    """Episodes of these lengths; ``terminals`` flags successes, transition by transition, anywhere in them."""
    parts, at = [], 0
    for length in lengths:
        end = np.zeros(length + 1, bool)
        end[-1] = True
        terminal = np.append(terminals[at : at + length], False)
        reward = rng.normal(size=length + 1).astype(np.float32)
        obs = rng.normal(size=(length + 1, O)).astype(np.float32)
        action = rng.uniform(-1, 1, (length + 1, A)).astype(np.float32)
        parts.append((obs, action, reward, terminal, end))
        at += length
    return formats.Rows(*(np.concatenate(x) for x in zip(*parts, strict=True)))


@pytest.mark.parametrize(
    "limit, n, share", [(10, 5, 0.180), (20, 5, 0.059), (50, 5, 0.008), (100, 5, 0.001), (50, 10, 0.021)]
)
def test_what_a_time_limit_does_to_values(limit, n, share):
    """The figures of docs/decisions.md, for a chance of 0.05: every episode there can be, each window with its probability."""
    p, gamma = 0.05, 0.99
    lengths = [*range(1, limit + 1), limit]  # success at step k, or none until the limit
    success = [np.arange(1, k + 1) == k for k in lengths[:-1]] + [np.zeros(limit, bool)]
    rows = make_rows(lengths, np.concatenate(success), np.random.default_rng(0))
    rows = rows._replace(reward=np.where(rows.terminal, 0.0, -1.0).astype(np.float32))
    data = formats.to_device(rows)
    found = chunks.windows(data, data.starts, ChunkConfig(n, gamma=gamma))
    chance = [p * (1 - p) ** (k - 1) for k in lengths[:-1]] + [(1 - p) ** limit]
    weight = np.repeat(chance, lengths) * np.asarray(found.weight[:, 0])
    reward, discount = (np.asarray(x[:, 0]) for x in (found.reward, found.discount))
    value = weight @ reward / (weight.sum() - weight @ discount)  # of one state: V = mean of R + discount V
    truth = -(1 - p) / (1 - gamma * (1 - p))
    assert value / truth == pytest.approx(1 - share, abs=0.001)


def slow_window(rows, i, c):
    """One window, step by step, as the docstring of ``windows`` says."""
    last = i
    while not rows.end[last]:
        last += 1
    left = last - i
    action = [rows.action[i + min(k, left - 1)] for k in range(c.horizon)]
    mask = [float(k < left) for k in range(c.horizon)]
    reward, discount, weight, next_obs = [], [], [], []
    for n in c.points:
        total, alive = 0.0, True
        for k in range(min(n, left)):
            if alive:
                total += c.gamma**k * float(rows.reward[i + k])
            if rows.terminal[i + k]:
                alive = False
        reward.append(total)
        discount.append(c.gamma**n if alive else 0.0)
        weight.append(1.0 if n <= left or not alive else 0.0)
        next_obs.append(rows.obs[i + min(n, left)])
    ends = float(left <= max(c.horizon, c.points[-1]))
    return action, mask, reward, discount, weight, next_obs, ends


cut = jax.jit(chunks.windows)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    density=st.sampled_from([0.0, 0.1, 0.5]),
    horizon=st.integers(1, 5),
    backup=st.sampled_from([(), (1,), (3,), (1, 2, 6), (7,)]),
    seed=st.integers(0, 1000),
)
def test_windows_equal_a_slow_loop(lengths, density, horizon, backup, seed):
    rng = np.random.default_rng(seed)
    lengths = [*lengths, 70 - sum(n + 1 for n in lengths)]  # 71 rows in all, so that few programs serve every example
    rows = make_rows(lengths, rng.uniform(size=sum(lengths)) < density, rng)
    c = ChunkConfig(horizon, backup, 0.9)
    data = chunks.dataset(*rows)
    assert data.starts.shape == (sum(lengths),)
    w = jax.tree.map(lambda x: x[: sum(lengths)], cut(data, jnp.resize(data.starts, 70), c))
    slow = [np.asarray(x, np.float32) for x in zip(*(slow_window(rows, int(i), c) for i in data.starts), strict=True)]
    for ours, theirs in zip((w.action, w.mask, w.reward, w.discount, w.weight, w.next_obs, w.last), slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(w.obs, rows.obs[np.asarray(data.starts)])


def test_starts_are_uniform_over_transitions():
    rng = np.random.default_rng(0)
    rows = make_rows([1, 9, 2], np.zeros(12, bool), rng)
    data = chunks.dataset(*rows)
    drawn = chunks.draw(jax.random.key(0), data, ChunkConfig(2), 24_000)
    counts = [int((drawn.obs == rows.obs[int(i)]).all(axis=1).sum()) for i in data.starts]
    assert sum(counts) == 24_000 and min(counts) > 1800 and max(counts) < 2200


def test_a_chunk_longer_than_every_episode():
    data = chunks.dataset(*make_rows([3, 4], np.zeros(7, bool), np.random.default_rng(0)))
    chunks.check_fits(data, ChunkConfig(4))
    with pytest.raises(UserError, match="backup 5 is longer"):
        chunks.check_fits(data, ChunkConfig(1, (5,)))


@pytest.fixture
def rows():
    return make_rows([4, 3], np.asarray([0, 0, 0, 1, 0, 0, 0], bool), np.random.default_rng(1))


def test_round_trip(rows, tmp_path):
    mark = formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})
    again, about = formats.load(tmp_path / "d.npz")
    for a, b in zip(rows, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert about["fingerprint"] == mark == formats.fingerprint(again)
    other = rows._replace(reward=rows.reward + np.float32(1e-6))
    assert formats.fingerprint(other) != mark
    with pytest.raises(UserError, match="exists"):
        formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})


def poke(x, value):
    x = x.copy()
    x.flat[1] = value
    return x


BAD = [
    (lambda r: r._replace(obs=poke(r.obs, np.nan)), "obs holds NaN or infinite"),
    (lambda r: r._replace(reward=poke(r.reward, np.inf)), "reward holds NaN or infinite"),
    (lambda r: r._replace(action=poke(r.action, 1.5)), "outside"),
    (lambda r: r._replace(end=np.zeros_like(r.end)), "no episode end"),
    (lambda r: r._replace(end=poke(r.end, True) & (np.arange(len(r.end)) < 3)), "on its last row"),
    (lambda r: r._replace(reward=r.reward[:-1]), "do not fit"),
    (lambda r: jax.tree.map(lambda x: x[:0], r), "no transition"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_rows_are_refused(case, rows, tmp_path):
    spoil, line = BAD[case]
    formats.save(tmp_path / "d.npz", spoil(rows), {"env": "probe/flag"})
    with pytest.raises(UserError, match=line):
        formats.load(tmp_path / "d.npz")


def test_bad_files_are_refused(rows, tmp_path):
    good = tmp_path / "good.npz"
    formats.save(good, rows, {"env": "probe/flag"})
    data = good.read_bytes()
    for name, content in {"empty": b"", "torn": data[: len(data) // 2], "text": b"no npz"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"truncated"):
            formats.load(tmp_path / name)
    np.savez(tmp_path / "foreign.npz", observations=np.zeros(3))
    with pytest.raises(UserError, match="lacks obs"):
        formats.load(tmp_path / "foreign.npz")
    about = json.dumps({"format": formats.FORMAT, "version": formats.VERSION, "fingerprint": "0", "env": "probe/flag"})
    arrays = formats.arrays_of(rows)
    np.savez(tmp_path / "changed.npz", about=about, **arrays)
    with pytest.raises(UserError, match="fingerprint"):
        formats.load(tmp_path / "changed.npz")
    np.savez(tmp_path / "old.npz", about=json.dumps({"format": formats.FORMAT, "version": 0}), **arrays)
    with pytest.raises(UserError, match="version 0"):
        formats.load(tmp_path / "old.npz")
    np.savez(
        tmp_path / "pickled.npz", about=about, **{**arrays, "obs": np.asarray([{}], dtype=object)}, allow_pickle=True
    )
    with pytest.raises(UserError, match="obs holds Python objects, which are never unpickled"):
        formats.load(tmp_path / "pickled.npz")


def test_data_of_another_environment(rows, tmp_path):
    formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})
    data, _ = formats.for_env(tmp_path / "d.npz", envs.make("probe/flag"), "probe/flag")
    assert float(jnp.max(jnp.abs(data.action))) < 1.0
    with pytest.raises(UserError, match="holds data of probe/flag"):
        formats.for_env(tmp_path / "d.npz", envs.make("probe/constant"), "probe/constant")
    formats.save(tmp_path / "w.npz", rows._replace(obs=rows.obs[:, :1]), {"env": "probe/flag"})
    with pytest.raises(UserError, match=r"sizes \(1, 1\)"):
        formats.for_env(tmp_path / "w.npz", envs.make("probe/flag"), "probe/flag")


def test_one_data_set_serves_every_task_of_a_scene():
    """Relabelled reward and terminal are those of the task, from what each transition reached."""
    task = envs.make("tabletop/cube-single-task1")
    obs = np.zeros((3, task.observation_size), np.float32)
    goal = (np.asarray(task.goal[0]) - np.asarray([0.425, 0.0, 0.0])) * 10
    obs[1, 7:10] = goal
    end = np.asarray([False, False, True])
    rows = formats.Rows(obs, np.zeros((3, 5), np.float32), np.zeros(3, np.float32), np.zeros(3, bool), end)
    again = formats.relabelled(rows, task)
    np.testing.assert_array_equal(again.reward, [0.0, -1.0, 0.0])
    np.testing.assert_array_equal(again.terminal, [True, False, False])


def test_left_of_counts_down_to_each_final_observation():
    end = np.asarray([0, 0, 0, 1, 0, 1, 1], bool)
    np.testing.assert_array_equal(chunks.left_of(end), [3, 2, 1, 0, 1, 0, 0])
    assert chunks.left_of(end).dtype == np.int32


def test_a_horizon_longer_than_every_episode():
    data = chunks.dataset(*make_rows([3, 4], np.zeros(7, bool), np.random.default_rng(0)))
    with pytest.raises(UserError, match=r"horizon 5 is longer .* has 4 steps.*give --chunk.horizon 4"):
        chunks.check_fits(data, ChunkConfig(5, (2,)))


class Spy:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_ever_unpickled(rows, tmp_path):
    text = json.dumps({"format": formats.FORMAT, "version": formats.VERSION, "fingerprint": "0"})
    obs = np.asarray([[Spy(tmp_path / "ran")] * 2] * len(rows.obs), dtype=object)
    arrays = {**formats.arrays_of(rows), "obs": obs}
    np.savez(tmp_path / "d.npz", about=text, **arrays)
    with pytest.raises(UserError, match="never unpickled"):
        formats.load(tmp_path / "d.npz")
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "d.npz", allow_pickle=True)["obs"]
    assert (tmp_path / "ran").exists(), "the trap itself must work"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no data set at"):
        formats.load(tmp_path / "none.npz")


def test_every_truncation_is_refused(rows, tmp_path):
    formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})
    data = (tmp_path / "d.npz").read_bytes()
    for size in range(1, len(data), 97):
        (tmp_path / "cut.npz").write_bytes(data[:size])
        with pytest.raises(UserError):
            formats.load(tmp_path / "cut.npz")


def flip(path, at, mask):
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_refused_or_harmless(rows, tmp_path):
    """Also in the zip's own headers: version needed, flags and method lie in its central directory."""
    formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})
    data, file = (tmp_path / "d.npz").read_bytes(), tmp_path / "flipped.npz"
    start = data.index(b"PK\x01\x02")
    for at in [*range(0, start, 23), *range(start, start + 46)]:
        for mask in (0x01, 0x80):
            file.write_bytes(data)
            flip(file, at, mask)
            try:
                again, _ = formats.load(file)
            except UserError:
                continue
            assert formats.fingerprint(again) == formats.fingerprint(rows)


@pytest.mark.parametrize("text", ["[1]", "{}", '"text"'])
def test_a_foreign_description_is_refused(text, rows, tmp_path):
    np.savez(tmp_path / "d.npz", about=text, **formats.arrays_of(rows))
    with pytest.raises(UserError):
        formats.load(tmp_path / "d.npz")


def test_a_description_without_fingerprint_is_refused(rows, tmp_path):
    text = json.dumps({"format": formats.FORMAT, "version": formats.VERSION, "env": "probe/flag"})
    np.savez(tmp_path / "d.npz", about=text, **formats.arrays_of(rows))
    with pytest.raises(UserError, match="fingerprint"):
        formats.load(tmp_path / "d.npz")


def test_one_bare_array_is_refused(rows, tmp_path):
    np.save(tmp_path / "d.npy", rows.obs)
    with pytest.raises(UserError, match="no npz file"):
        formats.load(tmp_path / "d.npy")


def test_arrays_of_text_are_refused(rows, tmp_path):
    bad = rows._replace(obs=np.full(rows.obs.shape, "a"))
    formats.save(tmp_path / "d.npz", bad, {"env": "probe/flag"})
    with pytest.raises(UserError, match="obs"):
        formats.load(tmp_path / "d.npz")


def test_history_repeats_the_first_observation_and_crosses_no_episode():
    """Against a slow loop, with episodes of 1 to 4 transitions, some shorter than the history."""
    lengths = [1, 4, 2, 1, 3]
    end = np.concatenate([np.r_[np.zeros(n, bool), True] for n in lengths])
    obs = np.stack([np.arange(len(end), dtype=np.float32), -np.arange(len(end), dtype=np.float32)], axis=1)
    data = chunks.dataset(obs, np.zeros((len(end), 1)), np.zeros(len(end)), np.zeros(len(end)), end)
    seen = chunks.with_history(data, 3)
    first = np.concatenate(
        [np.full(n + 1, s) for n, s in zip(lengths, np.r_[0, np.flatnonzero(end)[:-1] + 1], strict=True)]
    )
    for row in range(len(end)):
        wanted = np.concatenate([obs[max(row - j, first[row])] for j in (2, 1, 0)])
        np.testing.assert_array_equal(seen.obs[row], wanted)
    assert chunks.with_history(data, 1) is data


def test_history_of_data_is_what_the_environment_shows():
    """Rows collected through ``History`` against the same rows collected without, then stacked."""
    env = envs.make("probe/pole")
    shown, plain = (
        formats.to_device(
            collecting.collect(
                e, collecting.scheme_of(env, "random"), collecting.NO_VARS, jax.random.key(0), steps=300, envs=4
            )
        )
        for e in (envs.make("probe/pole", history=3), env)
    )
    np.testing.assert_array_equal(shown.obs, chunks.with_history(plain, 3).obs)
    with pytest.raises(UserError, match="one observation at a time"):
        envs.make("gymnasium/Pendulum-v1", history=2)


@pytest.mark.parametrize(("padding", "late"), [("masked", [1, 1, 0]), ("repeated", [1, 1, 1]), ("whole", [0, 0, 0])])
def test_padding_rules(padding, late):
    """Chunks of 3 from an episode of 4: whole ones count whole, one that starts at step 2 has two steps inside."""
    rows = np.arange(5, dtype=np.float32)[:, None]
    data = chunks.dataset(rows, rows / 10, rows[:, 0], np.zeros(5), np.arange(5) == 4)
    c = ChunkConfig(3, padding=padding)
    chunk = chunks.windows(data, jnp.asarray([0, 1, 2]), c)
    np.testing.assert_array_equal(chunk.mask, [[1, 1, 1], [1, 1, 1], late])
    np.testing.assert_allclose(chunk.action[2, :, 0], [0.2, 0.3, 0.3])
    np.testing.assert_array_equal(chunk.weight[:, 0], [1, 1, 0])  # what values learn from does not change


def test_consecutive_chunks_equal_a_slow_loop():
    """Three chunks from every row: each is the window there (held against a loop above), or counts nowhere past the end."""
    rng = np.random.default_rng(0)
    lengths = [1, 9, 2, 4, 6]
    rows = make_rows(lengths, rng.uniform(size=sum(lengths)) < 0.2, rng)
    data, ends = chunks.dataset(*rows), np.flatnonzero(rows.end)
    for c in (ChunkConfig(2, (), 0.9), ChunkConfig(2, (1, 3), 0.9, "repeated"), ChunkConfig(3, (), 0.9, "whole")):
        found = jax.jit(chunks.consecutive, static_argnums=2)(data, data.starts, 3, c)
        assert found.action.shape == (len(data.starts), 3, c.horizon, A) and found.last.shape == (len(data.starts), 3)
        found, windows = jax.tree.map(np.asarray, (found, cut(data, jnp.arange(len(rows.end)), c)))
        for b, start in enumerate(np.asarray(data.starts)):
            final = ends[ends >= start][0]
            for u in range(3):
                row, one = start + u * c.horizon, jax.tree.map(lambda x: x[b, u], found)
                if row < final:
                    chex.assert_trees_all_equal(one, jax.tree.map(lambda x: x[row], windows))
                else:
                    assert not one.mask.any() and not one.weight.any() and not one.reward.any() and one.last == 1
                    np.testing.assert_array_equal(one.obs, rows.obs[final])
                    np.testing.assert_array_equal(one.next_obs, np.tile(rows.obs[final], (len(c.points), 1)))


def with_extras(rows, rng):
    """Plans of two steps, whose latent is the number of the row that they were made at; nothing on final rows."""
    first = np.concatenate([np.arange(n + 1) for n in np.diff(np.flatnonzero(rows.end), prepend=-1) - 1])
    at = np.arange(len(rows.end)) - first % 2
    latent = np.stack([at, -at], axis=1).astype(np.float32)
    return rows._replace(
        extras={PLAN_STEP: (first % 2).astype(np.int32), "latent": latent, "pixel": first[:, None] > 2}
    )


def test_extras_are_those_of_the_start_or_of_every_step(tmp_path):
    rng = np.random.default_rng(0)
    rows = with_extras(make_rows([5, 3], np.zeros(8, bool), rng), rng)
    formats.save(tmp_path / "d.npz", rows, {"env": "probe/flag"})
    again, _ = formats.load(tmp_path / "d.npz")
    chex.assert_trees_all_equal(rows, again)
    chex.assert_trees_all_equal_dtypes(rows, again)
    data = formats.to_device(again)
    w = chunks.windows(data, jnp.asarray([1, 3, 6]), ChunkConfig(3), per_step=("latent",))
    np.testing.assert_array_equal(w.extras[PLAN_STEP], [1, 1, 0])
    np.testing.assert_array_equal(w.extras["pixel"], [[False], [True], [False]])
    np.testing.assert_array_equal(w.extras["latent"][..., 0], [[0, 2, 2], [2, 4, 4], [6, 6, 8]])
    with pytest.raises(ValueError, match="no extras"):
        chunks.windows(data, jnp.asarray([1]), ChunkConfig(3), per_step=("path",))
    for part in ({"latent": rows.extras["latent"][:-1]}, {"latent": np.full(len(rows.end), "a")}):
        formats.save(tmp_path / f"{len(list(tmp_path.iterdir()))}.npz", rows._replace(extras=part), {"env": "x"})
        with pytest.raises(UserError, match="do not fit"):
            formats.load(sorted(tmp_path.iterdir())[0])


@pytest.mark.parametrize(
    ("starts", "rows"), [("step", [0, 1, 2, 3, 4, 6, 7, 8]), ("decision", [0, 2, 4, 6, 8]), ("episode", [0, 6])]
)
def test_where_windows_start(starts, rows):
    rng = np.random.default_rng(0)
    data = formats.to_device(with_extras(make_rows([5, 3], np.zeros(8, bool), rng), rng))
    c = ChunkConfig(2, starts=starts)
    drawn = chunks.draw_starts(jax.random.key(0), data, c, 4000)
    found, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(found, rows)
    assert counts.min() > 0.8 * 4000 / len(rows)
    chunk = chunks.draw(jax.random.key(0), data, c, 4000)
    np.testing.assert_array_equal(chunk.obs, data.obs[drawn])


def test_decisions_that_data_do_not_know_are_all_steps():
    data = chunks.dataset(*make_rows([5, 3], np.zeros(8, bool), np.random.default_rng(0)))
    np.testing.assert_array_equal(data.decisions, data.starts)
