"""OGBench's own environments and data: success timing, relabelling, collection, reading."""

from __future__ import annotations

import json

import mujoco
import numpy as np
import pytest
from tiers import slow_but

from qchunk import env_names, envs
from qchunk.data import formats
from qchunk.data import ogbench_files as data
from qchunk.data import ogbench_oracles as oracles
from qchunk.play import on_host
from qchunk.runs.recording import CollectFlags, collect_to
from qchunk.system.errors import UserError

pytest.importorskip("ogbench")
NAME = "ogbench/cube-single-play-singletask-task1-v0"
ABOUT = {"env": "ogbench/cube-single-play-v0"}
LENGTH = 41


@pytest.fixture(scope="module")
def env():
    return envs.make(NAME)


def played(scene: str, kind: str, episodes: int = 2) -> dict[str, np.ndarray]:
    made = oracles.make(scene)
    by_task, restore = oracles.oracles(made, scene, kind), oracles.forget(made)
    parts = []
    for number in range(episodes):
        restore()
        parts.append(oracles.episode(made, by_task, scene, kind, (0, number, 0), LENGTH))
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


@pytest.fixture(scope="module")
def arrays():
    return played("cube-single", "play")


def put(one, qpos, buttons=None):
    """Sets a stored state in a task's environment."""
    inner = one.env.unwrapped
    inner.data.qpos[:] = qpos
    inner.data.qvel[:] = 0
    if buttons is not None:
        inner._cur_button_states = np.asarray(buttons).copy()
    mujoco.mj_forward(inner.model, inner.data)
    inner.post_step()
    return inner


def test_sizes_and_names(env):
    assert (env.observation_size, env.action_size, env.episode_length, env.has_success) == (28, 5, 200, True)
    assert env.data_name == "ogbench/cube-single-play-v0"
    with pytest.raises(UserError, match="data set without a task.*singletask-task1-v0"):
        env_names.check_env("ogbench/cube-single-play-v0")
    with pytest.raises(UserError, match="Did you mean ogbench/cube-single-play-singletask-task"):
        envs.make("ogbench/cube-single-play-singletask-task9-v0")


def test_success_is_judged_before_the_action(env):
    """The step that reaches the goal earns -1 and goes on; the one after it earns 0 and ends."""
    one = env.instance()
    one.reset(0)
    inner = one.env.unwrapped
    qpos = inner.data.qpos.copy()
    qpos[14:17] = inner.data.mocap_pos[0]
    before = one.step(np.zeros(5))
    assert before[-4:].tolist() == [-1.0, 0.0, 0.0, 0.0]
    put(one, qpos)
    assert one.step(np.zeros(5))[-4:].tolist() == [0.0, 1.0, 0.0, 1.0]
    one.close()


@pytest.mark.parametrize("scene", slow_but(["scene"], ["cube-single", "scene", "puzzle-3x3"]))
def test_labels_are_the_environments_own_values(scene, arrays):
    """Replayed states, some with their cubes (or buttons) put where the task wants them."""
    task = envs.make(f"ogbench/{scene}-play-singletask-task1-v0")
    found = dict(arrays) if scene == "cube-single" else played(scene, "noisy", 1)
    one = task.instance()
    one.reset(0)
    inner = one.env.unwrapped
    if "button_states" in found:
        found["button_states"] = found["button_states"].copy()
        found["button_states"][3:6] = inner._target_button_states
    if scene != "puzzle-3x3":
        found["qpos"] = found["qpos"].copy()
        found["qpos"][3:6, 14:17] = inner.data.mocap_pos[0]
    if scene == "scene":
        found["qpos"][4:6, 23:25] = inner._target_drawer_pos, inner._target_window_pos
    reward, terminal = data.judged(one, scene, found)
    one.reset(0)
    for row in range(0, 12):
        put(one, found["qpos"][row], found["button_states"][row] if "button_states" in found else None)
        own = one.step(np.zeros(5))  # judges the state it is in
        assert own[-4] == reward[row], row
        assert own[-3] == terminal[row], row
    assert terminal[3:6].any() and not terminal[:3].any()
    sparse = envs.make(f"ogbench/{scene}-play-singletask-task1-v0@sparse").instance()
    assert set(data.judged(sparse, scene, found)[0]) == {-1.0, 0.0}
    np.testing.assert_array_equal(data.judged(sparse, scene, found)[0] == 0, terminal)


