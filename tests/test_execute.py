"""Playing chunks: the actor runs once per decision, and episodes end where they end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import as_users_compile

from qchunk import envs
from qchunk.data import formats
from qchunk.envs.base import wrap
from qchunk.play import collecting
from qchunk.play.episodes import summary
from qchunk.play.execute import parse, receding
from qchunk.play.on_device import episodes, rollout
from qchunk.sampling import emit_step
from qchunk.system.errors import UserError
from qchunk.types import Plan, Policy, Steps

NO_VARS = collecting.NO_VARS
CALLS = []


def ramp(horizon, action_size=1):
    """Plans 0.1, 0.2, ... in every environment, and notes that it was called."""

    def plan(vars, noise, obs, old):
        jax.debug.callback(lambda: CALLS.append(1))
        steps = jnp.arange(1, horizon + 1) / 10
        return Plan(jnp.broadcast_to(steps[:, None], (*obs.shape[:-1], horizon, action_size)))

    return Policy(lambda vars, key, obs: (), plan, emit_step)


@pytest.mark.parametrize(
    ("name", "calls", "played"), [("open-loop", 2, [1, 2, 3, 4, 1, 2, 3, 4]), ("receding:3", 3, [1, 2, 3] * 3)]
)
def test_the_actor_runs_once_per_decision(name, calls, played):
    env = wrap(envs.make("probe/constant"), 100)
    scheme = parse(name, 4).scheme(ramp(4))
    CALLS.clear()
    _, steps = jax.jit(lambda k: rollout(env, scheme, NO_VARS, k, calls, None, 5))(jax.random.key(0))
    jax.effects_barrier()
    assert len(CALLS) == calls
    np.testing.assert_allclose(steps.action[:, 2, 0] * 10, played, rtol=1e-5)
    assert steps.alive.min() == 1.0


def test_an_environment_that_ends_inside_a_chunk_rests():
    env = wrap(envs.make("probe/two-step"))  # episodes of 2 steps, chunks of 3
    scheme = parse("open-loop", 3).scheme(ramp(3))
    _, s = jax.jit(lambda k: rollout(env, scheme, NO_VARS, k, 2, None, 4))(jax.random.key(0))
    np.testing.assert_array_equal(s.alive[:, 0], [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(s.terminal[:, 1] * s.alive[:, 1], [0, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(s.obs[3, 0], [0.0, 0.0])  # started again, at the decision
    np.testing.assert_allclose(s.next_obs[1, 0], [0.2, 1.0], rtol=1e-6)
    rows = formats.of_steps(jax.tree.map(np.asarray, s))
    assert rows.end.sum() == 8 and len(rows.obs) == 8 * 3
    np.testing.assert_array_equal(rows.terminal[:3], [False, True, False])
    np.testing.assert_allclose(rows.obs[2], [0.2, 1.0], rtol=1e-6)


def test_a_rollout_goes_on_where_it_stopped():
    env = wrap(envs.make("tabletop/cube-single-task1"), 7)
    scheme = parse("open-loop", 4).scheme(ramp(4, 5))
    run = jax.jit(lambda k, start, n: rollout(env, scheme, NO_VARS, k, n, start, 3), static_argnums=2)
    start, first = run(jax.random.key(0), None, 2)
    _, second = run(jax.random.key(1), start, 2)
    np.testing.assert_allclose(second.obs[0][first.alive[-1] > 0], first.next_obs[-1][first.alive[-1] > 0])
    assert np.isfinite(np.asarray(second.obs)).all()


def test_a_cut_episode_is_a_time_out():
    env = wrap(envs.make("probe/constant"), 4)
    _, s = jax.jit(lambda k: rollout(env, parse("open-loop", 3).scheme(ramp(3)), NO_VARS, k, 3, None, 1))(
        jax.random.key(0)
    )
    rows = formats.of_steps(jax.tree.map(np.asarray, s))
    np.testing.assert_array_equal(s.alive[:, 0], [1, 1, 1, 1, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(np.flatnonzero(rows.end), [4, 8])
    assert not rows.terminal.any()


def test_evaluation_is_exact_and_stops():
    env = wrap(envs.make("probe/delayed"))
    e = jax.jit(lambda k: episodes(env, receding(ramp(4), 4, 4), NO_VARS, k, 6))(jax.random.key(0))
    np.testing.assert_array_equal(e.ret, 1.0)
    np.testing.assert_array_equal(e.length, 5.0)
    np.testing.assert_array_equal(e.success, 1.0)
    assert set(summary(e)) == {"success", "return", "length", "looks", "plans", "jump", "change"}


def test_no_success_where_it_has_no_meaning():
    env = wrap(envs.make("brax/reacher@spring"), 2)
    e = jax.jit(lambda k: episodes(env, receding(ramp(2, 2), 2, 2), NO_VARS, k, 2))(jax.random.key(0))
    assert (
        e.success is None
        and set(summary(e)) == {"return", "length", "looks", "plans", "jump", "change"}
        and np.isfinite(e.ret).all()
    )


def test_equal_keys_give_equal_starts_whatever_the_policy():
    env = wrap(envs.make("tabletop/cube-single-task1"), 1)
    seen = []

    def spy(scale):
        def plan(vars, noise, obs, old):
            jax.debug.callback(lambda o: seen.append(np.asarray(o)), obs)
            return Plan(jnp.full((*obs.shape[:-1], 1, 5), scale))

        return Policy(lambda vars, key, obs: jax.random.normal(key, (3,)), plan, emit_step)

    for scale in (0.0, 0.7):
        episodes(env, receding(spy(scale), 1, 1), NO_VARS, jax.random.key(3), 4)
        jax.effects_barrier()
    np.testing.assert_array_equal(seen[0], seen[1])


def test_collecting_by_name():
    env = envs.make("probe/flag")
    rows = collecting.collect(
        env, collecting.scheme_of(env, "random"), NO_VARS, jax.random.key(0), steps=100, envs=10, dispatch=10
    )
    assert (~rows.end).sum() >= 100 and np.abs(rows.action).max() <= 1.0
    inside = ~rows.end
    np.testing.assert_array_equal(rows.reward[inside], np.sign(rows.action[inside, 0]))
    assert 0.2 < (rows.reward[inside] > 0).mean() < 0.8
    again = collecting.collect(
        env, collecting.scheme_of(env, None), NO_VARS, jax.random.key(0), steps=100, envs=10, dispatch=10
    )
    np.testing.assert_array_equal(again.action, rows.action)


@pytest.mark.parametrize("text", ["receding:0", "receding:5", "receding", "receding:x", "closed-loop", "open-loop:2"])
def test_wrong_schemes(text):
    with pytest.raises(UserError):
        parse(text, 4)


@pytest.mark.parametrize(
    ("name", "horizon", "returns", "length"),
    [("constant", 4, 10.0, 10), ("delayed", 3, 1.0, 5), ("two-step", 3, 1.0, 2), ("flag", 2, 1.0, 1)],
)
@pytest.mark.parametrize("text", ["open-loop", "receding:1"])
def test_returns_and_lengths_are_exact(name, horizon, returns, length, text):
    """Also where the chunk does not divide the episode: what follows its end is not counted."""
    env, scheme = wrap(envs.make(f"probe/{name}")), parse(text, horizon).scheme(ramp(horizon))
    e = jax.jit(lambda k: episodes(env, scheme, NO_VARS, k, 3))(jax.random.key(0))
    np.testing.assert_array_equal(e.ret, returns)
    np.testing.assert_array_equal(e.length, length)
    np.testing.assert_array_equal(e.success, float(name != "constant"))


def test_two_rollouts_are_one_longer_rollout():
    """To the bit, through time-outs and fresh starts: resets draw from the state, not the rollout's key."""
    env, scheme = wrap(envs.make("tabletop/cube-single-task1"), 7), parse("open-loop", 4).scheme(ramp(4, 5))
    run = as_users_compile(lambda k, start, n: rollout(env, scheme, NO_VARS, k, n, start, 3), static_argnums=2)
    middle, first = run(jax.random.key(0), None, 3)
    end, second = run(jax.random.key(1), middle, 3)
    whole_end, whole = run(jax.random.key(0), None, 6)
    assert whole.truncation.sum() >= 6
    for a, b, c in zip(*(jax.tree.leaves(x) for x in (first, second, whole)), strict=True):
        np.testing.assert_array_equal(np.concatenate([a, b]), c)
    np.testing.assert_array_equal(end[0].obs, whole_end[0].obs)
    np.testing.assert_array_equal(*(jax.random.key_data(s[0].info["key"]) for s in (end, whole_end)))


