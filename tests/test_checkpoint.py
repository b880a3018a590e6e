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

from qchunk import checkpoint, files
from qchunk.errors import UserError


class State(NamedTuple):
    params: dict
    key: jax.Array
    count: int


def tree(seed: int = 0, size: int = 8) -> State:
    return State({"w": jnp.full((size, 3), seed, jnp.float32), "b": np.arange(4.0) + seed}, jax.random.key(seed), seed)


def whole(folder: Path) -> int:
    """The step that is restored by default; fails unless the tree is the one that belongs to it."""
    got, about = checkpoint.restore(folder, tree())
    assert (np.asarray(got.params["w"]) == got.count).all() and got.params["b"][3] == 3 + got.count
    assert about == {"n": got.count} and jax.random.key_data(got.key)[1] == got.count
    return got.count


def put(folder: Path, *steps: int, keep: int = 2) -> None:
    for n in steps:
        checkpoint.save(folder, n, tree(n), {"n": n}, keep=keep)


def blank(x):
    """Another value of the same kind: nothing of what is restored may come from ``like``."""
    if isinstance(x, (bool, int, float, str)) and not isinstance(x, np.generic):
        return type(x)()
    if isinstance(x, np.ndarray):
        return np.zeros_like(x)
    return x ^ x if x.dtype == bool else x * 0


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype and x.shape == y.shape
            x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y or x != x


def test_round_trip_is_bitwise(tmp_path):
    odd = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)  # NaN payloads, -0, denormal
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
    saved = {"one": one, "many": jax.random.split(jax.random.clone(one), (2, 3)), "none": jax.random.split(jax.random.clone(one), 0)}
    with jax.debug_key_reuse(True):
        checkpoint.save(tmp_path, 0, saved, {})
        got, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: saved))
        draw = jax.random.normal(got["one"], (4,))
    same(got, saved)
    assert (draw == jax.random.normal(jax.random.clone(one), (4,))).all()