def test_rows_follow_the_simulator(arrays, env):
    """A stored observation is that of its stored state (OGBench's gripper pose is one substep of 2 ms behind)."""
    assert arrays["terminals"].nonzero()[0].tolist() == [LENGTH - 1, 2 * LENGTH - 1]
    one = env.instance()
    one.reset(0)
    for row in (0, 7, LENGTH - 1):
        inner = put(one, arrays["qpos"][row])
        own = inner.compute_observation()
        stored = arrays["observations"][row]
        np.testing.assert_allclose(own[:6], stored[:6], atol=1e-5)  # joints
        still = [*range(12, 18), *range(19, 28)]  # 6 to 11 are velocities, set to 0 here, and 18 a contact force
        np.testing.assert_allclose(own[still], stored[still], atol=2e-2)
    one.close()


@pytest.mark.parametrize(("scene", "kind"), [("cube-double", "noisy"), ("scene", "noisy"), ("puzzle-3x3", "play")])
def test_an_episode_follows_from_its_seed_alone(scene, kind):
    made = oracles.make(scene)
    by_task, restore = oracles.oracles(made, scene, kind), oracles.forget(made)

    def episode(number):
        restore()
        return oracles.episode(made, by_task, scene, kind, (0, number, 0), LENGTH)

    first, _, again = episode(1), episode(2), episode(1)
    for name, x in first.items():
        np.testing.assert_array_equal(x, again[name])
    assert np.abs(first["actions"]).max() <= 1


def test_scene_rejects_cubes_off_the_table():
    qpos = np.zeros((3, 25))
    qpos[:, 16] = 0.02
    assert not oracles.left_the_table(qpos)
    for y, z, gone in ((0.29, 0.02, True), (-0.3, 0.02, True), (-0.3, 0.07, False), (-0.29, 0.02, False)):
        qpos[1, 15:17] = y, z
        assert oracles.left_the_table(qpos) == gone


def test_collection_goes_on_where_it_stopped(tmp_path):
    """Whole episodes in parallel processes; one is there from an earlier call. The result is the same, OGBench reads it."""
    out = tmp_path / "cube-single-play-v0.npz"
    folder = tmp_path / "cube-single-play-v0.npz.parts"
    folder.mkdir()
    (folder / "settings.json").write_text(
        json.dumps({"scene": "cube-single", "kind": "play", "seed": 3, "length": LENGTH})
    )
    oracles.play(folder, "cube-single", "play", 3, LENGTH, [1])
    kept = oracles.part(folder, 1).stat().st_mtime_ns
    told = []
    parts = data.load_parts
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            data, "load_parts", lambda *a: (told.append(oracles.part(folder, 1).stat().st_mtime_ns), parts(*a))[1]
        )
        more = {"transitions": 60, "seed": 3, "length": LENGTH, "processes": 2, "about": ABOUT}
        found = data.collect("cube-single", "play", out, **more)
    assert told == [kept] and not folder.exists()
    assert found["transitions"] == 80 and found["episodes"] == 2
    once = tmp_path / "once.npz"
    again = data.collect("cube-single", "play", once, **{**more, "processes": 1})
    assert again["fingerprint"] == found["fingerprint"]
    from ogbench.utils import load_dataset

    loaded = load_dataset(str(out), add_info=True)
    assert loaded["observations"].shape == (80, 28) and loaded["terminals"].sum() == 2


