"""Suites and qchunk reproduce: every table's runs are possible, smoke is small, what is asked for is run and no more."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types

import pytest

from qchunk import cli, env_names, names, primitives
from qchunk.actor_configs import RegressionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison import estimate, suite
from qchunk.comparison.suite import Data, Run, Suite, chosen, shrunk, smoke
from qchunk.config import ChunkConfig, RolloutConfig, validate
from qchunk.data import formats
from qchunk.drivers.online import OnlineSettings
from qchunk.play.execute import parse, with_delay
from qchunk.runs import prior, run_folder
from qchunk.system import loading
from qchunk.system.errors import UserError
from qchunk.types import Spec


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Suites import what they share from beside them."""
    sys.path.insert(0, str(loading.beside("experiments")))
    yield
    sys.path.pop(0)


@pytest.mark.parametrize("name", names.SUITES)
def test_every_suite_is_possible(name):
    found = loading.function(f"{loading.beside('experiments') / names.suite(name)}:SUITE")
    assert isinstance(found, Suite)
    anywhere = types.SimpleNamespace(data_name="")
    for scale in found.scales:
        for runs in (found.runs(scale), [smoke(r) for r in found.runs(scale)]):
            before: dict[str, Run] = {}
            for r in runs:
                validate(r.config)
                validate(r.settings)
                env_names.check_env(r.env)
                if (c := r.config.chunk).codec != "none":
                    primitives.codec(c.codec, c.horizon, c.basis)
                assert names.algorithm(r.algorithm) and r.name not in before, r.name
                earlier = [p for p in (r.data.policies if isinstance(r.data, Data) else ()) if "/" in p]
                assert {r.prior, *earlier} - {""} <= set(before), f"{r.name} stands on a run that comes before it"
                if r.prior:
                    below, c = before[r.prior], before[r.prior].config
                    stage = prior.Prior({}, prior.actor_of(c, r.prior), c, below.settings, anywhere, {})
                    prior.check(stage, r.algorithm, r.config, r.settings, anywhere)
                assert r.data is not None or not getattr(r.settings, "offline_steps", 0)
                for scheme, delay in map(with_delay, found.execute(r)):
                    parse(scheme, r.config.chunk.horizon, delay or 0)
                before[r.name] = r
        if found.published:
            theirs = found.published.file.read_text()
            for r in (r for r in found.runs(scale) if r.env.startswith("ogbench/")):
                assert f",{found.published.task(r.env)},{found.published.methods[r.label]}," in theirs


def test_the_published_settings_of_q_chunking():
    """2507.07969's N (QC 32, 64 on puzzle-3x3; BFN and BFN-n 4) and alpha (table 4); what is said of a scale is of that scale."""
    found = loading.function(f"{loading.beside('experiments') / names.suite('qc-paper')}:SUITE")
    chosen = {(r.label, r.env.split("/")[1].partition("-play")[0]): r.config for r in found.runs("paper")}
    assert len(chosen) == 13 * 5 and len(found.runs("paper")) == 13 * 25
    n = {key: c.n for key, c in chosen.items() if hasattr(c, "n")}
    assert n.pop(("qc", "puzzle-3x3")) == 64
    assert {(label, value) for (label, _), value in n.items()} == {
        *(("qc", 32), ("bfn", 4), ("bfn-n", 4), ("qc-ifql", 32), ("ifql", 32), ("ifql-n", 32)),
    }
    scenes = ("scene", "puzzle-3x3", "cube-double", "cube-triple", "cube-quadruple")
    for label, alphas in {
        "fql": (300, 100, 300, 300, 300),
        "fql-n": (100,) * 5,
        "qc-fql": (300, 300, 300, 100, 100),
        "iql": (10, 10, 0.3, 0.3, 0.3),
    }.items():
        assert tuple(chosen[label, scene].alpha for scene in scenes) == alphas
    for label, chunk in {
        "qc": (5, (5,)),
        "bfn": (1, (1,)),
        "fql-n": (1, (5,)),
        "rlpd-ac": (5, (5,)),
        "iql": (1, (1,)),
    }.items():
        c = chosen[label, "scene"].chunk
        assert (c.horizon, c.points) == chunk
    assert chosen["rlpd", "scene"].critic.members == 10 and chosen["qc", "scene"].critic.members == 2
    for scale in ("smoke", "small", "paper"):
        runs = [smoke(r) for r in found.runs("small")] if scale == "smoke" else found.runs(scale)
        told = " ".join(found.differences(scale))
        assert (f"{runs[0].settings.offline_steps:,} updates" in told) == (scale != "paper")
        assert ("cube-quadruple" in told) == any("cube-quadruple" in r.env for r in runs)


