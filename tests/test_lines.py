"""A line in place of a traceback: the user's own code, flags, surroundings; and the same from Python."""

from __future__ import annotations

import dataclasses
import html
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import markupsafe
import numpy as np
import pytest
from test_cli import run

from qchunk import cli, drivers, envs, names
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.qc import qc
from qchunk.config import ChunkConfig, OptimConfig
from qchunk.data import formats
from qchunk.drivers.offline import OfflineSettings
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.reporting import page, plots, records
from qchunk.runs import run_folder
from qchunk.system import processes, surroundings
from qchunk.system.errors import UserError

ENV = "probe/two-step"
ROOT = str(Path(cli.__file__).parents[1])
TINY = ["--chunk.horizon", "2", "--actor.hidden", "16", "--actor.steps", "2", "--episodes", "2", "--batch", "8"]
TINY += ["--offline-steps", "2", "--eval-every", "2", "--quiet"]


def started(*argv, **more):
    """A command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": ROOT, **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "qchunk", *map(str, argv)], env=env, capture_output=True, text=True, **more
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "play.npz"
    cli.main(["collect", ENV, "--out", str(path), "--steps", "60", "--episode-length", "10", "--quiet"])
    return path


METHOD = """
from qchunk import ActorConfig, ChunkConfig, FlowConfig, OptimConfig, acting, actor, bc, learner, sample
from qchunk.config import config
@config
class C:
    chunk: ChunkConfig = ChunkConfig(2)
    actor: ActorConfig = FlowConfig()
    optim: OptimConfig = OptimConfig()
def of(c, fn):
    pi = actor(c.actor)
    term = bc(pi)
    return learner([pi], sample(acting(pi)), [term._replace(fn=fn) if fn else term], c.optim)
def boom(*args):
    raise ZeroDivisionError("no loss today")
def build(c: C):
    raise RuntimeError("no build today")
def nothing(c: C):
    return None
def loss(c: C):
    return of(c, boom)
def wide(c: C):
    return of(c, lambda *args: (__import__("jax").numpy.zeros(3), {}))
@config
class Named(C):
    batch: int = 3
def names(c: Named):
    return of(c, None)
def ends(c: C):
    raise SystemExit(0)
def measures(c: C):
    return of(c, lambda *args: (__import__("jax").numpy.zeros(()), {"x": __import__("jax").numpy.zeros(3)}))
def acts(c: C):
    a = of(c, None)
    return a._replace(act=a.act._replace(emit=lambda vars, plan, i, obs: plan.action))
@config
class Level(C):
    level: float = 0.5
def asks(c: Level):
    return of(c, boom if c.level > 1 else None)
def rounds(c: Level):
    return of(c, boom if float(c.level) > 1 else None)
def firsts(c: C):
    a = of(c, None)
    plan = lambda vars, noise, obs, old: a.act.plan(vars, noise, obs, old)._replace(extras={"start": noise})
    return a._replace(first=a.act, explore=a.act._replace(plan=plan))
"""
NO_VALUE = (
    "Python or NumPy asks for the value of a traced number, as if, float() and range() do; arrays and the floats of a configuration have none "
    "while a program is made. Use jax.numpy.where, or make the field an int, a bool or a str"
)
METHODS = {
    "build": ("your build failed at mine.py:16: RuntimeError: no build today. Fix it there.", 1),
    "loss": ("your boom failed at mine.py:14: ZeroDivisionError: no loss today. Fix it there.", 1),
    "nothing": ("nothing returns a NoneType. return an Algorithm, such as qchunk.learner(...).", 0),
    "ends": ("your ends failed at mine.py:29: SystemExit: 0. Fix it there.", 1),
    "measures": (
        "the metrics of an update have shapes: {'bc/x': (3,)}. return one number for each, such as a mean.",
        0,
    ),
    "acts": (
        "the actions that are played are float32[1, 2, 1], not float32[1, 1]. let the policy's plan, its emit and the execution's act return whole actions.",
        0,
    ),
    "asks": (
        f"your asks failed at mine.py:39: TracerBoolConversionError: {NO_VALUE}. Fix it there.",
        1,
    ),
    "rounds": (
        f"your rounds failed at mine.py:41: ConcretizationTypeError: {NO_VALUE}. Fix it there.",
        1,
    ),
    "firsts": (
        "plans of the method's first policy hold nothing in extras, those of explore start float32[1, 2, 1]. let both hold the same, as one buffer keeps them.",
        0,
    ),
    "names": ("--batch is a flag of every run, and a field of your configuration. call the field otherwise.", 0),
    "wide": (
        "the loss of the term bc has the shape (3,), not (). return one number, such as a mean over the batch.",
        0,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_the_users_that_fails(name, data, tmp_path, monkeypatch, capsys):
    """What failed, where, why; then its own frames and no others; no folder stands in the way of the mended one."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    told, frames = METHODS[name]
    code, _, err = run(capsys, "train", f"mine.py:{name}", "--env", ENV, "--data", data, "--out", "run", *TINY)
    first, *rest = err.splitlines()
    assert code == 2 and first == f"error: {told}", err
    assert len(rest) == frames and all(line.startswith("  mine.py:") for line in rest)
    assert not Path("run").exists()