def test_collect_cuts_the_oracles_episodes_where_it_is_asked_to(tmp_path, monkeypatch):
    """After so many steps, which are one row more; as published where nothing is said."""
    asked = []

    def collect(scene, kind, out, *, length=None, **more):
        asked.append(length)
        return {"transitions": 40, "episodes": 2, "fingerprint": "0"}

    monkeypatch.setattr(data, "collect", collect)
    for steps in (20, 0):
        flags = CollectFlags(tmp_path / f"{steps}.npz", steps=40, episode_length=steps, quiet=True)
        collect_to("ogbench/cube-single-play-v0", flags)
    assert asked == [21, None]


def save(path, arrays, **change):
    kept = {n: x for n, x in {**arrays, **change}.items() if x is not None}
    np.savez(path, **kept)
    return path


def test_reading(tmp_path, env, arrays):
    """A file, a folder of shards, and a file of ours give the same device data; rewards are the task's."""
    file = save(tmp_path / "whole.npz", arrays)
    whole, about = formats.for_env(file, env, NAME)
    assert about["env"] == env.data_name and len(about["fingerprint"]) == 16
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(2):
        save(folder / f"data-{i:03d}.npz", {n: x[i * LENGTH : (i + 1) * LENGTH] for n, x in arrays.items()})
    save(folder / "data-000-val.npz", arrays)
    parts, _ = formats.for_env(folder, env, NAME)
    for x, y in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(whole.starts) == 2 * (LENGTH - 1)
    assert set(np.asarray(whole.reward)[np.asarray(whole.starts)]) <= {-1.0, 0.0}


def test_reading_refuses(tmp_path, env, arrays):
    with pytest.raises(UserError, match="lacks qpos"):
        formats.for_env(save(tmp_path / "a.npz", arrays, qpos=None), env, NAME)
    with pytest.raises(UserError, match="sizes .28, 5, 22.*needs|holds data of sizes"):
        wide = np.concatenate([arrays["qpos"], arrays["qpos"][:, :1]], axis=1)
        formats.for_env(save(tmp_path / "b.npz", arrays, qpos=wide), env, NAME)
    with pytest.raises(UserError, match="holds data of ogbench/cube-single-noisy-v0"):
        other = np.asarray(json.dumps({"env": "ogbench/cube-single-noisy-v0"}))
        formats.for_env(save(tmp_path / "c.npz", arrays, about=other), env, NAME)
    with pytest.raises(UserError, match="NaN or infinite"):
        bad = arrays["observations"].copy()
        bad[5, 0] = np.nan
        formats.for_env(save(tmp_path / "d.npz", arrays, observations=bad), env, NAME)
    mark = data.fingerprint({n: x for n, x in arrays.items() if n != "qvel"})
    kept = np.asarray(json.dumps({**ABOUT, "fingerprint": mark}))
    formats.for_env(save(tmp_path / "f.npz", arrays, about=kept), env, NAME)
    with pytest.raises(UserError, match="does not match its fingerprint"):
        formats.for_env(save(tmp_path / "g.npz", arrays, about=kept, actions=0.5 * arrays["actions"]), env, NAME)
    whole = save(tmp_path / "e.npz", arrays).read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        formats.for_env(tmp_path / "e.npz", env, NAME)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        formats.for_env(tmp_path / "empty", env, NAME)


