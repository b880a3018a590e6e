"""Suites on an engine: claims of many processes, order by needs, lost workers replaced, the same bits wherever a run is trained."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from qchunk import cli
from qchunk.commands import workers
from qchunk.comparison import handed
from qchunk.engines import claims, overseeing, session, starting, working
from qchunk.engines.claims import Claims
from qchunk.engines.session import Session
from qchunk.engines.starting import LOST, Engine
from qchunk.engines.working import Chore, work
from qchunk.runs import checkpoint
from qchunk.system.errors import UserError

ROOT = str(Path(__file__).resolve().parents[1])


def chore(name: str, folder: Path, needs: tuple[str, ...] = ()) -> Chore:
    """A job that notes who did it when."""

    def do() -> None:
        time.sleep(0.01)
        with open(folder / "order", "a") as file:
            file.write(f"{name} {os.getpid()}\n")
        (folder / f"{name}.done").touch()

    return Chore(name, needs, (folder / f"{name}.done").exists, do)


def chores(folder: Path) -> list[Chore]:
    """A chain of three beside nine that stand alone."""
    chain = [chore("c", folder, ("b",)), chore("b", folder, ("a",)), chore("a", folder)]
    return [*chain, *(chore(f"x{i}", folder) for i in range(9))]


def take_all(folder: str, worker: str, begin) -> None:
    """A process that claims what it can of 40 names, and ends without letting go."""
    found = Claims(Path(folder) / "claims")
    begin.wait()
    mine = [name for i in range(40) if found.take(name := f"run/{i}", worker)]
    (Path(folder) / f"{worker}.json").write_text(json.dumps(mine))
    begin.wait()


def help_out(folder: str, worker: str) -> None:
    work(chores(Path(folder)), Session(Path(folder), "s"), worker)


def processes(target, *args) -> list:
    made = multiprocessing.get_context("fork")  # of functions that use no jax
    return [made.Process(target=target, args=(*args[:1], f"w{i}", *args[1:])) for i in range(6)]


def test_of_many_processes_one_has_a_claim(tmp_path):
    """Also when all find the owner lost at the same moment."""
    for taken_over in (False, True):
        begin = multiprocessing.get_context("fork").Barrier(6)
        crew = processes(take_all, str(tmp_path), begin)
        for p in crew:
            p.start()
        for p in crew:
            p.join(60)
        assert [p.exitcode for p in crew] == [0] * 6
        mine = [name for i in range(6) for name in json.loads((tmp_path / f"w{i}.json").read_text())]
        assert sorted(mine) == sorted(f"run/{i}" for i in range(40)), taken_over
        assert {f.generation for f in Claims(tmp_path / "claims").newest().values()} == {int(taken_over)}


def test_every_job_is_done_once_and_after_what_it_needs(tmp_path):
    crew = processes(help_out, str(tmp_path))
    for p in crew:
        p.start()
    for p in crew:
        p.join(60)
    assert [p.exitcode for p in crew] == [0] * 6
    order = [line.split()[0] for line in (tmp_path / "order").read_text().splitlines()]
    assert sorted(order) == sorted(["a", "b", "c", *(f"x{i}" for i in range(9))])
    assert [name for name in order if name in "abc"] == ["a", "b", "c"]


def test_a_claim_lives_as_long_as_its_owner(tmp_path, monkeypatch):
    found = Claims(tmp_path, lease=0.2)
    mine = found.take("run/a b", "1", 7)
    assert mine and not found.take("run/a b", "2") and found.owner(found.newest()["run/a b"]).startswith("1 on ")
    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # it is touched: the lease never ends
        mine.beat()
        assert not found.take("run/a b", "2")
        time.sleep(0.02)
    time.sleep(0.3)
    other = found.take("run/a b", "2", 7)  # its owner stands still
    assert other and mine.superseded() and not other.superseded()
    assert found.losses(other, 7) == 1 and found.losses(other, 8) == 0
    other.release()
    other.beat()  # a late sign of life does not take it back
    last = found.take("run/a b", "3", 7)
    assert last and found.losses(last, 7) == 0, "who let go was not lost"
    # a number in use again is another process; an unfinished file is somebody's until the lease is over
    monkeypatch.setattr(claims, "started", lambda pid: "1")
    assert found.take("new", "4") and found.free(found.newest()["new"])
    (tmp_path / "torn.0").write_text('{"wor')
    assert not found.free(found.newest()["torn"])
    time.sleep(0.3)
    assert found.free(found.newest()["torn"])


def test_a_claim_on_a_full_disk_is_one_line_and_nobodys(tmp_path, monkeypatch):
    """It was taken for a living owner's, for the whole lease, and the line spoke of stdout."""
    found, dump = Claims(tmp_path), json.dump

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(claims.json, "dump", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.0: the disk is full .*Free some space"):
        found.take("a", "1")
    monkeypatch.setattr(claims.json, "dump", dump)
    again = found.take("a", "1")
    assert again and again.generation == 1


def test_a_job_that_fails_is_tried_once_and_takes_with_it_what_stands_on_it(tmp_path):
    def broken() -> None:
        (tmp_path / "tries").open("a").write("x")
        sys.exit("no such thing")

    jobs = [
        Chore("bad", (), lambda: False, broken),
        chore("on-it", tmp_path, ("bad",)),
        chore("on-that", tmp_path, ("on-it",)),
        chore("good", tmp_path),
    ]
    here = Session(tmp_path, "s")
    work(jobs, here, "1")
    work(jobs, here, "2")
    failed = here.failed()
    assert re.fullmatch(r"SystemExit: no such thing \(test_engines.py, line \d+\)", failed.pop("bad"))
    assert failed == {
        "on-it": "it stands on bad, which failed",
        "on-that": "it stands on on-it, which failed",
    }
    assert (tmp_path / "tries").read_text() == "x" and (tmp_path / "good.done").exists()
    found = overseeing.states(jobs, here.failed(), here.claims())
    assert found["good"] == "finished" and found["bad"].startswith("failed: SystemExit")


def test_a_job_at_which_workers_are_lost_is_given_up(tmp_path):
    here = Session(tmp_path, "s")
    for _ in range(working.LOSSES):
        code = f"from qchunk.engines.session import Session; from pathlib import Path; Session(Path({str(tmp_path)!r}), 's').claims().take('a', '1')"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ROOT})
    work([chore("a", tmp_path)], here, "2")
    assert "5 workers in a row were lost" in here.failed()["a"] and not (tmp_path / "a.done").exists()


