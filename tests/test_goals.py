"""Goals: relabelled windows against plain loops, environments with goals, and runs in them from the command line."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from qchunk import cli, drivers, envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.dqc import DQC, dqc
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, validate
from qchunk.data import buffer, chunks, formats, goals
from qchunk.data.goals import GoalConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import History, aimed, wrap
from qchunk.envs.tabletop import oracles
from qchunk.play import collecting, on_device
from qchunk.play.execute import scripted
from qchunk.system.errors import UserError
from qchunk.types import Steps

GAMMA, B = 0.9, 400


def goal_of(obs):
    return obs["state"] * 2.0


def experience(rng, first):
    """Episodes as plain lists of states (first + number of the episode, step): [L + 1, 2] each."""
    lengths = rng.permutation([1, 2, 3, 6, 11])  # as many rows each time: one compile
    return [
        np.stack([np.full(n + 1, first + i), np.arange(n + 1)], axis=1).astype(np.float32)
        for i, n in enumerate(lengths)
    ]


def data_of(episodes):
    state = np.concatenate(episodes)
    end = np.concatenate([np.arange(len(e)) == len(e) - 1 for e in episodes])
    zeros = np.zeros(len(state))
    obs = {"state": state, "goal": np.zeros_like(state)}
    return chunks.dataset(obs, state[:, 1:] / 100, zeros, zeros, end)


def ring_of(rng, tracks, capacity):
    """A ring into which each environment's episodes were played, the last one of each not to its end; and what it holds."""
    played = [[(e[t], e[t + 1], t == len(e) - 2) for e in track for t in range(len(e) - 1)] for track in tracks]
    n = min(map(len, played)) - 1
    rows = [[track[i] for track in played] for i in range(n)]
    before, after = (np.asarray([[r[j] for r in row] for row in rows], np.float32) for j in (0, 1))
    end = np.asarray([[r[2] for r in row] for row in rows], np.float32)
    tree = lambda s: {"state": s, "goal": np.zeros_like(s)}  # noqa: E731
    zeros = np.zeros_like(end)
    steps = Steps(tree(before), before[..., 1:] / 100, zeros, zeros, end, tree(after), None, np.ones_like(end))
    ring = buffer.empty_for(jax.tree.map(jnp.asarray, steps), capacity)
    for i in range(n):
        ring = buffer.write(ring, jax.tree.map(lambda x: x[i : i + 1], steps))
    held = [
        [(b, a, e) for b, a, e in zip(before[:, j], after[:, j], end[:, j], strict=True)] for j in range(len(tracks))
    ]
    return ring, [one[-capacity:] for one in held]


def ahead(one):
    """The states that follow the first of these steps within its episode, itself the first: [left + 1, 2]."""
    states = [one[0][0]]
    for _, after, end in one:
        states.append(after)
        if end:
            break
    return np.stack(states)


def judged(states, goal, n):
    """(reward, discount, next state or None where it does not matter, weight) of a window from states[0], in a plain loop."""
    for k in range(min(n, len(states))):
        if np.array_equal(2 * states[k], goal):
            return GAMMA**k, 0.0, states[k], 1.0
    inside = len(states) > n
    return 0.0, GAMMA**n, states[n] if inside else None, float(inside)


def check(chunk, slow, n):
    for i, states in enumerate(slow):
        np.testing.assert_array_equal(chunk.obs["state"][i], states[0])
        goal = chunk.obs["goal"][i]
        np.testing.assert_array_equal(chunk.next_obs["goal"][i, 0], goal)
        reward, discount, after, weight = judged(states, goal, n)
        assert chunk.weight[i, 0] == weight
        np.testing.assert_allclose(chunk.reward[i, 0], reward, rtol=1e-6)
        if weight:
            np.testing.assert_allclose(chunk.discount[i, 0], discount, rtol=1e-6)
            np.testing.assert_array_equal(chunk.next_obs["state"][i, 0], after)


@functools.partial(jax.jit, static_argnums=3)
def draw(key, data, ring, mix, c, g):
    return goals.draw_toward_goals(key, buffer.Source(data, ring, mix, goal_of), c, B, g)


