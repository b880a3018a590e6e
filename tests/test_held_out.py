"""A robot's own data without a simulator: the last episodes are held out, and judge."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_cli import run

import qchunk
from qchunk import registry, trees
from qchunk.actor_configs import FlowConfig
from qchunk.comparison.afterwards import by_schemes
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.data import description, formats
from qchunk.data.formats import Rows
from qchunk.drivers.common import assemble, init
from qchunk.envs import held_out
from qchunk.play.on_data import TO_GO, correlation, distances, energy_distance, evaluate, ranks, to_go
from qchunk.system.errors import UserError

FLAGS = [
    "--actor.hidden",
    "16",
    "--actor.steps",
    "2",
    "--critic.hidden",
    "16",
    "--n",
    "2",
    "--chunk.horizon",
    "2",
    "--batch",
    "16",
    "--seeds",
    "2",
]
STEPS = ["--offline-steps", "20", "--eval-every", "10", "--log-every", "10", "--quiet"]


def recorded(episodes, length, names=None):
    """Episodes whose action is the observation's sign."""
    rng = np.random.default_rng(0)
    end = np.tile(np.arange(length + 1) == length, episodes)
    obs = rng.normal(size=(len(end), 3)).astype(np.float32)
    action = 0.5 * np.sign(obs[:, :1])
    reward, nothing = (~end).astype(np.float32), np.zeros(len(end), bool)
    return Rows({"arm": obs, "grip": obs[:, :1]} if names else obs, action, reward, nothing, end)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("robot") / "robot.npz"
    formats.save(path, recorded(30, 8), {"env": "my/robot"})
    return path


def test_the_last_episodes_are_held_out():
    rows = recorded(30, 8, names=True)
    assert held_out.name_of(rows) == "none/arm:3,grip:1,1"
    env = held_out.make("arm:3,grip:1,1")
    rest = env.hold_out(rows)
    assert rest.end.sum() == 27 and int((np.asarray(env.held.left) == 0).sum()) == 3
    np.testing.assert_array_equal(rest.obs["arm"], rows.obs["arm"][: 27 * 9])
    np.testing.assert_array_equal(env.held.obs["grip"], rows.obs["grip"][27 * 9 :])
    with pytest.raises(UserError, match="one episode, and none can be held out"):
        env.hold_out(recorded(1, 8))


def test_held_out_episodes_shorter_than_a_chunk_are_told_before_anything_is_trained(tmp_path, capsys):
    """Recordings that broke off are often the last ones."""
    formats.save(tmp_path / "d.npz", formats.joined([recorded(18, 8), recorded(2, 1)]), {"env": "my/robot"})
    argv = ["train", "qc", "--env", "none", "--data", tmp_path / "d.npz", "--out", tmp_path / "r", *FLAGS, *STEPS]
    code, _, err = run(capsys, *argv)
    assert code == 2 and "longer than every episode that is held out (the longest has 1 steps)" in err, err
    assert not (tmp_path / "r").exists()


def test_the_name_says_the_types_of_whole_numbers():
    """By which policies are shown pixels as pixels; floats of any size are named as ever, and so are runs made before."""
    rows = recorded(3, 8)
    for obs, name in [
        ({"img": np.zeros((27, 48), np.uint8), "state": rows.obs.astype(np.float64)}, "none/img:48:uint8,state:3,1"),
        ({"cam": {"on": rows.obs > 0, "at": np.zeros((27, 2), np.int64)}}, "none/cam/at:2:int32,cam/on:3:bool,1"),
        (np.zeros((27, 48), np.uint8), "none/48:uint8,1"),
        ({"a,b": rows.obs, "5%,": rows.obs}, "none/5%25%2C:3,a%2Cb:3,1"),
        ({"a:b": rows.obs, "obs": np.zeros((27, 2), np.uint16)}, "none/a:b:3,obs:2:uint16,1"),
    ]:
        assert held_out.name_of(rows._replace(obs=obs)) == name
        found = trees.named(held_out.make(name.removeprefix("none/")).no_obs)
        expected = {n: (x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype)) for n, x in trees.named(obs).items()}
        assert {n: (x.shape, x.dtype) for n, x in found.items()} == expected
    assert {x.dtype for x in trees.named(held_out.make("img:48,state:3,2").no_obs).values()} == {np.dtype(np.float32)}


