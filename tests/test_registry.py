"""Open lists: what a user's own file brings, under the same names as the built-in, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_cli import ENV, last_checkpoint, run

from qchunk import cli, config, envs, names, registry
from qchunk.actors import actor
from qchunk.comparison import arms, lineup
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import formats
from qchunk.optimisers import transformation
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Module, Spec, Vars

TUTORIAL = (Path(__file__).parents[1] / "docs/tutorials/3-algorithm.md").read_text()
HUBER = next(block for block in re.findall(r"```python \S+\n(.*?)```", TUTORIAL, re.S) if "def huber(" in block)
ACTOR = (
    f"{HUBER}\n"
    + """
def plain(c, name="actor"):
    return None

@config
class Alone:
    hidden: tuple[int, ...] = (8,)
    kind: str = ""

def alone(c: Alone, name: str = "actor") -> Kernel:
    return None
"""
)
DEFINED = re.findall(r"^(?:class|def) ([A-Za-z]\w*)", ACTOR, re.M)
OTHERS = """
import jax.numpy as jnp
import numpy as np
import optax
from qchunk.data.formats import Rows

def quantile(values, q):
    return jnp.quantile(values, q, axis=0)

def clipped(rate, most=1.0):
    return optax.chain(optax.clip(most), optax.sgd(rate))

def csv(path):
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    obs, action, reward, terminal, end = np.split(table, [2, 3, 4, 5], axis=1)
    return Rows(obs, action, reward[:, 0], terminal[:, 0] > 0, end[:, 0] > 0)

def wrong(path):
    return path
"""
TINY = ["--chunk.horizon", "2", "--quiet"]
STEPS = ["--offline-steps", "20", "--eval-every", "10", "--log-every", "10", "--episodes", "4", "--batch", "16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the user's files and a data set."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(ACTOR)
    (folder / "others.py").write_text(OTHERS)
    argv = ["collect", ENV, "--out", folder / "play.npz", "--steps", "200", "--episode-length", "10", "--quiet"]
    cli.main([str(a) for a in argv])
    return folder


@pytest.fixture(scope="module")
def cloned(place):
    """A run of bc with an actor of the user's own."""
    own = ["--actor.kind", f"{place}/mine.py:huber", "--actor.hidden", "16", "--actor.delta", "0.5"]
    argv = ["train", "bc", "--env", ENV, "--data", place / "play.npz", "--out", place / "bc", *own, *TINY, *STEPS]
    cli.main([str(a) for a in argv])
    return place / "bc"


def kept(folder):
    return json.loads((folder / "config.json").read_text())["config"]


def test_an_actor_of_ones_own(cloned, place, capsys):
    """It trains from the command line, and config.json is enough to evaluate and to resume it to the same bits."""
    assert kept(cloned)["config"]["actor"] == {"kind": f"{place}/mine.py:huber", "hidden": [16], "delta": 0.5}
    code, out, err = run(capsys, "eval", cloned, "--episodes", "3", "--json")
    assert code == 0 and np.isfinite(json.loads(out)["return"]["mean"]), err
    before = last_checkpoint(cloned)
    (cloned / "summary.json").unlink()
    code, _, err = run(capsys, "train", "--resume", cloned, "--step", "10", "--quiet")
    assert code == 0 and last_checkpoint(cloned) == before, err


@pytest.mark.slow
def test_a_prior_of_ones_own(cloned, place, capsys):
    """It is the frozen prior of a later stage, which takes its kind and its fields from the run."""
    small = ["--critic.hidden", "16", "--n", "2", "--quiet", *STEPS]
    argv = ["train", "qc-frozen", "--env", ENV, "--data", place / "play.npz", "--prior", cloned, *small]
    code, _, err = run(capsys, *argv, "--out", place / "frozen")
    assert code == 0, err
    given, actor = kept(place / "frozen")["config"]["given"], kept(cloned)["config"]["actor"]
    assert given | {"kind": ""} == actor | {"kind": ""}
    assert given["kind"] == f"{next((cloned / 'sources').rglob('mine.py')).resolve()}:huber", "the prior's own copy"
    assert next((place / "frozen/sources").rglob("mine.py")).read_text() == (place / "mine.py").read_text()
    mine = [*argv, "--given.kind", f"{place}/mine.py:huber", "--given.hidden", "16", "--given.delta", "0.5"]
    code, _, err = run(capsys, *mine, "--out", place / "named")
    assert code == 0, err
    code, _, err = run(capsys, *argv, "--out", place / "never", "--given.delta", "2")
    assert code == 2 and "--given.delta 2.0 is not the prior's 0.5" in err


