"""Brax's environments on every backend, and gymnax's, behind our interface."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import slow_but

from qchunk import env_names, envs
from qchunk.envs.base import wrap
from qchunk.envs.gymnax import Gymnax
from qchunk.envs.kinetix import INSTALL
from qchunk.play.collecting import NO_VARS, collect, scheme_of
from qchunk.system.errors import UserError

SIZES = {  # observation, action
    "ant": (27, 8),
    "halfcheetah": (17, 6),
    "hopper": (11, 3),
    "humanoid": (244, 17),
    "humanoidstandup": (244, 17),
    "inverted_double_pendulum": (8, 1),
    "inverted_pendulum": (4, 1),
    "pusher": (23, 7),
    "reacher": (11, 2),
    "walker2d": (17, 6),
}


def shapes(tree):
    """By place; not as a tree, whose arrays outside of its leaves Python 3.13 cannot compare."""
    return {jax.tree_util.keystr(path): (x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


EVERYWHERE = list(itertools.product(env_names.BRAX, env_names.BRAX_BACKENDS))
HERE = [(n, b) for n, b in EVERYWHERE if b == "spring" or n == "reacher"]  # what suites train on; every backend once


@pytest.mark.parametrize(("name", "backend"), slow_but(HERE, EVERYWHERE))
def test_every_brax_environment_traces_on_every_backend(name, backend):
    """A step keeps every shape and type of the state, so that it can be scanned."""
    env = envs.make(f"brax/{name}@{backend}")
    assert (env.observation_size, env.action_size) == SIZES[name]
    state = jax.eval_shape(env.reset, jax.random.key(0))
    after = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((env.action_size,), jnp.float32))
    assert shapes(state) == shapes(after) and state.obs.shape == (env.observation_size,)


@pytest.mark.parametrize("backend", slow_but(["spring"], env_names.BRAX_BACKENDS))
def test_a_brax_environment_steps_on_every_backend(backend):
    """The upright pendulum earns 1 a step; the limit of 2 is a time-out."""
    with jax.debug_key_reuse(
        False
    ):  # the check makes compiling a simulator several times as slow; its keys are not ours
        two_steps(backend)


def two_steps(backend):
    env = wrap(envs.make(f"brax/inverted_pendulum@{backend}"), 2)
    state, step = jax.jit(env.env.reset)(jax.random.split(jax.random.key(0), 2)), jax.jit(env.env.step)
    for i in range(2):
        state = step(state, jnp.zeros((2, 1)))
        np.testing.assert_array_equal(state.reward, 1.0)
        assert np.isfinite(state.obs).all() and float(state.info["truncation"].min()) == i


@pytest.mark.parametrize("name", env_names.GYMNAX)
def test_gymnax_is_played_as_gymnax_plays_it(name):
    """Against gymnax's own step without reset, with the action in its own units; then scanned by the collector."""
    env = envs.make(f"gymnax/{name}")
    inner, params = gymnax.make(name)
    box = inner.action_space(params)
    state = env.reset(jax.random.key(3))
    action = jnp.linspace(-0.5, 0.7, env.action_size)
    low, high = (np.broadcast_to(np.asarray(x, np.float32), box.shape).reshape(-1) for x in (box.low, box.high))
    theirs = ((low + high) / 2 + (high - low) / 2 * action).reshape(box.shape)
    obs, _, reward, _, _ = inner.step_env(jax.random.key(9), state.pipeline_state, theirs, params)
    after = env.step(state, action)
    if name != "Swimmer-misc":  # its steps draw random numbers
        np.testing.assert_allclose(after.obs, jnp.ravel(obs), rtol=1e-5)
        np.testing.assert_allclose(after.reward, reward, rtol=1e-5, atol=1e-6)
    assert shapes(state) == shapes(after)
    rows = collect(env, scheme_of(env, "random"), NO_VARS, jax.random.key(0), steps=60, envs=3, episode_length=20)
    assert rows.obs.shape[1] == env.observation_size and rows.end.sum() >= 3


def test_gymnax_limit_is_a_time_out_and_its_goal_is_success():
    car = envs.make("gymnax/MountainCarContinuous-v0")
    assert car.episode_length == 999
    state = car.reset(jax.random.key(0))
    there = state.replace(
        pipeline_state=state.pipeline_state.replace(position=jnp.asarray(0.449), velocity=jnp.asarray(0.05))
    )
    after = car.step(there, jnp.ones(1))
    assert float(after.done) == 1.0 and float(after.metrics["success"]) == 1.0
    pendulum = wrap(envs.make("gymnax/Pendulum-v1"), 3)
    state = pendulum.env.reset(jax.random.split(jax.random.key(0), 2))
    for _ in range(3):
        state = pendulum.env.step(state, jnp.zeros((2, 1)))
    np.testing.assert_array_equal(state.info["truncation"], 1.0)
    np.testing.assert_array_equal(state.info["terminal"], 0.0)


def test_gymnax_of_a_users_own_with_discrete_actions_is_refused():
    with pytest.raises(UserError, match="no bounded box"):
        Gymnax(*gymnax.make("CartPole-v1"), "gymnax/mine")


