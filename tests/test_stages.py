"""Frozen priors on the command line: --prior, chains of stages, and mistakes told in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from test_cli import ENV, last_checkpoint, run

from qchunk import cli, registry
from qchunk.algorithms.bc import BC
from qchunk.commands import stages
from qchunk.commands.train import defaults
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.runs.prior import Prior
from qchunk.runs.training import TrainFlags

STEPS = ["--offline-steps", "20", "--eval-every", "10", "--log-every", "10", "--episodes", "4", "--batch", "16"]
TINY = ["--critic.hidden", "16", "--quiet"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A data set, and a diffusion prior of two seeds in standard units with averaged weights."""
    folder = tmp_path_factory.mktemp("stages")
    cli.main(["collect", ENV, "--out", str(folder / "d.npz"), "--steps", "400", "--episode-length", "10", "--quiet"])
    actor = ["--actor.kind", "diffusion", "--actor.hidden", "16", "--actor.steps", "3", "--actor.ema"]
    more = ["--chunk.horizon", "2", "--seeds", "2", "--normalise-obs", "standard", "--quiet"]
    cli.main(["train", "bc", *where(folder), "--out", str(folder / "bc"), *actor, *more, *STEPS])
    return folder


@pytest.fixture(scope="module")
def guided(base):
    argv = [
        "train",
        "value-guided",
        *where(base),
        "--out",
        str(base / "vg"),
        "--prior",
        str(base / "bc"),
        *STEPS,
        *TINY,
    ]
    cli.main([*argv, "--value.hidden", "16", "--prior-seed", "1"])
    return base / "vg"


def where(folder):
    return ["--env", ENV, "--data", str(folder / "d.npz")]


@pytest.mark.parametrize(
    ("method", "kept"), [("v-gps", "masked"), ("learned-k", "masked"), ("value-guided", "repeated")]
)
def test_a_stage_takes_over_no_windows_that_it_does_not_read(method, kept):
    """They would be refused, though nobody has asked for them here."""
    cls = registry.builder(method)[1]
    cloned = BC(ChunkConfig(3, padding="repeated", history=2))
    earlier = Prior({}, cloned.actor, cloned, OnlineSettings(), None, {})
    c, _ = defaults([method, "--prior", "run"], cls, earlier)
    assert c.chunk == dataclasses.replace(cls().chunk, horizon=3, history=2, padding=kept)
    registry.driver_of(cls).check_read(c)


def test_a_stage_takes_over_what_its_prior_settled(guided, capsys):
    about = json.loads((guided / "config.json").read_text())["config"]
    assert about["config"]["given"]["kind"] == "diffusion" and about["config"]["given"]["steps"] == 3
    assert about["config"]["chunk"]["horizon"] == 2 and about["settings"]["normalise_obs"] == "standard"
    assert about["prior"]["algorithm"] == "bc" and about["prior"]["seeds"] == [1] and about["prior"]["step"] == 20
    code, out, _ = run(capsys, "eval", guided, "--episodes", "4", "--json")
    assert code == 0 and len(json.loads(out)["success"]["per_seed"]) == 1


def test_the_frozen_modules_are_the_averaged_weights_of_the_chosen_seed(base, guided):
    from qchunk.runs import opened
    from qchunk.runs.run_folder import read_config

    p = opened.rebuild(read_config(base / "bc")["config"], base / "bc")
    (learner, _), _ = opened.restore(base / "bc", p, None)
    given = opened.read_given(guided)
    bias = given["actor"]["net"]["head_bias"][0]
    np.testing.assert_array_equal(bias, learner.targets["actor"]["net"]["head_bias"][1])
    assert (np.asarray(bias) != np.asarray(learner.params["actor"]["net"]["head_bias"][1])).any()
    np.testing.assert_array_equal(given["units"]["obs"]["scale"][0], learner.stats["units"]["obs"].scale[1])


