"""``make gpu`` and turns of a suite on a lent GPU: what they say without one, that they go on, on a CPU at tiny sizes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qchunk.commands import bench

GPU = Path(__file__).resolve().parent.parent / "experiments" / "gpu"
SUITE = """
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings

SUITE = Suite(lambda scale: [Run("bc", "probe/two-step", Data("probe/two-step", 500), BC(ChunkConfig(2)), OnlineSettings(), "bc")])
"""


def ran(program, *argv):
    env = {**os.environ, "PYTHONPATH": str(GPU.parents[1])}
    command = [sys.executable, str(GPU / program), *map(str, argv)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(tmp_path):
    done = ran("measure.py", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no GPU" in done.stderr, done.stderr
    assert "cuda12" in done.stderr and "--smoke" in done.stderr and not (tmp_path / "out").exists()


def test_its_parts_fit_and_are_there():
    measure = loaded("measure")
    assert sum(part.limit for part in measure.PARTS.values()) <= 470
    known = {p.stem for p in bench.FOLDER.glob("[!_]*.py")}
    assert {name for name, part in measure.PARTS.items() if not part.tests} <= known


def test_parts_go_on_and_are_compared(tmp_path, monkeypatch, capsys):
    """Whole parts stay, cut and failed ones are run again; the first whole run is the baseline of the next one."""
    measure = loaded("measure")
    monkeypatch.setattr(measure, "device_here", lambda smoke: "a card")
    monkeypatch.setattr(measure, "PARTS", {"a": measure.Part(9), "b": measure.Part(9)})
    states, ran, ratio = {"a": "whole", "b": "cut"}, [], 2.0

    def run(name, limit, f, results):
        ran.append(name)
        results.append({"file": name, "benchmark": f"{name} x", "ratio": ratio, "better": "lower"})
        return states[name]

    monkeypatch.setattr(measure, "run", run)
    out, baseline = tmp_path / "out", tmp_path / "baseline.json"
    argv = ["measure.py", "--seconds", "60", "--baseline", str(baseline), "--out"]
    monkeypatch.setattr(sys, "argv", [*argv, str(out)])
    measure.main()
    assert ran == ["a", "b"] and not baseline.exists() and "goes on with b" in capsys.readouterr().err
    states["b"] = "whole"
    measure.main()
    kept = bench.read(out / "gpu.json")
    assert ran == ["a", "b", "b"] and [r["file"] for r in kept["results"]] == ["a", "b"]
    assert bench.read(baseline)["results"] == kept["results"] and (out / "gpu.png").exists()
    monkeypatch.setattr(measure, "device_here", lambda smoke: "another card")
    with pytest.raises(measure.UserError, match="a card"):
        measure.main()
    ratio = 3.0
    monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path / "next")])
    with pytest.raises(SystemExit) as end:
        measure.main()
    assert end.value.code == 1 and "a x: ratio 3" in capsys.readouterr().err


@pytest.mark.slow
def test_tests_that_passed_are_not_run_again(tmp_path, monkeypatch):
    """A part that is cut needs no more time than what is left of it."""
    measure, results = loaded("measure"), []
    (tmp_path / "tests").mkdir()
    broken = "from pathlib import Path\ndef test_a(): Path('ran').open('a').write('a')\ndef test_b(): assert Path('mended').exists()\n"
    (tmp_path / "tests" / "test_x.py").write_text(broken)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "PARTS", {"x": measure.Part(600, smoke=("tests/test_x.py",))})
    f = argparse.Namespace(out=tmp_path, smoke=True)
    assert measure.tested("x", 600, f, results) == 1
    (tmp_path / "mended").touch()
    assert measure.tested("x", 600, f, results) == 0
    assert [(r["passed"], r["failed"]) for r in results] == [(1, 1), (2, 0)] and (tmp_path / "ran").read_text() == "a"
    assert measure.tested("x", 600, f, results) == 0, "nothing is left"


def test_ours_stands_beside_the_published_curve():
    slices = loaded("slices")
    rows = slices.beside(
        {"task1": {"success": [[100_000, 0.5], [200_000, 1.0]]}, "task2": {"success": [[100_000, 0.0]]}}
    )
    assert [r["steps"] for r in rows[:3]] == ["0.0M", "0.1M", "0.2M"] and rows[-1]["steps"] == "2.0M"
    assert [(r["ours"], r["tasks"]) for r in rows[:4]] == [(None, 0), (0.25, 2), (1.0, 1), (None, 0)]
    assert rows[1]["published"] == 0.1183


@pytest.mark.slow
def test_turns_add_up(tmp_path):
    """The first turn ends before anything is trained, the second one ends the suite; both say where it is."""
    (tmp_path / "mine.py").write_text(SUITE)
    out, argv = tmp_path / "out", [tmp_path / "mine.py", "--scale", "smoke"]
    assert ran("slices.py", out, 5, *argv).returncode == 2, "no longer than its margin"
    first = ran("slices.py", out, 60.2, *argv)
    known = json.loads((out / "progress.json").read_text())
    assert first.returncode == 0 and not known["done"] and "the same command goes on" in first.stdout, first.stderr
    last = ran("slices.py", out, 250, *argv)
    known = json.loads((out / "progress.json").read_text())
    assert last.returncode == 0 and known["done"] and "done: " in last.stdout, (
        last.stderr,
        (out / "slices.log").read_text(),
    )
    (run,) = known["runs"].values()
    assert run["step"] == run["of"] == 40 and [step for step, _ in run["success"]] == [*range(4, 44, 4)]
    assert [t["stopped"] for t in known["turns"]] == [True, False]


@pytest.mark.slow
def test_a_part_runs_at_tiny_sizes(tmp_path):
    argv = ["--smoke", "--out", tmp_path, "--only"]
    done = ran("measure.py", *argv, "many_seeds", "--seconds", 250)
    kept = bench.read(tmp_path / "gpu.json")
    assert done.returncode == 0 and kept["parts"] == {"many_seeds": "whole"}, done.stderr
    assert [r["benchmark"] for r in kept["results"]] == ["qc tiny S=1", "qc tiny S=2"]
    assert "goes on with blocks" in done.stderr and not (tmp_path / "baseline.json").exists()
