"""Runs that are gone on with: moved data and chains, more steps, checkpoints that are gone, and nothing left where nothing was trained."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from test_cli import ENV, SMALL, last_checkpoint, run

from qchunk import cli
from qchunk.runs import checkpoint
from qchunk.system.errors import UserError

STEPS = ["--offline-steps", "30", "--eval-every", "10", "--log-every", "10", "--episodes", "4", "--batch", "16"]


def train(data, out, *more):
    return ["train", "qc", "--env", ENV, "--data", data, "--out", out, *SMALL, *STEPS, "--quiet", *more]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data set, and a run of 30 updates on it: checkpoints 20 and 30."""
    folder = tmp_path_factory.mktemp("base")
    cli.main(["collect", ENV, "--out", str(folder / "d.npz"), "--steps", "400", "--episode-length", "10", "--quiet"])
    cli.main([str(word) for word in train(folder / "d.npz", folder / "run")])
    return folder


@pytest.fixture
def copy(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "run")
    return tmp_path / "run"


def resume(capsys, folder, *more):
    return run(capsys, "train", "--resume", folder, "--quiet", *more)


def metrics(folder):
    return (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("how", ["moved", "without manifests", "moved before it ended"])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(copy, tmp_path, capsys, how):
    if how == "without manifests":
        for path in (copy / "checkpoints").glob("*/manifest.json"):
            path.unlink()
    else:
        (copy / "checkpoints").rename(tmp_path / "elsewhere")
    if how == "moved before it ended":
        (copy / "summary.json").unlink()
    before = metrics(copy)
    code, _, err = resume(capsys, copy)
    assert code == 2 and err.count("\n") == 1 and "checkpoints back" in err and metrics(copy) == before


def test_a_configuration_without_a_part_and_an_impossible_time_are_a_line(copy, capsys):
    code, _, err = resume(capsys, copy, "--checkpoint-minutes", "-1")
    assert code == 2 and "--checkpoint-minutes -1.0 is out of range. give a number from 0 on" in err, err
    code, _, err = resume(capsys, copy, "--devices-per-seed", "0")
    assert code == 2 and "--devices-per-seed 0 is out of range. give a whole number from 1 on" in err, err
    kept = json.loads((copy / "config.json").read_text())
    for part in ("label", "data"):
        without = {**kept, "config": {n: v for n, v in kept["config"].items() if n != part}}
        (copy / "config.json").write_text(json.dumps(without))
        code, _, err = resume(capsys, copy)
        assert code == 2 and err.count("\n") == 1 and f"lacks {part}" in err, err


def test_what_a_run_stands_on_is_missed(copy, capsys):
    kept = json.loads((copy / "config.json").read_text())
    for part, value, told in (
        ("data", {"x": 1}, "config.data lacks fingerprint, path"),
        ("prior", {"path": "x"}, "given is not there"),
    ):
        (copy / "config.json").write_text(json.dumps({**kept, "config": {**kept["config"], part: value}}))
        code, _, err = resume(capsys, copy)
        assert code == 2 and err.count("\n") == 1 and told in err, err


def test_a_run_that_never_saved_begins_again(copy, capsys, base):
    shutil.rmtree(copy / "checkpoints")
    (copy / "summary.json").unlink()
    (copy / "metrics.jsonl").write_text(metrics(copy).splitlines()[0] + "\n")
    code, _, err = resume(capsys, copy)
    assert code == 0, err
    assert last_checkpoint(copy) == last_checkpoint(base / "run")


def test_what_a_kill_left_half_done_goes(copy, capsys):
    (copy / "summary.json").unlink()
    (copy / ".summary.json.tmp-1").write_text("{")
    for name in (".tmp-40-1", ".gone-10-1"):
        (copy / "checkpoints" / name).mkdir()
    assert resume(capsys, copy)[0] == 0
    assert not [p for p in copy.rglob(".*")]


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_a_damaged_manifest_names_the_older_checkpoint(copy, capsys, what):
    file = copy / "checkpoints" / "30" / "manifest.json"
    file.write_text("{") if what == "damaged" else file.unlink()
    code, _, err = resume(capsys, copy, "--step", "30")
    assert code == 2 and "--step 20" in err and err.count("\n") == 1, err


def test_who_looks_on_takes_the_next_checkpoint_where_one_goes_meanwhile(copy, capsys, monkeypatch):
    """A process that trains removes old checkpoints while others read them; one that stays unreadable is told."""
    read = checkpoint.restore

    def gone(where, like, step=None):
        if (where / "30").exists():
            shutil.rmtree(where / "30")
            raise UserError("its arrays cannot be read", "look elsewhere")
        return read(where, like, step)

    monkeypatch.setattr(checkpoint, "restore", gone)
    code, out, err = run(capsys, "eval", copy, "--episodes", "2", "--json")
    assert code == 0 and json.loads(out) and not (copy / "checkpoints" / "30").exists(), err

    def broken(*args):
        raise UserError("its arrays cannot be read", "look elsewhere")

    monkeypatch.setattr(checkpoint, "restore", broken)
    assert "its arrays cannot be read" in run(capsys, "eval", copy, "--episodes", "2")[2]


def test_going_back_loses_nothing_until_a_checkpoint_is_saved(copy, capsys, monkeypatch):
    before, summary = metrics(copy), (copy / "summary.json").read_text()

    def killed(*args, **more):
        raise RuntimeError("killed before its first save")

    with monkeypatch.context() as m:
        m.setattr(checkpoint, "save", killed)
        code, _, err = resume(capsys, copy, "--step", "20")
    assert code == 2 and "killed before its first save" in err
    assert metrics(copy) == before and (copy / "summary.json").read_text() == summary
    assert resume(capsys, copy, "--step", "20")[0] == 0
    again, once = ([json.loads(line) for line in text.splitlines()] for text in (metrics(copy), before))
    assert [(x["kind"], x["step"]) for x in again if x["kind"] != "compile"] == [(x["kind"], x["step"]) for x in once if x["kind"] != "compile"]  # fmt: skip


def test_a_resumed_run_says_what_has_changed(copy, capsys):
    about = json.loads((copy / "config.json").read_text())
    about["versions"]["jax"] = "0.0.1"
    about["git_commit"], about["code"] = "abc", "another"
    about["config"]["config"]["chunk"]["gamma"] = 0.5
    about["config"]["sampling_precision"] = "bfloat16"
    (copy / "config.json").write_text(json.dumps(about))
    code, _, err = resume(capsys, copy, "--step", "20")
    assert code == 0 and "made with jax 0.0.1" in err and "made by other code (commit abc," in err
    assert "chunk.gamma in config.json was 0.99 and is 0.5" in err and err.count("\n") == 4, err
    assert "made with QCHUNK_SAMPLING_PRECISION bfloat16, here it is unset" in err


def test_a_run_from_before_a_setting_goes_on_with_its_default(copy, base, capsys):
    """To the same bits, and says so; one of another value, or a setting that this version does not know, is refused."""
    about = json.loads((copy / "config.json").read_text())
    config = about["config"]
    assert config["settings"].pop("devices_per_seed") == 1 and config["config"]["optim"].pop("warmup") == 0
    (copy / "config.json").write_text(json.dumps(about))
    code, _, err = resume(capsys, copy, "--step", "20")
    assert code == 0 and "made before config.optim.warmup was a setting: it is 0 here, its default" in err
    assert (
        "before settings.devices_per_seed was a setting: it is 1" in err
        and err.count("made before") == err.count("\n") == 2
    ), err
    assert last_checkpoint(copy) == last_checkpoint(base / "run")
    config["config"]["optim"]["heat"] = 1
    (copy / "config.json").write_text(json.dumps(about))
    code, _, err = resume(capsys, copy, "--step", "20")
    assert code == 2 and "OptimConfig differs from this version's in heat" in err and err.count("\n") == 1


def test_data_that_have_moved_are_known_by_their_fingerprint(base, copy, tmp_path, capsys):
    about = json.loads((copy / "config.json").read_text())
    about["config"]["data"]["path"] = str(tmp_path / "gone.npz")
    (copy / "config.json").write_text(json.dumps(about))
    code, _, err = resume(capsys, copy, "--step", "20")
    assert code == 2 and f"--resume {copy} --data" in err
    moved = tmp_path / "moved.npz"
    shutil.copy(base / "d.npz", moved)
    assert resume(capsys, copy, "--step", "20", "--data", moved)[0] == 0
    assert json.loads((copy / "config.json").read_text())["config"]["data"]["path"] == str(moved)
    cli.main(["collect", ENV, "--out", str(tmp_path / "other.npz"), "--steps", "50", "--seed", "3", "--quiet"])
    code, _, err = resume(capsys, copy, "--step", "20", "--data", tmp_path / "other.npz")
    assert code == 2 and "changed" in err


@pytest.mark.slow
def test_a_finished_run_is_extended_to_the_bits_of_a_longer_one(base, copy, tmp_path, capsys):
    code, _, err = resume(capsys, copy, "--offline-steps", "50")
    assert code == 0, err
    longer = [str(word) for word in train(base / "d.npz", tmp_path / "longer", "--offline-steps", "50")]
    cli.main(longer)
    assert last_checkpoint(copy) == last_checkpoint(tmp_path / "longer")
    assert json.loads((copy / "config.json").read_text())["config"]["settings"]["offline_steps"] == 50
    code, _, err = resume(capsys, copy, "--offline-steps", "40")
    assert code == 2 and "--offline-steps 50" in err and err.count("\n") == 1


def test_nothing_is_left_where_nothing_was_trained(base, tmp_path, capsys, monkeypatch):
    from qchunk.drivers import online

    out = tmp_path / "new" / "run"
    code, _, err = run(capsys, *train(base / "d.npz", out, "--log-to", "tensorbord"))
    assert code == 2 and "tensorboard" in err and not out.parent.exists()

    def broken(*args):
        raise ValueError("of my own")

    with monkeypatch.context() as m:
        m.setattr(online, "init", broken)  # of what runs after the folder was made
        code, _, err = run(capsys, *train(base / "d.npz", out))
    assert code == 2 and "your broken" in err and "of my own" in err
    assert not out.parent.exists()
    assert run(capsys, *train(base / "d.npz", out))[0] == 0, "the mended command needs no other folder"


def test_out_of_memory_is_one_line(base, tmp_path, capsys, monkeypatch):
    from qchunk.drivers import online
    from qchunk.system import memory

    def short(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore")

    with monkeypatch.context() as m:
        m.setattr(online, "init", short)
        code, _, err = run(capsys, *train(base / "d.npz", tmp_path / "run"))
    assert code == 2 and err.count("\n") == 1 and "--batch" in err and "out of memory" in err, err
    monkeypatch.setattr(memory, "installed", lambda: 2**20)
    code, _, err = run(capsys, *train(base / "d.npz", tmp_path / "run", "--batch", "1000000"))
    assert code == 2 and err.count("\n") == 1 and "--batch" in err and "out of memory" in err, err
    more = ["--envs", 10**6, "--steps", 10**7, "--episode-length", "10"]
    code, _, err = run(capsys, "collect", ENV, "--out", tmp_path / "x.npz", *more)
    assert code == 2 and err.count("\n") == 1 and "--envs" in err
    assert list(tmp_path.iterdir()) == []


CHAIN = ["bc", "--env", ENV, "--chunk.horizon", "2", "--actor.hidden", "16", *STEPS, "--quiet"]
SECOND = ["--then", "qc-frozen", "--critic.hidden", "16", "--n", "2"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--critc.hidden", "16"], "--critic.hidden"),
        (["--chunk.horizon", "1"], "leave --chunk.horizon out"),
        (["--given.hidden", "17"], "leave --given.hidden out"),
        (["--optim.lr", "-1"], "above 0"),
        (["--seeds", "3"], "has 2 seeds"),
        (["--then", "bc"], "leave --prior out"),
    ],
)
def test_a_slip_in_a_later_stage_is_found_before_the_first_trains(base, tmp_path, capsys, more, says):
    out = tmp_path / "chain"
    chain = ["train", *CHAIN, "--seeds", "2", "--data", base / "d.npz", "--out", out, *SECOND, *more]
    code, _, err = run(capsys, *chain)
    assert code == 2 and says in err and err.count("\n") == 1, err
    assert not out.exists()


@pytest.mark.slow
def test_a_chain_that_has_moved_goes_on_where_it_is_now(base, tmp_path, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    code, _, err = run(capsys, "train", *CHAIN, "--data", base / "d.npz", "--out", old, *SECOND)
    assert code == 0, err
    whole = last_checkpoint(old / "2-qc-frozen")
    shutil.rmtree(old / "2-qc-frozen")
    old.rename(new)
    code, _, err = run(capsys, "train", "--resume", new)
    assert code == 0, err
    assert not old.exists() and last_checkpoint(new / "2-qc-frozen") == whole


def test_a_report_overwrites_no_file_of_others(base, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("mine")
    code, _, err = run(capsys, "report", base / "run", "--out", tmp_path)
    assert code == 2 and err.count("\n") == 1 and "table.csv" in err
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"] and (tmp_path / "table.csv").read_text() == "mine"
    for _ in range(2):
        assert run(capsys, "report", base / "run", "--out", tmp_path / "r")[0] == 0


def test_json_is_alone_on_stdout_and_has_no_nan(base, tmp_path, capsys, monkeypatch):
    from qchunk.commands import evaluate

    def measure(*args, **more):
        print("what a simulator prints")
        return {"success": np.asarray([np.nan])}

    monkeypatch.setattr(evaluate, "measure", measure)
    code, out, err = run(capsys, "eval", base / "run", "--json")
    refuse = lambda word: pytest.fail(f"{word} is not JSON")  # noqa: E731
    assert code == 0 and json.loads(out, parse_constant=refuse) == {"success": {"mean": None, "per_seed": [None]}}
    assert "what a simulator prints" in err


def test_a_comparison_logs_where_it_is_asked_to(base, tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    sizes = ["--hidden", "16", "--horizon", "2", "--n", "2", "--steps", "2", "--seeds", "1", "--episodes", "4"]
    argv = ["compare", "--env", ENV, "--algos", "qc", "--data", base / "d.npz", "--out", tmp_path / "c", *sizes]
    more = ["--offline-steps", "20", "--online-steps", "0", "--evaluations", "1", "--no-look", "--log-to"]
    code, _, err = run(capsys, *argv, *more, "tensorboard")
    assert code == 0, err
    assert list((tmp_path / "c" / "runs").rglob("events.out.tfevents.*"))
    code, _, err = run(capsys, *argv, *more, "nowhere")
    assert code == 2 and "tensorboard" in err