def test_types_that_data_do_not_have_are_refused(tmp_path, capsys):
    rows = recorded(3, 8)
    formats.save(tmp_path / "d.npz", rows._replace(obs=(rows.obs > 0).astype(np.uint8)), {"env": "my/robot"})
    for name, line in [
        ("none/3,1", "--env none/3,1 says other types than its data, which are none/3:uint8,1"),
        ("none/3:uint9,1", "uint9 is no type of observations"),
        ("none/4:uint8,1", "but none/4:uint8,1 has"),
    ]:
        words = ("train", "bc", "--env", name, "--data", tmp_path / "d.npz", "--out", tmp_path / "bc", *STEPS)
        code, _, err = run(capsys, *words)
        assert code == 2 and line in err and err.count("\n") == 1, err


def test_distances_equal_a_loop():
    rng = np.random.default_rng(1)
    guess, action = rng.normal(size=(2, 6, 2, 3))
    mask = np.ones((6, 2))
    mask[0, 1] = 0
    found = distances(jnp.asarray(guess), jnp.asarray(action), jnp.asarray(mask))
    cells = [(b, h) for b in range(6) for h in range(2) if mask[b, h]]
    each = {cell: np.abs(guess[cell] - action[cell]).mean() for cell in cells}
    assert found["error"] == pytest.approx(np.mean(list(each.values())), rel=1e-5)
    assert found["error_2"] == pytest.approx(np.mean([e for (_, h), e in each.items() if h == 1]), rel=1e-5)
    mean = np.mean([action[c] for c in cells], axis=0)
    apart, variance = (
        sum(((action[c] - x(c)) ** 2).sum() for c in cells) for x in (lambda c: guess[c], lambda c: mean)
    )
    assert found["explained"] == pytest.approx(1 - apart / variance, rel=1e-5)


def test_the_energy_distance_tells_distributions_apart():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 5, 3))
    norm = lambda a, b: np.linalg.norm(a - b)  # noqa: E731
    pairs = [(i, j) for i in range(5) for j in range(5)]
    expected = 2 * np.mean([norm(x[i], y[j]) for i, j in pairs])
    expected -= sum(np.mean([norm(z[i], z[j]) for i, j in pairs if i != j]) for z in (x, y))
    assert energy_distance(jnp.asarray(x), jnp.asarray(y)) == pytest.approx(expected, rel=1e-5)
    a, b = rng.normal(size=(2, 400, 2))
    same, other = (float(energy_distance(jnp.asarray(a), jnp.asarray(z))) for z in (b, b + 0.5))
    assert abs(same) < 0.02 < 0.1 < other


def test_returns_to_go():
    """Up to a success, or the episode's end."""
    reward, end = np.array([1.0, 2, 3, 9, 1, 1, 9]), np.array([0, 0, 0, 1, 0, 0, 1], bool)
    terminal = np.array([0.0, 1, 0, 0, 0, 0, 0])
    from qchunk.data.chunks import dataset

    made = dataset(np.zeros((7, 1)), np.zeros((7, 1)), reward, terminal, end)
    np.testing.assert_allclose(to_go(made, ChunkConfig(gamma=0.5)), [1 + 0.5 * 2, 2, 3, 0, 1.5, 1, 0])
    longer = dataset(np.zeros((5, 1)), np.zeros((5, 1)), np.arange(1.0, 6), np.zeros(5), np.arange(5) == 4)
    once = ChunkConfig(2, gamma=0.5, discount="decision")  # gamma counts once per chunk of two
    np.testing.assert_allclose(to_go(longer, once), [1 + 2 + 0.5 * (3 + 4), 2 + 3 + 0.5 * 4, 3 + 4, 4, 0])


