"""Checkpoints survive kill -9, refuse what is damaged or foreign, and come back bit for bit."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.runs import checkpoint
from qchunk.system.errors import UserError

CPU = {**os.environ, "JAX_PLATFORMS": "cpu"}


class State(NamedTuple):
    params: dict
    key: jax.Array
    n: int


def tree(seed: int = 0, size: int = 8) -> State:
    params = {"w": jnp.full((size, 3), seed, jnp.float32), "b": np.arange(4.0) + seed}
    return State(params, jax.random.key(seed), seed)


def whole(folder: Path) -> int:
    """The step that is restored by default; fails unless the tree is the one that belongs to it."""
    got, about = checkpoint.restore(folder, tree())
    assert (np.asarray(got.params["w"]) == got.n).all() and got.params["b"][3] == 3 + got.n
    assert about == {"n": got.n} and jax.random.key_data(got.key)[1] == got.n
    return got.n


def put(folder: Path, *steps: int, keep: int = 2) -> None:
    for n in steps:
        checkpoint.save(folder, n, tree(n), {"n": n}, keep=keep)


def blank(x):
    """Another value of the same kind: nothing of what is restored may come from ``like``."""
    if not hasattr(x, "dtype") or isinstance(x, np.generic):
        return type(x)()
    if isinstance(x, np.ndarray):
        return np.zeros_like(x)
    return ~x if x.dtype == bool else x * 0


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype and x.shape == y.shape
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(x), jax.random.key_data(y)
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


def test_round_trip_is_bitwise(tmp_path):
    # NaN payloads, -0, the smallest denormal
    odd = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    saved = {
        "odd": odd,
        "jax": [jnp.asarray(odd), jnp.arange(5), jnp.array([True, False])],
        "half": (jnp.array([0.1, -0.0], jnp.bfloat16), jnp.ones((2, 2), jnp.float16)),
        "np": (np.arange(6.0).reshape(2, 3).T, np.float64(0.1), np.int8(-3), np.array(7, np.int64)),
        "empty": (jnp.zeros((0, 3)), np.zeros((2, 0), np.int16), {}, None),
        "scalars": [2**70, -1, 0.1, float("inf"), True, "text"],
        "weak": jnp.asarray(0.1),
    }
    checkpoint.save(tmp_path, 3, saved, {"algorithm": "qc", "nested": {"a": [1, 2.5, None]}})
    got, about = checkpoint.restore(tmp_path, jax.tree.map(blank, saved))
    same(got, saved)
    assert got["weak"].weak_type and not got["jax"][0].weak_type
    assert about == checkpoint.about(tmp_path) == {"algorithm": "qc", "nested": {"a": [1, 2.5, None]}}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_come_back_as_typed_keys(tmp_path, impl):
    one = jax.random.key(7, impl=impl)
    many, none = (jax.random.split(jax.random.clone(one), n) for n in ((2, 3), 0))
    saved = {"one": one, "many": many, "none": none}
    with jax.debug_key_reuse(True):
        checkpoint.save(tmp_path, 0, saved, {})
        got, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: saved))
        draw = jax.random.normal(got["one"], (4,))
    same(got, saved)
    assert (draw == jax.random.normal(jax.random.clone(one), (4,))).all()


def test_scalars_alone_and_an_about_that_json_changes(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": 1}, {10: "x", 9: float("nan")})
    assert checkpoint.restore(tmp_path, {"a": 0})[0] == {"a": 1} and checkpoint.about(tmp_path)["10"] == "x"


def test_a_sharded_leaf_goes_where_like_is(tmp_path):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    checkpoint.save(tmp_path, 0, {"a": jnp.ones(3), "b": jnp.ones(3)}, {})
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=here), "b": jnp.zeros(3)}
    got, _ = checkpoint.restore(tmp_path, like)
    assert got["a"].committed and not got["b"].committed


@pytest.mark.parametrize("leaf", [np.array(["a"]), np.array([None]), np.zeros(2, ">f4"), object()])
def test_leaves_that_would_need_pickle_are_refused(tmp_path, leaf):
    with pytest.raises(TypeError, match="cannot save"):
        checkpoint.save(tmp_path, 0, {"a": leaf}, {})
    assert not checkpoint.steps(tmp_path)


def test_keeps_the_newest_and_clears_up(tmp_path):
    (tmp_path / ".tmp-9-1" / "arrays").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    put(tmp_path, 1, 2, 10)
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "2", "notes.txt"]
    assert whole(tmp_path) == 10 and checkpoint.restore(tmp_path, tree(), step=2)[0].n == 2
    assert checkpoint.about(tmp_path, 2) == {"n": 2}


def test_a_run_resumed_from_an_earlier_step_drops_the_abandoned_ones(tmp_path):
    put(tmp_path, 10, 20)
    put(tmp_path, 15)
    assert checkpoint.steps(tmp_path) == [10, 15]
    put(tmp_path, 15)  # the same step again
    assert checkpoint.steps(tmp_path) == [10, 15] and whole(tmp_path) == 15


def test_foreign_files_are_moved_aside_not_deleted(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "thesis.txt").write_text("mine")
    put(tmp_path, 1, 2)
    assert [p.parent.name for p in tmp_path.rglob("thesis.txt")] == ["unreadable-3-0"]
    assert whole(tmp_path) == 2


def newest_array_file(folder: Path) -> Path:
    return max(
        (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"),
        key=lambda p: p.stat().st_size,
    )


def truncate(path: Path) -> None:
    os.truncate(newest_array_file(path), newest_array_file(path).stat().st_size - 1)


def flip(path: Path) -> None:
    file = newest_array_file(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def edit(path: Path, seal: bool, **fields) -> None:
    body = json.loads((path / "manifest.json").read_text()) | fields
    body["sha256"] = checkpoint._seal(body) if seal else body["sha256"]
    (path / "manifest.json").write_text(json.dumps(body))


DAMAGE = {
    "truncated": (truncate, "bytes, expected"),
    "flipped byte": (flip, "have changed"),
    "deleted file": (lambda p: newest_array_file(p).unlink(), "is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "has no manifest"),
    "torn manifest": (lambda p: os.truncate(p / "manifest.json", 100), "cannot be read"),
    "edited manifest": (lambda p: edit(p, False, about={"n": 3}), "manifest.json have changed"),
    "newer version": (lambda p: edit(p, True, version=2), "format version 2, this qchunk reads 1"),
    "older version": (lambda p: edit(p, True, version=0), "format version 0, this qchunk reads 1"),
    "another program's": (lambda p: edit(p, True, format="orbax"), "is not a checkpoint of qchunk"),
    "renamed": (lambda p: edit(p, True, step=7), "holds step 7"),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("hello")), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_named_and_the_good_one_offered(tmp_path, damage):
    folder = tmp_path / "run" / "checkpoints"
    put(folder, 4, 8)
    harm, says = DAMAGE[damage]
    harm(folder / "8")
    for step in (None, 8):
        with pytest.raises(UserError) as e:
            checkpoint.restore(folder, tree(), step)
        assert str(folder / "8") in e.value.problem and says in e.value.problem
        assert f"--resume {tmp_path / 'run'} --step 4" in e.value.fix
    assert checkpoint.restore(folder, tree(), step=4)[0].n == 4
    with pytest.raises(UserError):
        checkpoint.verify(folder / "8")
    checkpoint.verify(folder / "4")
    put(folder, 6)  # the run went on from 4: from now on nothing stumbles over 8
    assert whole(folder) == 6


def test_every_byte_counts(tmp_path):
    put(tmp_path, 4)
    for file in [p for p in (tmp_path / "4").rglob("*") if p.is_file()]:
        before = file.read_bytes()
        for at in (0, len(before) // 2, len(before) - 2):
            file.write_bytes(before[:at] + bytes([before[at] ^ 4]) + before[at + 1 :])
            with pytest.raises(UserError):
                checkpoint.verify(tmp_path / "4")
        file.write_bytes(before)
    with pytest.raises(UserError) as e:
        flip(tmp_path / "4")
        checkpoint.restore(tmp_path, tree())
    assert "--step" not in e.value.fix  # there is no other to offer


OTHERS = {
    "shape": ({"params": {"b": np.zeros(4), "w": jnp.zeros((8, 4))}}, r"float32\[8, 4\], got .*32\[8, 3\]"),
    "dtype": ({"params": {"b": np.zeros(4), "w": jnp.zeros((8, 3), jnp.int16)}}, "int16.*got .*float32"),
    "name": ({"params": {"b": np.zeros(4), "v": jnp.zeros((8, 3))}}, r"\['v'\].*got .*\['w'\]"),
    "more": ({"n": (1, 2)}, r"expected \.n\[0\]: int, got \.n: int"),
    "fewer": ({"n": None}, r"expected no further leaf, got \.n"),
    "kind": ({"n": jnp.zeros((), int)}, r"\.n: int32\[\], got \.n: int"),
    "key": ({"key": jax.random.key(0, impl="rbg")}, r"key<rbg>\[\], got .*key<fry>"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_tree_names_the_first_leaf_that_differs(tmp_path, other):
    put(tmp_path, 4)
    change, says = OTHERS[other]
    with pytest.raises(UserError, match=says) as e:
        checkpoint.restore(tmp_path, tree()._replace(**change))
    assert str(tmp_path / "4") in e.value.problem and "--step" not in e.value.fix


def test_nothing_there(tmp_path):
    assert checkpoint.steps(tmp_path / "none") == []
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.restore(tmp_path / "none", tree())
    put(tmp_path, 1)
    with pytest.raises(UserError, match="no checkpoint of step 5.*Take one of 1"):
        checkpoint.about(tmp_path, 5)


class Dead(BaseException):
    """From here on the process does nothing more to the disk."""


@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True], ids=["new step", "same step"])
def test_death_before_every_rename_flush_and_removal(tmp_path, monkeypatch, again):
    real = {name: getattr(os, name) for name in ("rename", "fsync", "unlink", "rmdir", "mkdir")}
    left = [0]

    def mortal(name):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Dead
            return real[name](*args, **kwargs)

        return call

    new, deaths, alive = (20 if again else 30), 0, False
    put(tmp_path / "start", 10, 20)
    while not alive:
        folder = shutil.copytree(tmp_path / "start", tmp_path / "copy")
        left[0] = deaths
        with monkeypatch.context() as m:
            for name in real:
                m.setattr(os, name, mortal(name))
            try:
                checkpoint.save(folder, new, tree(new + 1), {"n": new + 1})
                alive = True
            except Dead:
                alive = False
        newest = whole(folder)
        assert newest == new + 1 or (newest == 20 and checkpoint.restore(folder, tree(), step=10)[0].n == 10)
        for kept in checkpoint.steps(folder):
            checkpoint.restore(folder, tree(), kept)
        deaths += not alive
        put(folder, 40)  # and the next save finds its way
        assert whole(folder) == 40 and len(list(folder.iterdir())) <= 3
        shutil.rmtree(folder)
    assert deaths > 20


CHILD = """
import sys, itertools
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import tree
from qchunk.runs import checkpoint
for n in itertools.count(int(sys.argv[3])):
    checkpoint.save(sys.argv[1], n, tree(n, 200_000), {"n": n})
    print(n, flush=True)
