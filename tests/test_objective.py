"""Any objective: a reward of weighted terms, in environments, in data, traced, and on the command line."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import run as command

from qchunk import cli, envs, names
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.config import ChunkConfig
from qchunk.data import formats
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import History, wrap
from qchunk.envs.objective import settled, weights_given
from qchunk.play import collecting, on_device
from qchunk.play.on_device import rollout
from qchunk.seeds import for_each
from qchunk.system.errors import UserError

WEIGHTS = {"task": 1.0, "energy": 0.5, "jerk": 0.25}


def played(env, name="random", steps=40):
    scheme = collecting.scheme_of(env, name)
    return rollout(wrap(env), scheme, collecting.NO_VARS, jax.random.key(0), steps, None, 3)[1]


@pytest.mark.parametrize("history", [1, 2])
def test_rewards_equal_a_slow_loop(history):
    own, ours = played(envs.make("probe/pole")), played(envs.make("probe/pole", history, WEIGHTS))
    np.testing.assert_array_equal(own.action, ours.action)
    np.testing.assert_array_equal(own.obs, ours.obs[..., -2:])
    for e in range(3):
        before, done = np.zeros(2), False
        for i in range(len(own.reward)):
            before = np.zeros(2) if done else before
            a = np.asarray(own.action[i, e])
            expected = own.reward[i, e] - 0.5 * np.sum(a**2) - 0.25 * np.sum((a - before) ** 2)
            np.testing.assert_allclose(ours.reward[i, e], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(ours.terms["jerk"][i, e], -np.sum((a - before) ** 2), rtol=1e-5, atol=1e-6)
            before, done = a, (own.terminal[i, e] + own.truncation[i, e]) > 0


def test_data_are_rewarded_as_the_environment_rewards(tmp_path):
    """Rows that were collected without an objective, read for one, hold what playing under it would have given."""
    own, ours = (envs.make("probe/two-step", 1, w) for w in ({}, WEIGHTS))
    rows = [
        collecting.collect(
            env, collecting.scheme_of(env, "random"), collecting.NO_VARS, jax.random.key(1), steps=60, envs=4
        )
        for env in (own, ours)
    ]
    formats.save(tmp_path / "d.npz", rows[0], {"env": "probe/two-step"})
    read, _ = formats.for_env(tmp_path / "d.npz", ours, "probe/two-step")
    assert np.abs(rows[0].reward - rows[1].reward).max() > 0.1
    inside = ~rows[1].end
    # data hold actions clipped to 1 - 1e-5
    np.testing.assert_allclose(np.asarray(read.reward)[inside], rows[1].reward[inside], atol=2e-4)


def test_weights_are_traced():
    """Another weight is another number of the same program; and weights can be vmapped."""
    env = envs.make("probe/two-step", objective=dict.fromkeys(names.TERMS, 1.0))
    c, s = BC(ChunkConfig(2), FlowConfig((16,), steps=2)), OnlineSettings(episodes=8)
    program, x = assemble(bc, c, env, s)
    learner = init(program, x)
    found = []
    for weight in (0.0, 1.0, 2.0):
        given = for_each(1, weights_given({"task": 1.0, "energy": weight, "jerk": 0.0}))
        found.append(evaluate(program, x._replace(given=given), s, learner))
        size = on_device.evaluate._cache_size() if weight == 0.0 else size  # noqa: F821
    assert on_device.evaluate._cache_size() == size
    ret, energy, own = (np.asarray([f[n][0] for f in found]) for n in ("return", "energy", "task"))
    np.testing.assert_allclose(ret, own + energy * np.asarray([0.0, 1.0, 2.0]), rtol=1e-5)
    assert energy.max() < 0

    def reward(weight):
        given = weights_given({"task": 0.0, "energy": 0.0, "jerk": 0.0}) | {}
        given["objective"]["energy"] = weight
        here = settled(History(env, 2), given)
        return here.step(here.reset(jax.random.key(0)), jnp.asarray([0.5])).reward

    np.testing.assert_allclose(jax.vmap(reward)(jnp.asarray([0.0, 2.0])), [0.0, -0.5])


ENV = "probe/two-step"
PLAYS = ["--rollout.envs", "8", "--rollout.decisions", "4", "--online-steps", "128", "--quiet", "--episodes", "4"]
TINY = ["--tuned.hidden", "16", "--critic.hidden", "16", "--chunk.horizon", "2"]


@pytest.mark.slow
def test_a_run_under_an_objective(tmp_path, capsys):
    """Its terms are figures; it is evaluated and resumed under its own weights; a term of the user's own counts."""
    mine = tmp_path / "mine.py"
    mine.write_text("def reach(m):\n    return m.next_obs[..., 0]\n")
    argv = ["train", "ppo", "--env", ENV, "--objective", "task=1", "energy=0.5", f"{mine}:reach=2", *TINY, *PLAYS]
    cli.main([*argv, "--out", str(tmp_path / "a")])
    assert json.loads((tmp_path / "a" / "config.json").read_text())["config"]["objective"]["energy"] == 0.5
    code, out, _ = command(capsys, "eval", tmp_path / "a", "--episodes", "4", "--json")
    found = {n: v["mean"] for n, v in json.loads(out).items()}
    reach = found["reach"]
    assert code == 0 and found["energy"] < 0 and reach == pytest.approx(0.3)  # observations 0.1 and 0.2
    assert found["return"] == pytest.approx(found["task"] + 0.5 * found["energy"] + 2 * reach, abs=1e-5)
    (tmp_path / "a" / "summary.json").unlink()
    cli.main(["train", "--resume", str(tmp_path / "a"), "--step", "64", "--quiet"])
    capsys.readouterr()
    code, out, _ = command(capsys, "eval", tmp_path / "a", "--episodes", "4", "--json")
    assert code == 0 and {n: v["mean"] for n, v in json.loads(out).items()} == found


@pytest.mark.parametrize("term", ["jnp.sum(m.action)", "m.action", "m.reward + 1j"])
def test_a_term_that_is_not_one_real_number_for_each_step(term, tmp_path):
    """Such as a sum over all rows of a data set, which would be every row's reward without a word."""
    (tmp_path / "own.py").write_text(f"import jax.numpy as jnp\ndef term(m): return {term}\n")
    env = envs.make("probe/two-step", objective={f"{tmp_path}/own.py:term": 1.0})
    rows = jnp.zeros((6, 2)), jnp.ones((6, 1)), np.zeros(6, np.float32), np.arange(6) % 3 == 2
    with pytest.raises(UserError, match=r"the term term returns \w+\[.*for steps \[6\]. return one real number"):
        env.reweighed(*rows)


@pytest.mark.parametrize(
    ("env", "terms", "told"),
    [
        (ENV, ["enrgy=1"], "energy"),
        (ENV, ["energy"], "write for example task=1"),
        (ENV, ["energy=1", "energy=2"], "write for example task=1"),
        (ENV, ["energy=nan"], "write for example task=1"),
        ("gymnasium/Pendulum-v1", ["energy=1"], "leave --objective out"),
    ],
)
def test_mistakes(tmp_path, capsys, env, terms, told):
    code, _, err = command(capsys, "train", "ppo", "--env", env, "--objective", *terms, "--out", tmp_path / "run")
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()