def test_arrays_that_are_none_of_ogbenchs_are_one_line(tmp_path, env, arrays):
    """Their types and shapes, an end that is no number; no states of the buttons where the task is judged by them."""
    cut = np.where(np.arange(2 * LENGTH) == 3, np.nan, arrays["terminals"])
    for name, x, told in (
        *((n, arrays[n][:, 0], f"{n} is of the shape .82.") for n in ("observations", "actions", "qpos")),
        *((n, arrays[n].astype("S4"), f"{n} holds .S4, no numbers") for n in ("observations", "qpos", "terminals")),
        ("actions", arrays["actions"].astype(complex), "actions holds complex"),
        ("terminals", arrays["terminals"][:, None], "terminals is of the shape .82, 1."),
        ("terminals", cut, "terminals hold what is no number"),
    ):
        with pytest.raises(UserError, match=told):
            formats.for_env(save(tmp_path / "a.npz", arrays, **{name: x}), env, NAME)
    task = envs.make("ogbench/puzzle-3x3-play-singletask-task1-v0")
    rows = {
        "observations": np.zeros((4, task.observation_size)),
        "actions": np.zeros((4, 5)),
        "qpos": np.zeros((4, 23)),
    }
    rows["terminals"] = np.arange(4) == 3
    for buttons in (None, np.zeros((4, 8)), np.zeros((4, 1))):
        with pytest.raises(UserError, match="lacks button_states, 9 numbers of each row"):
            formats.for_env(save(tmp_path / "b.npz", rows, button_states=buttons), task, task.name)
    assert (
        len(formats.for_env(save(tmp_path / "b.npz", rows, button_states=np.zeros((4, 9))), task, task.name)[0].starts)
        == 3
    )


@pytest.mark.parametrize("scene", slow_but(["cube-double"], ["cube-double", "scene", "puzzle-3x3"]))
def test_goals(scene, tmp_path):
    """The goal that a state reaches is OGBench's own representation of it; an episode's is that of its seed's task."""
    from ogbench.relabel_utils import add_oracle_reps

    env = envs.make(f"ogbench/{scene}-play-oraclerep-v0")
    assert (env.data_name, env.goal_count) == (f"ogbench/{scene}-play-v0", 5)
    found = played(scene, "play", 1)
    one = env.instance()
    add_oracle_reps(scene, one.env, found)
    obs = {"state": found["observations"]}
    np.testing.assert_allclose(env.goal_of(obs), found["oracle_reps"], atol=1e-4)
    goals = []
    for seed in range(5, 10):
        row = env.split(one.reset(seed)[None])[0]
        assert one.env.unwrapped.cur_task_id == seed % 5 + 1
        goals.append(row["goal"][0])
        np.testing.assert_allclose(row["goal"][0], one.env.unwrapped._cur_goal_ob, rtol=1e-6)
    assert min(np.abs(goals[0] - g).max() for g in goals[1:]) > 0.3
    one.close()
    formats_of_goals(env, scene, found, tmp_path)


def formats_of_goals(env, scene, found, tmp_path):
    """Data without goals get those that their episodes end in; the environment judges them so."""
    np.savez(tmp_path / "d.npz", **{n: x for n, x in found.items() if n != "oracle_reps"})
    rows = formats.for_env(tmp_path / "d.npz", env, env.name)[0]
    final = int(np.flatnonzero(found["terminals"])[0])
    np.testing.assert_allclose(rows.obs["goal"][0], found["oracle_reps"][final], atol=1e-4)
    reached = np.asarray(rows.terminal)[: final - 1]
    assert np.asarray(rows.terminal)[final - 1] == 1.0 and np.asarray(rows.reward)[final - 1] == 1.0
    if scene == "puzzle-3x3":
        same = (found["button_states"][1:final] == found["button_states"][final]).all(axis=1)
        np.testing.assert_array_equal(reached, same)


def test_evaluation_seeds_take_goals_in_turn():
    seeds = on_host.in_turn(on_host.reset_seeds((1, 2), 12), 5)
    np.testing.assert_array_equal(seeds % 5, np.arange(12) % 5)
    assert len(set(seeds.tolist())) == 12 and seeds.max() < 2**31 and seeds.min() >= 0
    np.testing.assert_array_equal(on_host.in_turn(on_host.reset_seeds((1, 2), 12), 0), on_host.reset_seeds((1, 2), 12))