def drawn(*args):
    return jax.tree.map(np.asarray, draw(*args))


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    starts=st.sampled_from(["whole", "step"]),
    n=st.integers(1, 4),
    mix=st.sampled_from([None, "uniform", "share:0.5"]),
)
def test_windows_equal_lists(seed, starts, n, mix):
    """Of data and of a ring that has been written round: whatever is drawn is judged as a loop over its states judges it."""
    rng = np.random.default_rng(seed)
    episodes = [*experience(rng, 0), np.stack([np.full(9, 50), np.arange(9)], 1).astype(np.float32)]
    ring, held = ring_of(
        rng, [experience(rng, 100) + experience(rng, 150), experience(rng, 200) + experience(rng, 250)], 16
    )
    c = ChunkConfig(n, gamma=GAMMA, starts=starts)
    data = data_of(episodes)
    shares = GoalConfig(0.6, 0.8, 0.6)  # of their sum
    w = drawn(jax.random.key(seed), data, ring if mix else None, mix or "uniform", c, shares)
    places = {tuple(e[t]): e[t:] for e in episodes for t in range(len(e) - 1)}
    places |= {tuple(one[i][0]): ahead(one[i:]) for one in held for i in range(len(one))}
    slow = [places[tuple(s)] for s in w.obs["state"]]
    check(w, slow, n)
    if mix == "share:0.5":
        np.testing.assert_array_equal(w.obs["state"][:, 0] >= 100, np.arange(B) >= B / 2)
    if starts == "whole" and (mix is None or any(len(ahead(one[i:])) > n for one in held for i in range(len(one)))):
        assert w.weight.all()
    goal, own = w.obs["goal"] / 2, w.obs["state"]
    seen = {tuple(s) for e in episodes for s in e[:-1]} | {tuple(s) for e in places.values() for s in e}
    assert {tuple(g) for g in goal} <= seen
    assert 0.2 < np.mean((goal == own).all(1)) < 0.5
    later = (goal[:, 0] == own[:, 0]) & (goal[:, 1] > own[:, 1])
    assert later.mean() > 0.25
    assert max(g[1] - s[1] for g, s, ok in zip(goal, own, later, strict=True) if ok) >= 3


def test_starts_of_whole_windows():
    """Every start whose window lies inside its episode, the last one too, and no other, all as likely; likewise in a ring."""
    rng = np.random.default_rng(3)
    episodes = experience(rng, 0) + experience(rng, 10)
    data = data_of(episodes)
    for n in (1, 3, 5):
        c = ChunkConfig(n, starts="whole")
        expected = [tuple(e[t]) for e in episodes for t in range(len(e) - n)]
        rows = chunks.start_at(data, jnp.arange(len(expected)), c)
        assert int(chunks.count_starts(data, c)) == len(expected)
        assert [tuple(s) for s in np.asarray(data.obs["state"])[rows]] == expected
        ring, held = ring_of(rng, [experience(rng, 100) * 3, experience(rng, 200) * 3], 16)
        flags = np.asarray(buffer.starting(ring, c)).reshape(2, -1)
        wanted = {tuple(one[i][0]) for one in held for i in range(len(one)) if len(ahead(one[i:])) > n}
        found = {tuple(s) for s in np.asarray(ring.obs["state"])[flags.ravel()]}
        assert wanted and found == wanted


@pytest.mark.parametrize("capacity", [7, 300, 600])
def test_the_way_to_an_episodes_end(capacity):
    """Over whole blocks without an end, round the ring, and to the write pointer."""
    rng = np.random.default_rng(capacity)
    ends = (rng.uniform(size=(3, 1500)) < 0.003).astype(np.float32)
    written, kept = np.asarray([5, capacity, 1000]), np.zeros((3, capacity), np.float32)
    for e in range(3):
        for p in range(written[e]):
            kept[e, p % capacity] = ends[e, p]
    ring = buffer.empty(3, capacity, {"state": 1, "goal": 1}, 1)
    ring = ring._replace(end=jnp.asarray(kept.ravel()), written=jnp.asarray(written, jnp.int32))
    env, position = map(np.asarray, buffer.starts(ring, jnp.arange(int(buffer.size(ring)[0].sum()))))
    slow = []
    for e, p in zip(env, position, strict=True):
        end = next((q for q in range(p, int(written[e])) if ends[e, q]), int(written[e]) - 1)
        slow.append(end - p + 1)
    np.testing.assert_array_equal(buffer.left_in_all(ring, jnp.asarray(env), jnp.asarray(position)), slow)


# ----------------------------------------------------------------------------------------------------- environments


@pytest.fixture(scope="module")
def env():
    return envs.make("tabletop/cube-double-goal")


