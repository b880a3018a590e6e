"""``import qchunk``: what a method's file and a notebook need, without its price; and whole runs as pure functions."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows

import qchunk
from qchunk.actor_configs import FlowConfig, GaussianConfig
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.data import formats
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.system.errors import UserError

C = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), OptimConfig(1e-3), n=2)
P = PPO(
    GaussianConfig((16,)),
    ChunkConfig(2),
    ValueConfig((16,)),
    RolloutConfig(4, 4, 1, 2),
)


@pytest.fixture(scope="module")
def env():
    return qchunk.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    return formats.to_device(random_rows(env, 200, 8))


@pytest.mark.parametrize("name", qchunk.__all__)
def test_every_name_is_there_and_stays_what_it_is(name):
    """Twice: a module that was imported in between must not take a function's place."""
    first, again = getattr(qchunk, name), getattr(qchunk, name)
    assert first is again and not isinstance(first, types.ModuleType)


def test_importing_it_costs_nothing():
    code = "import sys, qchunk; dir(qchunk); print(any(m in sys.modules for m in ('jax', 'numpy', 'flax')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'best_of_m'"):
        qchunk.best_of_m  # noqa: B018


@pytest.mark.parametrize("played", [{}, {"online_steps": 16, "envs": 2, "start_training": 4, "update_ratio": 0.5}])
def test_a_pure_run_is_the_drivers(env, data, played):
    """The figures of a run without events are those of its last evaluation."""
    s = OnlineSettings(offline_steps=3, batch=8, episodes=8, seed=3, **played)
    *_, evaluated, _ = qchunk.train(qc, C, env=env, data=data, settings=s)
    found = qchunk.agent(qc, C, jax.random.key(3), env=env, data=data, settings=s)
    assert {"return", "length"} <= set(found)
    for name, value in found.items():
        np.testing.assert_array_equal(value, evaluated.values[name][0])


def test_a_pure_on_policy_run_is_the_drivers(env):
    s = OnPolicySettings(online_steps=64, episodes=8)
    *_, evaluated, _ = qchunk.train(ppo, P, env=env, settings=s)
    found = qchunk.agent(ppo, P, jax.random.key(0), env=env, settings=s)
    assert {"return", "length"} <= set(found)
    for name, value in found.items():
        np.testing.assert_array_equal(value, evaluated.values[name][0])
    with pytest.raises(UserError, match="--normalise-obs"):
        qchunk.agent(ppo, P, jax.random.key(0), env=env, settings=dataclasses.replace(s, normalise_obs="standard"))
    with pytest.raises(UserError, match="--chunk.padding repeated has no effect"):
        odd = dataclasses.replace(P, chunk=dataclasses.replace(P.chunk, padding="repeated"))
        qchunk.agent(ppo, odd, jax.random.key(0), env=env, settings=s)


def test_agents_over_learning_rates_and_seeds_in_one_program(env, data):
    """Each of them is the run that it would be alone."""
    s = OnlineSettings(offline_steps=3, batch=8, episodes=8)

    def one(lr, key):
        c = dataclasses.replace(C, optim=OptimConfig(lr))
        return qchunk.agent(qc, c, key, env=env, data=data, settings=s)["return"]

    rates, keys = jnp.asarray([1e-4, 1e-2]), jax.random.split(jax.random.key(0), 3)
    with jax.debug_key_reuse(False):  # it mistakes the guards that jax puts around a vmapped cond's operands for a use
        all_of_them = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(rates, keys)
        alone = jax.jit(one)(rates[1], keys[2])
    assert all_of_them.shape == (2, 3)
    np.testing.assert_allclose(all_of_them[1, 2], alone, atol=1e-6)


def test_mistakes_from_python_are_told_in_one_line(env, data):
    """None and numbers in the place of a path or a name; chunks longer than the data; no candidates."""
    long = dataclasses.replace(C, chunk=ChunkConfig(500))
    sample = qchunk.sample(qchunk.actor(C.actor))
    for call, line in [
        (lambda: qchunk.load(None), "the run's folder is None. give its path"),
        (lambda: qchunk.load("runs/qc", seed=1.5), "seed is 1.5. give a whole number"),
        (lambda: qchunk.load("runs/qc", checkpoint="oldest"), "runs/qc is not a run"),
        (lambda: qchunk.make(3), "the environment is 3. give its name"),
        (lambda: qchunk.make("probe/two-step", history=1.0), "history is 1.0"),
        (lambda: qchunk.for_env(7, env, "probe/two-step"), "the data set is 7. give its path"),
        (lambda: qchunk.best_of_n(sample, None, 0), "n is 0. draw 1 candidate or more"),
        (lambda: qchunk.best_of_n(sample, None, 2.0), "n is 2.0"),
        (
            lambda: qchunk.agent(
                qc, long, jax.random.key(0), env=env, data=data, settings=OnlineSettings(offline_steps=1)
            ),
            "--chunk.horizon 500 is longer than every episode",
        ),
    ]:
        with pytest.raises(UserError, match=line):
            call()