"""


def test_kill_minus_nine(tmp_path):
    root = str(Path(checkpoint.__file__).parents[2])
    last, torn = 0, 0
    for delay in (0.003, 0.02, 0.04, 0.06, 0.09, 0.15):
        command = [sys.executable, "-c", CHILD, str(tmp_path), root, str(last + 1)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CPU)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        done = int((first + child.stdout.read()).split()[-1])
        assert child.wait() == -signal.SIGKILL
        torn += any(p.name.startswith(".") for p in tmp_path.iterdir())
        got, about = checkpoint.restore(tmp_path, tree(0, 200_000))
        assert got.n in (done, done + 1) and about == {"n": got.n} and got.n > last
        assert (np.asarray(got.params["w"]) == got.n).all()
        for n in checkpoint.steps(tmp_path):
            checkpoint.verify(tmp_path / str(n))
        last = got.n
    assert torn >= 2  # the kills did fall into the middle of saves


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import tree
from qchunk.runs import checkpoint
from qchunk.system.errors import UserError
import numpy as np
big = {str(i): np.random.default_rng(i).normal(size=200_000) for i in range(8)}
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    checkpoint.save(sys.argv[1], 2, big, {})
except UserError as e:
    print(e.problem + "|" + e.fix)
"""


def save_too_much(folder: Path, *limit: str) -> subprocess.CompletedProcess:
    root = str(Path(checkpoint.__file__).parents[2])
    command = [sys.executable, "-c", FULL, str(folder), root, *limit]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=CPU)