def test_a_file_that_fails_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("[][0]")
    code, _, err = run(capsys, "train", "mine.py:any", "--env", ENV, "--data", "x.npz", *TINY)
    assert code == 2 and err.startswith("error: your file failed at mine.py:1: IndexError"), err


WORLD = """
import jax.numpy as jnp
from qchunk.envs.base import Behaviour, Env, State
class Good(Env):
    episode_length, observation_size, action_size, backend = 5, 3, 2, "none"
    def reset(self, key):
        return State(None, jnp.zeros(3), jnp.zeros(()), jnp.zeros(()), {}, {})
    def step(self, s, a):
        return s.replace(obs=jnp.ones(3), reward=jnp.sum(a))
class Reset(Good):
    def reset(self, key):
        raise RuntimeError("no reset")
class Step(Good):
    def step(self, s, a):
        return s.replace(obs=undefined)
class Wide(Good):
    observation_size = 4
class Reward(Good):
    def step(self, s, a):
        return s.replace(reward=a)
class Info(Good):
    def step(self, s, a):
        return s.replace(info={"more": a})
class Length(Good):
    episode_length = 2.5
class Action(Good):
    action_size = 0
class Plays(Good):
    behaviours = {"play": lambda env: Behaviour(lambda k, s: (), lambda k, s, c: (jnp.zeros(3), c))}
class NoState(Good):
    def reset(self, key):
        return jnp.zeros(3)
class Gym:
    action_space = None
"""
WORLDS = {
    "Reset": "your reset failed at world.py:12: RuntimeError: no reset",
    "Step": "your step failed at world.py:15: NameError",
    "Wide": "world.py:Wide: reset returns observations of size 3, and observation_size is 4",
    "Reward": "step: reward has the shape (2,)",
    "Info": "step returns info {'more': 'float32[2]'}, and reset {}",
    "Length": "episode_length is 2.5",
    "Action": "action_size is 0",
    "Plays": "behaviour play acts with the shape (3,)",
    "NoState": "reset returns a ShapeDtypeStruct",
    "Gym": "a gymnasium environment is registered by a module and named --env gymnasium/MODULE:ID",
}