def test_an_episode_has_a_task_as_its_goal(env):
    """Start and goal are those of one of the scene's tasks, all five occur; reward and success are those of the task."""
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 64))
    tasks = [envs.make(f"tabletop/cube-double-task{i}") for i in range(1, 6)]
    found = np.asarray(jax.vmap(env.goal_shown)(states.obs))
    which = [int(np.argmin([np.abs(goal - t.goal).max() for t in tasks])) for goal in found]
    assert set(which) == set(range(5))
    np.testing.assert_allclose(found, [tasks[i].goal for i in which], atol=1e-6)
    starts = np.asarray([[x[:2] for x in tasks[i].parts.tasks[i].start] for i in which])
    assert np.abs(np.asarray(states.pipeline_state.cubes)[..., :2] - starts).max() <= 0.0101
    action = jax.random.uniform(jax.random.key(1), (64, 5), minval=-1.0)
    after = jax.jit(jax.vmap(env.step))(states, action)
    for i in range(64):
        reward, terminal = tasks[which[i]].relabel(states.obs["state"][i], action[i], after.obs["state"][i])
        assert (after.reward[i], after.done[i]) == (reward, terminal)
    np.testing.assert_array_equal(after.obs["goal"], states.obs["goal"])


def test_the_goal_of_a_state_is_reached_there(env):
    state = env.reset(jax.random.key(0))
    reached = {"state": state.obs["state"], "goal": env.goal_of(state.obs)}
    assert env.relabel(reached, jnp.zeros(5), reached) == (0.0, 1.0)
    off = {**reached, "goal": reached["goal"].at[0].add(0.5)}  # 5 cm
    assert env.relabel(off, jnp.zeros(5), off) == (-1.0, 0.0)
    nothing = {**reached, "goal": reached["goal"] * jnp.nan}
    assert env.relabel(nothing, jnp.zeros(5), nothing) == (-2.0, 0.0)


def test_evaluations_take_the_goals_in_turn(env):
    """Equal shares, and a figure for each: a policy that plays task 3's oracle succeeds at goal 3 alone."""
    third = envs.make("tabletop/cube-double-task3")
    wrapped = wrap(env)
    for i in range(5):
        np.testing.assert_allclose(
            env.goal_shown(jax.jit(aimed(wrapped.env.env, i).reset)(jax.random.key(1)).obs),
            env.parts.tasks[i].goal,
            atol=1e-6,
        )
    scheme = scripted(oracles.commanded(third))
    played = jax.jit(lambda key: on_device.episodes(wrapped, scheme, collecting.NO_VARS, key, 10))(jax.random.key(0))
    found = on_device.summary(played, env.goal_count)
    assert {n: round(float(v), 6) for n, v in found.items() if n.startswith("success")} == {
        "success": 0.2,
        **{f"success_goal{i}": float(i == 3) for i in range(1, 6)},
    }


# ------------------------------------------------------------------------------------------------------------- runs


TINY = DQC(
    ChunkConfig(4, gamma=0.99, starts="whole"),
    2,
    actor=FlowConfig((16,), steps=2),
    critic=CriticConfig((16,)),
    n=2,
)
FLAGS = [
    "--actor.hidden",
    "16",
    "--actor.steps",
    "2",
    "--critic.hidden",
    "16",
    "--n",
    "2",
    "--batch",
    "16",
    "--episodes",
    "5",
    "--seeds",
    "2",
    "--quiet",
]


@pytest.mark.slow
def test_learning_online_as_offline(env, tmp_path):
    """Units, a ring of dictionaries and histories: every figure is finite."""
    rows = rows_of(env.scene, "play", 600, 4, episode_length=150)
    formats.save(tmp_path / "d.npz", rows, {"env": env.data_name})
    seen = History(env, 2)
    data = formats.for_env(tmp_path / "d.npz", seen, "tabletop/cube-double-goal")[0]
    assert data.obs["goal"].shape[1] == 12 == seen.goal_of(jax.tree.map(lambda x: x[:3], data.obs)).shape[1]
    c = dataclasses.replace(TINY, chunk=dataclasses.replace(TINY.chunk, history=2))
    s = OnlineSettings(
        seeds=2,
        offline_steps=4,
        batch=16,
        log_every=4,
        episodes=5,
        online_steps=64,
        envs=2,
        start_training=16,
        update_ratio=0.5,
        online_eval_every=32,
        normalise_obs="standard",
        normalise_action="min-max",
    )
    events = [e._replace(learner=None, state=None) for e in drivers.train(dqc, c, env=seen, data=data, settings=s)]
    assert all(np.isfinite(v).all() for e in events for v in e.values.values())
    assert {f"success_goal{i}" for i in range(1, 6)} < set(events[-2].values) and events[-2].kind == "eval"
    assert events[-1].step == 4 + 64