@pytest.mark.slow
def test_each_seed_stands_on_its_own_seed_of_the_prior(base, tmp_path, capsys):
    """With one candidate v-gps is its prior, so each seed's episodes must be those of the prior's own seed."""
    argv = ["train", "v-gps", *where(base), "--prior", base / "bc", "--n", "1", "--seeds", "2", *STEPS, *TINY]
    code, _, err = run(capsys, *argv, "--out", tmp_path / "x")
    assert code == 0, err
    code, _, err = run(capsys, *argv, "--out", tmp_path / "y", "--prior-seed", "1")
    assert code == 0, err
    found = [json.loads(run(capsys, "eval", folder, "--json")[1]) for folder in (base / "bc", tmp_path / "x", tmp_path / "y")]  # fmt: skip
    prior, each, second = (f["return"]["per_seed"] for f in found)
    assert each == prior and second[1] == prior[1] and second[0] != prior[0] != prior[1]


def test_resumes_without_the_priors_folder_to_the_same_bits(base, guided, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(guided, copy)
    shutil.rmtree(copy / "checkpoints" / "20")
    (copy / "summary.json").unlink()
    (base / "bc").rename(base / "away")
    try:
        code, _, err = run(capsys, "train", "--resume", copy, "--quiet")
    finally:
        (base / "away").rename(base / "bc")
    assert code == 0, err
    assert last_checkpoint(copy) == last_checkpoint(guided)


def test_a_damaged_copy_of_the_prior_is_refused(guided, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(guided, copy)
    file = max((copy / "given" / "0" / "arrays").rglob("*"), key=lambda f: f.stat().st_size if f.is_file() else 0)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a byte that was not there before
    code, _, err = run(capsys, "eval", copy)
    assert code == 2 and err.count("\n") == 1 and "given" in err


def test_a_stage_stands_on_a_stage(base, guided, capsys):
    out = base / "gps"
    argv = ["train", "v-gps", *where(base), "--out", out, "--prior", guided, "--given.ddim", "2", "--n", "2"]
    code, _, err = run(capsys, *argv, *STEPS, *TINY)
    assert code == 0, err
    kept = json.loads((out / "config.json").read_text())["config"]
    assert kept["config"]["given"]["ddim"] == 2 and kept["prior"]["algorithm"] == "value-guided"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["v-gps"], "--prior RUN"),
        (["bc", "--prior", "bc"], "leave --prior out"),
        (["v-gps", "--prior", "nowhere"], "not a run"),
        (["v-gps", "--prior", "bc", "--prior-seed", "2"], "--prior-seed 0 to 1"),
        (["v-gps", "--prior", "bc", "--seeds", "3"], "give --seeds 2"),
        (["v-gps", "--prior", "bc", "--given.hidden", "17"], "leave --given.hidden out"),
        (["v-gps", "--prior", "bc", "--given.kind", "flow"], "leave --given."),
        (["v-gps", "--prior", "bc", "--chunk.horizon", "1"], "leave --chunk.horizon out"),
        (["v-gps", "--prior", "bc", "--chunk.history", "2"], "train a prior"),
        (["v-gps", "--prior", "bc", "--normalise-obs", "none"], "leave --normalise-obs out"),
        (["v-gps", "--prior", "bc", "--env", "probe/flag"], "train a prior for probe/flag"),
        (["bc", "--actor.kind", "fluid"], "Did you mean flow"),
        (["bc", "--actor.kind", "diffusion", "--actor.hidden", "8", "8"], "odd number of equal widths"),
        (["bc", "--actor.kind", "diffusion", "--actor.ddim", "30"], "give 20 or less"),
        (["bc", "--actor.kind", "diffusion", "--actor.time-features", "5"], "give 4, 6, 8"),
        (["bc", "--actor.ddim", "3"], "unknown flag"),
    ],
)
def test_mistakes(base, tmp_path, capsys, monkeypatch, argv, says):
    monkeypatch.chdir(base)
    code, _, err = run(capsys, "train", argv[0], *where(base), "--out", tmp_path / "x", *argv[1:], *STEPS)
    assert code == 2 and err.count("\n") == 1 and says in err, err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_chain_is_one_command_and_one_report(base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(base)  # the data's path is relative, and the chain goes on from elsewhere
    out = tmp_path / "chain"
    first = [
        "bc",
        "--env",
        ENV,
        "--data",
        "d.npz",
        "--out",
        out,
        "--chunk.horizon",
        "2",
        "--actor.hidden",
        "16",
        *STEPS,
    ]
    argv = ["train", *first, "--quiet", "--then", "qc-frozen", "--critic.hidden", "16", "--n", "2", "--label", "second"]
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    assert {p.name for p in out.iterdir()} == {"1-bc", "2-qc-frozen", "report", "stages.json"}
    table = (out / "report" / "table.md").read_text()
    assert "| bc |" in table and "| second |" in table
    whole = last_checkpoint(out / "2-qc-frozen")
    shutil.rmtree(out / "2-qc-frozen")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "train", "--resume", out)[0] == 0
    assert last_checkpoint(out / "2-qc-frozen") == whole
    for bad, says in (
        (["train", *first, "--then", "qc-frozen"], "exists already"),
        (["train", *first, "--then"], "names no algorithm"),
        (["train", *first, "--then", "qc-frozen", "--out", "y"], "leave it out"),
        (["train", "bc", "--then", "qc-frozen"], "--out FOLDER"),
    ):
        code, _, err = run(capsys, *bad)
        assert code == 2 and says in err, err


