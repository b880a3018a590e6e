"""Compiled programs: on disk, which folder, what is left alone, and that a run that finds its programs there ends with the same bits; and room for them in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from filelock import FileLock
from test_cli import ENV, SMALL, last_checkpoint, run

from qchunk import cli, envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.online import OnlineSettings
from qchunk.system import compiled

STEPS = [
    "--offline-steps",
    "20",
    "--eval-every",
    "10",
    "--log-every",
    "10",
    "--episodes",
    "2",
    "--batch",
    "16",
    "--seeds",
    "2",
    "--quiet",
]


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    for name in (compiled.FOLDER, compiled.SWITCH, compiled.LIMIT):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("QCHUNK_HOME", str(tmp_path / "home"))
    return compiled.home()


def test_programs_are_kept_within_a_bound_unless_the_user_says_otherwise(folder, monkeypatch, tmp_path):
    compiled.keep()
    assert os.environ[compiled.FOLDER] == str(folder) and folder.is_dir() and folder.is_relative_to(tmp_path / "home")
    assert int(os.environ[compiled.LIMIT]) == 2 * 2**30
    monkeypatch.delenv(compiled.LIMIT)
    for name, value in ((compiled.FOLDER, "elsewhere"), (compiled.SWITCH, "false")):
        monkeypatch.delenv(compiled.FOLDER, raising=False)
        monkeypatch.setenv(name, value)
        compiled.keep()
        assert os.environ[name] == value and compiled.LIMIT not in os.environ
        monkeypatch.delenv(name)


def test_a_home_that_cannot_be_written_is_no_mistake(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCHUNK_HOME", str(tmp_path / "file"))
    compiled.keep()
    assert compiled.FOLDER not in os.environ


def test_programs_whose_writing_was_cut_short_go(folder, monkeypatch):
    folder.mkdir(parents=True)
    names = {"whole-cache", "whole-atime", "cut-cache"}

    def kept(**limit: str) -> set[str]:
        for name in names:
            (folder / name).write_bytes(b"x")
        for name in (compiled.FOLDER, compiled.LIMIT):
            monkeypatch.delenv(name, raising=False)
        for value in limit.values():
            monkeypatch.setenv(compiled.LIMIT, value)
        compiled.keep()
        return {p.name for p in folder.iterdir()} - {compiled.LOCK}

    with FileLock(folder / compiled.LOCK):  # as JAX, which may be writing "cut"
        assert kept() == names
    assert kept() == names - {"cut-cache"}
    assert kept(limit="-1") == names, "where no bound asks for it JAX does not write when a program was last used"


@pytest.mark.slow
def test_a_run_that_finds_its_programs_ends_with_the_same_bits(folder, tmp_path):
    """Fresh processes: without programs on disk, with an empty folder, with a full one, and one whose newest checkpoint is gone."""
    data = tmp_path / "d.npz"
    cli.main(["collect", ENV, "--out", str(data), "--steps", "400", "--episode-length", "10", "--quiet"])

    def run(*argv: object, **settings: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), **settings}
        env = {k: v for k, v in env.items() if k != compiled.FOLDER}
        at_once = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        subprocess.run([sys.executable, "-m", "qchunk", *map(str, argv)], env=env | at_once, check=True)

    def train(out: str, **settings: str) -> Path:
        run("train", "qc", "--env", ENV, "--data", data, "--out", tmp_path / out, *SMALL, *STEPS, **settings)
        return tmp_path / out

    without = train("without", **{compiled.SWITCH: "false"})
    assert not list(folder.glob("*-cache"))
    cold = train("cold")
    programs = {p.name for p in folder.glob("*-cache")}
    assert any(name.startswith("jit_updates") for name in programs), programs
    hot = train("hot")
    assert {p.name for p in folder.glob("*-cache")} == programs, "all were found"
    shutil.rmtree(max((hot / "checkpoints").iterdir(), key=lambda p: int(p.name)))
    (hot / "summary.json").unlink()
    run("train", "--resume", hot, "--quiet")
    assert last_checkpoint(without) == last_checkpoint(cold) == last_checkpoint(hot)


def test_a_program_that_could_not_be_written_is_told_by_nobody_and_written_next_time(folder):
    """JAX warns of both, in lines of its own, and would take the torn one for whole once it has read it."""
    code = """
        import os, resource
        from qchunk.system import compiled
        compiled.keep()
        if os.environ.get("CHILD"):
            import warnings
            warnings.resetwarnings()
            compiled.keep()
        import jax, numpy as np
        if os.environ.get("BYTES"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["BYTES"]),) * 2)
        jax.jit(lambda x: x * 2)(np.ones(3))
    """

    def program(**more: str) -> int:
        env = {k: v for k, v in os.environ.items() if k not in (compiled.FOLDER, compiled.SWITCH)}
        env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(Path(cli.__file__).parents[1])}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, env=env | more, capture_output=True, text=True, check=True)
        assert not done.stderr
        return sum(p.stat().st_size for p in folder.glob("*-cache"))

    assert program(BYTES="100") == 100 < program()
    shutil.rmtree(folder)
    assert program(BYTES="100", CHILD="yes") == 100, "as in a process that this one starts"


def regions() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no Linux")
def test_programs_in_memory_make_way():
    """Their mapped regions with them, of which a process has no more than Linux allows it."""
    compiled.make_room(0)
    before = regions()
    programs = [jax.jit(lambda x, n=n: jnp.sin(x @ x + n).sum()) for n in range(40)]
    for program in programs:
        program(jnp.ones((4, 4)))
    taken = regions() - before
    assert taken >= 40
    compiled.make_room()
    assert programs[0]._cache_size() == 1, "there is room"
    compiled.make_room(0)
    assert programs[0]._cache_size() == 0 and regions() - before < taken / 2


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no Linux")
def test_who_begins_with_a_run_finds_room(tmp_path, capsys, monkeypatch):
    """A command that trains and plays one run after the other, such as ``compare``, and a user's own loop."""
    program = jax.jit(lambda x: x + 1)

    def made_way(begin):
        program(1.0)
        begin()
        return program._cache_size() == 0

    data, out = tmp_path / "d.npz", tmp_path / "run"
    run(capsys, "collect", ENV, "--out", data, "--steps", "200", "--episode-length", "10", "--quiet")
    words = ["train", "qc", "--env", ENV, "--data", data, *SMALL, "--offline-steps", "2", "--batch", "4"]
    monkeypatch.setattr(compiled, "SHARE", 0.0)
    assert made_way(lambda: run(capsys, *words, "--episodes", "1", "--quiet", "--out", out))
    assert made_way(lambda: run(capsys, "eval", out, "--episodes", "1"))
    c, s = QC(ChunkConfig(2), FlowConfig((8,), steps=2), CriticConfig((8,)), n=2), OnlineSettings(offline_steps=1)
    loop = train(qc, c, env=envs.make("probe/two-step"), data=formats.to_device(formats.load(data)[0]), settings=s)
    assert made_way(lambda: next(loop))
