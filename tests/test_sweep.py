"""Sweeps: settings beside each other in one program are what each would be alone; flags to settings, settings to the best."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from driven import random_rows
from test_cli import run as command
from tiers import slow_but

from qchunk import envs, registry
from qchunk.actor_configs import FlowConfig, GaussianConfig, RegressionConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.commands import sweep, train
from qchunk.comparison import arms, fitting, lineup, selection, sweeping, tables, trials
from qchunk.comparison.list_flags import PageFlags
from qchunk.comparison.selection import Scores
from qchunk.comparison.suite import Run, Trained
from qchunk.config import ChunkConfig, CriticConfig, RolloutConfig, ValueConfig, validate
from qchunk.data import formats
from qchunk.drivers.common import assemble, evaluate, learner_like
from qchunk.drivers.offline import OfflineSettings
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.runs import run_folder, training
from qchunk.runs.opened import Opened
from qchunk.system.errors import UserError
from qchunk.varied import lane_names, lanes_of, put

BOUND = (
    2e-5  # of parameters of size 1 after a run: XLA may round otherwise in another program, and updates carry that on
)
CHUNK, ENV = ChunkConfig(2), "probe/pole"
METHODS = {
    "offline": (bc, BC(CHUNK, RegressionConfig((16,)))),
    "online": (qc, QC(CHUNK, FlowConfig((16,), steps=2), CriticConfig((16,)), n=2)),
    "on-policy": (ppo, PPO(GaussianConfig((16,)), CHUNK, ValueConfig((16,)), RolloutConfig(4, 2, 1, 2))),
}
DRIVERS = {
    "offline": OnlineSettings(offline_steps=6, batch=8, episodes=3),
    "online": OnlineSettings(offline_steps=0, online_steps=32, envs=2, start_training=8, batch=8, episodes=3),
    "on-policy": OnPolicySettings(online_steps=32, episodes=3),
}
SETTINGS = ({"optim.lr": 1e-3, "chunk.gamma": 0.9}, {"optim.lr": 1e-2, "chunk.gamma": 0.5})


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    rows = random_rows(env, 60, 4)
    return formats.to_device(rows)


# ------------------------------------------------------------------------------------------- one program


@pytest.mark.parametrize("how", slow_but(["offline"], METHODS))
def test_a_setting_beside_others_is_its_own_run(how, env, data):
    same_as_alone(METHODS[how], DRIVERS[how], env, data)


@pytest.mark.slow
def test_also_in_host_environments(monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with contextlib.closing(envs.make("gymnasium/host_envs:Walk-v0")) as env:
        same_as_alone(METHODS["offline"], DRIVERS["online"], env, None)


def same_as_alone(method, s, env, data):
    """Two settings of two seeds, against a run of each: the same learners, and the same evaluation."""
    build, c = method
    driver = registry.driver_of(type(c))
    data = data if driver.takes_data else None

    def last(c, s, swept=()):
        program, x = assemble(build, c, env, driver.resolve(s), {}, data, swept)
        *_, event = driver.run(program, x, driver.resolve(s))
        return event.learner, evaluate(program, x, s, event.learner)

    pair = dataclasses.replace(s, seeds=2)
    joint, judged = last(c, dataclasses.replace(s, seeds=4), SETTINGS)
    ends = []
    for i, setting in enumerate(SETTINGS):
        alone, figures = last(put(c, setting), pair)
        mine = jax.tree.map(lambda x: np.asarray(x[2 * i : 2 * i + 2]), joint.params)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=BOUND)
        for name, values in figures.items():
            np.testing.assert_allclose(judged[name][2 * i : 2 * i + 2], values, rtol=1e-4, atol=1e-5)
        ends.append(jax.tree.leaves(mine))
        assert int(alone.step) == int(joint.step)
    assert max(np.abs(a - b).max() for a, b in zip(*ends, strict=True)) > 1e-3, "and the settings differ"


def test_lanes():
    """All seeds of the first setting, then all of the second; each seed has the key that it has alone."""
    found = lanes_of(METHODS["online"][1], SETTINGS, 6)
    assert {k: np.asarray(v).tolist() for k, v in found.items()} == {
        "optim.lr": [np.float32(1e-3)] * 3 + [np.float32(1e-2)] * 3,
        "chunk.gamma": [np.float32(0.9)] * 3 + [0.5] * 3,
    }
    assert lane_names(SETTINGS, 4, 4)[1:3] == [
        "5 of optim.lr 0.001, chunk.gamma 0.9",
        "4 of optim.lr 0.01, chunk.gamma 0.5",
    ]
    build, c = METHODS["offline"]
    keys = assemble(build, c, envs.make("probe/two-step"), OnlineSettings(seed=7, seeds=6), swept=SETTINGS)[1].keys
    alone = [jax.random.key_data(jax.random.key(7 + i)) for i in range(3)]
    np.testing.assert_array_equal(jax.random.key_data(keys), np.stack(alone * 2))
    assert put(c, SETTINGS[1]).optim.lr == 1e-2 and put(c, SETTINGS[1]).chunk.horizon == 2


@pytest.mark.parametrize(
    "swept, lanes, told",
    [
        ([{"optim.lr": -1.0}], 2, "--optim.lr -1"),
        ([{"optim.rl": 1.0}], 2, "optim.lr"),
        ([{"chunk.horizon": 3}], 2, "unknown float"),
        ([{"optim.lr": 1.0}, {"chunk.gamma": 0.5}], 2, "different fields"),
        ([{"optim.lr": 1.0}, {"optim.lr": 2.0}], 3, "no whole seeds"),
    ],
)
def test_impossible_settings_are_a_line(swept, lanes, told):
    with pytest.raises(UserError, match=told):
        lanes_of(METHODS["offline"][1], swept, lanes)


def test_as_many_lanes_as_memory_holds(env, data):
    """Half of the memory, without the data on each device, in four copies of a lane's learner and state of play."""
    build, c = METHODS["online"]
    for s, online in ((DRIVERS["offline"], False), (DRIVERS["online"], True)):
        s = dataclasses.replace(s, seeds=2)
        driver = registry.driver_of(type(c))
        p = Opened(driver, s, *assemble(build, c, env, s, {}, data))
        learner = learner_like(p.program, p.inputs)
        leaves = jax.tree.leaves(learner)
        if online:
            leaves += jax.tree.leaves(driver.state_like(p.program, p.inputs, s, learner))
        lane = -(-sum(x.size * x.dtype.itemsize for x in leaves) // 2)
        assert fitting.of_lane(p) == lane
        beside = sum(x.nbytes for x in jax.tree.leaves(data)) * jax.local_device_count()
        assert fitting.most_lanes(p, held=2 * (beside + 4 * 5 * lane)) == 5
        assert fitting.most_lanes(p, held=0) == 1
    assert fitting.available() > 2**28


# ------------------------------------------------------------------------------------------- settings


PARTS = METHODS["online"][1], OnlineSettings()


def fields(*words):
    return sweeping.fields_of([str(w) for w in words], PARTS)


def test_flags_to_settings():
    found, rest = fields(
        *("--env", "a", "b", "--optim.lr", 1e-3, 3e-3, "--n", 4, 8, "--critic.hidden", "64,64", "8", "--actor.hidden"),
        *(16, 16, "--no-random-start", "--critic.layer-norm", "True", "False", "--actor.steps=2"),
    )
    assert [f.flag for f in found] == ["optim.lr", "n", "critic.hidden", "critic.layer-norm"]
    own, kept = fields("--optim.kind", "../mine.py:f", "--critic.aggregate", "../mine.py:g", "min")
    assert kept == ["--optim.kind", "../mine.py:f"] and own[0].values == ("../mine.py:g", "min")
    assert rest == ["--env", "a", "b", "--actor.hidden", "16", "16", "--no-random-start", "--actor.steps", "2"]
    every = sweeping.grid(found)
    assert len(every) == 16 and len({tuple(s.items()) for s in every}) == 16
    assert every[0] == {"optim.lr": "0.001", "n": "4", "critic.hidden": "64,64", "critic.layer-norm": "True"}
    assert sweeping.as_flags(every[1], PARTS) == (
        ["--optim.lr", "0.001", "--n", "4", "--critic.hidden", "64", "64", "--critic.no-layer-norm"]
    )


def test_words_that_are_neither_true_nor_false_are_refused():
    for word, flag in (("Yes", "--critic.layer-norm"), ("1", "--critic.layer-norm"), ("no", "--critic.no-layer-norm")):
        assert sweeping.as_flags({"critic.layer-norm": word}, PARTS) == [flag]
        assert sweeping.with_values(PARTS[0], {"critic.layer-norm": word}).critic.layer_norm == ("no-" not in flag)
    for word in ("on", "off", "t", "maybe", "2"):
        with pytest.raises(UserError, match=f"--critic.layer-norm is '{word}'. give True or False"):
            sweeping.as_flags({"critic.layer-norm": word}, PARTS)


def test_what_may_be_none_is_a_number_or_none():
    c = registry.builder("sear")[1]()
    assert [sweeping.with_values(c, {"act-horizon": t}).act_horizon for t in ("2", "None")] == [2, None]
    assert arms.with_setting(c, "act_horizon", "2").act_horizon == 2
    with pytest.raises(UserError, match="--act-horizon is 'x'. give a whole number or None"):
        sweeping.with_values(c, {"act-horizon": "x"})


def test_settings_at_random():
    """Of a grid none twice; of ranges inside them, log-uniform or not, whole numbers with both ends, the same for one seed."""
    found, _ = fields(
        "--optim.lr", "log:1e-4..1e-2", "--chunk.gamma", "0.5..0.9", "--n", "2..4", "--critic.members", 2, 3
    )
    drawn = sweeping.drawn(found, 400, 0)
    assert drawn == sweeping.drawn(found, 400, 0) != sweeping.drawn(found, 400, 1)
    lr, gamma = (np.asarray([float(s[flag]) for s in drawn]) for flag in ("optim.lr", "chunk.gamma"))
    assert 1e-4 <= lr.min() < 1.2e-4 and 8e-3 < lr.max() <= 1e-2 and 0.43 < (lr < 1e-3).mean() < 0.57
    assert gamma.min() >= 0.5 and gamma.max() <= 0.9 and abs(gamma.mean() - 0.7) < 0.02
    counts = np.bincount([int(s["n"]) for s in drawn])
    assert counts[2:].min() > 100 and counts.sum() == counts[2:5].sum()
    assert {s["critic.members"] for s in drawn} == {"2", "3"}
    few, _ = fields("--optim.lr", 1, 2, 3, "--n", 4, 8)
    some = sweeping.drawn(few, 5, 0)
    assert len({tuple(s.items()) for s in some}) == 5
    with pytest.raises(UserError, match="6 settings of the grid"):
        sweeping.drawn(few, 7, 0)
    with pytest.raises(UserError, match="--trials N"):
        sweeping.grid(found)


@pytest.mark.parametrize(
    "words, told",
    [
        (("--optim.lr", "3..1"), "no range"),
        (("--optim.lr", "log:0..1"), "no range"),
        (("--optim.lr", "1..2", "4"), "no range"),
        (("--optim.lr", "1..x"), "no range"),
        (("--optim.lr", "-inf..1"), "no range"),
        (("--optim.lr", "nan..1"), "no range"),
        (("--n", "0.2..0.8"), "holds no whole number"),
        (("--optim.lr", 1, 1), "twice"),
        (("--optim.lr", 1, 2, "--optim.lr", 3, 4), "swept twice"),
        (("--seed", 1, 2), "judged alike"),
    ],
)
def test_odd_fields_are_a_line(words, told):
    with pytest.raises(UserError, match=told):
        fields(*words)


def test_settings_from_a_file(tmp_path):
    one = [{"optim.lr": "0.001", "n": "4"}, {"optim.lr": "0.01", "n": "8"}]
    (tmp_path / "a.csv").write_text("optim.lr,n\n0.001,4\n0.01,8\n")
    (tmp_path / "a.json").write_text('[{"optim.lr": 0.001, "--n": 4}, {"n": 8, "optim.lr": 0.01}]')
    (tmp_path / "w.json").write_text('[{"critic.hidden": [8, 8]}, {"critic.hidden": [8, 8]}]')
    assert sweeping.listed(tmp_path / "a.csv") == sweeping.listed(tmp_path / "a.json") == one
    assert sweeping.checked(sweeping.listed(tmp_path / "w.json"), PARTS) == [{"critic.hidden": "8,8"}], "each once"
    for name, text, told in (
        ("b.json", "{", "cannot be read"),
        ("c.json", "[1]", "no list of settings"),
        ("d.json", '[{"n": 1}, {"optim.lr": 2}]', "setting 2"),
        ("e.csv", "n\n", "no list of settings"),
        ("f.csv", "n,optim.lr\n1,2\n1\n", "setting 2"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=told):
            sweeping.listed(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        sweeping.listed(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"optim\.lr"):
        sweeping.checked([{"optim.rl": "1"}], PARTS)


def test_floats_go_beside_each_other_and_the_rest_apart():
    found = sweeping.grid(fields("--optim.lr", 1e-3, 1e-2, 1e-1, "--n", 4, 8)[0])

    def parse(static):
        c, s = PARTS
        return dataclasses.replace(c, n=int(static["n"])), dataclasses.replace(s, seeds=2)

    groups = sweeping.groups(found, PARTS[0], parse)
    assert [g.settings for g in groups] == [(0, 2, 4), (1, 3, 5)] and [g.config.n for g in groups] == [4, 8]
    assert [s["optim.lr"] for s in groups[0].floats] == [1e-3, 1e-2, 1e-1]
    first, second = sweeping.split(groups[1], 2)
    assert (first.settings, second.settings) == ((1, 3), (5,)) and second.config.optim.lr == 1e-1
    joint, alone = (sweeping.run_of(g, "qc", "probe/pole", None, "x") for g in (first, second))
    assert joint.settings.seeds == 4 and joint.swept == ({"optim.lr": 1e-3}, {"optim.lr": 1e-2})
    assert alone.settings.seeds == 2 and alone.swept == () and isinstance(alone, Run)
    with pytest.raises(UserError, match="--optim.lr"):
        sweeping.groups([{"optim.lr": "-1", "n": "4"}], PARTS[0], parse)
    with pytest.raises(UserError, match="fast"):
        sweeping.groups([{"optim.lr": "fast", "n": "4"}], PARTS[0], parse)


# ------------------------------------------------------------------------------------------- the best


def write(folder: Path, figures, diverged=None):
    with run_folder.create(folder, {"algorithm": "qc", "env": "e", "seed": 0, "seeds": len(figures["return"])}) as run:
        if diverged:
            run.log("diverged", 5, {"diverged": diverged, "diverged_at": [5]})
        run.log("eval", 10, figures)
        run.finish({})
    return folder


def test_what_is_not_a_number_is_never_best(tmp_path):
    """Lanes that diverged after they had succeeded, lanes whose figure is none, programs that failed: no score, and never chosen."""
    a = write(tmp_path / "a", {"success": [1, 1, 0.2, 0.4], "return": [0] * 4}, [0, 1, 0, 0])
    b = write(tmp_path / "b", {"success": [np.nan, 1, 0.3, 0.1], "return": [0] * 4})
    found = selection.scores("e", 2, 10, [((0, 3), a), ((1, 2), b), ((4,), "no memory")])
    np.testing.assert_array_equal(found.values[[2, 3]], [[0.3, 0.1], [0.2, 0.4]])
    assert np.isnan(found.values.mean(axis=1)[[0, 1, 4]]).all()
    assert selection.best(found) == 3 and found.figure == "success" and found.episodes == 10
    np.testing.assert_array_equal(found.returns, [[0, 0], [0, 0], [0, 0], [0, 0], [np.nan] * 2])
    settings = [{"optim.lr": str(i)} for i in range(5)]
    rows = selection.table(settings, [found], found, 3)
    assert [r["setting"] for r in rows] == ["3", "2", "0", "1", "4"] and rows[0]["note"] == "chosen"
    assert (
        rows[0]["success"] == "30.0 %" and rows[2]["success"] == "not finite" and "failed: no memory" in rows[4]["note"]
    )
    assert "1 of 2 seeds diverged" in rows[2]["note"]
    plain = json.loads(json.dumps(selection.numbers(settings, [found], found, 3), allow_nan=False))
    assert plain[0]["per_seed"] == {"e": [1.0, None]} and plain[0]["mean"] is None and plain[3]["chosen"]
    assert selection.as_csv(settings, found, 3).splitlines()[4].startswith("3,3,success,0.30")
    c = write(tmp_path / "c", {"return": [5.0, np.nan]})
    told = selection.scores("e", 2, 10, [((0, 2), a), ((1,), c)])
    assert told.figure == "success" and told.values[1, 0] == 0 and np.isnan(told.values[1, 1]), (
        "told only where it is reached"
    )
    lost = selection.scores("e", 2, 10, [((0,), "no memory")])
    assert selection.best(lost) is None


def test_several_environments_count_alike():
    one = Scores("a", "return", np.asarray([[0.0, 0], [10, 10], [5, 5]]), 0, ("",) * 3)
    two = Scores("b", "return", np.asarray([[1.0, 1], [0, 0], [0.9, 0.9]]), 0, ("", "x", ""))
    over = selection.combined([one, two])
    np.testing.assert_allclose(over.values, [[0.5, 0.5], [0.5, 0.5], [0.7, 0.7]])
    assert over.figure == "score" and over.why == ("", "b: x", "") and selection.best(over) == 2
    shares = [s._replace(figure="success", values=s.values / 10, episodes=4) for s in (one, two)]
    mean = selection.combined(shares)
    np.testing.assert_allclose(mean.values[:, 0], [0.05, 0.5, 0.295])
    assert mean.figure == "success" and mean.episodes == 8
    level = one._replace(values=np.ones((3, 2)))
    assert selection.best(level) == 0, "the first of equals"
    returns = np.asarray([[-30.0, -10], [-25, -5], [-20, np.nan]])
    assert selection.best(level._replace(returns=returns)) == 1, "of equals the highest return that is a number"
    assert selection.best(one._replace(returns=returns[::-1])) == 1, "a return decides between equals only"
    shares = np.asarray([[44, 46, 50, 50], [46, 46, 49, 49], [46, 46, 48, 49]], np.float32) / np.float32(50)
    close = Scores("a", "success", shares.astype(float), 50, ("",) * 3, np.asarray([[-10.0] * 4, [-90] * 4, [-5] * 4]))
    assert shares[0].astype(float).mean() != shares[1].astype(float).mean(), "the same count, in other last bits"
    assert selection.best(close) == 0 and selection.by_return(close), "as many successes, and the higher return"
    rows = selection.table([{"lr": str(i)} for i in range(3)], [close], close, 0)
    assert [r["setting"] for r in rows] == ["0", "1", "2"] and rows[0]["note"] == "chosen, of equals by its return"
    both = selection.combined([level._replace(returns=returns[:2]), level._replace(returns=10 * returns[:2])])
    np.testing.assert_allclose(both.returns, [[-2, 2], [-1, 3]])  # means -20 and -15 are 0 and 1


def test_what_mattered():
    """By value the mean over all settings with it; a value with a setting without a score has none."""
    settings = [{"lr": lr, "kind": k} for lr in ("1e-3", "1e-2", "1e-4") for k in ("flow", "gaussian")]
    values = np.asarray([[0.5, 0.7], [0.3, 0.5], [0.9, 1.0], [np.nan, 1], [0.1, 0.1], [0.1, 0.1]])
    over = Scores("e", "success", values, 0, ("",) * 6)
    lr = selection.levels(settings, over, "lr")
    assert [x.value for x in lr] == ["1e-4", "1e-3", "1e-2"] and [x.settings for x in lr] == [(4, 5), (0, 1), (2, 3)]
    assert lr[1].estimate.mean == pytest.approx(0.5) and np.isnan(lr[2].estimate.mean)
    rows = {r["field"]: r for r in selection.mattered(settings, over)}
    assert rows["lr"]["best value"] == "1e-3" and rows["lr"]["best to worst"] == "40.0 points"
    assert float(rows["lr"]["rank correlation"]) > 0.8 and rows["kind"]["rank correlation"] == "-"
    assert rows["kind"]["best value"] == "flow" and rows["kind"]["settings without a score"] == "1"


# ------------------------------------------------------------------------------------------- trials of a comparison


def test_every_arm_has_as_many_trials(tmp_path):
    """By default of one field; of fields, or of a list of whole settings, where a file says so. What a field is not is a line."""
    (tmp_path / "t.json").write_text('{"qc": {"optim.lr": [0.001, 0.01], "n": [2, 3]}}')
    wanted = trials.asked(tmp_path / "t.json")
    own = Run("qc", ENV, None, METHODS["online"][1], dataclasses.replace(DRIVERS["online"], seeds=2, seed=9), "qc")
    three = trials.trials_of(own, wanted["qc"], 3)
    assert len(three.settings) == 3 and {run.settings.seeds for _, run in three.runs} <= {2, 4}
    assert sorted(i for places, _ in three.runs for i in places) == [0, 1, 2]
    assert {run.config.n for _, run in three.runs} == {2, 3} and {run.settings.seed for _, run in three.runs} == {9}
    (places, joint), *none = trials.trials_of(own, trials.fields_of("qc", {}), 3).runs
    assert not none and places == (0, 1, 2) and joint.settings.seeds == 6 and "optim.lr" in joint.swept[0]
    pairs = [{"optim.lr": 0.1, "chunk.gamma": 0.5}, {"optim.lr": 0.2, "chunk.gamma": 0.6}]
    assert trials.trials_of(own, pairs, 2).settings[1] == {"optim.lr": "0.2", "chunk.gamma": "0.6"}
    for odd, told in (
        (pairs, "2 settings, and every arm is to have 3"),
        ({"optim.lr": [1, 2]}, "2 settings of the grid"),
        ({"clip": [1, 2, 3]}, "no field 'clip'"),
        ({"n": [1, 2, "x"]}, "--n is 'x'"),
        ({"n": [1, 2, -3]}, "--n -3"),
        ({"optim.lr": "2..1"}, "no range"),
        ({"optim.lr": "-inf..1"}, "no range"),
        ({"optim.lr": []}, "--optim.lr has no values"),
        ({"optim.lr": {"a": 1}}, "--optim.lr is .*give a number"),
        ({}, "names no fields"),
        ([{"optim.lr": 0.1, "n": 4}, {"n": 8}, {"n": 9}], "setting 2 of --tune-fields for qc has other fields"),
        ([0.001, 0.01, 0.1], "--tune-fields for qc holds no list of settings"),
        ([{"optim.lr": 0.001}, {"optim.lr": 0.1}, {"optim.lr": "1e-3"}], "qc would be tried twice with optim.lr=1e-3"),
        ({"optim.lr": ["1e-3", 0.1, 0.001]}, "qc would be tried twice with optim.lr=0.001"),
        ({"n": "2..3"}, "qc would be tried twice with n="),
        ([{}, {}, {}], "no list of settings"),
    ):
        with pytest.raises(UserError, match=told):
            trials.trials_of(own, odd, 3)


def test_a_file_of_what_is_tuned_is_refused_by_a_line(tmp_path):
    f = lineup.CompareFlags((ENV,), algos=("bc", "bc:lr=0.1"), tune=2, tune_env=ENV, tune_fields=tmp_path / "t.json")
    for text, told in (
        ('{"bc": [0.001, 0.01]}', "t.json is damaged.*write json such as"),
        ('{"bc:lr=0.1": [0.001, 0.01]}', "t.json is damaged.*write json such as"),
        ('{"bc": 3}', "t.json is damaged"),
        ('{"bc": {"optim.lr": {"a": 1}}}', "--optim.lr is .*give a number"),
    ):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(UserError, match=told):
            trials.planned(f, arms.Sizes(hidden=(8,)))


def test_every_kind_of_system_has_a_field_to_tune():
    """Its own where it has one, of any actor; a file's "" stands for all that the file does not name."""
    assert trials.fields_of("dppo@diffusion:clip=0.1", {}) == trials.SLOWER and trials.fields_of("bc", {}) == trials.LR
    assert trials.fields_of("dql", {"": {"n": [1, 2]}, "qc": {"n": [3]}}) == {"n": [1, 2]}
    own = lambda arm: trials.fields_of(arm, {})  # noqa: E731
    assert own("dql:eta=1") == trials.LR
    assert own("dql:n=2") == trials.FIELDS["dql"] and own("qc:n=2") == trials.LR
    assert own("rlpd:actor.ema=false") == trials.FIELDS["rlpd"]
    for wanted in ({}, {"": {"optim.lr": [1, 2]}}, {"": [{"optim.lr": 1}]}):
        with pytest.raises(UserError, match="the name of qc:lr=0.1 says"):
            trials.fields_of("qc:lr=0.1", wanted)
    for arm in (*arms.SEED, *trials.FIELDS):
        c = arms.config_of(arm, arms.Sizes())
        three = trials.settings_of(arm, c, trials.fields_of(arm, {}), 3, 0)
        assert len({tuple(s.items()) for s in three}) == 3
        for setting in three:
            validate(sweeping.with_values(c, setting))


def test_the_best_trial_is_compared(tmp_path):
    own = Run("qc", "e", None, METHODS["online"][1], dataclasses.replace(DRIVERS["online"], seeds=2), "qc")
    tried = trials.trials_of(own, {"n": [2], "optim.lr": [0.1, 0.2]}, 2)
    (folder,) = (write(tmp_path / "a", {"success": [1, 1, 0.2, 0.4], "return": [0] * 4}, [1, 0, 0, 0]),)
    found = trials.scored(tried, Trained({tried.runs[0][1].name: folder}, {}))
    best, rows = trials.chosen([(tried, found)])
    assert best == {"qc": {"n": "2", "optim.lr": "0.2"}} and trials.tuned(own, best).config.optim.lr == 0.2
    assert (
        "n 2, optim.lr 0.2: 30.0 %; chosen: the 2." in rows[0][tables.TRIED]
        and "0.1: not finite" in rows[0][tables.TRIED]
    )
    lost = trials.scored(tried, Trained({}, {tried.runs[0][1].name: "why"}))
    best, rows = trials.chosen([(tried, lost)])
    assert best == {} and "stock setting" in rows[0][tables.TRIED] and trials.tuned(own, best) == own


def test_a_trial_that_fails_ends_the_comparison_before_it_begins(tmp_path, monkeypatch, capsys):
    """Its arm would be compared at its stock setting, and could never be tuned in that folder again."""
    f = lineup.CompareFlags((ENV,), tmp_path, algos=("bc", "qc"), tune=2, tune_env=ENV, online_steps=0)
    suite, planned = lineup.plan(f, arms.Sizes(hidden=(8,)))[0], trials.planned(f, arms.Sizes(hidden=(8,)))
    lost = planned[1][0].runs[0][1].name
    monkeypatch.setattr(trials, "as_asked", lambda *_: Trained({}, {lost: "no memory for a moment"}))
    with pytest.raises(SystemExit) as e:
        trials.tuned_suite(f, PageFlags(), suite, planned, [])
    told = capsys.readouterr().err
    assert e.value.code == 1 and f"failed: {lost}: no memory for a moment" in told and not list(tmp_path.iterdir())


def test_data_of_another_environment_than_the_trials_are_refused_at_once(tmp_path, capsys):
    file = tmp_path / "d.npz"
    assert command(capsys, "collect", ENV, "--out", file, "--steps", 40)[0] == 0
    f = lineup.CompareFlags((ENV,), data=file, algos=("bc",), tune=2, online_steps=0)
    with pytest.raises(UserError, match=f"data of {ENV}.*--tune-env {ENV}"):
        trials.planned(f, arms.Sizes(hidden=(8,)))
    (tried,) = trials.planned(dataclasses.replace(f, tune_env=ENV), arms.Sizes(hidden=(8,)))[1]
    assert {run.data for _, run in tried.runs} == {file}


# ------------------------------------------------------------------------------------------- the command


SMALL = [
    "--chunk.horizon",
    "2",
    "--actor.kind",
    "regression",
    "--actor.hidden",
    "8",
    "--data-steps",
    "200",
    "--episodes",
    "3",
    "--batch",
    "16",
    "--seeds",
    "2",
]
STEPS = ["--offline-steps", "6", "--eval-every", "3", "--log-every", "3", "--quiet"]


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "nothing is swept"),
        (["--optim.lr", "1", "2", "--settings", "a.csv"], "leave one of them out"),
        (["--optim.lr", "1", "2", "--report-seed", "1"], "were tuned on"),
        (["--optim.lr", "1", "-2"], "--optim.lr"),
        (["--optim.rl", "1", "2"], "--optim.lr"),
        (["--optim.lr", "1..2"], "--trials N"),
        (["--optim.lr", "1", "2", "--report-env", "probe/pol"], "probe/pole"),
    ],
)
def test_mistakes_cost_nothing(words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(capsys, "sweep", "bc", "--env", ENV, *SMALL, *words)
    assert code == 2 and told in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_plan_knows_what_to_paste():
    words = ["--optim.lr", "1e-3", "1e-2", "--actor.hidden", "8,8", "16"]
    s = sweep.plan(["bc", "--env", ENV, *SMALL[:4], "--data-steps", "9", "--seeds", "3", "--seed", "5", *words])
    assert s.fixed == ["--chunk.horizon", "2", "--actor.kind", "regression"] and s.seeds == (5, 3)
    assert s.report == ((ENV,), 8, 3) and len(s.settings) == 4
    assert [g.config.actor.hidden for g in s.groups] == [(8, 8), (16,)]
    assert all(isinstance(g.driver_settings, OfflineSettings) for g in s.groups)


def test_one_setting_that_learns_offline_brings_data_for_all():
    steps = lambda *values: ["--offline-steps", *values, "--online-steps", "8"]  # noqa: E731
    plans = [sweep.plan(["qc", "--env", ENV, *steps(*values)]) for values in (("0", "9"), ("9", "0"))]
    first, second = ([sweep.data_of(s, ENV, tuning) for tuning in (True, False)] for s in plans)
    assert first == second and all(first)
    none = sweep.plan(["qc", "--env", ENV, *steps("0"), "--optim.lr", "1", "2"])
    assert sweep.data_of(none, ENV, True) is None


@pytest.mark.parametrize("how", ["fails", "ends"])
def test_the_answer_is_there_where_the_report_is_not(how, tmp_path, monkeypatch, capsys):
    """Its runs fail, or something else ends the command while it trains them."""
    joint = write(tmp_path / "joint", {"return": [1.0, 2.0, 5.0, 6.0]})
    monkeypatch.setattr(sweep.handed, "trained_on", lambda *_: Trained({f"{ENV}/bc-0": joint}, {}))

    def report(name, runs, *_):
        assert json.loads((tmp_path / "o/best.json").read_text())["flags"] == "--optim.lr 2e-3"
        if how == "ends":
            raise MemoryError
        return Trained({}, {run.name: "no room" for run in runs})

    monkeypatch.setattr(sweep, "train_all", report)
    argv = ["bc", "--env", ENV, *SMALL, *STEPS, "--optim.lr", "1e-3", "2e-3", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit if how == "fails" else MemoryError) as e:
        sweep.sweep(argv)
    told = capsys.readouterr()
    if how == "fails":
        assert e.value.code == 1 and "failed: probe/pole/bc (setting 1): no room" in told.err
        assert "best: --optim.lr 2e-3" in told.out and "| chosen |" in told.out
        found = json.loads((tmp_path / "o/best.json").read_text())
        assert found["reported"] == [] and "qchunk train bc --env probe/pole --data" in found["command"]


def test_what_differs_from_the_sweep_in_a_folder_is_named_by_its_flag(tmp_path, capsys, monkeypatch):
    """With what to type instead; the order of flags says nothing, and a folder that is older than an entry goes on."""

    def enough(*_):
        raise UserError("it begins", "stop")

    monkeypatch.setattr(sweep.handed, "trained_on", enough)
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {"--out": tmp_path / "o", "--offline-steps": "6"}

    def said(lrs=("1e-2", "1e-3"), **more):
        found = flags | {f"--{n.replace('_', '-')}": x for n, x in more.items()}
        words = [word for flag, x in found.items() if x is not None for word in (flag, x)]
        return command(capsys, "sweep", "bc", "--env", ENV, *words, "--optim.lr", *lrs)[2]

    assert "it begins" in said()
    (tmp_path / "o" / "runs").mkdir()
    for more, told in (
        ({"seeds": "3"}, "another --seeds. pass --out with a new folder, or --seeds 2."),
        ({"offline_steps": "7"}, "another --offline-steps. pass --out with a new folder, or --offline-steps 6."),
        ({"batch": None}, "another --batch. pass --out with a new folder, or --batch 16."),
        ({"eval_every": "3"}, "another --eval-every. pass --out with a new folder, or leave --eval-every out."),
        ({"lrs": ("1e-2", "1e-4")}, f"or the settings that {tmp_path / 'o' / 'sweep.json'} lists."),
    ):
        assert told in said(**more)
    flags = dict(reversed(flags.items()))
    kept = json.loads((tmp_path / "o" / "sweep.json").read_text())
    assert "it begins" in said()
    (tmp_path / "o" / "sweep.json").write_text(json.dumps({n: x for n, x in kept.items() if n != "seeds"}))
    assert "it begins" in said()


def timeless(text: str) -> list:
    """Lines of metrics without their seconds, and without what a run that went on says again: compiling, and which lanes have diverged."""
    lines = [line for line in map(json.loads, text.splitlines()) if line["kind"] not in ("compile", "diverged")]
    plain = [{k: v for k, v in line["values"].items() if "second" not in k} for line in lines]
    return [(line["kind"], line["step"], values) for line, values in zip(lines, plain, strict=True)]


@pytest.mark.slow
def test_sweep(tmp_path, capsys):
    """One group of three settings in one program, one of which diverges; the report elsewhere; the second call trains nothing;
    a joint run that was cut short goes on to the same bits, and opens as no single run."""
    out = tmp_path / "o"
    words = ["bc", "--env", ENV, *SMALL, *STEPS, "--out", out, "--optim.lr", "1e30", "1e-2", "1e-3"]
    code, said, _ = command(capsys, "sweep", *words, "--json")
    found = json.loads(said)
    assert code == 0 and found["best"]["flags"] in ("--optim.lr 1e-2", "--optim.lr 1e-3")
    assert [r["setting"] for r in found["settings"]][-1] == "0" and "diverged" in found["settings"][-1]["note"]
    for name in ("sweep.json", "settings.md", "settings.csv", "settings.json", "mattered.png", "best.json"):
        assert (out / name).stat().st_size > 50, name
    number = next(r["setting"] for r in found["settings"] if r["note"] == "chosen")
    joint, own = out / "runs" / ENV / "bc-0", out / "runs" / ENV / f"bc (setting {number})"
    kept = run_folder.read_config(joint)["config"]
    assert kept["seeds"] == 6 and [s["optim.lr"] for s in kept["swept"]] == [1e30, 1e-2, 1e-3]
    assert run_folder.read_config(own)["config"]["seed"] == 2, "other seeds"
    assert "What mattered" in (out / "report" / "report.md").read_text()
    before, stamp = (joint / "metrics.jsonl").read_text(), (joint / "summary.json").stat().st_mtime_ns
    code, again, err = command(capsys, "sweep", *words)
    assert code == 0 and (joint / "summary.json").stat().st_mtime_ns == stamp and "qchunk train bc --env" in again
    line = again.split("qchunk train ")[1].splitlines()[0].split()
    assert command(capsys, "train", *line, "--out", tmp_path / "p", *STEPS)[0] == 0, "pasted"
    for words_ in (["eval", joint], ["report", joint, "--out", tmp_path / "r"], ["render", joint]):
        code, _, err = command(capsys, *words_)
        assert code == 2 and "settings of a sweep" in err
    code, _, err = command(capsys, "sweep", *words[:-1], "3e-3")
    assert code == 2 and "another --settings" in err

    for path in (joint / "checkpoints").iterdir():
        if path.name != "3":
            shutil.rmtree(path)
    (joint / "summary.json").unlink()
    assert command(capsys, "sweep", *words)[0] == 0
    assert timeless((joint / "metrics.jsonl").read_text()) == timeless(before)


def test_a_sweep_goes_on_where_its_prior_and_its_data_lie_now(tmp_path, capsys):
    """Under other paths they are the same; another prior, and other data, are refused. Of one setting nothing is drawn, nor told."""
    small = ["--actor.kind", "flow", "--actor.hidden", "8", "--actor.steps", "2", "--chunk.horizon", "2"]
    steps = ["--offline-steps", "3", "--episodes", "2", "--batch", "8", "--quiet"]
    collect = ["collect", ENV, "--quiet", "--steps", "60", "--episode-length", "10", "--out"]
    assert (
        command(capsys, *collect, tmp_path / "d.npz")[0]
        == command(capsys, *collect, tmp_path / "e.npz", "--seed", 1)[0]
        == 0
    )
    for name, seed in (("bc", 0), ("other", 1)):
        where = ["--env", ENV, "--data", tmp_path / "d.npz", "--out", tmp_path / name, "--seed", seed]
        assert command(capsys, "train", "bc", *where, *small, *steps)[0] == 0
    (tmp_path / "one.json").write_text('[{"optim.lr": 0.001}]')

    def sweep_of(prior, data):
        own = [
            "--settings",
            tmp_path / "one.json",
            "--out",
            tmp_path / "o",
            "--report-seeds",
            0,
            "--seeds",
            1,
            "--n",
            2,
        ]
        where = ["--env", ENV, "--data", tmp_path / data, "--prior", tmp_path / prior, "--critic.hidden", 8]
        return command(capsys, "sweep", "v-gps", *where, *own, *steps)

    code, out, err = sweep_of("bc", "d.npz")
    assert code == 0 and "best: --optim.lr 0.001" in out and "mattered.png" not in out, err
    shutil.move(tmp_path / "bc", tmp_path / "moved")
    shutil.move(tmp_path / "d.npz", tmp_path / "moved.npz")
    stamp = (tmp_path / "o/runs" / ENV / "v-gps-0/summary.json").stat().st_mtime_ns
    code, out, err = sweep_of("moved", "moved.npz")
    assert code == 0 and (tmp_path / "o/runs" / ENV / "v-gps-0/summary.json").stat().st_mtime_ns == stamp, err
    for prior, data, line in (
        ("other", "moved.npz", "another prior"),
        ("moved", "e.npz", "another data set, d.npz, not e"),
    ):
        code, _, err = sweep_of(prior, data)
        assert code == 2 and line in err, err


@pytest.mark.slow
def test_settings_stand_on_a_prior_seed_for_seed(tmp_path, env, capsys):
    """The prior's seeds repeat with every setting: each lane is the run with its seed of the prior."""
    file, base = tmp_path / "d.npz", tmp_path / "bc"
    small = ["--actor.kind", "flow", "--actor.hidden", 8, "--actor.steps", 2, "--chunk.horizon", 2]
    assert command(capsys, "collect", "probe/two-step", "--out", file, "--steps", 60)[0] == 0
    where = ["--env", "probe/two-step", "--data", file]
    steps = ["--seeds", 2, "--offline-steps", 3, "--episodes", 3, "--batch", 8, "--quiet"]
    assert command(capsys, "train", "bc", *where, *small, *steps, "--out", base)[0] == 0
    cls = registry.builder("v-gps")[1]
    argv = [str(w) for w in ("v-gps", *where, "--prior", base, "--critic.hidden", 8, "--n", 2, *steps)]
    f, c, s, _ = train.parse(argv, cls)
    swept = ({"optim.lr": 1e-3, "temperature": 0.0}, {"optim.lr": 1e-2, "temperature": 5.0})
    into = lambda name: dataclasses.replace(f, out=tmp_path / name)  # noqa: E731
    lanes = dataclasses.replace(s, seeds=4)
    joint = training.run(training.Wanted("v-gps", into("j"), c, lanes, swept=swept))[1]
    alone = training.run(training.Wanted("v-gps", into("a"), put(c, swept[1]), s))[1]
    np.testing.assert_allclose(joint["return"]["per_seed"][2:], alone["return"]["per_seed"], rtol=1e-4)
    given = training.rebuild(run_folder.read_config(tmp_path / "j")["config"], tmp_path / "j", joint=True).inputs.given
    for x in jax.tree.leaves({k: v for k, v in given.items() if k == "actor"}):
        np.testing.assert_array_equal(x[:2], x[2:])


@pytest.mark.slow
def test_a_comparison_is_tuned_in_one_command(tmp_path, capsys):
    """Two trials of each arm elsewhere, by a worker; the comparison is of the chosen settings; the second call, without one, trains nothing."""
    out = tmp_path / "c"
    (tmp_path / "t.json").write_text('{"bc": {"optim.lr": [0.003, 1e30]}}')
    words = ["compare", "--env", ENV, "--algos", "bc", "--online-steps", 0, "--offline-steps", 6, "--data-steps", 200]
    words += [
        "--seeds",
        2,
        "--episodes",
        3,
        "--evaluations",
        1,
        "--hidden",
        8,
        "--horizon",
        2,
        "--steps",
        2,
        "--no-look",
    ]
    words += [
        "--out",
        out,
        "--quiet",
        "--tune",
        2,
        "--tune-env",
        ENV,
        "--tune-fields",
        tmp_path / "t.json",
        "--tune-seeds",
        3,
    ]
    code, _, err = command(capsys, *words, "--on", "local:1")
    assert code == 0 and "[tune 2/2]" in err and "worker 1" in err
    tried = run_folder.read_config(out / "tuning/runs" / ENV / "bc-0")["config"]
    assert (tried["seed"], tried["seeds"]) == (2, 6) and len(tried["swept"]) == 2
    compared = run_folder.read_config(out / "runs" / ENV / "bc")["config"]
    assert compared["config"]["optim"]["lr"] == 0.003 and (compared["seed"], compared["seeds"]) == (0, 2)
    assert compared["data"]["fingerprint"] != tried["data"]["fingerprint"]
    (summary := out / "tuning/runs" / ENV / "bc-0" / "summary.json").rename(out / "kept")
    code, _, err = command(capsys, *words, "--so-far")
    assert code == 2 and "nothing in" in err
    (out / "kept").rename(summary)
    code, _, err = command(capsys, *words, "--dry")
    assert code == 0 and err.count("all 1 runs are done") == 2, "the trials, and the comparison"
    assert command(capsys, *words, "--so-far")[0] == 0
    page = (out / "report" / "report.md").read_text()
    assert "2 trials of every arm on probe/pole, seeds 2 to 4" in page and "optim.lr 1e+30: not finite" in page
    stamp = (out / "runs" / ENV / "bc" / "summary.json").stat().st_mtime_ns
    assert command(capsys, *words)[0] == 0 and (out / "runs" / ENV / "bc" / "summary.json").stat().st_mtime_ns == stamp
    code, _, err = command(capsys, "compare", "--env", ENV, "--tune-seeds", 1)
    assert code == 2 and "--tune N" in err