def test_playground_that_is_not_installed_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(UserError, match=r"playground/ needs a package.*pip install 'qchunk\[playground\]'"):
        envs.make("playground/CheetahRun")
    with pytest.raises(UserError, match="Did you mean playground/CheetahRun"):
        envs.make("playground/CheetaRun")


def test_kinetix_that_is_not_installed_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "kinetix", None)
    with pytest.raises(UserError, match="kinetix/ needs a package.*pip install --no-deps kinetix-env==3"):
        envs.make("kinetix/l/h17_unicycle")
    tested = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    assert {pin for pin in INSTALL.split() if "==" in pin} <= set(tested), "what users are told is what is tested"
    for wrong in ("kinetix/l/h17_unicycl", "kinetix/l/h17_unicycle@noise"):
        with pytest.raises(UserError, match="Did you mean kinetix/l/h17_unicycle"):
            envs.make(wrong)


@pytest.mark.slow
def test_kinetix_is_played_as_kinetix_plays_it():
    """Every level is one of its own; its own state, step by step, with noise on each action; the goal is a success and the end, what
    must not be touched the end alone: full thrust reaches it, none falls."""
    pytest.importorskip("jax2d")
    env = envs.make("kinetix/s/h0_weak_thrust@noisy")
    import kinetix  # a shell, once an environment is made

    found = (Path(next(iter(kinetix.__path__))) / "levels").glob("*/*.json")
    known = {(size, name) for size, names in env_names.KINETIX.items() for name in names}
    assert {(path.parent.name, path.stem) for path in found} == known
    assert (env.action_size, env.episode_length, env.noise) == (6, 256, 0.1)
    with jax.debug_key_reuse(False):  # see above
        keys, action = jax.random.split(jax.random.key(0), 2), jnp.asarray([[1.0] * 6, [-1.0] * 6])
        wrapped = wrap(env, 256).env
        state, step = jax.jit(wrapped.reset)(keys), jax.jit(wrapped.step)
        assert state.obs.shape == (2, env.observation_size) and (state.obs[0] == state.obs[1]).all()
        their_step = jax.jit(lambda inner, action: env.env.step_env(None, inner, action, env.params))
        inner, ends = env.level, []
        for i in range(30):
            noise = 0.1 * jax.random.normal(jax.random.fold_in(state.info["noise"][0], i), (6,))
            state = step(state, action)
            if i < 3:
                obs, inner, reward, *_ = their_step(inner, action[0] + noise)
                np.testing.assert_allclose(state.obs[0], obs, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(state.reward[0], reward, rtol=1e-5, atol=1e-6)
            ends.append(jnp.stack([state.done, state.info["terminal"], state.metrics["success"], state.reward]))
    first = [int(np.argmax(np.asarray(ends)[:, 0, e])) for e in range(2)]
    assert [np.asarray(ends)[t, :3, e].tolist() for e, t in enumerate(first)] == [[1, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose([ends[first[0]][3, 0], ends[first[1]][3, 1]], [1, -1], atol=0.1)
    assert env.pictures([inner])[0].shape == (250, 250, 3)


@pytest.mark.slow
def test_playground_is_played_as_playground_plays_it(monkeypatch):
    """Every name is one of its own, all of the control suite are made without a robot's model; its own state, step by step; the limit of 2
    is a time-out."""
    playground = pytest.importorskip("mujoco_playground")
    assert set(env_names.PLAYGROUND) == set(playground.dm_control_suite.ALL_ENVS)
    robots = {*playground.locomotion.ALL_ENVS, *playground.manipulation.ALL_ENVS}
    assert set(env_names.PLAYGROUND_ROBOTS) == robots
    monkeypatch.setattr("mujoco_playground._src.mjx_env.MENAGERIE_PATH", Path("nowhere"))
    with pytest.raises(UserError, match="needs models of robots that are not in nowhere.*ensure_menagerie_exists"):
        envs.make("playground/Go1Getup")
    made = {name: envs.make(f"playground/{name}") for name in env_names.PLAYGROUND}
    assert len(made) == 25 and all(env.action_size > 0 and env.episode_length == 1000 for env in made.values())
    env = made["CartpoleBalance"]
    assert (env.observation_size, env.action_size, env.episode_length) == (5, 1, 1000)
    with jax.debug_key_reuse(False):  # see above
        theirs = playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
        keys, action = jax.random.split(jax.random.key(0), 2), jnp.asarray([[0.5], [-1.0]])
        wrapped = wrap(env, 2).env
        state, step = jax.jit(wrapped.reset)(keys), jax.jit(wrapped.step)
        inner, their_step = state.pipeline_state, jax.jit(jax.vmap(theirs.step))
        for i in range(2):
            state, inner = step(state, action), their_step(inner, action)
            np.testing.assert_allclose(state.obs, inner.obs, rtol=1e-5)
            np.testing.assert_allclose(state.reward, inner.reward, rtol=1e-5)
            assert float(state.info["truncation"].min()) == i and not state.info["terminal"].any()