def test_what_another_command_writes_to_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(working, "AGAIN", 0.1)
    lock = tmp_path / "lock"
    code = "import sys, time; from pathlib import Path; from qchunk.system.files import acquire; acquire(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT})  # fmt: skip
    assert other.stdout and other.stdout.readline()
    assert working.locked(lock) and not working.locked(tmp_path / "none")
    threading.Timer(0.6, other.kill).start()
    work([chore("a", tmp_path)._replace(lock=lock)], Session(tmp_path, "s"), "1")
    assert other.wait() == -signal.SIGKILL and (tmp_path / "a.done").exists(), "as soon as it is free"


def ends_by_itself(
    folder: Path, monkeypatch, parent: int | None = None, begin=lambda here: None, seconds: float = 60.0
) -> bool:
    """Whether a worker is told to save and end while it does a job that waits for that."""
    here, told = Session(folder, "s"), list[int]()
    here.folder.mkdir(parents=True)
    monkeypatch.setattr(working, "POLL", 0.02)
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))

    def do() -> None:
        begin(here)
        until = time.monotonic() + seconds
        while not told and time.monotonic() < until:
            time.sleep(0.01)
        (folder / "done").touch()

    try:
        work([Chore("a", (), (folder / "done").exists, do)], here, "1", *([parent] if parent else []))
    finally:
        signal.signal(signal.SIGTERM, before)
    return bool(told)


