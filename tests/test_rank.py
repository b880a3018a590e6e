"""Fitted Q evaluation: values that are known, a ranking that is, and runs that cannot be judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_cli import run

from qchunk import cli
from qchunk.comparison import fitted_q
from qchunk.config import ChunkConfig
from qchunk.system.errors import UserError
from qchunk.types import Policy

SMALL = "--actor.hidden 16 --actor.steps 2 --seeds 2 --quiet --batch 64"
FIT = ["--hidden", "32", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """On probe/flag, whose one step earns its action's sign: random data, and their clone."""
    folder = tmp_path_factory.mktemp("rank")
    for words in (
        f"collect probe/flag --policy random --out {folder}/flag.npz --steps 400 --quiet",
        f"train bc --env probe/flag --data {folder}/flag.npz --out {folder}/bc --offline-steps 20 --episodes 8 --chunk.horizon 1 {SMALL}",
    ):
        cli.main(words.split())
    return folder


@pytest.fixture(scope="module")
def learned(runs):
    """Q-chunking on the same data."""
    words = (
        f"train qc --env probe/flag --data {runs}/flag.npz --out {runs}/qc --offline-steps 400 --episodes 64 --n 8 "
        f"--critic.hidden 16 --optim.lr 3e-3 --chunk.horizon 1 {SMALL}"
    )
    cli.main(words.split())
    return runs / "qc"


def test_what_cannot_be_ranked_is_a_line(runs, capsys):
    kept = json.loads((runs / "bc" / "config.json").read_text())
    for change, line in (
        ({"env": "probe/two-step"}, "the runs are of probe/flag and probe/two-step"),
        (
            {"config": {**kept["config"]["config"], "chunk": {**kept["config"]["config"]["chunk"], "gamma": 0.5}}},
            "discount otherwise",
        ),
        ({"settings": {**kept["config"]["settings"], "execute": "ensemble:0.1"}}, "whose chunks have no one length"),
    ):
        other = runs / "other"
        other.mkdir(exist_ok=True)
        (other / "config.json").write_text(json.dumps({**kept, "config": {**kept["config"], **change}}))
        (other / "checkpoints").unlink(missing_ok=True)
        (other / "checkpoints").symlink_to(runs / "bc" / "checkpoints")
        code, _, err = run(capsys, "rank", runs / "bc", other, "--updates", 1, *FIT)
        assert code == 2 and line in err, err
    for argv in ((), ("--updates", 3), (runs / "bc", "--data", "nowhere.npz"), (runs / "bc", "--hidden", 0)):
        assert run(capsys, "rank", *argv)[0] == 2


@pytest.mark.parametrize(
    ("execute", "chunk", "ends", "line"),
    [
        ("open-loop", {}, True, "says of each plan how far it plays it"),
        ("receding:2", {"codec": "prodmp", "replan": "smooth", "basis": 4}, False, "goes on from its old plans"),
    ],
)
def test_plans_that_are_not_played_as_planned_are_refused(execute, chunk, ends, line):
    def asked(execute, ends, **chunk):
        act = Policy(*[None] * 3, ends=ends)
        settings, config = SimpleNamespace(execute=execute, delay=0), SimpleNamespace(chunk=ChunkConfig(4, **chunk))
        return fitted_q.chunk_of(
            SimpleNamespace(settings=settings, config=config, algorithm=SimpleNamespace(act=act)), Path("run")
        )

    with pytest.raises(UserError, match=f"run {line}"):
        asked(execute, ends, **chunk)
    assert asked("receding:2", ends=True).horizon == 2, "its first actions, whatever it says"
    assert asked("open-loop", False, codec="prodmp", replan="smooth").horizon == 4, "nothing of the old plan is left"


def test_skills_are_refused_and_decisions_discounted(tmp_path, capsys):
    """A skill's actions depend on what is seen at each; the data's return is discounted as the estimate is, here once per chunk of two."""
    for words in (
        f"collect probe/constant --policy random --out {tmp_path}/d.npz --steps 400 --episode-length 1000 --quiet",
        *(
            f"train bc --env probe/constant --data {tmp_path}/d.npz --out {tmp_path}/{name} --offline-steps 4 --episodes 2 "
            f"--chunk.horizon 2 --chunk.gamma 0.9 --quiet --batch 16 --actor.hidden 16 {more}"
            for name, more in (("skills", "--actor.kind skills"), ("bc", "--chunk.discount decision --seeds 2"))
        ),
    ):
        cli.main(words.split())
    code, _, err = run(capsys, "rank", tmp_path / "skills", "--updates", 1, *FIT)
    assert code == 2 and "decides each action of a plan at its own step" in err
    code, out, _ = run(capsys, "rank", tmp_path / "bc", "--updates", 1, *FIT, "--json")
    assert code == 0
    np.testing.assert_allclose(json.loads(out)[0]["data"], 20.0, rtol=1e-4)


@pytest.mark.slow
def test_policies_are_ranked_as_they_earn(runs, learned, capsys):
    """Cloned random actions earn 0 in the mean, Q-chunking's nearly 1; so the data say, which were recorded at random."""
    code, out, _ = run(capsys, "rank", runs / "bc", learned, "--updates", 600, *FIT, "--json")
    clone, better = json.loads(out)
    assert code == 0 and np.all(np.abs(clone["values"]) < 0.5)
    assert better["played"] > 0.9 and np.all(np.asarray(better["values"]) > 0.75)
    np.testing.assert_allclose(better["values"], better["played"], atol=0.25)
    assert abs(better["data"]) < 0.2
    code, out, _ = run(capsys, "rank", runs / "bc", learned, "--updates", 600, *FIT)
    lines = out.splitlines()
    assert "| qc |" in lines[2] and "| bc |" in lines[3] and "are the critic's invention" in lines[-1]


def test_data_that_earn_nothing_are_told():
    one = lambda data: fitted_q.Estimated(Path("a"), "bc", np.ones(2), np.zeros(2), data, np.nan)  # noqa: E731
    assert len(fitted_q.caveats([one(0.0), one(0.5)])) == 2
    assert fitted_q.caveats([one(0.0)])[0].startswith("The data earn nothing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execute", "discount", "value"),
    [("open-loop", "step", 10), ("receding:1", "step", 10), ("open-loop", "decision", 20)],
)
def test_a_value_that_is_known(execute, discount, value, tmp_path, capsys):
    """probe/constant earns 1 a step whatever is played, and only time-outs end it: 1 / (1 - gamma), in chunks of two and of one;
    twice that where gamma counts once per chunk of two."""
    for words in (
        f"collect probe/constant --policy random --out {tmp_path}/d.npz --steps 400 --episode-length 1000 --quiet",
        f"train bc --env probe/constant --data {tmp_path}/d.npz --out {tmp_path}/bc --offline-steps 4 --episodes 2 "
        f"--chunk.horizon 2 --chunk.gamma 0.9 --chunk.discount {discount} --execute {execute} {SMALL}",
    ):
        cli.main(words.split())
    code, out, _ = run(capsys, "rank", tmp_path / "bc", "--updates", 3000, *FIT, "--json")
    (found,) = json.loads(out)
    assert code == 0 and np.all(np.abs(found["moved"]) < 0.02 * value)
    _, out, _ = run(capsys, "rank", tmp_path / "bc", "--updates", 200, *FIT, "--json")
    (early,) = json.loads(out)
    assert np.all(np.asarray(early["values"]) < 0.8 * value) and np.all(np.asarray(early["moved"]) > 0.02 * value)
    np.testing.assert_allclose(found["data"], value, rtol=1e-4)
    np.testing.assert_allclose(found["values"], value, rtol=0.05)