@pytest.mark.slow
def test_from_the_command_line(tmp_path, capsys):
    """Data by the scene's oracles, a run of two seeds, its evaluation, its picture and data that it collects itself."""
    name, data, run = "tabletop/cube-single-goal", str(tmp_path / "d.npz"), str(tmp_path / "run")
    short = ["--episode-length", "100", "--quiet"]
    cli.main(["collect", name, "--out", data, "--steps", "800", "--envs", "4", *short])
    horizons = ["--chunk.horizon", "25", "--act-horizon", "5"]
    cli.main(["train", "dqc", "--env", name, "--data", data, "--out", run, "--offline-steps", "4", *horizons, *FLAGS])
    capsys.readouterr()
    cli.main(["eval", run, "--episodes", "5", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert {"success", *(f"success_goal{i}" for i in range(1, 6))} <= set(figures)
    cli.main(["render", run])
    assert (tmp_path / "run" / "episode.gif").stat().st_size > 0
    again = str(tmp_path / "own.npz")
    cli.main(["collect", name, "--out", again, "--policy", run, "play", "--steps", "400", "--envs", "2", *short])
    rows, about = formats.load(again)
    assert about["env"] == name and rows.obs["goal"].shape[1] == 3 and len(np.unique(rows.obs["goal"][:, 0])) > 1


def test_data_of_states_alone(env, tmp_path):
    """A scene's data serve its goals: an episode's goal is what it ends in; so do foreign ones, with a state or flat."""
    scene = envs.make("tabletop/cube-double")
    rows = rows_of(scene, "play", 300, 3, episode_length=100)
    for name, obs, about in (("flat", rows.obs, "tabletop/cube-double"), ("tree", {"state": rows.obs}, env.data_name)):
        formats.save(tmp_path / f"{name}.npz", rows._replace(obs=obs), {"env": about})
        data = formats.for_env(tmp_path / f"{name}.npz", env, "tabletop/cube-double-goal")[0]
        final = np.flatnonzero(rows.end)
        expected = np.repeat(np.asarray(env.goal_of({"state": rows.obs[final]})), np.diff(np.append(-1, final)), axis=0)
        np.testing.assert_allclose(data.obs["goal"], expected)
        assert int(data.terminal.sum()) >= 3, "each ends where it shall"
        np.testing.assert_array_equal(data.obs["state"], rows.obs)
    formats.save(tmp_path / "odd.npz", rows._replace(obs={"place": rows.obs}), {"env": env.data_name})
    with pytest.raises(UserError, match="sizes"):
        formats.for_env(tmp_path / "odd.npz", env, "tabletop/cube-double-goal")


@pytest.mark.slow
def test_a_method_without_goals_learns_from_the_same_data(env):
    rows = rows_of(env.scene, "play", 300, 3, episode_length=100)
    data = formats.to_device(formats.relabelled(rows, env))
    c = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), n=2)
    s = OnlineSettings(offline_steps=2, batch=8, log_every=2, episodes=5)
    last = list(drivers.train(qc, c, env=env, data=data, settings=s))[-2].values
    assert {"success", "success_goal1"} <= set(last)


def test_mistakes():
    plain = envs.make("tabletop/cube-double-task1")
    state = np.zeros((40, 17), np.float32)
    end = np.arange(40) == 39
    data = chunks.dataset(state, np.zeros((40, 5)), np.zeros(40), np.zeros(40), end)
    with pytest.raises(UserError, match="DQC learns for goals, and tabletop/cube-double has none"):
        next(iter(drivers.train(dqc, TINY, env=plain, data=data, settings=OnlineSettings(offline_steps=1))))
    for odd, problem in (
        (dataclasses.replace(TINY, act_horizon=5), "--act-horizon 5 is more than --chunk.horizon 4"),
        (
            dataclasses.replace(TINY, goals=GoalConfig(0.0, 0.0, 0.0)),
            "--goals.current, --goals.future and --goals.random are all 0",
        ),
        (dataclasses.replace(TINY, goals=GoalConfig(float("nan"), 0.5)), "--goals.current nan"),
    ):
        with pytest.raises(UserError, match=problem):
            validate(odd)
    data = data_of([np.zeros((9, 2), np.float32)])
    with pytest.raises(UserError, match=r"--chunk\.backup names 2 points"):
        goals.draw_toward_goals(
            jax.random.key(0), buffer.Source(data, goal_of=goal_of), ChunkConfig(2, (1, 2)), 4, GoalConfig()
        )