def test_ppo_tunes_an_actor_of_ones_own(place, capsys):
    """Even one without noise of its own, whose probabilities are those of exploring, and one that keeps no moving average."""
    own = ["--tuned.kind", f"{place}/mine.py:huber", "--tuned.hidden", "16", "--critic.hidden", "16"]
    few = ["--rollout.envs", "4", "--rollout.decisions", "4", "--rollout.minibatches", "2", "--rollout.epochs", "1"]
    few += ["--online-steps", "64", "--eval-every", "64", "--log-every", "64", "--episodes", "2"]
    code, _, err = run(capsys, "train", "ppo", "--env", ENV, "--out", place / "tuned", *own, *few, *TINY)
    assert code == 0, err


def test_help_shows_the_fields_of_a_kind(place, capsys):
    code, out, _ = run(capsys, "train", "bc", "--actor.kind", f"{place}/mine.py:huber", "--help")
    assert code == 0 and "--actor.delta" in out and "Errors above it count linearly" in out
    assert "--actor.steps" not in out


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--actor.kind", "difusion", "Did you mean diffusion"),
        ("--actor.kind", "{}/mine.py:hubr", "Did you mean huber"),
        ("--actor.kind", "{}/mine.py:zq", f"Known: {', '.join(DEFINED[:2])}, "),
        ("--actor.kind", "{}/mine.py:plain", "def plain(c: Config, name"),
        ("--actor.kind", "{}/mine.py:alone", "write class Alone(ActorConfig)"),
        ("--actor.kind", "flow:3", "kind flow:3: too many positional arguments"),
        ("--critic.aggregate", "men", "Did you mean mean"),
        ("--critic.aggregate", "{}/others.py:quantile", "missing a required argument: 'q'"),
        ("--optim.kind", "adma", "Did you mean adam"),
        ("--optim.kind", "adamw:decay=0.1", "unexpected keyword argument 'decay'"),
        ("--data", "{}/others.py:csv", "others.py:csv:ARGUMENT"),
        ("--data", "{}/others.py:csv:nowhere.csv", "cannot read nowhere.csv"),
        ("--data", "{}/others.py:wrong:x", "return a qchunk.data.formats.Rows"),
    ],
)
def test_a_slip_is_one_line(flag, value, told, place, capsys):
    flags = {"--env": ENV, "--data": place / "play.npz", "--out": place / "never", flag: value.format(place)}
    code, out, err = run(capsys, "train", "qc", *(x for pair in flags.items() for x in pair), *STEPS)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    assert told in err and not (place / "never").exists(), err


def test_aggregate_optimiser_and_reader_of_ones_own(place, capsys):
    """All three on one command line: the run keeps their names, the data's fingerprint, and goes on by them."""
    rows = formats.load(place / "play.npz")[0]
    columns = [x.reshape(len(rows.obs), -1).astype(np.float64) for x in rows if isinstance(x, np.ndarray)]
    np.savetxt(place / "play.csv", np.concatenate(columns, axis=1), delimiter=",")
    data = f"{place}/others.py:csv:{place}/play.csv"
    flags = ["--critic.aggregate", f"{place}/others.py:quantile:0.25", "--optim.kind", f"{place}/others.py:clipped:0.1"]
    small = ["--actor.hidden", "16", "--actor.steps", "2", "--critic.hidden", "16", "--n", "2", *TINY, *STEPS]
    argv = ["train", "qc", "--env", ENV, "--data", data, "--out", place / "qc", *flags, *small]
    code, _, err = run(capsys, *argv)
    assert code == 0, err
    found = kept(place / "qc")
    assert found["data"] == {"path": data, "fingerprint": formats.fingerprint(rows)}
    assert found["config"]["critic"]["aggregate"] == flags[1] and found["config"]["optim"]["kind"] == flags[3]
    before = last_checkpoint(place / "qc")
    (place / "qc" / "summary.json").unlink()
    code, _, err = run(capsys, "train", "--resume", place / "qc", "--step", "10", "--quiet")
    assert code == 0 and last_checkpoint(place / "qc") == before, err
    table = np.loadtxt(place / "play.csv", delimiter=",")
    np.savetxt(place / "play.csv", table[11:], delimiter=",")
    (place / "qc" / "summary.json").unlink()
    code, _, err = run(capsys, "train", "--resume", place / "qc", "--step", "10", "--quiet")
    assert code == 2 and "has changed since the run began" in err