def test_smoke_is_small_and_otherwise_the_same():
    c = RolloutConfig(envs=512, decisions=3, epochs=5, minibatches=4, scale_rewards=False)
    assert shrunk(c) == RolloutConfig(16, 3, 1, 2, False)
    run = Run(
        "bc", "probe/flag", Data("probe/flag", 500), BC(actor=RegressionConfig((8, 300))), OnlineSettings(seeds=1), "x"
    )
    small = smoke(run)
    assert small.config.actor.hidden == (8, 16) and small.config.chunk == run.config.chunk
    assert small.settings == dataclasses.replace(
        run.settings, episodes=4, offline_steps=40, batch=64, start_training=64
    )
    assert small.data == run.data and small.label == "x"


def test_what_a_run_stands_on_is_run_too():
    def run(label, prior="", policies=()):
        return Run("bc", "e", Data("e", 1, policies), BC(), OnlineSettings(), label, prior=prior)

    listed = [run("a"), run("b", policies=("e/a",)), run("c", prior="e/b"), run("d")]
    assert [r.label for r in chosen(listed, ["e/c"])] == ["a", "b", "c"]
    assert [r.label for r in chosen(listed, ["b", "d"])] == ["a", "b", "d"]
    assert chosen(listed, []) == listed and chosen(listed, ["z"]) == []


def test_folders_stay_apart_and_below_the_suite(tmp_path):
    """Files of the user's own name environments and arms, too."""
    for env in ("tabletop/cube-single-task1", "/abs/reach.py:reach", "../reach.py:reach"):
        for label in ("bc", "../mine.py:mine"):
            folder = suite.folder_of(Run("bc", env, None, BC(), OnlineSettings(), label), tmp_path)
            assert folder.resolve().is_relative_to((tmp_path / "runs").resolve()) and ".." not in folder.parts
    tasks = {suite.name_of(f"tabletop/cube-single-task{t}", "../mine.py:mine") for t in (1, 2)}
    assert len(tasks) == 2


@pytest.fixture
def stood(tmp_path):
    """(a run, its suite's folder, its config.json) of a finished run on data that were collected, and on a prior."""
    data, root = Data("probe/flag", 40), tmp_path / "suite"
    run = Run("bc", "probe/flag", data, BC(), OnlineSettings(), "x", "probe/flag/prior", ("task=1", "energy=0.5"))
    file = suite.collected(data, root, quiet=True)
    config = {
        "algorithm": "bc",
        "label": "x",
        "env": run.env,
        "seed": 0,
        "seeds": 1,
        "objective": {"task": 1, "energy": 0.5},
    }
    config |= {
        "prior": {"path": str(root.resolve() / "runs/probe/flag/prior")},
        "config": dataclasses.asdict(run.config),
    }
    config |= {"settings": dataclasses.asdict(run.driver.resolve(run.settings))}
    config |= {"data": {"path": str(file.resolve()), "fingerprint": formats.load(file)[1]["fingerprint"]}}
    with run_folder.create(suite.folder_of(run, root), config) as folder:
        folder.finish({})
    return run, root, suite.folder_of(run, root) / "config.json"


def kept(config, **changes) -> None:
    about = json.loads(config.read_text())
    about["config"].update(changes)
    config.write_text(json.dumps(about))


def test_a_finished_run_that_stands_on_something_else_is_no_run_of_the_suite(stood):
    """Neither its objective, nor its prior, nor that it has data, nor which; what nobody changed goes on, moved or without its data."""
    run, root, config = stood
    suite.check([run], root)
    for change, told in (
        ({"objective": ()}, "another objective"),
        ({"objective": ("task=1", "energy=5")}, "another objective"),
        ({"prior": ""}, "with a prior"),
        ({"prior": "probe/flag/other"}, "another prior"),
        ({"prior": str(root / "elsewhere")}, "another prior"),
        ({"data": None}, "with a data set"),
        (
            {"data": run.data._replace(steps=50)},
            "another data set, probe-flag-default-40.npz, not probe-flag-default-50",
        ),
    ):
        with pytest.raises(UserError, match=told):
            suite.check([run._replace(**change)], root)
    shutil.move(root, root.with_name("moved"))
    suite.check([run], root.with_name("moved"))
    shutil.rmtree(root.with_name("moved") / "data")
    suite.check([run], root.with_name("moved"))
    kept(root.with_name("moved") / config.relative_to(root), prior=None)
    with pytest.raises(UserError, match="was made with no prior"):
        suite.check([run], root.with_name("moved"))


