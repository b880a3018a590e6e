"""Environments in an interpreter of their own: neither jax nor qchunk is installed there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from driven import same

from qchunk import cli, env_names, envs
from qchunk.envs.host import setups
from qchunk.envs.host.pool import Pool
from qchunk.runs.opened import rebuild
from qchunk.system import interpreters
from qchunk.system.errors import UserError

gymnasium = pytest.importorskip("gymnasium")
HERE = Path(__file__).parent
WALK = "gymnasium/host_envs:Walk-v0"
NEEDED = ("numpy", "numpy.libs", "gymnasium", "cloudpickle", "farama_notifications", "typing_extensions.py")


def venv(folder: Path, *packages: str) -> str:
    """A virtual environment in which these of this interpreter's packages are found, and no other."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    ours = Path(np.__file__).parents[1]
    for found in (p for name in packages for p in (*ours.glob(name), *ours.glob(f"{name}-*.dist-info"))):
        (site / found.name).symlink_to(found)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return venv(tmp_path_factory.mktemp("foreign") / "venv", *NEEDED)


@pytest.fixture(autouse=True)
def path(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("QCHUNK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def run(argv: str, *more: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as e:
        cli.main([*argv.split(), *more])
        sys.exit(0)
    assert (e.value.code or 0) == code


def played(env, steps=5, **how):
    pool = Pool(env, 3, workers=2, **how)
    state = pool.begin(pool.nothing(), np.ones(3, bool), 10 + np.arange(3))
    seen = [state]
    for i in range(steps):
        seen.append(pool.step(seen[-1], np.sin(seen[-1].obs[:, :1] + i) - 0.25, seen[-1].done == 0))
    return pool, seen


def test_it_plays_there_what_it_plays_here_and_knows_neither_jax_nor_qchunk(python):
    """Walk in both; Sees is told what can be imported where it runs, and by which interpreter."""
    here, there = envs.make(WALK), envs.make(WALK, python=python)
    sizes = ("observation_size", "action_size", "episode_length", "has_success", "data_name")
    assert [getattr(here, n) for n in sizes] == [getattr(there, n) for n in sizes]
    assert there.versions["numpy"] == np.__version__ and there.python == python
    (pool, seen), (other, seen_there) = played(here), played(there)
    same(seen, seen_there)
    pool.close()
    other.close()
    sees = [envs.make("gymnasium/host_envs:Sees-v0", python=p) for p in ("", python)]
    told = [played(e, 0) for e in sees]
    assert [s[0].obs[0].tolist() for _, s in told] == [[1, 1, 1], [0, 0, 1]]  # jax, an installed qchunk, numpy
    for p, _ in told:
        p.close()


def test_open_episodes_are_replayed_there_to_the_same_bits(python):
    pool, seen = played(envs.make(WALK, python=python))
    middle = seen[2]._replace(actions=seen[2].actions.copy())
    pool.close()
    again = Pool(envs.make(WALK, python=python), 3, workers=1)
    again.restore(middle)
    state = middle
    for i in range(2, 5):
        state = again.step(state, np.sin(state.obs[:, :1] + i) - 0.25, state.done == 0)
    same(seen[-1], state)
    again.close()


@pytest.mark.parametrize("what, said", [("die", "died"), ("hang", "did not answer")])
def test_a_worker_that_is_lost_there_is_replaced_there(what, said, python, monkeypatch, tmp_path, capfd):
    import host_envs

    trouble = tmp_path / "trouble"
    monkeypatch.setenv(host_envs.TROUBLE, str(trouble))
    pool, seen = played(envs.make(WALK, python=python))
    pool.close()
    env = envs.make(WALK, python=python).limited(6)
    trouble.write_text(what)
    pool, again = played(env, seconds=3.0)
    same([s.obs for s in seen], [s.obs for s in again])
    assert said in capfd.readouterr().err
    assert all(os.readlink(f"/proc/{w.process.pid}/exe") == os.path.realpath(python) for w in pool.workers)
    assert all(python in Path(f"/proc/{w.process.pid}/cmdline").read_text() for w in pool.workers)
    pool.close()


def test_what_an_interpreter_says_as_it_starts_is_no_output_of_ours(tmp_path, capfd):
    python = venv(tmp_path / "chatty", *NEEDED)
    (site,) = (tmp_path / "chatty").glob("lib/python*/site-packages")
    (site / "chatty.pth").write_text("import sys; print('welcome')\n")
    played(envs.make(WALK, python=python))[0].close()
    assert not capfd.readouterr().out


def test_arguments_follow_a_question_mark(python):
    name = "gymnasium/host_envs:Walk-v0?start=0.25&word=fast"
    for p in ("", python):
        env = envs.make(name, python=p)
        pool, seen = played(env, 0)
        assert seen[0].obs[:, 0].min() >= 0.25 and seen[0].obs[:, 0].max() < 0.26 + 1e-6
        pool.close()
    assert env_names.arguments("a/B-v0?x=1&y=0.5&z=true&w=text") == (
        "a/B-v0",
        {"x": 1, "y": 0.5, "z": True, "w": "text"},
    )
    assert envs.make("gymnasium/host_envs:Walk-v0?word=a&start=0.25").data_name == f"{WALK}?start=0.25&word=a"
    with pytest.raises(UserError, match="has the argument 'start'. write gymnasium"):
        env_names.check_env(f"{WALK}?start")
    with pytest.raises(UserError, match="unexpected keyword argument 'color'.*give arguments that"):
        envs.make(f"{WALK}?color=1", python=python)


def test_a_line_in_a_file_names_the_interpreter(python):
    assert envs.make(WALK).python == ""
    interpreters.remember("gymnasium", "/nowhere/python")
    interpreters.remember(WALK, python)
    assert envs.make(f"{WALK}?start=0.25").python == python
    with pytest.raises(UserError, match="there is no interpreter /nowhere/python"):
        envs.make("gymnasium/Pendulum-v1")
    interpreters.remember("gymnasium", python)
    assert interpreters.known() == {"gymnasium": python, WALK: python}
    (interpreters.home() / interpreters.PYTHONS).write_text("gymnasium\n")
    with pytest.raises(UserError, match="line 1 of .* write NAME = PYTHON"):
        envs.make("gymnasium/Pendulum-v1")


def test_what_cannot_be_used_is_one_line_with_its_fix(python, tmp_path, monkeypatch):
    bare, half = venv(tmp_path / "bare"), venv(tmp_path / "half", "numpy", "numpy.libs")
    old = tmp_path / "old"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 1); exec(sys.argv[2])" "$@"\n'
    )
    old.chmod(0o755)
    for place, said in {
        str(tmp_path / "none"): "there is no interpreter .*none. give the path of one",
        str(old): "is Python 3.8.1. give one of Python 3.9 or newer",
        "/bin/true": "/bin/true does not answer as a Python interpreter",
        bare: f"has no numpy, which worker processes need. {bare} -m pip install numpy",
        half: f"needs gymnasium, which {half} lacks. {half} -m pip install gymnasium",
    }.items():
        with pytest.raises(UserError, match=said):
            envs.make(WALK, python=place)
    with pytest.raises(UserError, match="Did you mean gymnasium/Pendulum-v1"):
        envs.make("gymnasium/Pendulam-v1", python=python)
    with pytest.raises(UserError, match="named 'no_such_module'.*install what it needs into"):
        envs.make("gymnasium/no_such_module:Walk-v0", python=python)
    with pytest.raises(UserError, match="a process that makes .*Dies-v0 in .* died"):
        envs.make("gymnasium/host_envs:Dies-v0", python=python)
    with pytest.raises(UserError, match="the environment raised RuntimeError: the motor is hot, at .*host_envs.py"):
        played(envs.make("gymnasium/host_envs:Raises-v0", python=python))
    with pytest.raises(UserError, match="--env-python is for environments of gymnasium/.*leave it out"):
        envs.make("tabletop/cube-single-task1", python=python)


