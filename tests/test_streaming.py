"""Data sets that stay on disk: the same bits as in memory, in bounded memory, for any method's draw."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys

import foreign_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import run
from test_held_out import FLAGS, recorded
from tiers import slow_but

import qchunk
from qchunk import normalise, registry
from qchunk.actor_configs import FlowConfig
from qchunk.config import ChunkConfig
from qchunk.data import buffer, formats, goals, npy_folder, on_disk, segments
from qchunk.data.buffer import Source
from qchunk.drivers import streaming
from qchunk.envs import held_out
from qchunk.system.errors import UserError

C = ChunkConfig(horizon=3)


def with_extras(rows):
    return rows._replace(extras={"plan_step": (np.arange(len(rows.end)) % 2).astype(np.int32), "z": rows.obs * 2})


def both(rows, tmp_path):
    """The same rows in memory and on disk."""
    npy_folder.write(tmp_path / "set", [(rows, "here")], dict)
    return formats.to_device(rows), on_disk.of_rows(npy_folder.mapped(tmp_path / "set")[0])


def from_disk(draw, data, key):
    """The chunks of a draw, read on the host."""
    leaves, (index, layout) = on_disk.leaves_of(data), on_disk.apart(data)
    asks = on_disk.asks_of(draw, index, layout, key)
    rows = jax.jit(lambda key: on_disk.asked(draw, index, layout, key)[1])(jax.random.clone(key))
    found = [leaves[name][np.asarray(rows[place])] for name, place in asks]
    return jax.jit(lambda key, found: on_disk.answered(draw, index, layout, key, found))(jax.random.clone(key), found)


DRAWS = {
    "windows": lambda key, source, c, batch: buffer.draw(key, source, c, batch),
    "several, with extras of every step": functools.partial(buffer.draw, count=2, per_step=("z",)),
    "whole windows": lambda key, source, c, batch: buffer.draw(
        key, source, dataclasses.replace(c, starts="whole"), batch
    ),
    "decisions": lambda key, source, c, batch: buffer.draw(
        key, source, dataclasses.replace(c, starts="decision"), batch
    ),
    "goals": functools.partial(goals.draw_toward_goals, goals=goals.GoalConfig()),
    "segments": segments.drawing_segments((1, 2)),
}


@pytest.mark.parametrize("name", slow_but(["goals"], DRAWS))
def test_any_draw_is_the_same_from_disk(name, tmp_path):
    rows = with_extras(recorded(6, 8))
    if name == "goals":
        rows = rows._replace(obs={"state": rows.obs, "goal": rows.obs[:, :2]})
    memory, disk = both(rows, tmp_path)

    def draw(data, key):
        return DRAWS[name](key, Source(data, goal_of=lambda obs: obs["state"][..., :2]), C, 7)

    key = jax.random.key(3)
    expected = jax.jit(draw)(memory, jax.random.clone(key))
    found = from_disk(draw, disk, jax.random.clone(key))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_a_draw_that_disk_cannot_answer_is_refused_in_a_line(tmp_path):
    index, layout = on_disk.apart(both(recorded(6, 8), tmp_path)[1])
    starts = jnp.arange(4)

    def refused(draw):
        with pytest.raises(UserError) as e:
            on_disk.asks_of(draw, index, layout, jax.random.key(0))
        assert "one file" in e.value.fix
        return e.value.problem

    assert "x[rows]" in refused(lambda data, key: jnp.sum(data.action))
    assert "obs[rows]" in refused(lambda data, key: data.obs[2:4])
    assert "depend" in refused(lambda data, key: data.action[jnp.argsort(data.obs[starts][:, 0])])
    assert "loop" in refused(lambda data, key: jax.vmap(lambda row: data.obs[row])(starts))
    assert on_disk.asks_of(lambda data, key: data.obs[starts], index, layout, jax.random.key(0)) == (("obs", 0),)


def test_a_folder_holds_several_files_and_says_what_is_wrong(tmp_path, capsys):
    first, second = recorded(3, 8), recorded(2, 8)
    for name, rows in (("a", first), ("b", second), ("both", formats.joined([first, second]))):
        formats.save(tmp_path / f"{name}.npz", rows, {"env": "my/robot"})
    convert = ["data", "convert", tmp_path / "a.npz", tmp_path / "b.npz"]
    code, _, err = run(capsys, *convert, "--out", tmp_path / "set")
    assert code == 2 and "--folder" in err
    code, out, err = run(capsys, *convert, "--out", tmp_path / "set", "--folder", "--json")
    assert code == 0, err
    mark = formats.load(tmp_path / "both.npz")[1]["fingerprint"]
    assert json.loads(out)["fingerprint"] == mark, "a folder is the same data as one file of its parts"
    assert formats.mapped(tmp_path / "set")[1]["fingerprint"] == mark and formats.mapped(tmp_path / "a.npz") is None
    rows, about = formats.read(tmp_path / "set", None)
    assert about["reader"] == "folder" and about["source"].count("npz") == 2
    np.testing.assert_array_equal(rows.obs, np.concatenate([first.obs, second.obs]))

    formats.save(tmp_path / "odd.npz", recorded(2, 8, names=True), {"env": "my/robot"})
    code, _, err = run(capsys, *convert, tmp_path / "odd.npz", "--out", tmp_path / "odd", "--folder")
    assert code == 2 and "odd.npz" in err and err.count("error") == 1 and not (tmp_path / "odd").exists()
    assert not list(tmp_path.glob(".odd*"))
    array = tmp_path / "set/reward.npy"
    whole = array.read_bytes()
    array.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="damaged"):
        formats.mapped(tmp_path / "set")
    array.write_bytes(whole[:-4] + b"\0\0\0\1")
    assert "fingerprint" in formats.survey(tmp_path / "set").faults[0].problem


def test_a_folder_does_not_join_observations_of_other_names(tmp_path, capsys):
    made = foreign_files.episodes()
    renamed = [{**one, "obs": {"pos": one["obs"]["pos"], "force": one["obs"]["vel"]}} for one in made]
    same, other = (foreign_files.robomimic(tmp_path / f"{n}.hdf5", x) for n, x in (("a", made), ("b", renamed)))
    convert = ["data", "convert", same]
    assert run(capsys, *convert, same, "--folder", "--out", tmp_path / "twice")[0] == 0
    code, _, err = run(capsys, *convert, other, "--folder", "--out", tmp_path / "odd")
    assert code == 2 and "b.hdf5" in err and "pos, vel" in err and "force, pos" in err and "--obs-keys" in err
    code, _, err = run(capsys, *convert, other, "--folder", "--out", tmp_path / "pos", "--obs-keys", "pos")
    assert code == 0, err


def test_units_are_the_same_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(normalise, "NUMBERS", 50)
    memory, disk = both(recorded(6, 8), tmp_path)
    for kind in ("standard", "min-max"):
        found, expected = (normalise.of_data(data, kind, kind) for data in (disk, memory))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    x = np.asarray(memory.obs, np.float64)
    np.testing.assert_allclose(normalise.of_data(disk, "standard", "none")["obs"].scale, x.std(axis=0), rtol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(a file, a folder of the same)."""
    folder = tmp_path_factory.mktemp("robot")
    formats.save(folder / "robot.npz", recorded(30, 8), {"env": "my/robot"})
    npy_folder.write(folder / "robot", [(formats.load(folder / "robot.npz")[0], "")], lambda: {"env": "my/robot"})
    return folder / "robot.npz", folder / "robot"