def test_correlations_by_hand():
    x, y = jnp.asarray([1.0, 2.0, 3.0, 6.0]), jnp.asarray([2.0, 1.0, 5.0, 4.0])
    # deviations -2 -1 0 3 and -1 -2 2 1: products 2 + 2 + 0 + 3 = 7, squares 14 and 10
    np.testing.assert_allclose(correlation(x, y), 7 / np.sqrt(140), rtol=1e-6)
    np.testing.assert_allclose(correlation(x, jnp.ones(4)), 0.0)
    np.testing.assert_array_equal(ranks(jnp.asarray([3.0, 1.0, 3.0, 0.0])), [3.5, 2.0, 3.5, 1.0])
    z = jnp.asarray([3.0, 1.0, 3.0, 0.0])
    np.testing.assert_allclose(correlation(ranks(x), ranks(z)), scipy.stats.spearmanr(x, z)[0], rtol=1e-6)


@pytest.mark.slow
def test_values_are_set_against_the_returns_of_their_own_windows(data):
    """A method whose value is a known function of what it sees: that of the return itself, or of its negative."""
    env = held_out.make("3,1")
    memory = formats.for_env(data, env, "none/3,1")[0]
    build, config = registry.builder("qc")
    c = config(chunk=ChunkConfig(horizon=2), actor=FlowConfig((8,), steps=2), critic=CriticConfig((8,)), n=2)
    s = qchunk.OnlineSettings(offline_steps=1)
    for sign in (1.0, -1.0):

        def built(c, sign=sign):
            made = build(c)

            def update(learner, given, key, chunk):
                found = made.update(learner, given, key, chunk)
                return found[0], {**found[1], "td/q": sign * jnp.mean(jnp.exp(chunk.extras[TO_GO]))}

            return made._replace(update=update)

        program, x = assemble(built, c, env, s, data=memory)
        values = evaluate(program, 1, init(program, x), x)
        np.testing.assert_allclose(values["q_rank"], [sign], rtol=1e-5)
        assert 0.5 < sign * values["q_correlation"][0] < 0.999, "it is no line"


def test_the_bias_of_values_is_to_the_returns_of_windows_that_may_be_drawn(data):
    """Values that are the returns themselves have none but by the draw, also where only whole windows are drawn, which are early ones."""
    env = held_out.make("3,1")
    memory = formats.for_env(data, env, "none/3,1")[0]
    build, config = registry.builder("qc")

    def built(c):
        made = build(c)

        def update(learner, given, key, chunk):
            return learner, {"loss": jnp.zeros(()), "td/q": jnp.mean(chunk.extras[TO_GO])}

        return made._replace(update=update)

    chunk = ChunkConfig(horizon=4, starts="whole")
    c = config(chunk=chunk, actor=FlowConfig((8,), steps=2), critic=CriticConfig((8,)), n=2)
    program, x = assemble(built, c, env, qchunk.OnlineSettings(offline_steps=1), data=memory)
    assert abs(evaluate(program, 1, init(program, x), x)["q_bias"][0]) < 0.4, "the mean of all returns is 1.4 lower"


def test_train_evaluate_and_report_without_a_simulator(data, tmp_path, capsys):
    out = tmp_path / "qc"
    code, _, err = run(capsys, "train", "qc", "--env", "none", "--data", data, "--out", out, *FLAGS, *STEPS)
    assert code == 0, err
    assert json.loads((out / "config.json").read_text())["config"]["env"] == "none/3,1"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evals = [line["values"] for line in lines if line["kind"] == "eval"]
    assert {"explained", "error", "error_1", "error_2", "energy_distance", "loss", "q_bias"} <= evals[-1].keys()
    assert {"q_correlation", "q_rank"} <= evals[-1].keys()
    assert all(len(v) == 2 and np.isfinite(v).all() for v in evals[-1].values())
    code, text, _ = run(capsys, "eval", out, "--json", "--checkpoint", "best")
    assert code == 0 and set(json.loads(text)) >= {"explained", "error"}
    code, text, _ = run(capsys, "report", out, "--out", tmp_path / "report")
    assert code == 0 and "| none/3,1 | qc | 2 | 20 | explained |" in text
    page = (tmp_path / "report" / "report.html").read_text()
    correlations = ", ".join(f"{x:.2f}" for x in evals[-1]["q_correlation"])
    assert "What critics know of held-out data" in page and correlations in page