def test_a_file_size_limit_stops_a_save_cleanly(tmp_path):
    """Needs no root: the kernel refuses the write in the same place as on a full disk, with another errno."""
    put(tmp_path, 1)
    done = save_too_much(tmp_path, "100000")
    assert f"cannot write {tmp_path}: a file may not grow so large" in done.stdout and "ulimit -f" in done.stdout
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["1"] and whole(tmp_path) == 1


def test_a_full_disk_stops_a_save_cleanly(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk without being root")
    try:
        put(disk, 1)
        done = save_too_much(disk)
        problem, fix = done.stdout.split("|")
        assert str(disk) in problem and "full" in problem and "--resume" in fix
        assert "Traceback" not in done.stderr
        assert [p.name for p in disk.iterdir()] == ["1"] and whole(disk) == 1
        put(disk, 3)
        assert whole(disk) == 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, None])
def test_only_the_disk_s_refusal_becomes_a_users_error(tmp_path, monkeypatch, number):
    put(tmp_path, 1)

    def fail(*_):
        raise OSError(number, os.strerror(number)) if number else ValueError("a bug")

    monkeypatch.setattr(checkpoint, "_write_manifest", fail)
    with pytest.raises(UserError, match="full") if number else pytest.raises(ValueError, match="a bug"):
        put(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_the_import_is_light():
    code = "import sys, qchunk.runs.checkpoint; sys.exit('orbax' in sys.modules)"
    root = Path(checkpoint.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
