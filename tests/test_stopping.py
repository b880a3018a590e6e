"""Signals: one line, 128 + the signal, nothing half done left behind, and what was trained is saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import ENV, SMALL, last_checkpoint, run

from qchunk import cli

LONG = ["--offline-steps", "1000000", "--eval-every", "500000", "--log-every", "10", "--episodes", "4", "--batch", "16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.npz"
    cli.main(["collect", ENV, "--out", str(path), "--steps", "400", "--episode-length", "10", "--quiet"])
    return path


@pytest.fixture(autouse=True, scope="module")
def heard():
    """What a shell's background or nohup ignores, processes that tests start would ignore, too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def command(*argv: object, **more: object) -> subprocess.Popen:
    """A command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    words = [sys.executable, "-m", "qchunk", *map(str, argv)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen(words, env=env, **pipes)  # type: ignore[call-overload]


def handles(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Whether a signal has a handler in a process that runs."""
    assert process.poll() is None
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def lines_of(out: Path, kind: str = "train") -> list[dict]:
    try:
        text = (out / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


def wait_for(out: Path, process: subprocess.Popen, kind: str = "train", lines: int = 1) -> None:
    """Until the metrics of a run have so many lines of a kind."""
    end = time.monotonic() + 120
    while len(lines_of(out, kind)) < lines and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def stopped_after(out: Path, process: subprocess.Popen, number: int, lines: int = 1) -> str:
    """Sends a signal once the metrics have so many lines of training; what the process said on stderr."""
    wait_for(out, process, lines=lines)
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + number, said
    return said


def training(data, out, *more):
    return ["train", "qc", "--env", ENV, "--data", data, "--out", out, *SMALL, *LONG, *more]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(data, tmp_path, number):
    out = tmp_path / "run"
    said = stopped_after(out, command(*training(data, out)), number)
    step = lines_of(out)[-1]["step"]
    assert said == f"stopped (step {step} is saved); go on with: qchunk train --resume {out}\n"
    assert (out / "checkpoints" / str(step)).is_dir() and not (out / "summary.json").exists()


SHORT = ["--episodes", "4", "--batch", "16", "--log-every", "10", "--seeds", "2"]
REGIMES = {
    "offline": ["qc", *SMALL, "--offline-steps", "300", "--eval-every", "100", *SHORT],
    "online": [
        "qc",
        *SMALL,
        "--offline-steps",
        "20",
        "--online-steps",
        "3000",
        "--envs",
        "4",
        "--start-training",
        "16",
        "--update-ratio",
        "0.5",
        *SHORT,
    ],
    "on-policy": [
        "ppo",
        "--chunk.horizon",
        "2",
        "--tuned.hidden",
        "16",
        "--critic.hidden",
        "16",
        "--rollout.envs",
        "8",
        "--rollout.decisions",
        "4",
        "--rollout.minibatches",
        "2",
        "--online-steps",
        "6400",
        "--episodes",
        "4",
        "--seeds",
        "2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_what_a_signal_saved_goes_on_to_the_same_bits(data, tmp_path, regime, capsys):
    """The checkpoint of a signal lies where none was due, and the run that goes on from it ends like one that was left alone."""
    words = ["train", *REGIMES[regime], "--env", ENV, "--quiet", *([] if regime == "on-policy" else ["--data", data])]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert run(capsys, *words, "--out", whole)[0] == 0
    before = 5 if regime == "online" else 3
    said = stopped_after(out, command(*words, "--out", out), signal.SIGTERM, before)
    assert "is saved" in said, said
    saved = max(int(p.name) for p in (out / "checkpoints").iterdir())
    assert 0 < saved < max(line["step"] for line in lines_of(whole))
    code, _, err = run(capsys, "train", "--resume", out, "--quiet")
    assert code == 0, err
    assert last_checkpoint(out) == last_checkpoint(whole)
    for kind in ("train", "eval"):
        mine, theirs = (
            [(x["step"], {n: v for n, v in x["values"].items() if "per_second" not in n}) for x in lines_of(f, kind)]
            for f in (out, whole)
        )
        assert mine == theirs


@pytest.mark.parametrize(
    "delay", [0.3, *(pytest.param(d, marks=pytest.mark.slow) for d in (0.0, 0.1, 0.6, 1.0, 2.0, 4.0, 7.0))]
)
def test_ctrl_c_is_one_line_and_130_at_any_time(data, tmp_path, delay):
    out = tmp_path / "new" / "run"
    process = command(*training(data, out))
    while not handles(process, signal.SIGTERM):  # SIGINT has a handler of Python's own from the start
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and said.startswith("stopped") and said.count("\n") == 1, said
    kept = out.exists()
    assert kept == (out / "checkpoints").exists() == out.parent.exists(), "what was not trained leaves no folder"


WATCHED = """
import os, sys
sys.addaudithook(lambda event, args: event == "subprocess.Popen" and os.write(2, f"starts {args[0]}".encode()))
from qchunk import cli
cli.main(sys.argv[1:])
assert "mujoco" in sys.modules
"""


def test_no_python_is_started_that_a_ctrl_c_would_make_talk(tmp_path):
    """A signal of the terminal's reaches children, too; glfw, which MuJoCo imports, would start one that shows its traceback."""
    words = [
        "collect",
        "probe/two-step",
        "--out",
        str(tmp_path / "d.npz"),
        "--steps",
        "20",
        "--episode-length",
        "10",
        "--quiet",
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    env.pop("PYGLFW_LIBRARY", None)
    done = subprocess.run([sys.executable, "-c", WATCHED, *words], env=env, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and f"starts {sys.executable}" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_signal_is_heard_where_nothing_is_due_for_hours(data, tmp_path):
    """Between two lines of training, too: work is cut into dispatches of seconds."""
    out = tmp_path / "run"
    process = command(*training(data, out, "--log-every", "1000000", "--checkpoint-every", "1000000"))
    wait_for(out, process, "compile")
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 143 and not lines_of(out), said
    (saved,) = (int(p.name) for p in (out / "checkpoints").iterdir())
    assert 0 < saved < 10**6 and said.startswith(f"stopped (step {saved} is saved)"), said


@pytest.mark.slow
def test_a_second_signal_ends_at_once(data, tmp_path):
    """Also while compiled code runs that would take hours: Python's own handlers would wait for it."""
    out = tmp_path / "run"
    hours = ["--offline-steps", "0", "--online-steps", "100", "--start-training", "0", "--update-ratio", "10000000"]
    process = command("train", "qc", "--env", ENV, "--data", data, "--out", out, *SMALL, "--batch", "16", *hours)
    wait_for(out, process, "compile")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "it waits to save"
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=10)[1]
    assert process.returncode == 143 and said.startswith("stopped at once") and said.count("\n") == 1


@pytest.mark.slow
def test_collect_keeps_what_it_has(tmp_path):
    from qchunk.data import formats

    out = tmp_path / "d.npz"
    for delay in (8, 40, 120):  # compiling may take that long where others share the cores
        process = command("collect", ENV, "--out", out, "--steps", 10**9, "--episode-length", "10")
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
        if out.exists():
            break
    assert process.returncode == 130 and said.count("\n") == 1
    rows, about = formats.load(out)
    count = int((~rows.end).sum())
    assert 0 < count < 10**9 and f"{count} of {10**9} transitions are in {out}" in said and about["stopped"] in said


@pytest.mark.slow
def test_minutes_save_besides_steps(data, tmp_path, capsys):
    for minutes, least in (("0", 1), ("1e-9", 2)):
        out = tmp_path / minutes
        steps = ["--offline-steps", "40", "--log-every", "10", "--episodes", "4", "--batch", "16"]
        more = ["--eval-every", "40", "--checkpoint-minutes", minutes, "--quiet"]
        argv = ["train", "qc", "--env", ENV, "--data", data, "--out", out, *SMALL, *steps, *more]
        assert run(capsys, *argv)[0] == 0
        assert len(list((out / "checkpoints").iterdir())) == least


@pytest.mark.slow
def test_a_line_per_evaluation_without_a_terminal(data, tmp_path, capsys):
    steps = ["--offline-steps", "40", "--log-every", "20", "--eval-every", "20", "--episodes", "4", "--batch", "16"]
    argv = ["train", "qc", "--env", ENV, "--data", data, *SMALL, *steps]
    code, _, err = run(capsys, *argv, "--out", tmp_path / "a")
    assert code == 0 and [line.split(":")[1].split()[0] for line in err.splitlines()] == ["20/40", "40/40"], err
    assert run(capsys, *argv, "--out", tmp_path / "b", "--quiet")[2] == ""


@pytest.mark.slow
def test_a_comparison_that_was_stopped_goes_on_by_the_same_command(data, tmp_path, capsys):
    sizes = ["--hidden", "16", "--horizon", "2", "--n", "2", "--steps", "2", "--seeds", "1", "--episodes", "4"]
    argv = ["compare", "--env", ENV, "--algos", "bc", "qc", "--data", data, "--out", tmp_path / "c", *sizes]
    argv += ["--offline-steps", "3000", "--online-steps", "0", "--evaluations", "1", "--no-look"]
    process = command(*argv)
    said = stopped_after(tmp_path / "c" / "runs" / ENV / "bc", process, signal.SIGTERM)
    assert said.splitlines()[-1].endswith("is saved); the same command goes on"), said
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    assert (tmp_path / "c" / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1-bc", "2-qc-frozen"])
def test_a_chain_that_was_stopped_goes_on_to_the_same_bits(data, tmp_path, stage, capsys):
    """Whichever stage the signal meets: the rest of the chain ends like that of one that was left alone."""
    sizes = ["--chunk.horizon", "2", "--actor.hidden", "16", "--actor.steps", "2", "--offline-steps", "400"]
    more = ["--eval-every", "200", *SHORT, "--quiet", "--data", data]
    second = ["--then", "qc-frozen", "--critic.hidden", "16", "--n", "2"]
    words = ["train", "bc", "--env", ENV, *sizes, *more]
    whole, out = tmp_path / "whole", tmp_path / "chain"
    assert run(capsys, *words, "--out", whole, *second)[0] == 0
    said = stopped_after(out / stage, command(*words, "--out", out, *second), signal.SIGTERM, 3)
    assert "is saved" in said, said
    saved = max(int(p.name) for p in (out / stage / "checkpoints").iterdir())
    assert 0 < saved < 400 and not (out / stage / "summary.json").exists()
    code, _, err = run(capsys, "train", "--resume", out)
    assert code == 0, err
    for name in ("1-bc", "2-qc-frozen"):
        assert last_checkpoint(out / name) == last_checkpoint(whole / name), name