def learner_of(path, algorithm, settings, **change):
    """The events' figures and the last learner of a run on the data at ``path``; ``change`` of the configuration."""
    build, config = registry.builder(algorithm)
    env = held_out.make("3,1")
    memory = qchunk.for_env(path, env, "none/3,1", stream=True)[0]
    assert on_disk.stays(memory) == path.is_dir()
    told, kept = [], None
    for event in qchunk.train(build, dataclasses.replace(config(), **change), env=env, settings=settings, data=memory):
        kept = jax.tree.map(np.asarray, event.learner)
        told.append((event.kind, event.step, {n: x for n, x in event.values.items() if "second" not in n}))
    return told, kept


SMALL = {"chunk": C, "actor": FlowConfig((16,), steps=2)}


def test_learning_from_disk_gives_the_bits_of_learning_from_memory(data, monkeypatch):
    """Over blocks of several lengths."""
    monkeypatch.setattr(streaming, "MOST", 8)
    units = {"normalise_obs": "standard", "normalise_action": "standard"}
    s = qchunk.OnlineSettings(offline_steps=21, batch=16, log_every=5, eval_every=21, **units)
    (a, x), (b, y) = (learner_of(path, "bc", s, **SMALL) for path in data)
    assert a[-1][1] == 21 and [t[:2] for t in a] == [t[:2] for t in b]
    jax.tree.map(np.testing.assert_array_equal, a, b)
    jax.tree.map(np.testing.assert_array_equal, x, y)


