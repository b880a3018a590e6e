"""Units of observations and actions."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows

from qchunk import cli, envs, normalise
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.config import ChunkConfig
from qchunk.data import chunks, formats
from qchunk.drivers import train
from qchunk.drivers.online import OnlineSettings
from qchunk.play.program import Program
from qchunk.types import Chunk, Plan, Policy, Spec, Vars

X = np.asarray([[0.0, 5.0, 0.1], [2.0, 5.0, 0.2], [4.0, 5.0, 0.6]])


def test_fit_by_hand():
    a = normalise.fit(X, "min-max")
    np.testing.assert_allclose(normalise.apply(a, X), [[-1, 0, -1], [0, 0, -0.6], [1, 0, 1]], atol=1e-6)
    a = normalise.fit(X, "standard")
    y = np.asarray(normalise.apply(a, X))
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=0), [1, 0, 1], atol=1e-6)
    bounded = np.asarray(normalise.apply(normalise.fit(X, "standard", bounded=True), X))
    assert np.abs(bounded).max() == pytest.approx(1.0) and bounded.std(axis=0)[0] == pytest.approx(
        bounded.std(axis=0)[2]
    )
    np.testing.assert_array_equal(normalise.apply(normalise.fit(X, "none"), X), np.float32(X))
    for kind in normalise.KINDS:
        a = normalise.fit(X, kind)
        np.testing.assert_allclose(normalise.invert(a, normalise.apply(a, X)), X, atol=1e-5)


def test_units_of_data_are_of_what_was_played_and_all_that_was_seen():
    """Beside a final observation stands no action."""
    action = np.asarray([[-0.5], [0.1], [9.0]])
    found = normalise.of_data(chunks.dataset(X, action, np.zeros(3), np.zeros(3), np.arange(3) == 2), *["min-max"] * 2)
    np.testing.assert_allclose((found["action"].shift, found["action"].scale), [[-0.2], [0.3]], rtol=1e-6)
    np.testing.assert_array_equal(found["obs"].scale, normalise.fit(X, "min-max").scale)


def test_running_moments_are_those_of_everything_seen():
    """In unequal parts, with a number that never changes; of nothing they change nothing."""
    x = np.random.default_rng(0).normal(3.0, [1.0, 20.0, 0.0], (60, 3)).astype(np.float32)
    moments = normalise.no_moments(3)
    for part in np.split(x, [1, 10, 40]):
        moments = normalise.seen(moments, part)
    got, want = normalise.of_moments(moments), normalise.fit(x, "standard")
    assert int(got.kind) == int(want.kind)
    np.testing.assert_allclose(got.shift, want.shift, rtol=1e-5)
    np.testing.assert_allclose(got.scale, want.scale, rtol=1e-4)
    np.testing.assert_array_equal(normalise.apply(normalise.of_moments(normalise.no_moments(3)), x), x)


def test_policies_and_chunks_meet_their_units():
    """A policy that returns what it sees, and an algorithm that reports what it is given."""
    echo = Policy(
        lambda vars, key, obs: (),
        lambda vars, noise, obs, old: Plan(obs[:, None]),
        lambda vars, plan, i, obs: (plan.action[:, i] + obs) / 2,
    )
    inner = bc(BC(ChunkConfig(1), FlowConfig((4,), steps=1)))
    inner = inner._replace(act=echo, first=echo, prepare=lambda s, g, k, c: (s, c))
    outer = normalise.normalised(inner)
    units = {"obs": normalise.fit(X, "min-max"), "action": normalise.fit(10 * X, "min-max")}
    vars = Vars({}, {}, {normalise.STATS: units}, {})
    for policy in (outer.act, outer.first):
        plan = policy.plan(vars, (), jnp.asarray(X), None)
        np.testing.assert_allclose(plan.action[:, 0], [[-1, 0, -1], [0, 0, -0.6], [1, 0, 1]], atol=1e-6)
        np.testing.assert_allclose(policy.emit(vars, plan, 0, jnp.asarray(X)), 10 * X, atol=1e-4)
    x = jnp.asarray(X)
    chunk = Chunk(x, 10 * x[:, None], *[jnp.ones((3, 1))] * 3, x[:, None], jnp.ones((3, 1)), jnp.zeros(3), {})
    learner = outer.init(jax.random.key(0), Spec(3, 3, 1))._replace(stats={normalise.STATS: units})
    _, seen = outer.prepare(learner, {}, jax.random.key(0), chunk)
    for got in (seen.obs, seen.action[:, 0], seen.next_obs[:, 0]):
        np.testing.assert_allclose(got, [[-1, 0, -1], [0, 0, -0.6], [1, 0, 1]], atol=1e-6)


@pytest.fixture(scope="module")
def flag():
    env = envs.make("probe/flag")
    rows = random_rows(env, 400, 8)
    return env, formats.to_device(rows._replace(action=rows.action * np.float32(0.01)))


def test_units_are_the_same_experiment(flag):
    """Actions within 0.01: in min-max units imitation fills the range, in the data's own it cannot tell them from 0."""
    env, data = flag
    s = OnlineSettings(offline_steps=300, batch=64, eval_every=300, log_every=300, episodes=64)
    c = BC(ChunkConfig(1), FlowConfig((32,), steps=4))
    spread = {}
    for kind in ("none", "min-max"):
        of = dataclasses.replace(s, normalise_action=kind)
        *_, last = train(bc, c, env=env, data=data, settings=of)
        first = jax.tree.map(lambda x: x[0], last.learner._replace(step=last.learner.step[None]))
        program = Program(bc, env, (of.normalise_obs, of.normalise_action))
        policy, vars = program.algorithm(c).act, Vars(first.params, first.targets, first.stats, {})
        obs = jnp.zeros((500, 2))
        plan = policy.plan(vars, policy.draw(vars, jax.random.key(1), obs), obs, None)
        spread[kind] = float(policy.emit(vars, plan, 0, obs).std())
    assert spread["min-max"] == pytest.approx(0.01 / np.sqrt(3), rel=0.25)
    assert spread["none"] > 3 * spread["min-max"]


def test_travels_with_the_checkpoint_and_is_refused_elsewhere(tmp_path, capsys):
    data, out = tmp_path / "d.npz", tmp_path / "r"
    cli.main(["collect", "probe/flag", "--out", str(data), "--steps", "100", "--quiet"])
    small = ["--chunk.horizon", "1", "--actor.hidden", "8", "--actor.steps", "1", "--episodes", "4", "--quiet"]
    more = ["--offline-steps", "4", "--normalise-obs", "standard", "--normalise-action", "min-max"]
    cli.main(["train", "bc", "--env", "probe/flag", "--data", str(data), "--out", str(out), *small, *more])
    cli.main(["eval", str(out), "--episodes", "4", "--quiet"])
    capsys.readouterr()
    kept = json.loads((out / "config.json").read_text())
    for kind, told in (("min-max", "obs units are standard"), ("none", "of another configuration")):
        kept["config"]["settings"] |= {"normalise_obs": kind, "normalise_action": kind}
        (out / "config.json").write_text(json.dumps(kept))
        with pytest.raises(SystemExit) as e:
            cli.main(["eval", str(out), "--episodes", "4", "--quiet"])
        assert e.value.code == 2 and told in capsys.readouterr().err
