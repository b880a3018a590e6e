"""Fitted Q evaluation: values that are known, a ranking that is, and runs that cannot be judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

from qchunk import cli
from qchunk.reporting import fitted_q

SMALL = "--actor.hidden 16 --actor.steps 2 --seeds 2 --quiet --batch 64"
FIT = ["--hidden", "32", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """On probe/flag, whose one step earns its action's sign: random data, their clone, and Q-chunking, which has learned."""
    folder = tmp_path_factory.mktemp("rank")
    for words in (
        f"collect probe/flag --policy random --out {folder}/flag.npz --steps 400 --quiet",
        f"train bc --env probe/flag --data {folder}/flag.npz --out {folder}/bc --offline-steps 20 --episodes 8 --chunk.horizon 1 {SMALL}",
        f"train qc --env probe/flag --data {folder}/flag.npz --out {folder}/qc --offline-steps 400 --episodes 64 --n 8 "
        f"--critic.hidden 16 --optim.lr 3e-3 --chunk.horizon 1 {SMALL}",
    ):
        cli.main(words.split())
    return folder


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


@pytest.mark.slow
def test_policies_are_ranked_as_they_earn(runs, capsys):
    """Cloned random actions earn 0 in the mean, Q-chunking's nearly 1; so the data say, which were recorded at random."""
    code, out, _ = run(capsys, "rank", runs / "bc", runs / "qc", "--updates", 600, *FIT, "--json")
    clone, learned = json.loads(out)
    assert code == 0 and np.all(np.abs(clone["values"]) < 0.5)
    assert learned["played"] > 0.9 and np.all(np.asarray(learned["values"]) > 0.75)
    np.testing.assert_allclose(learned["values"], learned["played"], atol=0.25)
    assert abs(learned["data"]) < 0.2
    code, out, _ = run(capsys, "rank", runs / "bc", runs / "qc", "--updates", 600, *FIT)
    lines = out.splitlines()
    assert "| qc |" in lines[2] and "| bc |" in lines[3] and "are the critic's invention" in lines[-1]


def test_data_that_earn_nothing_are_told():
    one = lambda data: fitted_q.Estimated(Path("a"), "bc", np.ones(2), data, np.nan)  # noqa: E731
    assert len(fitted_q.caveats([one(0.0), one(0.5)])) == 1
    assert fitted_q.caveats([one(0.0)])[0].startswith("The data earn nothing")


@pytest.mark.slow
@pytest.mark.parametrize("execute", ["open-loop", "receding:1"])
def test_a_value_that_is_known(execute, tmp_path, capsys):
    """probe/constant earns 1 a step whatever is played, and only time-outs end it: 1 / (1 - gamma), in chunks of two and of one."""
    for words in (
        f"collect probe/constant --policy random --out {tmp_path}/d.npz --steps 400 --episode-length 1000 --quiet",
        f"train bc --env probe/constant --data {tmp_path}/d.npz --out {tmp_path}/bc --offline-steps 4 --episodes 2 "
        f"--chunk.horizon 2 --chunk.gamma 0.9 --execute {execute} {SMALL}",
    ):
        cli.main(words.split())
    code, out, _ = run(capsys, "rank", tmp_path / "bc", "--updates", 3000, *FIT, "--json")
    (found,) = json.loads(out)
    assert code == 0
    np.testing.assert_allclose(found["data"], 10.0, rtol=1e-4)
    np.testing.assert_allclose(found["values"], 10.0, rtol=0.05)