def test_nothing_but_scalars(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": 1}, {})
    assert checkpoint.restore(tmp_path, {"a": 0})[0] == {"a": 1}


def test_about_with_keys_that_json_changes(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": 1}, {10: "x", 9: float("nan")})
    assert checkpoint.about(tmp_path)["10"] == "x"


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
    assert whole(tmp_path) == 10 and checkpoint.restore(tmp_path, tree(), step=2)[0].count == 2
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


# ------------------------------------------------------------------------------------------- damage


def newest_array_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size)


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
    assert checkpoint.restore(folder, tree(), step=4)[0].count == 4
    with pytest.raises(UserError):
        checkpoint.verify(folder / "8")
    checkpoint.verify(folder / "4")
    put(folder, 6)  # the run went on from 4: from now on nothing stumbles over 8
    assert whole(folder) == 6


def test_no_offer_where_nothing_is_good(tmp_path):
    put(tmp_path, 4, 8)
    flip(tmp_path / "4")
    flip(tmp_path / "8")
    with pytest.raises(UserError) as e:
        checkpoint.restore(tmp_path, tree())
    assert "--step" not in e.value.fix and str(tmp_path / "8") in e.value.problem


def test_every_byte_counts(tmp_path):
    put(tmp_path, 4)
    for file in [p for p in (tmp_path / "4").rglob("*") if p.is_file()]:
        before = file.read_bytes()
        for at in (0, len(before) // 2, len(before) - 2):
            file.write_bytes(before[:at] + bytes([before[at] ^ 4]) + before[at + 1 :])
            with pytest.raises(UserError):
                checkpoint.verify(tmp_path / "4")
        file.write_bytes(before)
    checkpoint.verify(tmp_path / "4")


OTHERS = {
    "shape": (lambda t: t._replace(params={**t.params, "w": jnp.zeros((8, 4))}), r"float32\[8, 4\], got .*float32\[8, 3\]"),
    "dtype": (lambda t: t._replace(params={**t.params, "w": jnp.zeros((8, 3), jnp.bfloat16)}), r"bfloat16.*got .*float32"),
    "name": (lambda t: t._replace(params={"v": t.params["w"], "b": t.params["b"]}), r"\['v'\].*got .*\['w'\]"),
    "more": (lambda t: (t, 1), r"expected \[0\]\.params\['b'\]"),
    "fewer": (lambda t: t._replace(count=None), r"expected no further leaf, got \.count"),
    "kind": (lambda t: t._replace(count=jnp.zeros((), int)), r"\.count: int32\[\], got \.count: int"),
    "key": (lambda t: t._replace(key=jax.random.key(0, impl="rbg")), r"key<rbg>\[\], got .*key<fry>"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_tree_names_the_first_leaf_that_differs(tmp_path, other):
    put(tmp_path, 4)
    change, says = OTHERS[other]
    with pytest.raises(UserError, match=says) as e:
        checkpoint.restore(tmp_path, change(tree()))
    assert str(tmp_path / "4") in e.value.problem and "--step" not in e.value.fix


def test_nothing_there(tmp_path):
    assert checkpoint.steps(tmp_path / "none") == []
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.restore(tmp_path / "none", tree())
    put(tmp_path, 1)
    with pytest.raises(UserError, match="no checkpoint of step 5.*--step with one of 1"):
        checkpoint.about(tmp_path, 5)


# ------------------------------------------------------------------------------------------- death


class Dead(BaseException):
    """From here on the process does nothing more to the disk."""


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
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

    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    monkeypatch.setattr(files.time, "monotonic", iter(range(10**9)).__next__)
    new, deaths = (20 if again else 30), 0
    for n in range(10**4):
        folder = tmp_path / str(n)
        shutil.copytree(start, folder) if (start := tmp_path / "start").exists() else put(folder, 10, 20)
        if n == 0:
            shutil.copytree(folder, start)
        left[0] = n
        with monkeypatch.context() as m:
            for name in real:
                m.setattr(os, name, mortal(name))
            try:
                checkpoint.save(folder, new, tree(new + 1), {"n": new + 1})
                alive = True
            except Dead:
                alive = False
        assert whole(folder) in (20, new + 1)
        assert checkpoint.restore(folder, tree(), step=10)[0].count == 10 or whole(folder) == new + 1
        deaths += not alive
        put(folder, 40)  # and the next save finds its way
        assert whole(folder) == 40 and len(list(folder.iterdir())) <= 3
        shutil.rmtree(folder)
        if alive:
            break
    assert deaths > 20 and alive


CHILD = """
import sys, itertools
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import tree
from qchunk import checkpoint
for n in itertools.count(int(sys.argv[3])):
    checkpoint.save(sys.argv[1], n, tree(n, 200_000)._replace(), {"n": n})
    print(n, flush=True)
"""


@pytest.mark.parametrize("delay", [0.003, 0.02, 0.05, 0.09])
def test_kill_minus_nine(tmp_path, delay):
    root = str(Path(checkpoint.__file__).parents[1])
    seen, first = [], 1
    for wait in (delay, delay * 1.7):
        command = [sys.executable, "-c", CHILD, str(tmp_path), root, str(first)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        assert child.stdout is not None
        done = int(child.stdout.readline())
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        assert child.wait() == -signal.SIGKILL
        done = int(rest[-1]) if rest else done
        got, about = checkpoint.restore(tmp_path, tree(0, 200_000))
        assert got.count in (done, done + 1) and about == {"n": got.count}
        assert (np.asarray(got.params["w"]) == got.count).all()
        for n in checkpoint.steps(tmp_path):
            checkpoint.verify(tmp_path / str(n))
        seen.append(got.count)
        first = got.count + 1
    assert seen[1] > seen[0]


# ------------------------------------------------------------------------------------------- a full disk


FULL = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from tests.test_checkpoint import tree
from qchunk import checkpoint
from qchunk.errors import UserError
import jax, numpy as np
big = {str(i): np.random.default_rng(i).normal(size=200_000) for i in range(8)}
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    checkpoint.save(sys.argv[1], 2, big, {})
except UserError as e:
    print(e.problem + "|" + e.fix)
"""


def save_too_much(folder: Path, *limit: str) -> subprocess.CompletedProcess:
    root = str(Path(checkpoint.__file__).parents[1])
    command = [sys.executable, "-c", FULL, str(folder), root, *limit]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def test_a_file_size_limit_stops_a_save_cleanly(tmp_path):
    """Needs no root: the kernel refuses the write in the same place as on a full disk, with another errno."""
    put(tmp_path, 1)
    done = save_too_much(tmp_path, "100000")
    assert f"cannot write {tmp_path}: File too large" in done.stdout
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["1"] and whole(tmp_path) == 1


def test_a_full_disk_stops_a_save_cleanly(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount") or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("wrap", ["bare", "cause", "group", "tensorstore"])
def test_a_refusal_is_found_wherever_it_hides(tmp_path, monkeypatch, number, wrap):
    put(tmp_path, 1)

    def refuse(*_):
        inner = OSError(number, os.strerror(number))
        if wrap == "bare":
            raise inner
        if wrap == "cause":
            raise RuntimeError("orbax") from inner
        if wrap == "group":
            raise BaseExceptionGroup("two", [ValueError("x"), inner])
        raise ValueError(f"RESOURCE_EXHAUSTED: Error writing [os_error_code='{number}']")

    monkeypatch.setattr(checkpoint, "_write_manifest", refuse)
    with pytest.raises(UserError, match=r"the disk is full .*Free some space"):
        put(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_other_errors_stay_themselves(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(checkpoint, "_write_manifest", fail)
    with pytest.raises(ValueError, match="a bug"):
        put(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_the_import_is_light():
    code = "import sys, qchunk.checkpoint; sys.exit('orbax' in sys.modules)"
    root = Path(checkpoint.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
