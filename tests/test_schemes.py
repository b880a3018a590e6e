"""Schemes of the user's own, what they carry, and what a policy is shown of its last plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from tiers import slow_but

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.play import collecting, on_device, on_host
from qchunk.play.execute import parse, receding
from qchunk.play.on_device import rollout
from qchunk.play.program import reads
from qchunk.sampling import emit_step
from qchunk.seeds import one
from qchunk.system.errors import UserError
from qchunk.types import Plan, Policy

OWN = '''
import jax
import jax.numpy as jnp

from qchunk.play.execute import Scheme


def counting(policy, horizon, steps, unit):
    """Plays ``unit`` times the number of decisions since the episode's start."""

    def init(vars, key, state):
        return jnp.zeros(state.obs.shape[0])

    def decide(vars, key, state, made):
        return made + 1, made + 1

    def act(vars, i, state, plan):
        return unit * plan[:, None]

    return Scheme(steps, init, decide, act)


def ensemble(policy, horizon, m):
    """Temporal ensembling: the mean of what all open plans say of this step, the oldest weighs most, by exp(-m age)."""

    def init(vars, key, state):
        like = jax.eval_shape(lambda key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None), key, state.obs)
        e, h, a = like.action.shape
        return jnp.zeros((e, h, h, a)), jnp.zeros((e, h, h))  # [E, plans, steps, A], the newest first; whether it is there

    def decide(vars, key, state, carry):
        plans, there = carry
        new = policy.plan(vars, policy.draw(vars, key, state.obs), state.obs, None).action
        later = lambda x: jnp.concatenate([x[:, :, 1:], jnp.zeros_like(x[:, :, :1])], axis=2)  # noqa: E731
        plans = jnp.concatenate([new[:, None], later(plans)[:, :-1]], axis=1)
        there = jnp.concatenate([jnp.ones_like(there[:, :1]), later(there)[:, :-1]], axis=1)
        rank = jnp.cumsum(there[:, ::-1, 0], axis=1)[:, ::-1] - 1  # 0 is the oldest
        weight = there[:, :, 0] * jnp.exp(-m * rank)
        mean = jnp.sum(weight[..., None] * plans[:, :, 0], axis=1) / jnp.sum(weight, axis=1, keepdims=True)
        return (plans, there), mean

    return Scheme(1, init, decide, lambda vars, i, state, plan: plan)
