"""Run folders: made whole or not at all, one writer, metrics that survive kills and full disks."""

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.runs import run_folder, sinks
from qchunk.system import files
from qchunk.system.errors import UserError

CONFIG = {"algorithm": "qc", "env": "probe/pole", "seed": 3}
ROOT = str(Path(run_folder.__file__).parents[2])


def child(code: str, *args: object) -> subprocess.Popen:
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom qchunk.runs import run_folder as runs\n" + code
    command = [sys.executable, "-c", code, ROOT, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


# ------------------------------------------------------------------------------------------- the folder


def test_create_and_open(tmp_path):
    out = tmp_path / "a" / "run"
    with run_folder.create(out, CONFIG) as run:
        assert run.path == out and run.config == CONFIG and run.checkpoints == out / "checkpoints"
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "lock"]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["run"]
    about = json.loads((out / "config.json").read_text())
    assert about["format"] == "qchunk" and about["config"] == CONFIG and "git_commit" in about
    assert about["versions"]["numpy"] == np.__version__ and about["python"] == ".".join(map(str, sys.version_info[:3]))
    with run_folder.open_run(out) as run:
        assert run.about == about == run_folder.read_config(out)


def test_config_of_many_types(tmp_path):
    @dataclasses.dataclass
    class Inner:
        tau: float = 0.005
        hidden: tuple = (1, 2)

    given = {"inner": Inner(), "out": Path("x"), "n": np.int64(3), "clip": float("inf"), "a": jnp.arange(2)}
    with run_folder.create(tmp_path / "r", given) as run:
        want = {
            "inner": {"tau": 0.005, "hidden": [1, 2]},
            "out": "x",
            "n": 3,
            "clip": float("inf"),
            "a": [0, 1],
        }
        assert run.config == want == run_folder.read_config(tmp_path / "r")["config"]