def test_rows_hand_worked():
    """Two environments: one ends by itself after 2 steps and rests one, the other is cut by the last step."""
    n, column = 4, lambda *x: np.asarray(x, np.float32)
    alive = np.stack([column(1, 1, 0, 1), column(1, 1, 1, 1)], axis=1)
    terminal = np.stack([column(0, 1, 1, 0), column(0, 0, 0, 0)], axis=1)
    truncation = np.stack([column(0, 0, 0, 0), column(0, 0, 1, 0)], axis=1)
    obs = np.arange(n * 2, dtype=np.float32).reshape(n, 2, 1)
    steps = Steps(obs, obs / 10, obs[..., 0], terminal, truncation, obs + 100, None, alive)
    rows = formats.of_steps(steps)
    # environment 0: rows 0, 2 | 6; environment 1: rows 1, 3, 5 | 7; each with its true final observation
    np.testing.assert_array_equal(rows.obs[:, 0], [0, 2, 102, 6, 106, 1, 3, 5, 105, 7, 107])
    np.testing.assert_array_equal(rows.end, [0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(rows.terminal, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    played = np.asarray([0, 2, 0, 6, 0, 1, 3, 5, 0, 7, 0])
    np.testing.assert_array_equal(rows.reward, played)
    np.testing.assert_allclose(rows.action[:, 0], played / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("receding:0", "give receding:1 to receding:4"),
        ("receding:5", "does not fit chunks of 4 actions"),
        ("receding", "missing a required argument: 'steps'"),
        ("open-lop", "Did you mean open-loop"),
        ("open-loop:2", "too many positional arguments"),
        ("receding:2@1", "no delay is read behind @. eval, compare and load read NAME@D"),
        ("open-loop@x", "no delay is read behind @"),
    ],
)
def test_a_wrong_scheme_names_the_fix(text, line):
    with pytest.raises(UserError, match=line):
        parse(text, 4)