def test_a_regression_explains_what_follows_from_the_observation(data, tmp_path, capsys):
    """The first action is the observation's sign; nothing says the second."""
    steps = [
        "--offline-steps",
        "400",
        "--eval-every",
        "400",
        "--log-every",
        "400",
        "--quiet",
        "--chunk.horizon",
        "2",
        "--batch",
        "64",
    ]
    actor = ["--actor.kind", "regression", "--actor.hidden", "32", "32", "--optim.lr", "0.003"]
    assert run(capsys, "train", "bc", "--env", "none", "--data", data, "--out", tmp_path / "bc", *actor, *steps)[0] == 0
    _, text, _ = run(capsys, "eval", tmp_path / "bc", "--json")
    found = {name: x["mean"] for name, x in json.loads(text).items()}
    assert found["error_1"] < 0.2 < 0.4 < found["error_2"], found
    assert 0.2 < found["explained"] < 0.6


def test_a_comparison_goes_on_and_plays_by_no_scheme(data, tmp_path, capsys):
    """Figures of held-out data are of no scheme: they were shown for each, or the data were said to be missing."""
    sizes = ["--hidden", 16, "--horizon", 2, "--n", 2, "--steps", 2, "--seeds", 1, "--offline-steps", 4]
    words = [
        "compare",
        "--env",
        "none",
        "--data",
        data,
        "--algos",
        "bc",
        *sizes,
        "--evaluations",
        1,
        "--online-steps",
        0,
    ]
    words += ["--out", tmp_path / "c", "--no-look", "--quiet"]
    code, _, err = run(capsys, *words, "--execute", "receding:1")
    assert code == 2 and "--execute has nothing to play in: --env none. leave" in err and err.count("\n") == 1, err
    for more in ([], ["--dry"], []):
        code, _, err = run(capsys, *words, *more)
        assert code == 0, err
    folder = tmp_path / "c/runs/none/bc"
    for more in (("--execute", "receding:1"), ("--delay", 0)):
        code, _, err = run(capsys, "eval", folder, *more)
        assert code == 2 and "nothing to play in: held-out data judge" in err and err.count("\n") == 1, err
    code, _, err = run(capsys, "eval", folder, "--episodes", 5)
    assert code == 2 and "--episodes 5 has no effect: all held-out episodes judge" in err and err.count("\n") == 1, err
    by_schemes(folder, ["receding:1"], 4)
    assert "nothing to play in" in json.loads((folder / "executions.json").read_text())["receding:1"]["why"]


def test_what_has_no_place_to_play_in_is_refused(data, tmp_path, capsys):
    for words, line in [
        (("train", "qc", "--env", "none"), "give --data"),
        (("train", "qc", "--env", "none", "--data", data, "--online-steps", 100), "no place to play in"),
        (("train", "ppo", "--env", "none/3,1"), "no place to play in"),
        (("train", "rlpd", "--env", "none", "--data", data), "no place to play in"),
        (
            ("train", "bc", "--env", "none", "--data", data, "--chunk.history", 2),
            "leave --chunk.history and --objective out",
        ),
        (
            ("train", "bc", "--env", "none", "--data", data, "--objective", "task=2"),
            "leave --chunk.history and --objective out",
        ),
        (("train", "bc", "--env", "none/3", "--data", data), "says no sizes"),
        (("train", "bc", "--env", "none/4,1", "--data", data, *STEPS), "but none/4,1 has"),
        (("collect", "none/3,1", "--out", tmp_path / "x.npz", "--policy", "random"), "no place to play in"),
    ]:
        code, _, err = run(capsys, *words)
        assert code == 2 and line in err and err.count("\n") == 1, err