def test_data_that_are_not_what_runs_were_made_with_are_refused(stood):
    """In place, and where they are gone and were collected anew."""
    run, root, config = stood
    file = suite.file_of(run.data, root)
    file.unlink()
    assert suite.collected(run.data, root, quiet=True) == file, "the same bits"
    about = json.loads(config.read_text())["config"]["data"]
    kept(config, data={**about, "fingerprint": "0" * 16})
    with pytest.raises(UserError, match=f"{file.name} has changed since .*probe/flag/x was made. put it back"):
        suite.check([run], root)
    file.unlink()
    suite.check([run], root)
    with pytest.raises(UserError, match=f"{file.name} has changed since .*probe/flag/x was made. put it back"):
        suite.collected(run.data, root, quiet=True)


def test_other_lengths_of_episodes_are_other_data(stood):
    """A SUITE that was edited there would learn from what is there already."""
    run, root, _ = stood
    longer = run._replace(data=run.data._replace(episode_length=7))
    assert suite.file_of(longer.data, root) != suite.file_of(run.data, root)
    with pytest.raises(
        UserError, match="another data set, probe-flag-default-40.npz, not probe-flag-default-40-length7"
    ):
        suite.check([longer], root)


def test_a_report_leaves_out_what_others_stand_on():
    few, many = OnlineSettings(seeds=1), OnlineSettings(seeds=4)
    listed = [Run("bc", "e", None, BC(), few, "prior"), Run("bc", "e", None, BC(), many, "bc")]
    listed += [Run("v-gps", "e", None, BC(), many, name, prior=f"e/{p}") for name, p in (("a", "prior"), ("b", "bc"))]
    assert [r.label for r in suite.shown(listed)] == ["bc", "a", "b"]


def test_cost_by_hand():
    """Regression 2 -> 16 -> 5 x 2: forward, both weights' gradients and one input's, of 2 seeds' 30 updates of 64 rows."""
    c = BC(ChunkConfig(5), RegressionConfig((16,)))
    run = Run("bc", "probe/pole", Data("probe/pole", 100), c, OnlineSettings(seeds=2, offline_steps=30, batch=64), "bc")
    first, second = 64 * 2 * 16, 64 * 16 * 10
    assert estimate.multiplications(run, Spec(2, 2, 4)) == 2 * 30 * (2 * first + 3 * second)


@pytest.mark.parametrize(("seconds", "told"), [(100, "about 5 minutes left"), (3600, "about 3.0 hours left"), (10, "")])
def test_how_long_the_rest_takes(tmp_path, capsys, seconds, told):
    """One run is done; the other makes three times its updates. What took a moment was compiling, and says nothing."""
    c = BC(ChunkConfig(5), RegressionConfig((16,)))
    runs = [
        Run("bc", "probe/pole", Data("probe/pole", 100), c, OnlineSettings(offline_steps=n, batch=64), f"{n}")
        for n in (30, 90)
    ]
    with run_folder.create(suite.folder_of(runs[0], tmp_path), {"algorithm": "bc"}) as run:
        run.log("eval", 30, {"return": [1.0]})
        run.finish({"return": [1.0]})
    path = suite.folder_of(runs[0], tmp_path) / "metrics.jsonl"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": seconds}) + "\n")
    assert estimate.left(runs, 1, tmp_path) == told
    assert estimate.left(runs, 0, tmp_path) == estimate.left(runs[:1], 1, tmp_path) == "", (
        "nothing is done, or nothing left"
    )


FILE = """
from pathlib import Path
from qchunk.algorithms.bc import BC
from qchunk.comparison.literature import Published
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.actor_configs import RegressionConfig
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings

def runs(scale):
    c = BC(ChunkConfig(4), RegressionConfig((16,)))
    return [Run("bc", "probe/pole", Data("probe/pole", 300), c, OnlineSettings(seeds=2), label) for label in ("bc", "again")]

def after(root, todo):
    (root / "report" / "after.txt").write_text(" ".join(r.label for r in todo))

THEIRS = Published(Path(__file__).parent / "theirs.csv", "somebody, 2020", {"again": "BC"}, lambda env: env.split("/")[1])
SUITE = Suite(runs, published=THEIRS, differences=lambda scale: ["another simulator"], after=after)
"""
THEIRS = """source,task,method,step_millions,mean,ci_low,ci_high,seeds
x,pole,BC,1.0,0.42,0.4,0.44,4
x,other,BC,1.0,0.99,0.9,1.0,4
"""


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as e:
        cli.main(["reproduce", *map(str, argv)])
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.splitlines()[-1].startswith("error: ")
    return err


