"""Files of the user's own lie in the run that names them: an edited one changes no run, and is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import qchunk
from qchunk import cli
from qchunk.actor_configs import RegressionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, check, folder_of, train_all
from qchunk.config import ChunkConfig
from qchunk.data import formats
from qchunk.drivers.online import OnlineSettings
from qchunk.runs import run_folder, sources
from qchunk.system.errors import UserError

MINE = """
from pathlib import Path
from qchunk.algorithms.bc import BC, bc

SCALE = float((Path(__file__).parent / "scale.txt").read_text())

def mine(c: BC):
    made = bc(c)
    act = made.act
    return made._replace(act=act._replace(emit=lambda *a: SCALE * WEIGHT * act.emit(*a)))
""".replace("WEIGHT", "1.0")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The root of a suite whose only run is of a method in ./mine.py, trained; the run."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    Path("scale.txt").write_text("0.5")
    c = BC(ChunkConfig(2), RegressionConfig((8,)))
    settings = OnlineSettings(seeds=1, offline_steps=2, eval_every=2, episodes=2, batch=16)
    run = Run("mine.py:mine", "probe/pole", Data("probe/pole", 60), c, settings, "mine")
    found = train_all("x", [run], tmp_path / "out", quiet=True)
    assert not found.failed, found.failed
    return tmp_path / "out", run


def test_a_run_goes_on_with_its_own_copy(trained, tmp_path, capsys, monkeypatch):
    """From any folder, whatever became of the file; the file's neighbours are found where they were."""
    root, run = trained
    folder = folder_of(run, root)
    obs = np.zeros((1, 2), np.float32)

    def acted():
        return qchunk.load(folder)(obs)

    before = acted()
    capsys.readouterr()
    Path("mine.py").write_text(MINE.replace("1.0", "0.0"))
    np.testing.assert_array_equal(acted(), before)
    assert np.abs(before).max() > 0 and "mine.py has changed since" in capsys.readouterr().err
    Path("mine.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(acted(), before)
    cli.main(["eval", str(folder), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["success"]["mean"] in (0.0, 0.5, 1.0)


def test_a_changed_file_is_not_taken_for_the_run_that_was(trained):
    """A comparison or a suite is refused, names the file, and says how to go on."""
    root, run = trained
    check([run], root)
    Path("mine.py").write_text(MINE.replace("1.0", "2.0"))
    with pytest.raises(UserError, match=r"mine\.py has changed since .*put it back; otherwise remove the folder"):
        train_all("x", [run], root)
    Path("mine.py").write_text(MINE)
    assert train_all("x", [run], root).folders


def test_changed_data_are_not_taken_for_those_that_were(trained):
    """The same for a data set that the user gave: its fingerprint is the run's."""
    root, run = trained
    (data,) = (root / "data").glob("*.npz")
    given = run._replace(data=data)
    check([given], root)
    rows, about = formats.load(data)
    data.unlink()
    formats.save(data, rows._replace(reward=rows.reward + 1), {"env": about["env"]})
    with pytest.raises(UserError, match=r"npz has changed since .*remove the folder"):
        check([given], root)


@pytest.mark.parametrize("harm", ["edited", "gone", "unnamed"])
def test_only_the_runs_own_copy_is_run(trained, harm):
    """An edited copy, and a file that config.json names without one, are not."""
    root, run = trained
    folder = folder_of(run, root)
    (copy,) = (folder / sources.FOLDER).rglob("*.py")
    if harm == "edited":
        copy.write_text("raise SystemExit('run')")
    elif harm == "gone":
        shutil.rmtree(folder / sources.FOLDER)
    else:
        about = json.loads((folder / run_folder.CONFIG).read_text())
        Path("other.py").write_text("raise SystemExit('run')")
        about["config"]["algorithm"] = "other.py:mine"
        (folder / run_folder.CONFIG).write_text(json.dumps(about))
    with pytest.raises(UserError, match="holds no whole copy"):
        qchunk.load(folder)


def test_every_name_of_a_configuration_is_found(tmp_path):
    """Methods, environments, terms (keys), kinds and aggregates at any depth; two files of one name lie apart."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(f"# {folder}\n")
    a, b = (f"{tmp_path}/{folder}/own.py" for folder in ("a", "b"))
    kept = {"algorithm": f"{a}:mine", "env": f"{b}:reach:3", "objective": {"task": 1.0, f"{a}:calm": 0.5}}
    kept |= {"config": {"actor": {"kind": f"{b}:net", "hidden": [8]}}, "settings": {"execute": "open-loop"}, "seed": 0}
    kept |= {"sources": sources.digests(kept), "label": f"{a}:mine"}
    assert set(kept["sources"]) == {a, b}
    run = tmp_path / "run"
    sources.save(kept, run)
    own = sources.own(kept, run)
    copies = {name: name.rpartition("/own.py")[0] for name in (own["algorithm"], own["env"])}
    assert len(set(copies.values())) == 2 and all(c.startswith(str(run)) for c in copies.values())
    assert own["env"].endswith("own.py:reach:3") and own["label"] == kept["label"], "what is shown stays"
    assert list(own["objective"])[1].endswith(":calm") and own["config"]["actor"]["kind"].endswith(":net")
    assert sources.same(own["algorithm"], f"{a}:mine") and not sources.same(own["algorithm"], f"{b}:mine")