def test_a_point_finds_its_way_and_a_task_judges_it(tmp_path):
    """The package's oracle leads from goal to goal; a state is judged as the environment judges it, and reached goals are successes."""
    made = oracles.make("pointmaze-medium")
    arrays = oracles.way(made, (0, 1, 0), 400)
    for name, x in oracles.way(made, (0, 1, 0), 400).items():
        np.testing.assert_array_equal(x, arrays[name])
    np.testing.assert_array_equal(arrays["observations"], arrays["qpos"])
    moved = np.linalg.norm(np.diff(arrays["observations"], axis=0), axis=1)
    assert 0 < moved.max() < 0.3 and np.ptp(arrays["observations"], axis=0).min() > 4, "over several cells of 4 metres"
    env = envs.make("ogbench/pointmaze-medium-navigate-singletask-task1-v0")
    assert (env.observation_size, env.action_size, env.episode_length) == (2, 2, 1000)
    one = env.instance()
    one.reset(0)
    inner = one.env.unwrapped
    arrays["qpos"][7] = arrays["observations"][7] = inner.cur_goal_xy
    np.savez(tmp_path / "pointmaze-medium-navigate-v0.npz", **arrays)
    rows, about = formats.read(tmp_path / "pointmaze-medium-navigate-v0.npz", env)
    assert about["env"] == "ogbench/pointmaze-medium-navigate-v0"
    for row in (6, 7, 8):
        inner.set_xy(arrays["qpos"][row])
        own = one.step(np.zeros(2))
        assert (own[-4], own[-3]) == (rows.reward[row], rows.terminal[row]), row
    assert rows.reward[7] == 0 and rows.terminal[7]
    one.close()


def test_a_points_data_are_made_as_the_published_ones():
    """Goals are every cell but a corridor's, a little beside its middle; actions have a normal noise of 0.5."""
    maze = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    assert oracles.turns(maze) == [(1, 1), (1, 3), (2, 3)]
    made = oracles.make("pointmaze-medium")
    inner, goals = made.unwrapped, []
    oracle = inner.get_oracle_subgoal
    inner.get_oracle_subgoal = lambda here, goal: goals.append(tuple(goal)) or oracle(here, goal)
    for number in range(3):
        oracles.way(made, (0, number, 0), 600)
    cells = {goal: tuple(inner.xy_to_ij(goal)) for goal in goals}
    assert len(cells) >= 6 and {tuple(map(int, c)) for c in cells.values()} <= set(oracles.turns(inner.maze_map))
    assert all(0 < np.abs(np.subtract(goal, inner.ij_to_xy(cell))).max() <= 1 for goal, cell in cells.items())
    inner.get_oracle_subgoal = lambda here, goal: (here + np.array([1.0, 0.0]), None)
    aside = oracles.way(made, (0, 0, 0), 1000)["actions"][:, 1]
    assert 0.44 < aside.std() < 0.5 and 0.03 < (np.abs(aside) == 1).mean() < 0.06, "5 % lie beyond 2 deviations"
    assert (oracles.length_of("pointmaze-giant"), oracles.length_of("cube-double")) == (2001, 1001)


@pytest.mark.parametrize("scene", slow_but([], env_names.OGBENCH_MAZES))
def test_mazes_are_stepped(scene):
    for kind in env_names.OGBENCH_MAZES[scene][1]:
        env = envs.make(f"ogbench/{scene}-{kind}-singletask-task3-v0")
        one = env.instance()
        one.reset(0)
        row = one.step(np.ones(env.action_size))
        assert row[-4] == -1.0 and env.has_success
        one.close()


def test_names_of_mazes(tmp_path):
    for name, part in (("antmaze-giant-explore-singletask-task1", "unknown"), ("pointmaze-medium-play", "unknown")):
        with pytest.raises(UserError, match=part):
            env_names.check_env(f"ogbench/{name}-v0", scene_too=True)
    assert env_names.ogbench("ogbench/antmaze-large-explore-singletask-v0")["kind"] == "explore"
    assert not env_names.ogbench("ogbench/pointmaze-medium-navigate-oraclerep-v0")
    with pytest.raises(UserError, match="no oracle that plays antmaze-large-navigate.*rail.eecs"):
        data.collect("antmaze-large", "navigate", tmp_path / "x.npz", transitions=10, about={})