def test_what_the_first_stage_turns_off_is_off_in_the_later_ones():
    """Unless one turns it on."""
    first = ["rlpd", "--env", ENV, "--out", "o", "--no-random-start"]
    _, found = stages.plan([*first, "--then", "rlpd", "--then", "rlpd", "--random-start"], TrainFlags)
    assert [[w for w in words if w.endswith("random-start")] for words in found] == [
        ["--no-random-start"],
        ["--no-random-start"],
        ["--random-start"],
    ]


SILENT = """
from typing import Annotated
from qchunk import ActorConfig, ChunkConfig, FlowConfig, OneStepConfig, OptimConfig, Stands, actor, bc, frozen, learner, sample, warm_started
from qchunk.config import config
@config
class Cloned:
    chunk: ChunkConfig = ChunkConfig()
    actor: Annotated[ActorConfig, Stands.CLONED] = FlowConfig()
    optim: OptimConfig = OptimConfig()
@config
class Warm:
    chunk: ChunkConfig = ChunkConfig()
    tuned: Annotated[ActorConfig, Stands.WARM_STARTED] = FlowConfig()
    optim: OptimConfig = OptimConfig()
@config
class Frozen:
    chunk: ChunkConfig = ChunkConfig()
    given: Annotated[ActorConfig, Stands.FROZEN] = FlowConfig()
    optim: OptimConfig = OptimConfig()
def cloned(c: Cloned):
    pi = actor(c.actor)
    return learner([pi], sample(pi), [bc(pi)], c.optim)
def warm(c: Warm):
    pi = actor(c.tuned)
    return learner([pi], sample(pi), [bc(pi)], c.optim)
def renamed(c: Warm):
    pi = actor(c.tuned, "mine")
    return warm_started(learner([pi], sample(pi), [bc(pi)], c.optim), "mine")
def right(c: Warm):
    return warm_started(warm(c), "actor")
def thawed(c: Frozen):
    pi = actor(c.given)
    return learner([pi], sample(pi), [bc(pi)], c.optim)
def played(c: Frozen):
    pi = actor(c.given, "mine")
    return learner([pi], sample(frozen(actor(c.given))), [bc(pi)], c.optim)
def followed(c: Frozen):
    pi = actor(OneStepConfig(hidden=c.given.hidden))
    return learner([pi], sample(pi), [bc(pi._replace(loss=pi.follow(frozen(actor(c.given)))))], c.optim)
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cloned", "--actor, which the prior fills in, is marked Stands.CLONED, and the method starts without"),
        ("warm", "return warm_started(learner(...)"),
        ("renamed", "call its module actor"),
        ("right", ""),
        ("thawed", "is marked Stands.FROZEN, and the method plays and trains without the prior's weights"),
        ("played", ""),
        ("followed", ""),
    ],
)
def test_a_method_of_ones_own_that_leaves_the_priors_weights_unread_is_refused(base, tmp_path, capsys, name, told):
    """It is marked to stand on a prior, and would be trained from scratch."""
    (tmp_path / "mine.py").write_text(SILENT)
    argv = ["train", f"{tmp_path}/mine.py:{name}", *where(base), "--prior", base / "bc", "--out", tmp_path / "x"]
    code, _, err = run(capsys, *argv, *STEPS, "--quiet")
    assert (code, (tmp_path / "x").exists()) == ((2, False) if told else (0, True)) and told in err