GUIDED = "gymnasium/host_envs:Guided-v0"
TINY = "--actor.hidden 8 --actor.steps 1 --chunk.horizon 2 --batch 8 --episodes 2 --eval-every 4 --log-every 4 --quiet"


@pytest.fixture
def data(python, tmp_path):
    run(f"collect {GUIDED} --steps 40 --envs 2 --env-python {python} --out {tmp_path / 'expert.npz'} --quiet")
    return tmp_path / "expert.npz"


def test_an_expert_of_the_environments_own_collects_there(python, data, tmp_path, capsys):
    run(f"collect {GUIDED} --policy noisy --steps 40 --envs 2 --env-python {python} --out noisy.npz --quiet")
    with np.load(data) as expert, np.load("noisy.npz") as noisy:
        inside = ~expert["end"]
        wanted = np.clip((1.5 - expert["obs"][inside, 0] - 2) / 4, -1, 1)
        np.testing.assert_allclose(expert["action"][inside, 0], wanted, atol=1e-6)
        assert json.loads(str(expert["about"]))["versions"]["python"]
        rest = noisy["action"][~noisy["end"], 0] - np.clip((1.5 - noisy["obs"][~noisy["end"], 0] - 2) / 4, -1, 1)
        assert 0.2 < rest.std() < 0.4
    run(f"collect {WALK} --policy expert --steps 40 --env-python {python} --out no.npz", code=2)
    assert "unknown policy 'expert'. Known: random" in capsys.readouterr().err