def test_aggregates_reach_the_critic(place):
    """score is the aggregate of values, by whatever name."""
    q = [[1.0, 5.0], [3.0, 2.0], [8.0, 2.0]]
    for name, wanted in (
        ("mean", [4.0, 3.0]),
        ("min", [1.0, 2.0]),
        (f"{place}/others.py:quantile:0.5", [3.0, 2.0]),
        (f"{place}/others.py:quantile:q=0.0", [1.0, 2.0]),
    ):
        critic = chunk_q(config.CriticConfig((4,), members=3, aggregate=name))
        np.testing.assert_allclose(critic.aggregate(jnp.asarray(q)), wanted)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("adam", optax.adam(0.1)),
        ("adamw:weight_decay=0.5", optax.adamw(0.1, weight_decay=0.5)),
        ("sgd:0.9", optax.sgd(0.1, 0.9)),
        ("optax:lion", optax.lion(0.1)),
    ],
)
def test_optimisers(kind, wanted):
    """Three steps are those of optax's own, with its values."""
    tx = transformation([Module("m", lambda key, spec: {}, lambda p: p)], config.OptimConfig(0.1, kind=kind))
    ours = theirs = {"m": {"w": jnp.asarray([1.0, -2.0])}}
    state, other = tx.init(ours), wanted.init(theirs)
    for _ in range(3):
        move, state = tx.update(ours, state, ours)
        ours = optax.apply_updates(ours, move)
        move, other = wanted.update(theirs, other, theirs)
        theirs = optax.apply_updates(theirs, move)
    np.testing.assert_array_equal(ours["m"]["w"], theirs["m"]["w"])
    assert float(ours["m"]["w"][0]) != 1.0


def test_the_norm_of_a_gradient_is_bounded_module_by_module():
    """Adam moves by its rate where gradients stay alike: of 10 and then 1, those bounded to 1 do; another module's are its own."""
    modules = [Module(name, lambda key, spec: {}, lambda p: p) for name in "ab"]
    tx = transformation(modules, config.OptimConfig(0.1, kind="clipped-adam:max_norm=1"))
    params = {"a": {"w": jnp.zeros(2)}, "b": {"w": jnp.zeros(1)}}
    state = tx.init(params)
    for size in (10.0, 1.0):
        move, state = tx.update({"a": {"w": jnp.asarray([0.6, -0.8]) * size}, "b": {"w": jnp.full(1, 0.01)}}, state)
        np.testing.assert_allclose(move["a"]["w"], [-0.1, 0.1], rtol=1e-4)
        np.testing.assert_allclose(move["b"]["w"], -0.1, rtol=1e-4)
    with pytest.raises(UserError, match="max_norm is 0"):
        transformation(modules, config.OptimConfig(0.1, kind="clipped-adam:max_norm=0"))


def test_the_rate_of_an_optimiser_is_traced():
    """Rates can be vmapped under every built-in optimiser: one program for all of them."""
    module = Module("m", lambda key, spec: {}, lambda p: p)
    params = {"m": {"w": jnp.ones(2)}}

    def moved(kind, rate):
        tx = transformation([module], config.OptimConfig(rate, kind=kind))
        return tx.update(params, tx.init(params), params)[0]["m"]["w"][0]

    for kind in names.OPTIMISERS:
        found = jax.vmap(lambda rate, kind=kind: moved(kind, rate))(jnp.asarray([0.1, 0.2]))
        np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)


@pytest.mark.parametrize("kind", names.ACTORS)
def test_every_row_of_the_actors_is_a_kernel(kind):
    """A row is enough: its configuration's kind is its name, and cloning, sampling, comparisons and JSON know it."""
    made = config.of_kind(config.ActorConfig, kind)
    assert made.kind == kind == type(made)().kind
    made = arms.actor_of(kind, arms.Sizes((16,), steps=2))
    assert config.from_dict(type(made), json.loads(json.dumps(config.dataclasses.asdict(made)))) == made
    pi, key = actor(made), jax.random.key(0)
    params = {m.name: m.init(key, Spec(3, 1, 2)) for m in pi.modules}
    vars, obs, action = Vars(params, {}, {}, {}), jnp.zeros((4, 3)), jnp.zeros((4, 2, 1))
    chunk = Chunk(obs, action, *[jnp.ones((4, 2))] * 3, jnp.zeros((4, 2, 3)), jnp.ones((4, 2)), jnp.zeros(4), {})
    loss = jax.eval_shape(lambda: pi.loss(vars, pi.draw(key, chunk), chunk))
    act = sample(pi)
    plan = jax.eval_shape(lambda: act.plan(vars, act.draw(vars, key, obs), obs, None))
    assert loss.shape == (4,) and plan.action.shape == (4, 2, 1)


def test_every_row_stands_for_something():
    for table, what in (
        (names.AGGREGATES, "aggregate"),
        (names.OPTIMISERS, "optimiser"),
        (names.READERS, "reader"),
        (names.TERMS, "term"),
    ):
        for name, entry in table.items():
            found, args = registry.named(table, name, what)
            assert (callable(found) or isinstance(found, formats.Reader)) and args == ()
            assert entry.text and "\n" not in entry.text


TABLE = {"half": names.Entry("tests_of_nothing:f", "never loaded"), "sqrt": names.Entry("math:sqrt", "root")}