def test_a_policy_acts_in_recorded_units(tmp_path, capsys):
    """Torques of 0 to 10 are learned as -1 to 1, and come back as torques; also exported."""
    rows = recorded(30, 8)
    formats.save(tmp_path / "torque.npz", rows._replace(action=rows.action * 10 + 5), {"env": "my/robot"})
    words = ("data", "convert", tmp_path / "torque.npz", "--out", tmp_path / "d.npz", "--action-range", 0, 10)
    assert run(capsys, *words)[0] == 0
    out = tmp_path / "bc"
    actor = ["--actor.kind", "regression", "--actor.hidden", "16", "--chunk.horizon", "2", "--batch", "16"]
    assert (
        run(capsys, "train", "bc", "--env", "none", "--data", tmp_path / "d.npz", "--out", out, *actor, *STEPS)[0] == 0
    )
    obs = rows.obs[0]
    unit, torque = qchunk.load(out)(obs), qchunk.load(out, recorded=True)(obs)
    np.testing.assert_allclose(torque, 5 + 5 * unit, rtol=1e-6)
    assert run(capsys, "export", out, "--out", tmp_path / "bc.zip", "--recorded")[0] == 0
    np.testing.assert_allclose(qchunk.load(tmp_path / "bc.zip")(obs), torque, rtol=1e-6)


def test_data_of_another_robot_judge_with_a_warning(tmp_path, capsys):
    """As far as both say what their numbers mean."""
    mine = {"env": "my/robot", "action_names": ["a"]}
    yours = {"env": "your/robot", "action_names": ["b"], "action_scale": {"low": [0.0], "high": [9.0]}}
    assert description.apart(mine, {"frequency": 10, "action_names": ("a",)}) == []
    for name, about, episodes in (("mine", mine, 30), ("again", mine, 31), ("yours", yours, 31)):
        formats.save(tmp_path / f"{name}.npz", recorded(episodes, 8), about)
    actor = ["--actor.kind", "regression", "--actor.hidden", "16", "--chunk.horizon", "2", "--batch", "16"]
    words = ("train", "bc", "--env", "none", "--data", tmp_path / "mine.npz", "--out", tmp_path / "bc", *actor, *STEPS)
    assert run(capsys, *words)[0] == 0
    other = "data of other environments and names of actions and units of actions than"
    for name, told in (("again", ""), ("yours", other)):
        rank = ("rank", tmp_path / "bc", "--data", tmp_path / f"{name}.npz", "--updates", 10, "--hidden", 8)
        code, _, err = run(capsys, *rank, "--batch", 8)
        assert code == 0 and ("warning: " in err) == bool(told) and told in err, err


def test_units_that_nobody_kept_are_refused(data, tmp_path, capsys):
    words = ("train", "bc", "--env", "none", "--data", data, "--out", tmp_path / "bc")
    assert run(capsys, *words, "--actor.hidden", 16, "--chunk.horizon", 2, *STEPS)[0] == 0
    with pytest.raises(UserError, match="keeps no other units"):
        qchunk.load(tmp_path / "bc", recorded=True)


@pytest.mark.slow
def test_stages_of_a_chain_learn_from_data_alone(data, tmp_path, capsys):
    """The sizes of every stage are those of the data, before and after the first is trained."""
    small = ["--batch", "16", "--offline-steps", "4", "--quiet"]
    first = [
        "train",
        "bc",
        "--env",
        "none",
        "--data",
        data,
        "--out",
        tmp_path / "chain",
        "--actor.hidden",
        "16",
        *small,
    ]
    code, _, err = run(capsys, *first, "--then", "qc-frozen", "--critic.hidden", "16", *small)
    assert code == 0 and not err, err
    kept = [json.loads((tmp_path / f"chain/{stage}/config.json").read_text()) for stage in ("1-bc", "2-qc-frozen")]
    assert [k["config"]["env"] for k in kept] == ["none/3,1"] * 2