def test_a_run_remembers_it(python, data, tmp_path, capsys):
    """Trained there, drawn there without a flag; where the interpreter is gone, the line in the file will do."""
    run(f"train bc --env {GUIDED} --data {data} --offline-steps 4 {TINY} --env-python {python} --out run")
    config = Path("run/config.json")
    kept = json.loads(config.read_text())["config"]
    assert kept["env_python"] == python and kept["env_versions"]["numpy"] == np.__version__
    run("render run --out e.gif")
    assert Path("e.gif").stat().st_size > 100
    config.write_text(config.read_text().replace(python, str(tmp_path / "gone")))
    capsys.readouterr()
    run("eval run --episodes 2", code=2)
    assert "which is not there. put it back, or write a line into" in capsys.readouterr().err
    interpreters.remember("gymnasium", python)
    assert rebuild(kept | {"env_python": str(tmp_path / "gone")}, Path("run")).program.env.python == python


@pytest.mark.slow
def test_a_run_resumes_there_to_the_same_bits(python, data, capsys):
    begin = (
        f"train qc --env {GUIDED} --data {data} --offline-steps 4 {TINY} --critic.hidden 8 --n 2 --env-python {python}"
    )
    online = "--online-steps 24 --envs 2 --start-training 8 --update-ratio 0.5 --online-eval-every 12"
    run(f"{begin} {online} --out whole")
    shutil.copytree("whole", "part")
    for gone in sorted(Path("part/checkpoints").glob("*"), key=lambda p: (len(p.name), p.name))[-1:]:
        shutil.rmtree(gone)
    config = Path("part/config.json")
    config.write_text(config.read_text().replace(json.dumps(np.__version__), '"0.1"'))
    Path("part/summary.json").unlink()
    run("train --resume part --quiet")
    assert "made with numpy 0.1, in " in capsys.readouterr().err
    lines = [
        [{**json.loads(x), "seconds": 0} for x in (Path(f) / "metrics.jsonl").read_text().splitlines()]
        for f in ("whole", "part")
    ]
    ends = [[x["values"] for x in found if x["kind"] == "eval"] for found in lines]
    assert ends[0] == ends[1] and len(ends[0]) == 3


