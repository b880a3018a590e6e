"""The wrappers, the adapters and the tables of environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import rows_of

import qchunk
from qchunk import env_names, envs, names, registry
from qchunk.envs.base import AutoReset, Env, EpisodeLimit, State, Vmap, wrap
from qchunk.play import collecting
from qchunk.play.on_device import episodes
from qchunk.system.errors import UserError

ACTION = jnp.ones((1,))


def play(env, state, count, action=ACTION):
    states, step = [], jax.jit(env.step)
    for _ in range(count):
        state = step(state, action)
        states.append(state)
    return states


def test_a_time_out_is_no_terminal():
    """probe/constant never ends by itself; probe/delayed ends at its fifth step, which is also a limit of 5."""
    limited = EpisodeLimit(envs.make("probe/constant"), 3)
    s = play(limited, limited.reset(jax.random.key(0)), 3)
    assert [float(x.done) for x in s] == [0, 0, 1]
    assert [float(x.info["truncation"]) for x in s] == [0, 0, 1] and float(s[-1].info["terminal"]) == 0
    both = EpisodeLimit(envs.make("probe/delayed"), 5)
    last = play(both, both.reset(jax.random.key(0)), 5)[-1]
    assert (float(last.done), float(last.info["terminal"]), float(last.info["truncation"])) == (1, 1, 0)


def test_auto_reset_is_fresh_and_keeps_the_final_observation():
    env = wrap(envs.make("tabletop/cube-single-task1"), 2)
    first = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 3))
    one, two, three, four = play(env, first, 4, jnp.zeros((3, 5)))
    assert float(one.done.max()) == 0.0 and float(two.done.min()) == 1.0
    np.testing.assert_array_equal(two.info["truncation"], 1.0)
    assert not np.allclose(two.obs, two.info["final_obs"])
    np.testing.assert_allclose(two.info["final_obs"], one.obs, atol=1e-6)  # a zero action moves nothing
    np.testing.assert_array_equal(two.info["steps"], 0)
    assert not np.allclose(two.obs, first.obs), "a new episode must not start where the first one did"
    assert not np.allclose(four.obs, two.obs) and float(three.done.max()) == 0.0
    assert np.unique(np.asarray(two.obs), axis=0).shape[0] == 3


def test_only_finished_environments_are_reset():
    env = wrap(envs.make("probe/constant"), 4)
    state = env.env.reset(jax.random.split(jax.random.key(1), 3))
    done = jnp.asarray([1.0, 0.0, 0.0])
    state = play(env.env, state, 2, jnp.ones((3, 1)))[-1].replace(done=done)
    after = jax.jit(env.reset_done)(state)
    np.testing.assert_array_equal(after.info["steps"], [0, 2, 2])
    np.testing.assert_allclose(after.obs[1:], state.obs[1:])
    np.testing.assert_allclose(after.obs[0], 0.0)
    keys = jax.random.key_data(after.info["key"])
    assert np.unique(np.asarray(keys), axis=0).shape[0] == 3


@pytest.mark.slow
def test_wrappers_of_any_brax_environment():
    """A stock environment: shapes, finite values, a time-out at the limit."""
    env = envs.make("brax/reacher@spring")
    assert env.data_name == "brax/reacher@spring" and env.action_size == 2
    wrapped = wrap(env, 3)
    assert isinstance(wrapped, AutoReset) and isinstance(wrapped.env, Vmap)
    state = jax.jit(wrapped.reset)(jax.random.split(jax.random.key(0), 2))
    last = play(wrapped, state, 3, jnp.zeros((2, 2)))[-1]
    assert last.obs.shape == (2, env.observation_size) and np.isfinite(last.obs).all()
    np.testing.assert_array_equal(last.info["truncation"], 1.0)


def test_names_are_true():
    for name in names.ALGORITHMS:
        build, config_class = registry.builder(name)
        assert callable(build) and hasattr(config_class(), "chunk")
    for name in env_names.ENVS:
        assert env_names.check_env(name) == name
    import gymnax
    from brax import envs as stock

    assert {*env_names.GYMNAX, *env_names.GYMNAX_DISCRETE} == set(gymnax.registered_envs)
    assert set(env_names.BRAX) == set(stock._envs) - {"swimmer", "fast"}
    from qchunk.envs.probes import MODES
    from qchunk.envs.probes.exact import PROBES
    from qchunk.envs.tabletop.tasks import SCENES

    assert set(env_names.PROBES) == {*PROBES, *MODES}
    assert {n: s.cubes for n, s in SCENES.items()} == env_names.TABLETOP


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("brax/swimmer", "does not work"),
        ("brax/swimmer@mjx", "does not work"),
        ("brax/halfchetah", "brax/halfcheetah"),
        ("brax/ant@sprin", "spring"),
        ("tabletop/cube-single@spring", "unknown"),
        ("tabletop/cube-single-task6", "task1 to task5"),
        ("probe/flags", "unknown"),
        ("gymnax/CartPole-v1", "discrete actions.*gymnax/Pendulum-v1"),
        ("gymnax/Pendulum-v2", "Did you mean gymnax/Pendulum-v1"),
    ],
)
def test_wrong_names(name, fix):
    with pytest.raises(UserError, match=fix):
        envs.make(name)


def test_models_are_loaded_in_silence(tmp_path, monkeypatch, capfd):
    """MuJoCo warns of an attribute of halfcheetah's, on stderr and in a file of the user's folder."""
    monkeypatch.chdir(tmp_path)
    envs.make("brax/halfcheetah@spring")
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_users_see_no_notices_of_brax():
    script = (
        "import jax; from qchunk import envs; e = envs.make('brax/inverted_pendulum@generalized');"
        "jax.eval_shape(e.reset, jax.random.key(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(qchunk.__file__).parents[1]
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "action", "returns", "length"),
    [("constant", 1.0, 10.0, 10), ("delayed", 0.3, 1.0, 5), ("two-step", -0.5, 1.0, 2), ("flag", -0.1, -1.0, 1)],
)
def test_probes_are_exact(name, action, returns, length):
    env = envs.make(f"probe/{name}")
    limited = EpisodeLimit(env, env.episode_length)
    s = play(limited, limited.reset(jax.random.key(0)), length, jnp.asarray([action]))
    assert sum(float(x.reward) for x in s) == returns
    assert [float(x.done) for x in s] == [0.0] * (length - 1) + [1.0]


class Counted(Env):
    """Rests at a random start, and like brax's reacher never writes ``done``; the host counts its resets."""

    resets: list = []  # noqa: RUF012
    episode_length = 2

    def reset(self, rng) -> State:
        jax.debug.callback(lambda: Counted.resets.append(1))
        obs = jax.random.normal(rng, (2,))
        return State({}, obs, jnp.zeros(()), jnp.zeros(()), {})

    def step(self, state: State, action) -> State:
        return state.replace(reward=jnp.ones(()))

    observation_size = property(lambda self: 2)
    action_size = property(lambda self: 1)
    backend = property(lambda self: "probe")