def as_users(*argv, **more):
    """A command in a process of its own, compiled as users compile: how XLA fuses decides whether two programs agree to the bit."""
    here = {n: v for n, v in os.environ.items() if n != "XLA_FLAGS"} | more
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_from_disk_goes_on_to_the_bits_of_one_from_memory(data, tmp_path):
    """A critic, two seeds on two devices; stopped and gone on with in the midst of a block, against one in memory that never was."""
    train = ["-m", "qchunk", "train"]
    kept = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    flags = [*train, "qc", "--env", "none", *FLAGS, "--log-every", "7", "--eval-every", "14", "--quiet", "--data"]
    for name, path, steps in (("memory", data[0], 28), ("disk", data[1], 14)):
        as_users(
            *flags, path, "--out", tmp_path / name, "--offline-steps", steps, "--normalise-obs", "standard", **kept
        )
    as_users(*train, "--resume", tmp_path / "disk", "--offline-steps", 28, "--quiet", **kept)
    told = []
    for name in ("memory", "disk"):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        after = [x for x in lines if x["kind"] in ("train", "eval") and x["step"] > 14]
        told.append(
            [(x["kind"], x["step"], {n: v for n, v in x["values"].items() if "second" not in n}) for x in after]
        )
    assert len(told[0]) == 3 and told[0] == told[1]


BOUNDED = """
import sys
from pathlib import Path
from qchunk import cli
from qchunk.drivers import streaming
streaming.BYTES = 2**20
cli.main(["train", "bc", "--env", "none", "--data", sys.argv[1], "--out", sys.argv[2], "--actor.hidden", "16", "--actor.steps", "2", "--quiet",
          "--chunk.horizon", "2", "--batch", "64", "--offline-steps", "40", "--log-every", "20", "--eval-every", "40", "--normalise-obs", "standard"])
told = Path("/proc/self/status").read_text()  # ru_maxrss is at least that of the process that started this one
print(1024 * int(told.partition("VmHWM:")[2].split()[0]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """The resident memory of a run on 400 MB of observations is hardly more than that of one on 4 MB: a tenth is held out, in memory."""
    peaks = []
    for name, episodes in (("small", 4), ("large", 380)):
        end = np.tile(np.arange(257) == 256, episodes)
        obs = np.zeros((len(end), 1024), np.float32)
        obs[:, 0] = np.arange(len(end)) % 7
        reward, nothing = np.zeros(len(end), np.float32), np.zeros(len(end), bool)
        rows = formats.Rows(obs, np.full((len(end), 1), 0.5, np.float32), reward, nothing, end)
        npy_folder.write(tmp_path / name, [(rows, "")], dict)
        peaks.append(float(as_users("-c", BOUNDED, tmp_path / name, tmp_path / f"{name}-run").split()[-1]))
    assert peaks[1] - peaks[0] < 150e6, peaks


def test_what_needs_its_data_in_memory_says_so(data):
    build, config = registry.builder("bc")
    env = held_out.make("3,1")
    memory = qchunk.for_env(data[1], env, "none/3,1", stream=True)[0]
    s = qchunk.OnlineSettings(offline_steps=1, online_steps=10)
    with pytest.raises(UserError, match="online part"):
        next(qchunk.train(build, config(chunk=C), env=env, settings=s, data=memory))
    with pytest.raises(UserError, match="whole run"):
        qchunk.agent(build, config(chunk=C), jax.random.key(0), env=env, settings=s, data=memory)
    assert not on_disk.stays(qchunk.for_env(data[1], env, "none/3,1")[0])
