"""The command line as a user meets it: run folders, exact resume, their own algorithm, and mistakes told in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qchunk
from qchunk import cli
from qchunk.comparison import afterwards
from qchunk.reporting import executions
from qchunk.reporting.records import Record
from qchunk.runs import checkpoint

ENV = "probe/two-step"
SMALL = ["--chunk.horizon", "2", "--actor.hidden", "16", "--actor.steps", "2", "--n", "2", "--critic.hidden", "16"]
STEPS = ["--offline-steps", "60", "--eval-every", "20", "--log-every", "10", "--episodes", "8", "--batch", "32"]


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command in this process."""
    try:
        cli.main([str(a) for a in argv])
        code = 0
    except SystemExit as e:
        code = e.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "play.npz"
    cli.main(["collect", ENV, "--out", str(path), "--steps", "400", "--episode-length", "10", "--quiet"])
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "qc"
    cli.main(
        ["train", "qc", "--env", ENV, "--data", str(data), "--out", str(out), "--quiet", "--seeds", "2", *SMALL, *STEPS]
    )
    return out


def test_run_folder(trained, capsys):
    summary = json.loads((trained / "summary.json").read_text())
    assert {"success", "return", "updates_per_second", "compile_seconds"} <= set(summary)
    assert len(summary["success"]["per_seed"]) == 2
    about = json.loads((trained / "config.json").read_text())
    assert about["config"]["algorithm"] == "qc" and about["config"]["env"] == ENV and about["versions"]["jax"]
    kinds = [json.loads(line)["kind"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("train") == 6 and kinds.count("eval") == 3
    code, out, _ = run(capsys, "eval", trained, "--episodes", "5", "--execute", "receding:1", "--json")
    assert code == 0 and len(json.loads(out)["success"]["per_seed"]) == 2


def test_a_schemes_name_may_carry_its_delay(trained, capsys):
    both = [["--execute", "receding:1@1"], ["--execute", "receding:1", "--delay", "1"]]
    told = [run(capsys, "eval", trained, "--episodes", "3", *ways, "--json")[1] for ways in both]
    assert told[0] == told[1] and json.loads(told[0])["success"]
    code, _, err = run(capsys, "eval", trained, "--execute", "receding:1@1", "--delay", "0")
    assert code == 2 and "names a delay of 1, and --delay is 0" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_contrast_to_a_weaker_run(trained, data, tmp_path, capsys):
    """The weaker run's weights matter; without one, or with one of other sizes, a line says what to do."""
    weaker, other = tmp_path / "weaker", tmp_path / "other"
    few = [
        "--env",
        ENV,
        "--data",
        data,
        "--quiet",
        "--episodes",
        "2",
        "--offline-steps",
        "2",
        "--eval-every",
        "2",
        "--batch",
        "8",
    ]
    for out, more in ((weaker, []), (other, ["--actor.hidden", "8"])):
        assert run(capsys, "train", "qc", *few, "--out", out, "--seeds", "2", *SMALL, *more)[0] == 0
    played = ["eval", trained, "--episodes", "40", "--execute", "contrast:4", "--json"]
    found = [json.loads(run(capsys, *played, "--weaker", w)[1])["jump"]["per_seed"] for w in (weaker, trained)]
    assert len(found[0]) == 2 and found[0] != found[1]
    for more, told in (([], "--weaker OTHER"), (["--weaker", other], "another method, other sizes")):
        code, _, err = run(capsys, *played, *more)
        assert code == 2 and told in err and err.count("\n") == 1
    code, _, err = run(capsys, "eval", trained, "--episodes", 2, "--weaker", weaker)
    assert code == 2 and "open-loop asks no weaker run" in err and err.count("\n") == 1, err
    policy = qchunk.load(trained, execute="contrast:4", weaker=weaker)
    policy.reset()
    assert np.isfinite(policy(np.zeros(2, np.float32))).all()


def test_report(trained, tmp_path, capsys):
    code, out, _ = run(capsys, "report", trained, "--out", tmp_path / "r")
    assert code == 0 and "| probe/two-step | qc | 2 |" in out
    code, out, _ = run(capsys, "report", "--out", tmp_path / "r", trained, "--json")
    assert code == 0 and [row["method"] for row in json.loads(out)] == ["qc"]
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<svg" in page and not re.search(r"""(src|href|url\()=?["']?http""", page)


def test_a_run_is_played_by_several_schemes(trained, tmp_path, capsys, monkeypatch):
    """What `qchunk compare --execute` leaves in a run: figures by scheme, kept while the checkpoint is; shown by any report."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    ways = ["open-loop", "receding:1", "argmax-k"]
    afterwards.by_schemes(folder, ways, 6)
    kept = executions.read(folder)
    open_loop, one = (kept[n]["figures"] for n in ways[:2])
    np.testing.assert_allclose(one["looks"], one["length"])
    assert all(a <= b / 2 + 1 for a, b in zip(open_loop["looks"], open_loop["length"], strict=True))
    assert kept["argmax-k"]["why"].startswith("--execute argmax-k asks a critic of prefixes")
    monkeypatch.setattr(afterwards, "evaluate", None)  # nothing is played again
    afterwards.by_schemes(folder, ways[:2], 6)
    assert executions.read(folder) == {n: kept[n] for n in ways[:2]}
    (folder / executions.EXECUTIONS).write_text(json.dumps(kept))
    assert run(capsys, "report", folder, "--out", tmp_path / "r")[0] == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "One run, several executions" in page and "not played: --execute argmax-k asks" in page
    (folder / executions.EXECUTIONS).write_text('{"open-loop": 3}')
    assert run(capsys, "report", folder, "--out", tmp_path / "r")[0] == 0
    assert "damaged" in (tmp_path / "r" / "report.html").read_text()
    # a damaged file is measured again; what fails is kept with its reason
    afterwards.by_schemes(folder, ["open-loop"], 6)
    assert "TypeError" in executions.read(folder)["open-loop"]["why"]


def test_executions_where_success_has_no_meaning(tmp_path):
    """Returns are no shares of episodes; what is not finite says so."""
    run_ = Record("bc", "e", (0, 1, 2), [{"values": {"return": [1.0, 2.0, 4.0]}}], False, tmp_path, {"config": {}})
    ways = {"open-loop": [-1.0, -2.0, -3.0], "receding:1": [3.0, 5.0, 4.0], "random-k": [None, 1.0, 2.0]}
    one = {"step": 1, "episodes": 4, **executions.NOT_PLAYED}
    counts = {n: [4.0] * 3 for n in ("looks", "plans", "length", "jump", "change")}
    kept = {n: {**one, "figures": {"return": x, **counts}} for n, x in ways.items()}
    (tmp_path / executions.EXECUTIONS).write_text(json.dumps(kept))
    first, second, third = executions.rows([run_])
    assert (first["mean"], first["difference to the first"]) == ("-2.00", "(the first)")
    assert second["mean"] == "4.00" and second["difference to the first"].startswith("+6.00 [")
    assert third["mean"] == "not finite"


def test_collect_with_a_run(trained, tmp_path, capsys):
    out = tmp_path / "again.npz"
    code, text, _ = run(
        capsys, "collect", ENV, "--policy", trained, "--out", out, "--steps", "20", "--episode-length", "4", "--json"
    )
    assert code == 0 and json.loads(text)["transitions"] >= 20


def last_checkpoint(folder: Path) -> dict[str, bytes]:
    """Every array of a run's newest checkpoint, by file-independent content."""
    where = folder / "checkpoints"
    from qchunk.commands import flags
    from qchunk.runs import opened
    from qchunk.runs.run_folder import read_config

    (learner, _), step = opened.restore(folder, opened.rebuild(read_config(folder)["config"], folder), None)
    assert step == checkpoint.steps(where)[-1] and flags
    import jax

    return {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in jax.tree_util.tree_leaves_with_path(learner)}


def test_resume_after_kill_is_bitwise_equal(trained, data, tmp_path):
    """SIGKILL as soon as the first checkpoint appears (in or after its save), then resume: the same bits at the end."""
    out = tmp_path / "killed"
    argv = [
        "train",
        "qc",
        "--env",
        ENV,
        "--data",
        str(data),
        "--out",
        str(out),
        "--quiet",
        "--seeds",
        "2",
        *SMALL,
        *STEPS,
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "qchunk", *argv], env=environment)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not (out / "summary.json").exists()
    cli.main(["train", "--resume", str(out), "--quiet"])
    assert last_checkpoint(out) == last_checkpoint(trained)

    def figures(folder):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [(x["step"], x["values"]) for x in lines if x["kind"] == "eval"]

    assert figures(out) == figures(trained)


def test_a_kill_between_the_last_checkpoint_and_the_summary(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    code, _, err = run(capsys, "train", "--resume", copy)
    assert code == 2 and "finished" in err
    (copy / "summary.json").unlink()
    kept = json.loads((copy / "config.json").read_text())
    kept["config"]["devices"] += 1
    (copy / "config.json").write_text(json.dumps(kept))
    code, _, err = run(capsys, "train", "--resume", copy, "--quiet")
    assert code == 0 and "bits may differ" in err
    again, before = (json.loads((f / "summary.json").read_text()) for f in (copy, trained))
    assert again["success"] == before["success"] and last_checkpoint(copy) == last_checkpoint(trained)


def test_resume_refuses_a_damaged_checkpoint(trained, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    newest = broken / "checkpoints" / "60"
    big = max(
        (p for p in newest.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    big.write_bytes(big.read_bytes()[:-1])
    code, _, err = run(capsys, "train", "--resume", broken, "--quiet")
    assert code == 2 and "60" in err and "--step 40" in err and err.count("\n") == 1
    code, _, _ = run(capsys, "train", "--resume", broken, "--step", "40", "--quiet")
    assert code == 0
    assert last_checkpoint(broken) == last_checkpoint(trained)


README = (Path(__file__).parents[1] / "README.md").read_text()
MINE = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "def mine(" in block)


def test_an_algorithm_of_ones_own(data, tmp_path, capsys):
    """The README's example: a file outside the package, at most 30 lines, trains and resumes through the same driver."""
    assert len(MINE.strip().splitlines()) <= 30
    file, out = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(MINE)
    argv = ["--env", ENV, "--data", data, "--out", out, *SMALL, *STEPS, "--quiet", "--json"]
    code, text, err = run(capsys, "train", f"{file}:mine", *argv)
    assert code == 0, err
    assert np.isfinite(json.loads(text)["return"]["mean"])
    code, _, _ = run(capsys, "eval", out, "--episodes", "3")
    assert code == 0


def train_with(data, *more):
    return ["train", "qc", "--env", ENV, "--data", data, "--out", "never", *SMALL, *STEPS, *more]


MISTAKES = [
    (lambda d: ["trian"], "train"),
    (lambda d: ["train"], "algorithm"),
    (lambda d: ["train", "qcc", "--env", ENV, "--data", d], "qc"),
    (lambda d: ["train", "qc", "--env", "tabletop/cube-sinle-task1", "--data", d], "tabletop/cube-single-task1"),
    (lambda d: ["train", "qc", "--env", "tabletop/cube-single-task9", "--data", d], "task1 to task5"),
    (lambda d: ["train", "qc", "--env", "tabletop/cube-single", "--data", d], "-task1"),
    (lambda d: ["train", "qc", "--env", "brax/swimmer", "--data", d], "does not work"),
    (lambda d: ["train", "qc", "--env", "brax/ant@bullet", "--data", d], "backend"),
    (lambda d: ["train", "qc", "--env", "probe/flag", "--data", d, "--out", "never"], "probe/two-step"),
    (lambda d: ["train", "nowhere.py:f", "--env", ENV, "--data", d], "nowhere.py"),
    (lambda d: ["train", "qchunk.algorithms.qc:qd", "--env", ENV, "--data", d], "qc"),
    (lambda d: train_with(d, "--chunk.horizn", "3"), "--chunk.horizon"),
    (lambda d: train_with(d, "--chunk.gamma", "1.5"), "[0, 1]"),
    (lambda d: train_with(d, "--chunk.backup", "3", "1"), "ascending"),
    (lambda d: train_with(d, "--optim.lr", "-1"), "a number above 0"),
    (lambda d: train_with(d, "--batch", "0"), "--batch"),
    (lambda d: train_with(d, "--batch", "many"), "--batch"),
    (lambda d: train_with(d, "--critic.aggregate", "max"), "aggregate"),
    (lambda d: train_with(d, "--execute", "receding:3"), "receding:1 to receding:2"),
    (lambda d: train_with(d, "--chunk.horizon", "9"), "longer than every episode"),
    (lambda d: train_with("missing.npz"), "collect"),
    (lambda d: ["train", "--resume", d.parent], "not a run"),
    (lambda d: ["collect", ENV, "--out", d], "exists"),
    (lambda d: ["collect", ENV, "--out", "x.npz", "--steps", "0"], "give a whole number from 1 on"),
    (lambda d: ["collect", ENV, "--out", "x.npz", "--policy", "plya"], "random"),
    (lambda d: ["eval", "nothing"], "not a run"),
    (lambda d: ["list", "algos"], "algorithms"),
]


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_a_mistake_is_one_line(case, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv, names_it = MISTAKES[case]
    code, out, err = run(capsys, *argv(data))
    assert code == 2, (out, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and names_it in err, err
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


def test_an_existing_run_folder_is_kept(trained, data, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    code, _, err = run(capsys, "train", "qc", "--env", ENV, "--data", data, "--out", trained, *SMALL, *STEPS)
    assert code == 2 and "--resume" in err
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_changed_data_is_refused(trained, data, tmp_path, capsys):
    copy, other = tmp_path / "copy", tmp_path / "other.npz"
    shutil.copytree(trained, copy)
    cli.main(
        ["collect", ENV, "--out", str(other), "--steps", "300", "--episode-length", "10", "--seed", "5", "--quiet"]
    )
    about = json.loads((copy / "config.json").read_text())
    about["config"]["data"]["path"] = str(other)
    (copy / "config.json").write_text(json.dumps(about))
    code, _, err = run(capsys, "train", "--resume", copy)
    assert code == 2 and "changed" in err


def test_light_commands_import_no_jax():
    script = (
        "import sys, time; t = time.process_time(); from qchunk import cli; cli.main(sys.argv[1:]);"
        "bad = {'jax', 'brax', 'flax', 'numpy', 'tyro'} & set(sys.modules); assert not bad, bad;"
        "assert time.process_time() - t < 0.5"
    )
    for argv in (["--help"], ["list"], ["list", "envs"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *argv], capture_output=True, text=True, cwd=Path(cli.__file__).parents[1]
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


@pytest.mark.parametrize("command", ["compare", "render", "reproduce", "eval"])
def test_commands_that_draw_need_no_screen(command, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(cli, "draw_without_a_screen", lambda: asked.append(command))
    assert run(capsys, command, "--help")[0] == 0
    assert bool(asked) == (command != "eval")