def test_nothing_is_reset_while_nobody_is_done():
    env = wrap(Counted())
    state = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 3))
    step = jax.jit(env.step)
    counts = []
    for _ in range(4):
        jax.effects_barrier()
        Counted.resets.clear()
        before, state = state, step(state, jnp.zeros((3, 1)))
        jax.effects_barrier()
        counts.append(len(Counted.resets))
        if counts[-1] == 0:
            np.testing.assert_array_equal(state.obs, before.obs)
    assert counts[0] == counts[2] == 0 and counts[1] > 0 and counts[3] > 0


def test_a_time_out_does_not_outlive_its_step():
    """Environments that hand on the ``done`` they were given must not look terminal from then on."""
    env = wrap(Counted())
    states, state = [], jax.jit(env.reset)(jax.random.split(jax.random.key(0), 2))
    step = jax.jit(env.step)
    for _ in range(5):
        state = step(state, jnp.zeros((2, 1)))
        states.append(state)
    for i, s in enumerate(states, 1):
        np.testing.assert_array_equal(s.info["terminal"], 0.0)
        np.testing.assert_array_equal(s.done, float(i % 2 == 0))
        np.testing.assert_array_equal(s.info["truncation"], s.done)


def test_every_reset_draws_another_key():
    """Start states of one environment's first 20 episodes, and of its neighbours, all differ."""
    env = wrap(Counted())
    state = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 3))

    def body(state, _):
        state = env.step(env.step(state, jnp.zeros((3, 1))), jnp.zeros((3, 1)))
        return state, state.obs

    _, starts = jax.jit(lambda s: jax.lax.scan(body, s, length=20))(state)
    starts = np.concatenate([state.obs[None], starts]).reshape(-1, 2)
    assert len(np.unique(starts, axis=0)) == 63
    assert np.abs(starts.mean(axis=0)).max() < 0.5 and 0.7 < starts.std() < 1.3