@pytest.mark.parametrize("name", WORLDS)
def test_an_environment_of_the_users_is_checked_when_it_is_made(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("world.py").write_text(WORLD)
    code, _, err = run(capsys, "collect", f"world.py:{name}", "--out", "x.npz", "--steps", "10", "--quiet")
    assert code == 2 and WORLDS[name] in err.splitlines()[0], err
    assert "Traceback" not in err and "qchunk list envs" not in err and not Path("x.npz").exists()
    envs.make("world.py:Good")


HOSTS = """
import gymnasium as gym, numpy as np
from gymnasium import spaces
class B(gym.Env):
    observation_space, action_space = spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,))
    reward = -1.0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.t = 0
        return np.zeros(2, "f4"), {}
    def step(self, a):
        self.t += 1
        return np.zeros(2, "f4"), self.reward, False, False, {}
class Raises(B):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no robot")
class Late(B):
    def step(self, a):
        if self.t == 3:
            raise KeyError("late")
        return super().step(a)
class Array(B): reward = np.array([-1.0])
class Many(B): reward = np.zeros(3)
class Unsure(B):
    def step(self, a):
        return *super().step(a)[:2], float("nan"), False, {}
for c in (Raises, Late, Array, Many, Unsure): gym.register(f"{c.__name__}-v0", entry_point=c)
"""


def test_host_environments_that_fail(tmp_path, monkeypatch, capsys):
    """Where it failed, in this process and in a worker, without advice on ids; an array of one number is a reward."""
    pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("hosts18.py").write_text(HOSTS)

    def collect(name):
        flags = ["--out", f"{name}.npz", "--steps", "9", "--episode-length", "5", "--quiet"]
        return run(capsys, "collect", f"gymnasium/hosts18:{name}-v0", *flags)

    code, _, err = collect("Raises")
    assert code == 2 and "your reset failed at hosts18.py:15: RuntimeError: no robot. fix it there." in err
    code, _, err = collect("Late")
    assert code == 2 and re.search(r"raised KeyError: 'late', at \S*hosts18\.py:19", err), err
    code, _, err = collect("Many")
    assert code == 2 and "which is not one number" in err and "the id of" not in err
    code, _, err = collect("Unsure")
    assert code == 2 and "its terminated is not a number" in err
    code, _, err = run(capsys, "collect", "gymnasium/hosts18:Array-v0", "--out", "x.npz", "--episode-length", 10**6)
    assert code == 2 and "--episode-length 1000000 is more than the" in err and not Path("x.npz").exists()
    assert collect("Array") == (0, "", "")
    assert (formats.load(Path("Array.npz"))[0].reward[:4] == -1).all()


def test_workers_end_with_their_parent_and_run_no_file_of_this_folder(tmp_path):
    """A simulator that hangs is gone soon after its parent was killed; random.py beside the user is not Python's own."""
    for name in ("random", "types", "tempfile"):
        (tmp_path / f"{name}.py").write_text(f"open('{name}-ran', 'w'); raise SystemExit(3)")
    (tmp_path / "hangs18.py").write_text(
        "import os, time, random\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(120)\n"
    )
    script = (
        f"import sys; sys.path.append('{ROOT}'); from qchunk.system import processes; processes.start('hangs18').wait()"
    )
    parent = subprocess.Popen([sys.executable, "-P", "-c", script], cwd=tmp_path)
    pid = tmp_path / "pid"
    until = time.monotonic() + 300
    while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    child = int(pid.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(child) and not list(tmp_path.glob("*-ran"))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


FLAGS = [
    (["collect", ENV, "--out", "x.npz", "--steps", str(10**30)], "--steps"),
    (["collect", ENV, "--out", "x" * 300 + ".npz"], "File name too long"),
    (["collect", ENV, "--out", ""], "is no name"),
    (["eval", "run", "--seed", str(2**33)], "--seed 8589934592 does not fit in 32 bits"),
    (["eval", "run", "--seed", "-1"], "--seed -1"),
    (["compare", "--env", ENV, "--normalise-obs", "nonsense"], "--normalise-obs"),
    (["compare", "--env", ""], "unknown environment ''"),
    (["compare", "--env"], "--env names no environment"),
    (["compare", "--env", ENV, "--offline-steps", str(10**30)], "--offline-steps"),
    (["train", "dppo", "--env", ENV, "--tuned.steps", "3"], "--tuned-steps 10 is more than the 3 denoising steps"),
    (
        [
            "train",
            "qc",
            "--env",
            ENV,
            "--data",
            None,
            "--chunk.backup",
            "1",
            "2",
            "--critic.hidden",
            "8",
            "--n",
            "2",
            *TINY,
        ],
        "give one backup point",
    ),
    (
        ["train", "bc", "--env", ENV, "--data", None, "--out", "/proc/nothing/run", *TINY],
        "cannot write /proc/nothing/run",
    ),
    (["train", "bc", "--env", ENV, "--data", None, "--execute", "receding:²", *TINY], "is no number"),
    (
        ["train", "bc", "--env", ENV, "--data", None, "--chunk.backup", "1", *TINY],
        "--chunk.backup 1 has no effect: imitation backs nothing up. leave it out",
    ),
    (["train", "top-erl", "--env", ENV, "--chunk.backup", "1"], "--chunk.backup 1 has no effect: every prefix of"),
    (
        ["train", "cqn-as", "--env", ENV, "--no-imitate", "--shown", "successes"],
        "--shown successes has no effect: nothing",
    ),
    (
        ["train", "cqn-as", "--env", ENV, "--no-imitate", "--margin", "0.2"],
        "--margin 0.2 has no effect: nothing",
    ),
    (["train", "opal", "--env", ENV, "--chunk.backup", "1"], "--chunk.backup 1 has no effect: a skill is valued by"),
    (["train", "supe", "--env", ENV, "--chunk.padding", "whole"], "--chunk.padding whole has no effect"),
    (
        ["train", "supe", "--env", ENV, "--earned", "predicted", "--least", "-2"],
        "--least -2.0 has no effect: what windows of data earn is predicted",
    ),
    (
        ["train", "value-guided", "--env", ENV, "--data", None, "--expectile", "0.9"],
        "--expectile 0.9 has no effect: targets are of the guided policy. leave it out, or give --backup iql",
    ),
    (
        ["train", "qc", "--env", ENV, "--optim.final-lr", "1e-5"],
        "--optim.final-lr 1e-05 has no effect: the rate is constant. give --optim.decay or --optim.warmup",
    ),
    (["collect", ENV, "--out", "x.npz", "--execute", "receding:1"], "has no effect: scripted behaviours decide at"),
    (["collect", ENV, "--out", "x.npz", "--policy", "random", "--delay", "1"], "--delay 1 has no effect"),
    (["compare", "--env", ENV, "--data", None, "--data-steps", "9"], "has no effect: the data are those of --data"),
    (["train", "mac", "--env", ENV, "--chunk.backup", "1"], "is not the horizon, to which the model looks ahead"),
    (["train", "dawr", "--env", ENV, "--chunk.backup", "1"], "is not the horizon, to which each chunk's rewards"),
    (
        ["train", "bc", "--env", ENV, "--data", None, *TINY, "--execute", "receding:steps=1,steps=2"],
        "one argument twice",
    ),
    (["train", "bc", "--env", ENV, "--data", None, *TINY, "--prior-seed", "0"], "give --prior RUN"),
    (["train", "bc", "--env", ENV, "--data", None, *TINY, "--chunk.history", "100000"], "in [1, 1000]"),
    (["train", "bc", "--env", ENV, "--data", None, *TINY, "--online-steps", "40", "--update-ratio", "1e30"], "32 bits"),
    (
        ["train", "bc", "--env", ENV, "--data", None, *TINY, "--actor.hidden", "2000000", "2000000"],
        "out of memory: the learner",
    ),
    (["train", "bc", "--env", ENV, "--data", None, *TINY, "--episodes", str(2**31 - 1)], "give fewer --episodes"),
    (
        ["train", "bc", "--env", ENV, "--data", None, *TINY, "--online-steps", str(2**31 - 1), "--update-ratio", "0"],
        "the state of play",
    ),
    (["collect", ENV, "--out", "x.npz", "--policy", ""], "--policy names nothing"),
    (["compare", "--env", ENV, "--algos"], "--algos names no arms"),
    (["compare", "--env", ENV, "--algos", "dppo@"], "unknown kind ''"),
    (["compare", "--env", ENV, "--log-to", "x"], "unknown sink 'x'"),
    (["compare", "--env", ENV, "--execute", "xyz"], f"rtc, committed and {len(names.SCHEMES) - 8} more"),
    (["compare", "--env", ENV, "--algos", "bc", "qc:nn=4"], "unknown setting of an arm 'nn'. Did you mean n?\n"),
    (["train", "bc", "--env", ENV, "--learning-rate", "1e-3"], "'--learning-rate'. Did you mean --optim.lr?;"),
    (["train", "qc", "--env", ENV, "--hidden-dims", "8"], "Did you mean --actor.hidden or --critic.hidden?;"),
    (["train", "qc", "--env", ENV, "--chunk.discnt", "step"], "Did you mean --chunk.discount?;"),
    (["compare", "--env", ENV, "--seeds"], "error: Missing value for argument '--seeds'"),
    (
        ["train", "mine.py", "--env", ENV],
        "; write mine.py:FUNCTION.\n",
    ),
    (["reproduce", "reacher", "--scale", "tiny"], "error: Invalid choice 'tiny' for argument '--scale'"),
]


@pytest.mark.parametrize("case", range(len(FLAGS)))
def test_flags_are_refused_before_the_work(case, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv, told = FLAGS[case]
    code, _, err = run(capsys, *(data if a is None else a for a in argv))
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


def test_a_function_of_a_librarys_that_does_not_fit(data, tmp_path, capsys):
    for more in (["--optim.kind", "adam:b2=x"], ["--optim.kind", "json:dumps"]):
        code, _, err = run(capsys, "train", "bc", "--env", ENV, "--data", data, "--out", tmp_path / "run", *TINY, *more)
        assert code == 2 and f"{more[1]} gives does not fit" in err.splitlines()[0], err
        assert list(tmp_path.iterdir()) == []


def test_help_names_what_stands_first_and_every_kind(capsys):
    for command, what in {
        "eval": "RUN",
        "render": "RUN",
        "collect": "ENV",
        "reproduce": "SUITE",
        "report": "RUN...",
    }.items():
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert f"qchunk {command} {what}" in capsys.readouterr().out
    cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert "--resume" in text and "--then" in text
    with pytest.raises(SystemExit):
        cli.main(["train", "bc", "--help"])
    text = " ".join(re.sub(r"[^\x20-\x7e]", " ", capsys.readouterr().out).split())
    assert "--resume" in text and "--then" in text
    assert all(kind in text.partition("--actor.kind")[2][:200] for kind in names.ACTORS)


def test_surroundings(data, tmp_path):
    """Variables that jax reads, a full disk under stdout, a closed one, a folder that is gone: a line and exit code 2."""
    argv = ["train", "bc", "--env", ENV, "--data", data, "--out", tmp_path / "run", *TINY]
    cases = {"JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": "abc", "JAX_DEBUG_NANS": "maybe", "JAX_PLATFORMS": "cuda"}
    cases |= {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_NUMPY_RANK_PROMOTION": "raise", "PYTHONOPTIMIZE": "2"}
    cases |= {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_nonsense=1"}
    cases |= {"JAX_DEFAULT_MATMUL_PRECISION": "x", "PYTHONWARNINGS": "error::DeprecationWarning"}
    for name, value in cases.items():
        done = started(*argv, env={name: value})
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and name in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            env = {**os.environ, "PYTHONPATH": ROOT}
            wrong = [sys.executable, "-m", "qchunk", "lst"]
            assert subprocess.run(wrong, stderr=full, env=env).returncode == 2, "with nowhere to say why"
            done = subprocess.run(
                [sys.executable, "-m", "qchunk", "list"], stdout=full, stderr=subprocess.PIPE, text=True, env=env
            )
        assert (
            done.returncode == 2
            and done.stderr.startswith("error: cannot write to stdout")
            and done.stderr.count("\n") == 1
        )
    shell = f'"{sys.executable}" -m qchunk list >&- 2>&- && mkdir gone && cd gone && rmdir ../gone && "{sys.executable}" -m qchunk list'
    done = subprocess.run(
        ["sh", "-c", shell], cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "this folder is gone" in done.stderr.splitlines()[-1]
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = started("train", "bc", "--env", "tabletop/\u00fc", env=plain)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown environment")


def test_debugging_of_nans_finds_none(data, tmp_path):
    done = started(
        "train", "bc", "--env", ENV, "--data", data, "--out", tmp_path / "run", *TINY, env={"JAX_DEBUG_NANS": "1"}
    )
    assert done.returncode == 0, done.stderr


def test_no_folder_for_temporary_files():
    err = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    assert "TMPDIR" in str(surroundings.explained(err))


def test_fresh_interpreters_find_this_folder_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = processes.search_path()
    assert found[-1] == str(tmp_path) and found.count(str(tmp_path)) == 1


LABELS = ["a$b", r"$\frac{", "$x$ and $y$", "_hidden", "\udcff", "a\nb", "<b>&'\"", "\x00"]


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_shown_letter_by_letter(label, tmp_path):
    about = {
        "algorithm": "bc",
        "label": label,
        "env": f"own/{label}",
        "seed": 0,
        "seeds": 2,
        "config": {},
        "settings": {},
    }
    with run_folder.create(tmp_path / "run", about) as folder:
        folder.log("eval", 1, {"success": [0.5, 1.0]})
    found = records.load([tmp_path / "run"])
    plots.curves(found, tmp_path / "curves.png")
    text = page.html_page(found, records.table(found), {})
    text.encode()
    shown = found[0].label
    assert shown.isprintable() and shown == records.plain(label)
    assert f"<td>{markupsafe.escape(shown)}</td>" in text
    drawn = "".join(re.findall(r"<text[^>]*>(.*?)</text>", text, re.S))
    assert html.escape(shown, quote=False) in drawn, "no formula, and nothing left out"


def small(**change):
    c = BC(chunk=ChunkConfig(2), actor=FlowConfig((8,), steps=2))
    env = envs.make(ENV)
    s = OnlineSettings(offline_steps=2, episodes=2, batch=8)
    return {**{"build": bc, "c": c, "env": env, "settings": s, "data": None}, **change}


Twin = dataclasses.make_dataclass("BC", [])  # as a file is loaded twice


def of_a_twin(c: Twin):
    return bc(c)


FROM_PYTHON = {
    "no data": ({}, "2 offline updates need a data set"),
    "settings": ({"settings": OfflineSettings()}, "give OnlineSettings"),
    "a class": ({"c": BC}, "give a method's configuration"),
    "floats": ({"settings": OnlineSettings(offline_steps=1e3)}, "--offline-steps is 1000.0. give a whole number"),
    "a name": ({"settings": OnlineSettings(normalise_obs="nonsense")}, "one of none, min-max, standard"),
    "a text": ({"c": BC(chunk=ChunkConfig(2, gamma="0.9"))}, "--chunk.gamma is '0.9'. give a number"),
    "an actor": ({"c": BC(actor=3)}, "--actor is 3"),
    "env": ({"env": 3}, "give a brax Env"),
    "build": ({"build": lambda c: None}, "return an Algorithm"),
    "a name of a method": ({"build": "bc"}, "build is 'bc'"),
    "another method": ({"build": qc}, "qc takes a QC, and c is a BC"),
    "another copy": ({"build": of_a_twin}, "of another copy of its file. take the class of the copy that is loaded"),
    "a rate for each seed": (
        {"c": BC(ChunkConfig(2), optim=OptimConfig(np.ones(3, np.float32)))},
        "a number of c has the shape (3,)",
    ),
    "another kind": (
        {"c": BC(ChunkConfig(2), FlowConfig(kind="diffusion"))},
        "--actor.kind diffusion is of a DiffusionConfig",
    ),
    "a wrapped environment": ({"env": wrap(envs.make(ENV))}, "is wrapped in AutoReset"),
    "rows": ({"data": formats.rows_of}, "data are a function, not a Dataset"),
    "given": ({"given": {"x": np.zeros((3, 2))}}, "lead with 1 seeds"),
    "a state alone": ({"state": 3}, "state is given without its learner"),
}


@pytest.mark.parametrize("name", FROM_PYTHON)
def test_from_python_the_same_mistakes_get_the_same_errors(name, data):
    change, told = FROM_PYTHON[name]
    rows = None if name == "no data" else formats.for_env(data, envs.make(ENV), ENV)[0]
    with pytest.raises(UserError, match=re.escape(told)):
        next(drivers.train(**small(**{"data": rows, **change})))


@pytest.mark.parametrize(("history", "weights"), [(0, {}), (-1, {}), (1, {"task": "a"}), (1, {"task": float("nan")})])
def test_an_environment_of_impossible_parts(history, weights):
    with pytest.raises(UserError):
        envs.make(ENV, history, weights)


def test_data_put_together_by_hand(data):
    rows = formats.for_env(data, envs.make(ENV), ENV)[0]
    for change, told in (
        ({"reward": rows.reward[:3]}, "other numbers of rows"),
        ({"starts": rows.starts[:0]}, "no transition to start from"),
        ({"action": np.zeros((len(rows.reward), 4), np.float32)}, "actions have 1 numbers, the data's 4"),
    ):
        with pytest.raises(UserError, match=told):
            next(drivers.train(**small(data=rows._replace(**change))))


def test_a_learner_of_another_configuration(data):
    rows = formats.for_env(data, envs.make(ENV), ENV)[0]
    learner = list(drivers.train(**small(data=rows)))[-1].learner
    other = dataclasses.replace(small()["c"], actor=FlowConfig((16,), steps=2))
    with pytest.raises(UserError, match=r"of another configuration: .params.*\[1, 8\], not float32\[1, 16\]"):
        next(drivers.train(**small(data=rows, c=other), learner=learner))
    more = small(data=rows, settings=OnlineSettings(offline_steps=3, episodes=2, batch=8))
    *_, last = drivers.train(**more, learner=learner)
    assert int(last.learner.step[0] if np.ndim(last.learner.step) else last.learner.step) == 3
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(np.asarray(x, float)).all(), last.learner.params))