@pytest.mark.parametrize("what", ["folder", "file", "dangling"])
def test_create_refuses_what_exists(tmp_path, what):
    out = tmp_path / "run"
    if what == "file":
        out.write_text("mine")
    elif what == "dangling":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    with pytest.raises(
        UserError, match=r"exists already.*new folder" + (", or --resume" if what == "folder" else r"\.?$")
    ):
        run_folder.create(out, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_is_nobodys(tmp_path):
    """``--out $(mktemp -d)``: of two that want it one has it."""
    (tmp_path / "run").mkdir()
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        assert run.config["algorithm"] == CONFIG["algorithm"]
    with pytest.raises(UserError, match="exists already"):
        run_folder.create(tmp_path / "run", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("fail", ["write", "rename", "config", "interrupt"])
def test_a_failed_creation_leaves_nothing(tmp_path, monkeypatch, fail):
    def refuse(*_):
        raise KeyboardInterrupt if fail == "interrupt" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config, error = CONFIG, UserError
    if fail == "config":
        config, error = {"f": object()}, TypeError
    elif fail == "rename":
        monkeypatch.setattr(os, "rename", refuse)
    else:
        monkeypatch.setattr(run_folder, "write_synced", refuse)
        error = KeyboardInterrupt if fail == "interrupt" else UserError
    with pytest.raises(error):
        run_folder.create(tmp_path / "a" / "b" / "run", config)
    assert list(tmp_path.iterdir()) == []


def test_create_below_a_file(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        run_folder.create(tmp_path / "f" / "run", CONFIG)


NO_RUN = {
    "nothing": lambda p: None,
    "a file": lambda p: p.write_text("x"),
    "empty": lambda p: p.mkdir(),
    "not json": lambda p: (p.mkdir(), (p / "config.json").write_text("{")),
    "binary": lambda p: (p.mkdir(), (p / "config.json").write_bytes(b"\xff\xfe\x00")),
    "a list": lambda p: (p.mkdir(), (p / "config.json").write_text("[]")),
    "another's": lambda p: (p.mkdir(), (p / "config.json").write_text('{"model": "x"}')),
    "newer": lambda p: (
        p.mkdir(),
        (p / "config.json").write_text('{"format":"qchunk","version":9,"config":{}}'),
    ),
    "of before": lambda p: (
        p.mkdir(),
        (p / "config.json").write_text('{"format":"qchunk","version":1,"config":{}}'),
    ),
}
SAYS = {"newer": "format version 9.*Install the version", "of before": "format version 1, .*Train it again"}


@pytest.mark.parametrize("what", NO_RUN)
def test_open_refuses_what_is_no_run(tmp_path, what):
    NO_RUN[what](tmp_path / "run")
    with pytest.raises(UserError, match=SAYS.get(what, "is not a run")) as e:
        run_folder.open_run(tmp_path / "run")
    assert str(tmp_path / "run") in e.value.problem and not (tmp_path / "run" / "lock").exists()


# ------------------------------------------------------------------------------------------- the lock


def test_one_writer_and_a_kill_frees_the_lock(tmp_path):
    out = tmp_path / "run"
    other = child("run = runs.create(sys.argv[2], {}); print(1, flush=True); sys.stdin.read()", out)
    assert other.stdout is not None and other.stdout.readline() == "1\n"
    with pytest.raises(UserError, match=rf"process {other.pid} on .* is writing to the run {out}"):
        run_folder.open_run(out)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with run_folder.open_run(out) as run:
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            run_folder.open_run(out)
        run.close()
        run_folder.open_run(out).close()


def test_a_failed_open_keeps_no_lock(tmp_path):
    run_folder.create(tmp_path / "run", CONFIG).close()
    (tmp_path / "run" / "metrics.jsonl").write_text("damaged\n")
    with pytest.raises(UserError, match="line 1 of .* is damaged"):
        run_folder.open_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    run_folder.open_run(tmp_path / "run").close()


# ------------------------------------------------------------------------------------------- metrics


def values(path: Path) -> list:
    return [(line["kind"], line["step"], line["values"]) for line in run_folder.read_metrics(path)]


def strict(text: str) -> dict:
    """Parses JSON as every other language does: no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def test_log_writes_valid_json(tmp_path):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.log("train", 1, {"loss": jnp.float32(0.5), "q": np.array([1.0, np.nan]), "n": 3})
        run.log("eval", 2, {"return": [float("inf"), -1.5], "success": float("nan")})
        assert values(run.path) == [
            ("train", 1, {"loss": 0.5, "q": [1.0, None], "n": 3}),
            ("eval", 2, {"return": [None, -1.5], "success": None}),
        ]
        assert values(run.path / "metrics.jsonl") == values(run.path)
        lines = [strict(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= lines[0]["seconds"] <= lines[1]["seconds"] < 60


def test_what_is_logged_survives_a_kill(tmp_path):
    code = "run = runs.create(sys.argv[2], {})\nfor i in range(10**9):\n"
    code += "    run.log('train', i, {'x': i}); print(i, flush=True)"
    other = child(code, tmp_path / "run")
    assert other.stdout is not None
    seen = [int(other.stdout.readline()) for _ in range(200)]
    other.send_signal(signal.SIGKILL)
    seen += [int(x) for x in other.stdout.read().split("\n")[:-1]]
    other.wait()
    steps = [line["step"] for line in run_folder.read_metrics(tmp_path / "run")]
    assert steps in (seen, [*seen, len(seen)])


@pytest.mark.parametrize("torn", ['{"kind": "train", "st', "\x00" * 5000, '{"kind": "train", "step": 3, "values": {}}'])
def test_a_torn_last_line(tmp_path, torn):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.log("train", 1, {"x": 1})
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("a") as f:
        f.write(torn)
    assert values(path) == [("train", 1, {"x": 1})]
    with run_folder.open_run(tmp_path / "run") as run:  # even without a rewind
        run.log("train", 2, {"x": 2})
        assert path.read_bytes().endswith(b"}\n")
        assert values(path) == [("train", 1, {"x": 1}), ("train", 2, {"x": 2})]


def test_nothing_but_a_torn_line(tmp_path):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        (run.path / "metrics.jsonl").write_text('{"ki')
        run.log("train", 2, {"x": 2})
        assert values(run.path) == [("train", 2, {"x": 2})]


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for bad in ("{", "3", '{"kind": "train"}'):
        path.write_text('{"kind":"t","step":1,"seconds":0,"values":{}}\n' + bad + "\n")
        with pytest.raises(UserError, match="line 2 of .* is damaged"):
            run_folder.read_metrics(path)
    with pytest.raises(UserError, match="cannot read the metrics"):
        run_folder.read_metrics(tmp_path / "none")


def test_rewind(tmp_path, monkeypatch):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.rewind(0)  # no metrics yet
        for n in range(1, 6):
            run.log("train", n, {"x": 0.1 * n})
        path = run.path / "metrics.jsonl"
        before = path.read_text().splitlines()
        with path.open("a") as f:
            f.write('{"torn')
        run.finish({"x": 0.5})
        run.rewind(3)
        run.log("train", 4, {"x": 7.0})
        assert path.read_text().splitlines()[:5] == before, "until a checkpoint is saved, later ones are there still"
        assert (run.path / "summary.json").exists()
        run.settle()
        assert path.read_text().splitlines()[:3] == before[:3]
        assert [line["values"] for line in run_folder.read_metrics(path)[3:]] == [{"x": 7.0}]
        assert not (run.path / "summary.json").exists()
        run.rewind(3)
        run.settle()
        monkeypatch.setattr(run, "_since", run._since - 100)
        run.log("train", 4, {})
        assert 100 <= run_folder.read_metrics(path)[-1]["seconds"] < 160
    with run_folder.open_run(run.path) as run:  # the clock goes on from the last line
        run.log("train", 5, {})
        assert 100 <= run_folder.read_metrics(path)[-1]["seconds"] < 160
        run.rewind(3)
        run.log("train", 4, {})
        run.settle()
        assert run_folder.read_metrics(path)[-1]["seconds"] < 60


def test_a_rewind_that_fails_changes_nothing(tmp_path, monkeypatch):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.log("train", 1, {})
        run.log("train", 2, {})
        before = (run.path / "metrics.jsonl").read_bytes()

        def refuse(*_):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(files, "write_synced", refuse)
        with pytest.raises(UserError, match="the disk is full"):
            run.rewind(1)
            run.settle()
        assert (run.path / "metrics.jsonl").read_bytes() == before
        assert sorted(p.name for p in run.path.iterdir()) == ["config.json", "lock", "metrics.jsonl"]


def test_a_full_disk_while_logging_loses_nothing(tmp_path):
    """A file-size limit stops a write half way, as a full disk does; it needs no root."""
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.log("train", 0, {"x": 0})
        limit = (run.path / "metrics.jsonl").stat().st_size + 30  # less than a line more
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(
                UserError, match=r"cannot write .*metrics.jsonl: a file may not grow so large.*ulimit -f"
            ):
                run.log("train", 1, {"x": 1})
            assert (run.path / "metrics.jsonl").stat().st_size == limit - 30
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        run.log("train", 2, {"x": 2})
        assert [line["step"] for line in run_folder.read_metrics(run.path)] == [0, 2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_refusal_is_found_wherever_it_hides(number):
    inner = OSError(number, os.strerror(number))
    caused = RuntimeError("orbax")
    caused.__cause__ = ExceptionGroup("two", [ValueError("x"), inner])
    text = ValueError(f"RESOURCE_EXHAUSTED: Error writing [os_error_code='{number}']")
    for err in (inner, caused, text, ValueError(f"Failed: {inner.strerror}")):
        found = files.oserror_in(err)
        assert found is not None and found.errno == number
    assert files.oserror_in(ValueError("a bug")) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_dev_full(tmp_path):
    with pytest.raises(UserError, match=r"the disk is full .*Free some space"):
        try:
            files.write_synced(Path("/dev/full"), b"x")
        except OSError as err:
            raise files.explain_oserror(err, tmp_path) from err


# ------------------------------------------------------------------------------------------- the summary


def test_summary(tmp_path):
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.finish(
            {"success": run_folder.figure([0.5, 1.0]), "return": np.array([1.0, np.nan]), "updates_per_second": 9}
        )
        got = strict((run.path / "summary.json").read_text())
        assert got == {
            "success": {"mean": 0.75, "per_seed": [0.5, 1.0]},
            "return": {"mean": None, "per_seed": [1.0, None]},
            "updates_per_second": {"mean": 9.0, "per_seed": [9.0]},
        }
        run.finish({})
        assert strict((run.path / "summary.json").read_text()) == {}
        assert sorted(p.name for p in run.path.iterdir()) == ["config.json", "lock", "summary.json"]


def test_an_atomic_write_that_fails_keeps_the_old(tmp_path, monkeypatch):
    path = tmp_path / "f"
    files.atomic_write(path, "old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(UserError):
        files.atomic_write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------- sinks


def points(run: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard would draw: every scalar of every file of events."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in (run / "tensorboard").iterdir():
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    return sorted(found)


def test_tensorboard_loses_no_point_and_draws_none_twice(tmp_path):
    pytest.importorskip("tensorboardX")
    means = [("eval/success", n, 0.5) for n in (5, 6, 7)]
    each = [(f"eval/success/seed{i}", n, float(i)) for i in (0, 1) for n in (5, 6, 7)]
    with run_folder.create(tmp_path / "run", CONFIG) as run:
        run.sinks = sinks.sinks_by_name(["tensorboard"], run)
        for n in (5, 6, 7):
            run.log("eval", n, {"success": [0.0, 1.0]})
        end = time.monotonic() + 20
        while len(points(run.path)) < 9 and time.monotonic() < end:
            time.sleep(0.05)
        assert points(run.path) == means + each, "before it is closed: a kill loses a second at most"
    with run_folder.open_run(run.path) as run:
        run.rewind(5)
        run.sinks = sinks.sinks_by_name(["tensorboard"], run)
        for n in (6, 7):
            run.log("eval", n, {"success": [0.0, 1.0]})
    assert points(run.path) == means + each


FILLED = """
import resource
from pathlib import Path
from qchunk.runs import sinks
from qchunk.system.errors import UserError
with runs.create(Path(sys.argv[2]), {"algorithm": "qc", "env": "probe/pole", "seed": 3}) as run:
    run.sinks = sinks.sinks_by_name(["tensorboard"], run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))  # as a full disk; the first step fits
    try:
        for n in range(1, 100):
            run.sinks[0].log("eval", n, {"success": [0.0, 1.0]})
    except UserError as e:
        print(e)
runs.open_run(run.path).close()  # nobody holds it
"""


def test_a_full_disk_is_a_line_with_tensorboard_too(tmp_path):
    """tensorboardX's own thread would end there, and who logs more, or closes, would wait for ever."""
    pytest.importorskip("tensorboardX")
    process = child(FILLED, tmp_path / "run")
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0 and not err, err
    assert out.startswith(f"cannot write {tmp_path / 'run' / 'tensorboard'}: ") and out.count("\n") == 1


def test_wandb_gets_the_configuration_each_seed_and_the_same_identity_after_a_resume(tmp_path, monkeypatch):
    seen, made = [], []
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    fake = types.SimpleNamespace(
        log=seen.append, define_metric=lambda *a, **k: None, finish=lambda: seen.append("finished")
    )
    module = types.SimpleNamespace(init=lambda **k: (made.append(k), fake)[1])
    monkeypatch.setitem(sys.modules, "wandb", module)
    run_folder.create(tmp_path / "run", CONFIG).close()
    for _ in range(2):
        with run_folder.open_run(tmp_path / "run") as run:
            run.sinks = sinks.sinks_by_name(["wandb"], run)
            run.log("eval", 5, {"success": np.array([0.0, 1.0])})
            run.change({"data": {"path": "moved", "fingerprint": "0"}})
    each = {"eval/success/seed0": 0.0, "eval/success/seed1": 1.0}
    assert seen == [{"step": 5, "eval/success": 0.5, **each}, "finished"] * 2
    assert made[0]["id"] == made[1]["id"] and {m["project"] for m in made} == {"mine"}
    assert made[0]["config"]["env"] == CONFIG["env"]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_sink_names_its_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with run_folder.create(tmp_path / "run", CONFIG) as run, pytest.raises(UserError) as e:
        sinks.sinks_by_name([name], run)
    assert f'pip install "qchunk[{name}]"' in e.value.fix


def test_an_unknown_sink(tmp_path):
    with pytest.raises(UserError, match="tensorboard"):
        sinks.check(["tensorbord"])


def test_no_jax():
    code = "import sys, qchunk.runs.run_folder; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