def test_a_terminal_step_keeps_its_reward_and_final_observation():
    """probe/delayed: 1 at its fifth step, where it ends; the auto-reset state is the next episode's first."""
    env = wrap(envs.make("probe/delayed"), 100)
    state = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 2))
    step = jax.jit(env.step)
    for _ in range(5):
        state = step(state, jnp.ones((2, 1)))
    for name, value in {"terminal": 1.0, "truncation": 0.0, "steps": 0}.items():
        np.testing.assert_array_equal(state.info[name], value)
    np.testing.assert_array_equal(state.reward, 1.0)
    np.testing.assert_array_equal(state.done, 1.0)
    np.testing.assert_array_equal(state.metrics["success"], 1.0)
    np.testing.assert_allclose(state.info["final_obs"], [[0.5, 0.0]] * 2)
    np.testing.assert_array_equal(state.obs, 0.0)
    after = step(state, jnp.ones((2, 1)))
    np.testing.assert_array_equal(after.done, 0.0)
    np.testing.assert_array_equal(after.info["terminal"], 0.0)
    np.testing.assert_allclose(after.info["final_obs"], [[0.1, 0.0]] * 2)


def test_reset_of_a_brax_environment_prints_nothing():
    script = (
        "import jax, qchunk.envs.base, qchunk.envs;"
        "e = qchunk.envs.make('brax/reacher@spring');"
        "jax.jit(e.reset)(jax.random.key(0)).obs.block_until_ready()"
    )
    root = Path(qchunk.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(names.ALGORITHMS))
def test_every_target_builds_an_algorithm(name):
    build, config_class = registry.builder(name)
    algorithm = build(config_class())
    assert all(callable(getattr(algorithm, f)) for f in ("init", "update", "prepare", "stop"))
    assert names.ALGORITHMS[name].text and "\n" not in names.ALGORITHMS[name].text


@pytest.mark.parametrize(("name", "least"), [("pole", 0.9), ("fork", 0.9)])
def test_experts_of_the_averaging_probes(name, least):
    """Experts reach both modes equally and succeed; what lies between the modes fails."""
    env = envs.make(f"probe/{name}")
    scheme = collecting.scheme_of(env, "expert")
    played = episodes(wrap(env), scheme, collecting.NO_VARS, jax.random.key(0), 400)
    assert float(played.success.mean()) >= least
    if name == "pole":
        assert 42 <= float(played.length.mean()) <= 52  # specification: 46 steps
        straight = env.reset(jax.random.key(1))
        for _ in range(20):
            straight = env.step(straight, jnp.asarray([1.0, 0.0]))
            if straight.done:
                break
        assert float(straight.reward) == -100.0
    else:
        state = env.reset(jax.random.key(1))
        assert float(env.step(state, 0.2 * state.obs).reward) < 1e-10
        assert float(env.step(state, 0.2 * state.obs + 0.8).reward) == pytest.approx(1.0)


def test_the_pole_is_passed_on_both_sides():
    env = envs.make("probe/pole")
    rows = rows_of(env, "expert", 8000, 50)
    middle = rows.obs[np.abs(rows.obs[:, 0]) < 0.03]
    assert 0.3 < (middle[:, 1] > 0).mean() < 0.7 and (np.abs(middle[:, 1]) > 0.25).all()


MINE = """
import jax
import jax.numpy as jnp
from qchunk.envs.base import Env, State


class Point(Env):
    episode_length = 7
    observation_size = action_size = 1
    backend = "mine"

    def reset(self, rng):
        zero = jnp.zeros(())
        return State(None, jax.random.normal(rng, (1,)), zero, zero, {})

    def step(self, state, action):
        obs = state.obs + action
        return state.replace(obs=obs, reward=-jnp.abs(obs[0]))


def point():
    return Point()


def endless():
    env = Point()
    env.episode_length = None
    return env


def nothing():
    return 3
"""


def test_an_environment_of_ones_own(tmp_path):
    """A function in a file: nothing in the package knows it."""
    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path / 'mine.py'}:point"
    env = envs.make(env_names.check_env(name), history=2)
    assert (env.observation_size, env.episode_length, env.data_name) == (2, 7, "own/point")
    state = wrap(env).env.reset(jax.random.split(jax.random.key(0), 3))
    assert state.obs.shape == (3, 2)
    for wrong, told in (("endless", "no episode_length"), ("nothing", "returns a int"), ("pint", "point")):
        with pytest.raises(UserError, match=told):
            envs.make(f"{tmp_path / 'mine.py'}:{wrong}")