def test_setup_makes_an_interpreter_plays_there_and_remembers_it(tmp_path, monkeypatch, capsys):
    """A setup whose packages lie in the folder already: nothing is downloaded. What cannot be used is not remembered."""
    monkeypatch.setitem(setups.SETUPS, "toy", setups.Setup((), "", ("gymnasium/host_envs:Guided-v0",), GUIDED))
    python = venv(tmp_path / "toy", *NEEDED)
    run(f"env setup toy --to {tmp_path / 'toy'}")
    told = capsys.readouterr().out
    assert f"{GUIDED} runs in {python}" in told and f"numpy {np.__version__}" in told
    assert interpreters.known() == {GUIDED: python} and envs.make(GUIDED).python == python
    for wrong, said in {
        f"toy --to {HERE}": "exists and is no virtual environment. give --to with a new folder",
        f"toy --to {tmp_path / 'new'} --python /nowhere": "there is no interpreter /nowhere",
        f"toy --to {tmp_path / 'new'}": "has no numpy",
        "metawrld": "unknown setup 'metawrld'. Did you mean metaworld",
    }.items():
        run(f"env setup {wrong}", code=2)
        assert re.search(said, capsys.readouterr().err)
    run("env list")
    assert capsys.readouterr().out == f"{GUIDED} = {python}\n"
    assert all(f"{name}==" in s.pins for s in setups.SETUPS.values() for name in s.packages)


@pytest.mark.slow
def test_what_pip_cannot_install_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(setups.SETUPS, "gone", setups.Setup(("no-such-simulator",), "", ("gone",), GUIDED))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    run(f"env setup gone --to {tmp_path / 'gone'}", code=2)
    told = capsys.readouterr().err
    assert re.search("pip cannot install no-such-simulator into .*the same command goes on", told)
    assert not interpreters.known()


def test_simulators_of_their_own_are_names_like_any_other(python):
    for name in (
        "metaworld/reach-v3",
        "metaworld/push-v3?reward_function_version=v1",
        "robosuite/Lift?control_freq=10",
    ):
        assert env_names.check_env(name) == name and envs.on_host(name)
    for name, said in {
        "metaworld/reach-v4": "Did you mean metaworld/reach-v3",
        "metaworld/reach-v3": f"needs metaworld, which {python} lacks. qchunk env setup metaworld, or give --env-python",
        "robosuite/Lift": f"needs robosuite, which {python} lacks. qchunk env setup robosuite",
    }.items():
        with pytest.raises(UserError, match=said):
            envs.make(name, python=python)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaworld/drawer-open-v3", "robosuite/Lift", "gymnasium/FrankaKitchen-v1"])
def test_a_simulator_that_is_set_up_replays_to_the_same_bits(name, monkeypatch):
    """Where ``qchunk env setup`` has made its interpreter; elsewhere it is left out."""
    monkeypatch.delenv("QCHUNK_HOME")
    if not interpreters.of(name):
        pytest.skip("qchunk env setup was not run here")
    env = envs.make(name)
    states = []
    for seeds in ((3, 4), (5, 3)):  # a start does not depend on what was played before
        pool = Pool(env, 2, workers=1)
        for seed in seeds:
            state = pool.begin(pool.nothing(), np.ones(2, bool), np.asarray([seed, 9]))
            for i in range(12):
                state = pool.step(state, np.full((2, env.action_size), 0.5 * np.sin(i)), state.done == 0)
            states += [jax.tree.map(lambda x: x[0].copy(), state.obs)] if seed == 3 else []
        again = Pool(env, 2, workers=2)
        again.restore(state)
        pool.close()
        again.close()
    same(*states)


def test_what_workers_import_is_numpy_and_is_written_for_old_pythons():
    """All that a worker loads of this package parses as the oldest Python would, and brings numpy alone along."""
    code = (
        "import sys; before = set(sys.modules); import qchunk.envs.host.worker\n"
        "for name in set(sys.modules) - before: print(name, getattr(sys.modules[name], '__file__', None) or '')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    loaded = dict(line.split(" ", 1) for line in told.stdout.splitlines())
    roots = {name.split(".")[0] for name, file in loaded.items() if "site-packages" in file}
    assert roots == {"numpy"} and "qchunk.envs.host.failures" in loaded
    for name in (n for n in loaded if n.split(".")[0] == "qchunk"):
        ast.parse(Path(loaded[name]).read_text(), feature_version=interpreters.LEAST)
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n  case 1: pass", feature_version=interpreters.LEAST)