def test_reproduce(tmp_path, capsys):
    """The published figure stands beside ours; a second call trains nothing; a part is a part; mistakes cost nothing."""
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "theirs.csv").write_text(THEIRS)
    mine, out = str(tmp_path / "mine.py"), tmp_path / "out"
    cli.main(["reproduce", mine, "--scale", "smoke", "--out", str(out), "--dry"])
    told = capsys.readouterr().err
    assert "2 of 2 runs are to do: 160 updates" in told and "300 transitions" in told and not out.exists()
    cli.main(["reproduce", mine, "--scale", "smoke", "--out", str(out), "--only", "again", "--quiet"])
    said = capsys.readouterr().out
    assert "42.0 % [40.0, 44.0] at 1.0M" in said and "99.0" not in said and "another simulator" in said
    for page in ("report.html", "report.md"):
        text = (out / "report" / page).read_text()
        assert "Beside the published figures" in text and "somebody, 2020" in text and "another simulator" in text
    assert (out / "report" / "after.txt").read_text() == "again"
    assert not (out / "runs/probe/pole/bc").exists()
    summary = out / "runs/probe/pole/again/summary.json"
    written = summary.stat().st_mtime_ns
    cli.main(["reproduce", mine, "--scale", "smoke", "--out", str(out), "--quiet"])
    assert "1 of 2 runs are to do" in capsys.readouterr().err and summary.stat().st_mtime_ns == written
    assert suite.finished(Run("bc", "probe/pole", None, None, OnlineSettings(), "bc"), out)

    config = out / "runs/probe/pole/again/config.json"
    about = json.loads(config.read_text())
    assert about["config"]["config"]["optim"].pop("warmup") == 0, "as a run has it that is older than the setting"
    config.write_text(json.dumps(about))
    cli.main(["reproduce", mine, "--scale", "smoke", "--out", str(out), "--quiet", "--so-far"])
    assert not list(out.rglob("cost.json")), "nobody asked what acting costs"
    assert "2 of 2 runs are finished" in capsys.readouterr().err and summary.stat().st_mtime_ns == written

    cli.main(["reproduce", mine, "--scale", "smoke", "--out", str(out), "--quiet", "--look", "--only", "pole/bc"])
    cost = json.loads((out / "runs/probe/pole/bc/cost.json").read_text())
    assert cost["p50"] > 0 and len(cost["energy_distance"]) == 2
    assert (out / "runs/probe/pole/bc/episode.gif").exists()
    assert "Cost of acting" in (out / "report" / "report.html").read_text()

    (tmp_path / "mine.py").write_text(FILE.replace("RegressionConfig((16,))", "RegressionConfig((8,))"))
    err = refused(capsys, mine, "--scale", "smoke", "--out", out)
    assert "was made with another config.actor.hidden" in err and summary.stat().st_mtime_ns == written
    (tmp_path / "mine.py").write_text(FILE)
    assert "another --scale" in refused(capsys, mine, "--scale", "small", "--out", out)
    assert "has no scale paper" in refused(capsys, mine, "--scale", "paper")
    assert "names no run" in refused(capsys, mine, "--only", "qc")
    assert "qc-paper" in refused(capsys, "qc-papre")
    assert "no file" in refused(capsys, tmp_path / "none.py")
    (tmp_path / "odd.py").write_text("SUITE = 3\n")
    assert "no Suite" in refused(capsys, tmp_path / "odd.py")
    (tmp_path / "none.py").write_text("from qchunk.comparison.suite import Suite\nSUITE = Suite(lambda scale: [])\n")
    assert "lists no runs" in refused(capsys, tmp_path / "none.py")
    (tmp_path / "torn.py").write_text("a = 1\nSUITE = (\n")
    assert "torn.py is no Python: line 2" in refused(capsys, tmp_path / "torn.py")
    (tmp_path / "lacks.py").write_text("import nothing_of_that_name\n")
    assert "nothing_of_that_name" in refused(capsys, tmp_path / "lacks.py")
    assert "holds no suite" in refused(capsys, mine, "--dry", "--out", tmp_path), "a dry run is refused what the run is"