'''
C = QC(ChunkConfig(3), FlowConfig((16,), steps=2), CriticConfig((16,)), OptimConfig(1e-3), n=2)
PLAYED = {"online_steps": 40, "envs": 2, "start_training": 32, "update_ratio": 0.5, "online_eval_every": 20}
S = OnlineSettings(offline_steps=1, batch=8, episodes=3, **PLAYED)
NAMES = {"device": "probe/constant", "host": "gymnasium/host_envs:Walk-v0"}


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


@pytest.fixture(params=NAMES)
def env(request, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made = envs.make(NAMES[request.param])
    yield made
    if request.param == "host":
        made.close()


def random_data(env):
    if isinstance(env, envs.base.Env):
        rows = random_rows(env, 60, 3)
    else:
        rows = collecting.collect_host(env, collecting.random_player(env, 0), steps=60, envs=2)
    return formats.to_device(rows)


def test_a_scheme_keeps_its_carry_while_training(own, env):
    """On main before: host environments began the carry again at each decision, so that the count stayed at 1."""
    on_host = not isinstance(env, envs.base.Env)
    s = dataclasses.replace(S, execute=f"{own}:counting:1,0.1")
    *_, last = train(qc, C, env=env, data=random_data(env), settings=s)
    ring = one(jax.tree.map(np.asarray, last.state.ring), 0)
    held = ring.reward.shape[0] // 2
    for e in range(2):
        rows = slice(e * held, e * held + int(ring.written[e]))
        step = ring.obs[rows, 1] if on_host else np.round(10 * ring.obs[rows, 0])
        assert step.max() >= 3
        np.testing.assert_allclose(ring.action[rows, 0], np.clip(0.1 * (step + 1), -1, 1), atol=2e-5)


def test_numbers_of_a_scheme_are_traced(own):
    """Another float is no other program; another whole number is."""
    env = envs.make("probe/constant")
    sizes, returns = [], []
    for numbers in ("1,0.1", "1,0.2", "2,0.1"):
        s = dataclasses.replace(S, execute=f"{own}:counting:{numbers}")
        program, x = assemble(qc, C, env, s)
        returns.append(evaluate(program, x, s, init(program, x))["return"])
        sizes.append(on_device.evaluate._cache_size())
    assert sizes[1] == sizes[0] and sizes[2] > sizes[1]
    np.testing.assert_array_equal(returns[0], 10.0)


NAMED = ("own.py:ensemble:0.05", "ensemble:0.05", "coherent:4,2", "rtc:1,2", "hard-mask:1,2", "async:1")


@pytest.mark.parametrize("name", slow_but(NAMED[:1] + NAMED[3:4], NAMED))
def test_the_same_actions_on_device_and_host(own, env, name, monkeypatch):
    """Over one policy, along the same observations, in which two episodes begin: training's and evaluation's players."""
    if isinstance(env, envs.base.Env):
        pytest.skip("both faces are played once")
    monkeypatch.chdir(own.parent)
    steps = 5
    program, x = assemble(qc, C, env, dataclasses.replace(S, execute=name))
    learner = init(program, x)
    seen = np.random.default_rng(0).normal(size=(steps, 1, 2)).astype(np.float32)
    fresh, alive = np.ones(1, bool), np.ones(1, bool)

    def along(player, carry, state_of, label_of):
        actions = []
        for t in range(steps):
            state = state_of(seen[t])
            carry, plan = player.decide(label_of(t), state, fresh if t in (0, 3) else ~fresh, carry)
            actions += [np.asarray(player.act(i, state, plan, alive)) for i in range(player.steps)]
        return np.stack(actions)

    class Held:
        def __init__(self, obs):
            self.envs = self
            self.obs = obs

    def key_of(t):
        return jax.random.split(on_host.labelled(x.keys[0], np.asarray([0, t])), 3)[2]

    played = {}
    for role in ("act", "explore"):
        player = on_host.player(program, role, learner, x, lambda t, state: np.asarray([[0, t]]))
        played[role] = along(player, on_host.nothing_carried(program, role, learner, x, 1), Held, lambda t: t)
    np.testing.assert_array_equal(played["act"], played["explore"])
    learner, alone = one(learner, 0), x._replace(keys=x.keys[0])
    scheme, vars = program.scheme(alone, "act"), reads(learner, alone)
    begin = jax.jit(lambda: scheme.init(vars, x.keys[0], on_host.seen(seen[0])))
    decide = jax.jit(lambda key, obs, carry: scheme.decide(vars, key, on_host.seen(obs), carry))
    carry, here = begin(), []
    for t in range(steps):
        carry, plan = decide(key_of(t), seen[t], begin() if t in (0, 3) else carry)
        here += [np.clip(scheme.act(vars, i, on_host.seen(seen[t]), plan), -1, 1) for i in range(scheme.steps)]
    np.testing.assert_allclose(played["act"], np.stack(here), atol=1e-5)
    assert len(np.unique(np.round(here, 4))) > steps - 1


def spy(length, horizon=None):
    """Plans 0.01 for each action of its old plan that is left, then 0.1 more a step: what it was shown can be read off."""

    def plan(vars, noise, obs, old):
        shown = jnp.zeros(obs.shape[:-1]) if old is None else jnp.sum(old.left, axis=-1)
        first = jnp.zeros(obs.shape[:-1]) if old is None else old.plan.action[..., 0, 0]
        action = 0.01 * shown[..., None] + 0.1 * jnp.arange(1, length + 1) + 0.001 * jnp.round(10 * first)[..., None]
        return Plan(action[..., None])

    return Policy(lambda vars, key, obs: (), plan, emit_step, horizon)


def test_a_policy_is_shown_what_is_left_of_its_plan():
    """Chunks of 3, played one at a time in episodes of 2 steps: nothing is left at a start, two actions after a step."""
    env = wrap(envs.make("probe/two-step"))
    scheme = receding(spy(3), 3, 1)
    _, s = jax.jit(lambda k: rollout(env, scheme, collecting.NO_VARS, k, 4, None, 2))(jax.random.key(0))
    # the old plan's action that was meant for now was its second one, 0.2
    np.testing.assert_allclose(s.action[:, 0, 0], [0.1, 0.122, 0.1, 0.122], atol=1e-6)


def test_nothing_is_left_of_a_plan_that_was_played():
    env = wrap(envs.make("probe/constant"))
    _, s = jax.jit(lambda k: rollout(env, receding(spy(3), 3, 3), collecting.NO_VARS, k, 2, None, 1))(jax.random.key(0))
    np.testing.assert_allclose(s.action[:, 0, 0], [0.1, 0.2, 0.3] * 2, atol=1e-6)


def test_the_executed_length_is_the_policys():
    """A policy of shorter chunks says so and is played to their end; one that does not say so is refused."""
    env = wrap(envs.make("probe/constant"))
    run = lambda scheme, vars: rollout(env, scheme, vars, jax.random.key(0), 2)  # noqa: E731
    _, s = run(parse("open-loop", 5).scheme(spy(2, 2)), collecting.NO_VARS)
    np.testing.assert_allclose(s.action[:, 0, 0], [0.1, 0.2] * 2, atol=1e-6)
    with pytest.raises(ValueError, match="length=2"):
        run(parse("open-loop", 5).scheme(spy(2)), collecting.NO_VARS)
    with pytest.raises(UserError, match="receding:2"):
        parse("receding:3", 5).scheme(spy(2, 2))


def test_collecting_obeys_execution(own, env):
    """A run's exploring policy is collected as the run plays, on the device and on the host."""
    hosted = not isinstance(env, envs.base.Env)
    program, x = assemble(qc, C, env, dataclasses.replace(S, execute=f"{own}:counting:1,0.1"))
    learner = init(program, x)
    if hosted:
        player = collecting.learned_player(program, learner, x)
        carry = on_host.nothing_carried(program, "explore", learner, x, 2)
        rows = collecting.collect_host(env, player, carry, steps=30, envs=2)
    else:
        scheme, vars = program.scheme(x, "explore"), reads(one(learner, 0), x)
        rows = collecting.collect(env, scheme, vars, jax.random.key(0), steps=30, envs=2)
    step = rows.obs[:, 1] if hosted else np.round(10 * rows.obs[:, 0])
    inside = ~rows.end
    np.testing.assert_allclose(rows.action[inside, 0], np.clip(0.1 * (step[inside] + 1), -1, 1), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "line"),
    [("none.py:x", "there is no file"), ("own.py:contin", "counting"), ("own.py:counting:a,1", "a is no number")],
)
def test_a_wrong_scheme_of_ones_own_names_the_fix(own, name, line, monkeypatch):
    monkeypatch.chdir(own.parent)
    with pytest.raises(UserError, match=line):
        parse(name, 3)