def test_named(place):
    """Names, functions of files and of modules; values are numbers where they can be; the same text, the same object."""
    import math

    assert registry.named(TABLE, "sqrt", "function") == (math.sqrt, ())
    assert registry.named(TABLE, "sqrt:2", "function")[1] == (2,)
    function, args = registry.named({}, f"{place}/others.py:quantile:1,-0.5, up", "function")
    assert function.__name__ == "quantile" and args == (1, -0.5, "up")
    assert [type(a) for a in args] == [int, float, str]
    assert registry.named({}, "math:hypot:3,4", "function") == (math.hypot, (3, 4))
    half = registry.named({}, f"{place}/others.py:quantile:q=0.5", "function")
    assert half == registry.named({}, f"{place}/others.py:quantile:q=0.5", "function") and half[1] == ()
    np.testing.assert_allclose(half[0](jnp.asarray([[1.0], [4.0]])), [2.5])
    sums = [registry.function({}, f"operator:add:{text}", "function", "x")(1) for text in ("2", "2.0")]
    assert [type(x) for x in sums] == [int, float]
    for slip, told in (
        ("sqr", "Did you mean sqrt"),
        ("sqr:3", "Did you mean sqrt"),
        ("hlf:fast", "Did you mean half"),
        (f"{place}/other.py:quantile", "there is no file"),
        (f"{place}/others.py:quantile:r=2", "unexpected keyword argument 'r'"),
    ):
        with pytest.raises(UserError, match=told):
            registry.named(TABLE, slip, "function")


def test_lists_show_every_table(capsys):
    code, out, _ = run(capsys, "list", "actors", "aggregates", "optimisers", "readers", "terms")
    for shown in ("diffusion", "FILE.py:FUNCTION:ARGUMENT", "min", "adamw", "ogbench", "jerk"):
        assert code == 0 and f"  {shown} " in out, shown
    code, _, err = run(capsys, "list", "actor")
    assert code == 2 and "Did you mean actors" in err


def test_an_environment_and_a_term_bring_values(tmp_path):
    """``file.py:function:ARGS`` everywhere: an environment of a size, a term with its own constant."""
    (tmp_path / "mine.py").write_text(
        "from qchunk.envs import make\n"
        "def short(length, more=0):\n    env = make('probe/two-step')\n    env.episode_length = length + more\n    return env\n"
        "def lean(m, k):\n    return k * m.action[..., 0]\n"
    )
    env = envs.make(f"{tmp_path}/mine.py:short:3,more=4", 1, {f"{tmp_path}/mine.py:lean:2": 1.0})
    assert env.episode_length == 7
    state = env.step(env.reset(jax.random.key(0)), jnp.asarray([0.25]))
    np.testing.assert_allclose(state.reward, 0.5)
    with pytest.raises(UserError, match="missing a required argument: 'length'"):
        envs.make(f"{tmp_path}/mine.py:short")


def test_an_arm_with_an_actor_of_ones_own(place):
    """A comparison gives it the shared sizes, and the prior of a stage is of its kind."""
    kind = f"{place}/mine.py:huber"
    c = arms.config_of(f"bc@{kind}", arms.Sizes((32, 32)))
    assert c.actor.kind == kind and c.actor.hidden == (32, 32)
    assert arms.prior_of(f"qc-frozen@{kind}", arms.Sizes((32, 32)))[1].actor == c.actor
    with pytest.raises(UserError, match="Did you mean diffusion"):
        arms.config_of("bc@difusion", arms.Sizes())


def test_a_comparison_takes_any_data(place, tmp_path):
    """Its --data is what ``train`` takes: a folder of shards, or a reader of one's own."""
    for data in (place, f"{place}/others.py:csv:x.csv"):
        lineup.checked(lineup.CompareFlags((ENV,), data=Path(data), out=tmp_path), arms.Sizes())
    with pytest.raises(UserError, match="there is no data set"):
        lineup.checked(lineup.CompareFlags((ENV,), data=tmp_path / "none.npz", out=tmp_path), arms.Sizes())


def test_data_in_a_format_of_another_environment(tmp_path):
    """OGBench's files hold no rewards: another environment cannot read them, and says so."""
    np.savez(tmp_path / "og.npz", observations=np.zeros((3, 2)), actions=np.zeros((3, 1)))
    with pytest.raises(UserError, match="is in OGBench's format"):
        formats.for_env(tmp_path / "og.npz", envs.make(ENV), ENV)


def test_a_copy_in_the_folder_of_an_arm_is_found():
    """The folder is called after the arm, which may be a function with settings of its own."""
    for place in ("runs/mine.py:mine:n=4/sources/mine.py", "runs/mine.py:mine/sources/mine.py"):
        assert names.target({}, f"{place}:mine", "algorithm") == (f"{place}:mine", "")
        assert names.target({}, f"{place}:mine:0.5,3", "algorithm") == (f"{place}:mine", "0.5,3")