def test_a_disk_that_refuses_a_look_stops_no_pulse(tmp_path, monkeypatch):
    """Nor the signs of life, nor that the worker hears it where its session is over."""
    looked, exists = set(), Path.exists

    def at_first_not(path, **more):
        if threading.current_thread() is not threading.main_thread() and path not in looked:
            looked.add(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return exists(path, **more)

    monkeypatch.setattr(Path, "exists", at_first_not)
    assert ends_by_itself(tmp_path, monkeypatch, begin=lambda here: here.stop.touch())
    assert any(path.name == "stop" for path in looked) and len(looked) > 1


def test_a_worker_ends_with_who_started_it(tmp_path, monkeypatch):
    """Also where that is gone before the worker has begun to look: it is told who that was."""
    here, told = session.begin(tmp_path, ["compare", "--env", "probe/pole", "--out", str(tmp_path)]), []
    monkeypatch.setattr(session.subprocess, "Popen", lambda command, **_: told.append(command))
    session.started(here, "1")
    words = told[0][told[0].index("worker") + 1 :]
    monkeypatch.setattr(handed, "serve", lambda listed, session, worker, *parent: told.append(parent))
    workers.worker(words)
    assert told[1] == (os.getpid(),)
    monkeypatch.undo()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert ends_by_itself(tmp_path / "gone", monkeypatch, gone.pid)
    assert not ends_by_itself(tmp_path / "here", monkeypatch, os.getppid(), seconds=3.0)


LONG = """
import sys, time
from pathlib import Path
from qchunk.engines import working
from qchunk.engines.session import Session
from qchunk.system import stopping
working.POLL = working.PATIENCE = 0.1
with stopping.watched(), stopping.saving():
    job = working.Chore("a", (), lambda: False, lambda: print("begun", flush=True) or time.sleep(100))
    working.work([job], Session(Path(sys.argv[1]), "s"), "1", int(sys.argv[2]))
"""


def test_a_worker_that_has_nothing_to_save_ends_all_the_same(tmp_path):
    """After a second Ctrl-C, or where the command was killed, nobody is left to end it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    words = [sys.executable, "-c", LONG, str(tmp_path), str(gone.pid)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out) == (128 + signal.SIGKILL, "took a\nbegun\n") and err.startswith("ended: "), err
    found = Claims(tmp_path / "workers/claims")
    assert (again := found.take("a", "2")) and found.losses(again, 0) == 0, "it was not lost"


def crew_of(codes: list[int], folder: Path, ends: bool) -> tuple[Engine, list[str]]:
    """An engine whose workers end at once by these codes, the last one for ever, and the names of all that it started."""
    begun: list[str] = []

    def start(names) -> list[int]:
        begun.extend(names)
        for name in names:
            (folder / "workers/s" / f"{name}.log").write_text("error: no such file. Make it.\n")
        if ends and len(begun) > 3:
            (folder / "a.done").touch()
        return [codes[min(int(n), len(codes)) - 1] for n in names]

    return Engine(1, start, lambda code: code, lambda handles: None), begun


def test_workers_are_replaced_but_not_for_ever(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(overseeing, "POLL", 0.01)
    for name, codes, ends, count in (("a", [LOST], True, 4), ("b", [LOST], False, 11), ("c", [LOST, 2], False, 2)):
        folder = tmp_path / name
        (folder / "workers/s").mkdir(parents=True)
        engine, begun = crew_of(codes, folder, ends)
        failed = overseeing.oversee(name, [chore("a", folder)], Session(folder, "s"), engine)
        assert len(begun) == count, name
        assert failed == ({} if ends else {"a": "no worker is left for it: error: no such file. Make it."})
        assert Session(folder, "s").stop.exists()
    assert "[a 1/1] a: finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "on, line",
    [
        ("loacl:2", "unknown engine 'loacl'. Did you mean local"),
        ("local:none", "asks for 'none' workers"),
        ("local:0", "asks for '0' workers"),
        ("local:2,cpus=3", "local has none"),
        ("slurm", "names no partition"),
        ("slurm:gpu,time", "option 'time'"),
    ],
)
def test_mistakes_cost_nothing(tmp_path, capsys, on, line):
    with pytest.raises(SystemExit) as e:
        cli.main(["compare", "--env", "probe/pole", "--online-steps", "0", "--out", str(tmp_path / "o"), "--on", on])
    assert e.value.code == 2 and line in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_an_engine_that_is_not_installed(monkeypatch):
    for on, package, extra in (("slurm:x", "submitit", "slurm"), ("ray", "ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"{package} is not installed. Run: pip install .qchunk\[{extra}\]"):
            starting.parse(on)


def test_slurm_is_asked_for_one_array(tmp_path, monkeypatch):
    """What submitit would hand to sbatch, and its lines for a host without Slurm."""
    submitit = pytest.importorskip("submitit")
    here = session.begin(tmp_path, ["compare"])
    with pytest.raises(UserError, match="submitit refuses"):
        starting.engine("slurm:gpu,no_such_option=1", here, 3)
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "srun").write_text("#!/bin/sh\n")
    (bin / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/asked.sh; echo Submitted batch job 12\n')
    for file in bin.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin), prepend=os.pathsep)
    found = starting.engine("slurm:gpu,gpus_per_node=1,timeout_min=30", here, 3)
    assert found.workers == 3 and starting.engine("slurm:gpu,workers=2", here, 3).workers == 2
    handles = found.start(["1", "2", "3"])
    asked = (tmp_path / "asked.sh").read_text()
    for line in ("--array=0-2", "--partition=gpu", "--gpus-per-node=1", "--time=30", "--job-name=qchunk"):
        assert f"#SBATCH {line}" in asked, asked
    assert [job.job_id for job in handles] == ["12_0", "12_1", "12_2"] and submitit.__version__


# ------------------------------------------------------------------------------------------------- whole suites


FILE = """
from qchunk.actor_configs import RegressionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings

def runs(scale):
    c, s = BC(ChunkConfig(4), RegressionConfig((16,))), OnlineSettings(seeds=2, log_every=1)
    first = [Run("bc", "probe/pole", Data("probe/pole", 300), c, s, label) for label in ("a", "b")]
    return [*first, Run("bc", "probe/pole", Data("probe/pole", 200, ("probe/pole/a",)), c, s, "on-a")]

SUITE = Suite(runs)
"""


def command(folder: Path, out: str, *more: str) -> list[str]:
    words = ["reproduce", str(folder / "mine.py"), "--scale", "smoke", "--quiet", "--out", str(folder / out), *more]
    return [sys.executable, "-P", "-m", "qchunk", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}


def ends(root: Path) -> dict[str, dict[str, bytes]]:
    """Every array of the last checkpoint of every run, and its figures."""
    found = {}
    for summary in sorted(root.glob("runs/**/summary.json")):
        folder = summary.parent / "checkpoints"
        step = checkpoint.steps(folder)[-1]
        manifest = checkpoint.verify(folder / str(step))
        leaves = [(f"{i:05d}", e["path"]) for i, e in enumerate(manifest["leaves"]) if "shape" in e and 0 not in e["shape"]]  # fmt: skip
        arrays = checkpoint._read_arrays(folder / str(step), [name for name, _ in leaves])
        told = {
            n: v for n, v in json.loads(summary.read_text()).items() if "per_second" not in n and "seconds" not in n
        }
        held = {path: np.asarray(arrays[name]).tobytes() for name, path in leaves}
        found[str(summary.parent.relative_to(root))] = {**held, "told": json.dumps(told).encode()}
    return found


def owners(root: Path) -> dict[str, int]:
    """The processes that hold a claim now, by the job's name."""
    if not (root / "workers/claims").exists():
        return {}
    found = Claims(root / "workers/claims")
    return {n: claims.read(f.path).get("pid", 0) for n, f in found.newest().items() if not found.free(f)}


def wait_for(what, process: subprocess.Popen, seconds: float = 120.0):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < until, "it ended, or took too long"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The suite, undisturbed, without workers."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "mine.py").write_text(FILE)
    subprocess.run(command(folder, "whole"), check=True, env=environment(), stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.slow
def test_killed_and_stopped_it_ends_with_the_same_bits(whole):
    """A worker is killed in the midst of a run, then the command is stopped by SIGTERM and gone on with."""
    root = whole / "local"
    process = subprocess.Popen(command(whole, "local", "--on", "local:2"), env=environment(), stderr=subprocess.PIPE)
    pid = wait_for(lambda: next((p for n, p in owners(root).items() if n.startswith("probe")), 0), process)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: any(p != pid for n, p in owners(root).items() if n.startswith("probe")), process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and b"the same command goes on" in said
    assert not owners(root), "its workers have let go"
    subprocess.run(command(whole, "local", "--on", "local:2"), check=True, env=environment())
    assert ends(root) == ends(whole / "whole") and len(ends(root)) == 3
    logs = "".join(p.read_text() for p in root.glob("workers/*/*.log"))
    assert all(logs.count(f"finished probe/pole/{label}\n") == 1 for label in ("a", "b", "on-a")), logs


@pytest.mark.slow
def test_submitit_trains_to_the_same_bits(whole):
    pytest.importorskip("submitit")
    subprocess.run(command(whole, "submitit", "--on", "slurm:x,cluster=local,workers=1"), check=True, env=environment())
    assert ends(whole / "submitit") == ends(whole / "whole")


@pytest.mark.slow
def test_a_node_of_ray_is_lost(whole):
    """Two nodes, one of which is killed while it trains: the other one does all, to the same bits."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'qchunk[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        root, on = whole / "ray", f"ray:{cluster.address}"
        process = subprocess.Popen(command(whole, "ray", "--on", on), env=environment())
        wait_for(lambda: len([n for n in owners(root) if n.startswith("probe")]) == 2, process)
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(240) == 0
        assert ends(root) == ends(whole / "whole")
    finally:
        cluster.shutdown()


def test_a_worker_refuses_a_list_that_has_changed(tmp_path):
    """Its command is what makes its list; the parent's list has another hash then."""
    argv = ["compare", "--env", "probe/pole", "--online-steps", "0", "--algos", "bc", "--seeds"]
    from qchunk.commands import compare

    one, two = (compare.listed([*argv[1:], s, "--out", str(tmp_path)]) for s in ("1", "2"))
    assert handed.digest(one.runs) != handed.digest(two.runs)
    here = session.begin(tmp_path, [*argv, "1", "--out", str(tmp_path)])
    (here.folder / "digest").write_text(handed.digest(two.runs))
    with pytest.raises(UserError, match="have changed since the command began"):
        workers.worker([str(tmp_path), here.name, "1"])
    assert [job.name for job in handed.jobs_of(one)] == ["data probe-pole-default-200000.npz", "probe/pole/bc"]
