"""``qchunk data`` and the readers behind it: rows of every format, defects by their lines, our own format out of all of them."""

from __future__ import annotations

import json
import types

import foreign_files as made
import numpy as np
import pytest
from test_cli import run

from qchunk import envs
from qchunk.data import adapting, formats
from qchunk.data.adapting import Reading
from qchunk.deploy.standalone import in_units
from qchunk.play import collecting
from qchunk.system.errors import UserError
from qchunk.types import Steps

pytest.importorskip("h5py")
pytest.importorskip("pyarrow")


def expected(episodes, known: bool) -> formats.Rows:
    """By a slow loop. Where final observations are not known, cut episodes lose their last action, others repeat what they saw last."""
    rows = []
    for one in episodes:
        obs, steps = made.joined(one), len(one["reward"])
        ended = one["terminal"][-1]
        if not known and not ended:
            steps -= 1
        last = obs[steps] if known or not ended else obs[steps - 1]
        for i in range(steps):
            rows.append((obs[i], one["action"][i], one["reward"][i], one["terminal"][i], False))
        rows.append((last, np.zeros_like(one["action"][0]), 0.0, False, True))
    obs, action, reward, terminal, end = (np.asarray(x) for x in zip(*rows, strict=True))
    return formats.Rows(obs, action, reward.astype(np.float32), terminal, end)


def same(rows: formats.Rows, wanted: formats.Rows) -> None:
    for name in formats.ARRAYS:
        x, y = getattr(rows, name), getattr(wanted, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)


GOOD = {  # how a set is written, its reader, whether final observations are known
    "minari": (lambda p, e: made.minari(p / "set", e), "minari", True),
    "minari-file": (lambda p, e: made.minari(p / "set", e) / "data/main_data.hdf5", "minari", True),
    "minari-arrow": (lambda p, e: made.minari(p / "set", e, kind="arrow"), "minari", True),
    "minari-parquet": (lambda p, e: made.minari(p / "set", e, kind="parquet"), "minari", True),
    "robomimic": (lambda p, e: made.robomimic(p / "low_dim.hdf5", e, image=True), "robomimic", True),
    "robomimic-alone": (lambda p, e: made.robomimic(p / "low_dim.hdf5", e, following=False), "robomimic", False),
    "d4rl": (lambda p, e: made.d4rl(p / "set.hdf5", made.flat(e)), "d4rl", False),
    "d4rl-next": (lambda p, e: made.d4rl(p / "set.hdf5", made.flat(e, following=True)), "d4rl", True),
    "d4rl-jumps": (
        lambda p, e: made.d4rl(p / "s.hdf5", {**made.flat(e, following=True), "timeouts": None}),
        "d4rl",
        True,
    ),
    "lerobot-v2.1": (lambda p, e: made.lerobot(p / "set", made.frames(e), "v2.1"), "lerobot", False),
    "lerobot-v3": (lambda p, e: made.lerobot(p / "set", made.frames(e)), "lerobot", False),
    "npz": (lambda p, e: npz(p / "own.npz", made.flat(e)), "npz", False),
    "npz-ends": (
        lambda p, e: npz(p / "own.npz", made.flat(e), timeouts=None, episode_ends=np.cumsum(made.LENGTHS)),
        "npz",
        False,
    ),
}


def npz(path, arrays, **change):
    np.savez(path, **{n: x for n, x in {**arrays, **change}.items() if x is not None})
    return path


@pytest.mark.parametrize("name", GOOD)
def test_every_format_gives_the_rows_of_its_episodes(name, tmp_path, capsys):
    write, reader, known = GOOD[name]
    episodes = made.episodes()
    path = write(tmp_path, episodes)
    found = formats.survey(path, Reading(reader="" if name != "npz" else "npz"))
    assert found.about["reader"] == reader
    same(formats.read(path, None)[0], expected(episodes, known))
    code, out, err = run(capsys, "data", "check", path)
    assert code == 0 and "good" in out and "defect" not in out, (out, err)
    assert ("final observations are not recorded: 2 episodes that were cut" in out) is not known


def test_time_outs_are_no_terminals_whatever_the_format(tmp_path):
    """The last transitions of cut episodes have a value after them; those of successes have none."""
    for name, (write, *_) in GOOD.items():
        (tmp_path / name).mkdir()
        rows = formats.read(write(tmp_path / name, made.episodes()), None)[0]
        ends = np.flatnonzero(rows.end)
        np.testing.assert_array_equal(rows.terminal[ends - 1], [True, False, True, False])
        assert rows.terminal.sum() == 2


def own(path, **change):
    """A set of our own format, of which some arrays are changed before it is written."""
    rows = expected(made.episodes(), True)
    formats.save(path, rows._replace(**{n: f(getattr(rows, n)) for n, f in change.items()}), {"env": "own/reach"})
    return path


def put(x, value, at=3):
    x = np.array(x)
    x[at] = value
    return x


def d(p, following=False, **change):
    """A set of D4RL's, of which some arrays are changed; None leaves one out."""
    arrays = made.flat(made.episodes(), following)
    return made.d4rl(p / "set.hdf5", {n: (change[n](x) if n in change else x) for n, x in arrays.items()})


def le(p, version="v3.0", **change):
    columns = made.frames(made.episodes())
    said = {n: v for n, v in change.items() if n in ("codebase_version", "total_frames")}
    theirs = {
        n.replace("_", ".", 1) if n.startswith("observation") else n: f for n, f in change.items() if n not in said
    }
    return made.lerobot(p / "set", {n: theirs[n](x) if n in theirs else x for n, x in columns.items()}, version, **said)


def torn(path):
    file = path
    if path.is_dir():
        file = sorted(path.rglob("*.parquet"))[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def without(path, name):
    (path / name).unlink()
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def of_equal_length(terminal):
    episodes = made.episodes(lengths=(6, 6, 6, 6))
    for one in episodes:
        one["terminal"] = np.arange(6) == 5 if terminal else one["terminal"]
        one["timeout"] = one["timeout"] & ~one["terminal"]
    return episodes


def paying_last(last, others=0.0):
    """Episodes of one length that were recorded up to their last action, the only one that earns ``last``."""
    arrays = made.flat(of_equal_length(False))
    arrays = {n: x for n, x in arrays.items() if not n.startswith("next")}
    end = np.arange(24) % 6 == 5
    return {**arrays, "terminals": end & False, "timeouts": end, "rewards": np.where(end, last, others)}


def ended_all(episodes):
    for one in episodes:
        one["terminal"] = np.arange(len(one["reward"])) == len(one["reward"]) - 1
    return episodes


def edited(number, **change):
    """Episodes, one of which is changed."""
    episodes = made.episodes()
    episodes[number] = {**episodes[number], **{n: f(episodes[number][n]) for n, f in change.items()}}
    return episodes


def exchanged(name, one, other):
    """Two demonstrations have each other's arrays."""

    def spoil(f):
        a, b = (np.asarray(f[f"data/demo_{i}/{name}"]) for i in (one, other))
        for i, x in ((one, b), (other, a)):
            del f[f"data/demo_{i}/{name}"]
            f.create_dataset(f"data/demo_{i}/{name}", data=x)

    return spoil


def replaced(names, inside=""):
    """In the place of these arrays one number; or a group, in which it stands."""

    def spoil(f):
        for name in names:
            del f[name]
            f.create_dataset(name + inside, data=1.0)

    return spoil


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


def ended():
    return np.isin(np.arange(26), np.cumsum(made.LENGTHS) - 1)


def still(obs):
    return {n: np.repeat(x[:1], len(x), axis=0) for n, x in obs.items()}


def twice(episodes, number):
    return [*episodes, episodes[number]]


def changed_after(path):
    """Its fingerprint is of other rows."""
    with np.load(path) as z:
        arrays = {n: z[n] for n in z.files}
    np.savez(path, **{**arrays, "reward": arrays["reward"] + 1})
    return path


BROKEN = {  # a kind -> how it is made, what its line says, and flags that mend it, where there are some
    "nothing there": (lambda p: p / "none.npz", "there is no data set"),
    "no format": (lambda p: text(p / "set.npz", "hello"), "truncated or no npz"),
    "torn hdf5": (lambda p: torn(d(p)), "truncated or damaged"),
    "torn npz": (lambda p: torn(own(p / "set.npz")), "truncated or no npz"),
    "torn parquet": (lambda p: torn(le(p)), "truncated or damaged"),
    "objects": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), rewards=np.asarray([{}] * 26, object)),
        "rewards holds Python objects, which are never unpickled",
    ),
    "no actions": (lambda p: d(p, actions=lambda x: None), "holds no actions. name them: --names action="),
    "no observations": (lambda p: d(p, observations=lambda x: None), "holds no observations. name them"),
    "other lengths": (lambda p: d(p, rewards=lambda x: x[:-1]), "reward has 25 rows, and action 26"),
    "discrete": (lambda p: d(p, actions=lambda x: (x > 0).astype(int)), "actions are whole numbers"),
    "text": (lambda p: d(p, observations=lambda x: x.astype("S6")), "no numbers"),
    "no ends": (
        lambda p: d(p, timeouts=lambda x: None, terminals=lambda x: x * 0),
        "does not mark where episodes end. give --episode-length",
        "--episode-length=6",
    ),
    "no time-outs": (
        lambda p: d(p, timeouts=lambda x: None),
        "does not mark which episodes were cut by time",
        "--episode-length=8",
    ),
    "NaN": (lambda p: d(p, observations=lambda x: put(x, np.nan)), "obs holds NaN", "--drop-bad"),
    "infinite reward": (lambda p: d(p, rewards=lambda x: put(x, np.inf)), "reward holds NaN or infinite", "--drop-bad"),
    "beyond float32": (lambda p: d(p, rewards=lambda x: put(x, 1e60)), "beyond 32 bits", "--drop-bad"),
    "degrees": (lambda p: d(p, actions=lambda x: 90 * x), "outside [-1, 1]. rescale them", "--scale-actions"),
    "units of a box": (
        lambda p: made.minari(p / "set", made.episodes(), box=(-2, 2)),
        "in units of [-2, 2], though all lie within",
        "--scale-actions",
    ),
    "metres": (lambda p: d(p, actions=lambda x: x / 100), "probably not in units", "--scale-actions"),
    "one action": (lambda p: d(p, actions=lambda x: x * 0 + x[0]), "all actions are the same"),
    "a gap": (
        lambda p: d(p, following=True, next_observations=lambda x: put(x, 7.0, 2)),
        "next observation is not the one that follows after 1 steps within episodes (first step 2)",
        "--cut-gaps",
    ),
    "lost frames": (
        lambda p: le(p, frame_index=lambda x: np.where((np.arange(26) > 6) & (np.arange(26) < 12), x + 4, x)),
        "frames are missing or repeated after 1 steps within episodes (first step 6)",
        "--cut-gaps",
    ),
    "a pause": (
        lambda p: le(p, timestamp=lambda x: np.where((np.arange(26) > 6) & (np.arange(26) < 12), x + 3, x)),
        "the time jumps",
        "--cut-gaps",
    ),
    "a clock that stands": (
        lambda p: le(p, timestamp=lambda x: put(x, x[2:5] - 0.1, slice(2, 5))),
        "the time does not go on",
        "--cut-gaps",
    ),
    "a file less": (
        lambda p: without(le(p), "data/chunk-000/file-001.parquet"),
        "says total_frames 26, and holds 18",
    ),
    "no description": (lambda p: text(le(p) / "meta/info.json", "{").parents[1], "cannot be read"),
    "version 1": (lambda p: le(p, codebase_version="v1.6"), "is of LeRobot's version v1.6. convert it"),
    "ragged": (
        lambda p: le(p, observation_state=lambda x: [v[: 1 + i % 2] for i, v in enumerate(x)]),
        "vectors of several lengths",
    ),
    "no final observation": (
        lambda p: made.minari(p / "set", edited(1, obs=lambda x: {"pos": x["pos"], "vel": x["vel"][:-1]})),
        "episode_1 has 7 observations and 7 actions",
    ),
    "other counts": (lambda p: made.minari(p / "set", made.episodes(), total_steps=99), "says total_steps 99"),
    "goes on": (
        lambda p: made.minari(p / "set", edited(3, timeout=lambda x: put(x, True, 2))),
        "episode_3 goes on after a termination or truncation",
    ),
    "a total": (
        lambda p: made.robomimic(p / "d.hdf5", made.episodes(), lambda f: f["data"].attrs.update(total=9)),
        "holds 26",
    ),
    "states alone": (
        lambda p: made.robomimic(
            p / "d.hdf5",
            made.episodes(),
            lambda f: [f["data"][n].__delitem__(g) for n in f["data"] for g in ("obs", "next_obs")],
        ),
        "states of the simulator, and no observations",
    ),
    "a copy": (lambda p: made.minari(p / "set", twice(made.episodes(), 1)), "episode 4 repeat an earlier", "--drop=4"),
    "a spike": (
        lambda p: d(p, observations=lambda x: put(x, 1e9, 9)),
        "reaches 1e+09 on 1 rows",
        "--drop=1",
    ),
    "a camera that stands": (
        lambda p: made.minari(p / "set", edited(2, obs=still)),
        "episode 2 show one observation throughout",
        "--drop=2",
    ),
    "limits as ends": (
        lambda p: made.robomimic(p / "d.hdf5", of_equal_length(True)),
        "all 4 episodes end at a terminal after 6 steps",
        "--terminals=none",
    ),
    "recordings' ends": (
        lambda p: made.robomimic(p / "d.hdf5", ended_all(made.episodes())),
        "episodes 1 3 end at a terminal without the reward",
        "--terminals=reward",
    ),
    "a success at the last action": (
        lambda p: npz(p / "o.npz", paying_last(1.0)),
        "4 episodes earn something at their last action alone, which is lost, as final observations are not recorded",
        "--terminals=reward",
    ),
    "an end of a cost": (
        lambda p: npz(p / "o.npz", paying_last(0.0, -1.0)),
        "earn something at their last action alone, which is lost",
        "--terminals=none",
    ),
    "changed": (lambda p: changed_after(own(p / "set.npz")), "does not match its fingerprint"),
    "no end": (lambda p: own(p / "set.npz", end=lambda x: put(x, False, -1)), "no episode end on its last row"),
    "an episode of nothing": (
        lambda p: own(p / "set.npz", end=lambda x: put(x, True, 14 - 1 - 1)),
        "episode 2 without a step",
        "--drop=2",
    ),
    "an end too late": (
        lambda p: own(p / "set.npz", terminal=lambda x: put(x, True, 5)),
        "1 rows of final observations are marked terminal (first 5)",
    ),
    "scattered": (
        lambda p: npz(
            p / "o.npz", made.flat(made.episodes()), timeouts=None, episode=np.repeat([0, 1, 0, 2], made.LENGTHS)
        ),
        "1 episodes stand in several places (first 0)",
    ),
    **{
        f"demonstrations without {name}": (
            lambda p, name=name: made.robomimic(
                p / "d.hdf5", made.episodes(), lambda f: f["data/demo_1"].__delitem__(name)
            ),
            f"demo_1 has no {ours}, which 3 other episodes have",
        )
        for name, ours in (("dones", "terminal"), ("rewards", "reward"), ("next_obs/pos", "next/pos"))
    },
    "an episode without rewards": (
        lambda p: made.minari(p / "set", made.episodes(), lambda f: f["episode_2"].__delitem__("rewards")),
        "episode_2 has no reward, which 3 other episodes have",
    ),
    "lengths that cancel out": (
        lambda p: made.robomimic(p / "d.hdf5", made.episodes(), exchanged("rewards", 1, 2)),
        "demo_1 has 6 entries of reward, and 7 actions",
    ),
    "another width": (
        lambda p: made.robomimic(p / "d.hdf5", edited(2, action=lambda x: np.concatenate([x, x], axis=1))),
        "action is [4] in demo_2, and [2] in the first episode",
    ),
    **{
        f"unknown {name}": (
            lambda p, name=name, at=at: npz(
                p / "o.npz",
                made.flat(made.episodes()),
                **{name: put(np.repeat([0.0, 1, 2, 3], made.LENGTHS), np.nan, at)},
            ),
            f"{ours} is no number in 1 rows (the first is {at})",
        )
        for name, ours, at in (("timeouts", "timeout", 6), ("success", "success", 2), ("episode", "episode", 9))
    },
    "rewards of two numbers": (
        lambda p: d(p, rewards=lambda x: np.stack([x, x], axis=1)),
        "reward is of the shape [26, 2]. save one number a step",
    ),
    "whole numbers beyond 32 bits": (
        lambda p: own(p / "set.npz", obs=lambda x: put((1000 * x).astype(np.int64), 2**40)),
        "obs holds NaN or infinite values, or numbers beyond 32 bits",
        "--drop-bad",
    ),
    "odd ends": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), timeouts=None, episode_ends=[5, 12, 18, 27]),
        "do not rise to the number of steps, 26",
    ),
    "a part of a step": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), timeouts=None, episode_ends=[5.5, 12, 18, 26]),
        "ends holds 5.5",
    ),
    "frames between frames": (
        lambda p: npz(
            p / "o.npz", made.flat(made.episodes()), frame=np.concatenate([1.1 * np.arange(n) for n in made.LENGTHS])
        ),
        "frames are missing or repeated after 22 steps",
    ),
    "nothing seen": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), observations=np.zeros((26, 0))),
        "observations are of no numbers",
    ),
    "nothing done": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), actions=np.zeros((26, 0))),
        "actions are of no numbers",
    ),
    "a name for two": (
        lambda p: own(p / "set.npz", obs=lambda x: {"a": x, "a/b": x + 1}),
        "obs/a is an array and has parts, such as obs/a/b",
    ),
    "time-outs that are done": (
        lambda p: d(
            p, True, terminals=lambda x: ended(), timeouts=lambda x: ended(), rewards=lambda x: np.arange(26.0)
        ),
        "all 4 time-outs are marked terminal, too",
        "--terminals=none",
    ),
    "one end alone": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), timeouts=None, episode_ends=26),
        "ends is of the shape []",
    ),
    "episodes by name": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), episode=np.repeat([*"abcd"], made.LENGTHS)),
        "episode holds <U1, no numbers",
    ),
    "images alone": (
        lambda p: npz(p / "o.npz", made.flat(made.episodes()), observations=pictures(26)),
        "holds no observations but images. take some: qchunk data convert --tree --obs-keys obs",
        "--tree",
        "--obs-keys=obs",
    ),
    "one number for all": (
        lambda p: made.minari(p / "set", made.episodes(), replaced(["episode_1/rewards"])),
        "episode_1 has 1 entries of reward, and 7 actions",
    ),
    "one number for all demonstrations": (
        lambda p: made.robomimic(p / "d.hdf5", made.episodes(), replaced(["data/demo_1/rewards"])),
        "demo_1 has 1 entries of reward, and 7 actions",
    ),
    "actions in parts": (
        lambda p: made.minari(p / "set", made.episodes(), replaced([f"episode_{i}/actions" for i in range(4)], "/x")),
        "holds no actions",
    ),
    "demonstrations in parts": (
        lambda p: made.robomimic(p / "d.hdf5", made.episodes(), replaced(["data/demo_1/actions"], "/x")),
        "/data/demo_1/actions is a group, no array",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_set_is_named_in_one_line(kind, tmp_path, capsys):
    make, line, *flags = BROKEN[kind]
    path = make(tmp_path)
    code, out, err = run(capsys, "data", "check", path)
    told = [x for x in out.splitlines() if x.startswith("defect: ")]
    assert code == 2 and not err and len(told) == 1 and line in told[0], (out, err)
    code, out, _ = run(capsys, "data", "check", path, "--json")
    found = json.loads(out)
    assert code == 2 and not found["good"] and all(e["problem"] and e["fix"] for e in found["defects"])
    if flags:
        code, out, err = run(capsys, "data", "check", path, *flags)
        assert code == 0, (out, err)
        code, out, err = run(capsys, "data", "convert", path, "--out", tmp_path / "good", *flags)
        assert code == 0 and "->" in out, (out, err)
        rows, about = formats.load(tmp_path / "good.npz")
        assert len(rows.end) > 8 and about["reading"]
        assert run(capsys, "data", "check", tmp_path / "good.npz")[0] == 0


def test_there_are_enough_broken_kinds():
    assert len(BROKEN) >= 25 and len({line for _, line, *_ in BROKEN.values()}) >= 25


def test_what_qchunk_collects_is_good(tmp_path, capsys):
    """Rare rewards, lengths that are all the same and numbers that never change are no defects of ours."""
    rare = own(tmp_path / "rare.npz", reward=lambda x: put(x, 100, [1, 4]))
    assert run(capsys, "data", "check", rare)[0] == 0
    out, env = tmp_path / "two-step.npz", "probe/two-step"
    assert run(capsys, "collect", env, "--out", out, "--steps", 40, "--envs", 4, "--quiet")[0] == 0
    code, told, err = run(capsys, "data", "check", out, "--env", env)
    assert code == 0, (told, err)
    code, told, _ = run(capsys, "data", "info", out)
    assert code == 0 and formats.load(out)[1]["fingerprint"] in told


def test_successes_of_what_is_collected_are_kept(tmp_path, capsys):
    """By episodes, however often one reaches them, the last that is cut, too; steps that do not count (after an end) reach nothing."""
    columns = np.zeros((6, 2))
    success, terminal, alive = columns.copy(), columns.copy(), columns + 1
    success[[0, 1, 5], 0], terminal[1, 0] = 1, 1  # two of two: the second is cut
    success[3, 1], terminal[[2, 4], 1], alive[3, 1] = 1, 1, 0  # none of three
    numbers = columns[..., None]
    s = Steps(numbers, numbers, columns, terminal, columns, numbers, success, alive)
    assert collecting.successes(s) == 2 and formats.of_steps(s).end.sum() == 5
    assert (
        collecting.successes(s._replace(success=columns - 1)) is None is collecting.successes(s._replace(success=None))
    )
    out = tmp_path / "pole.npz"
    assert run(capsys, "collect", "probe/pole", "--out", out, "--steps", 400, "--envs", 4, "--quiet")[0] == 0
    found = json.loads(run(capsys, "data", "info", out, "--json")[1])
    rows, about = formats.load(out)
    assert found["success"] == about["successes"] / rows.end.sum() > 0.5
    out = tmp_path / "scene.npz"  # every task of a scene judges its data anew
    words = ("collect", "tabletop/cube-single-task1", "--policy", "random", "--steps", 40, "--envs", 4, "--quiet")
    assert run(capsys, *words, "--out", out)[0] == 0
    assert json.loads(run(capsys, "data", "info", out, "--json")[1])["success"] is None


def test_an_environment_that_judges_rows_judges_them_here_too(tmp_path, capsys):
    """Scenes of tabletop hold no rewards: those of the task are shown, and what is converted stays as it was."""
    env = envs.make("tabletop/cube-single-task1")
    sizes = env.observation_size, env.action_size
    made_rows = expected(made.episodes(actions=sizes[1]), True)
    rows = made_rows._replace(obs=np.zeros((len(made_rows.end), sizes[0]), np.float32), reward=made_rows.reward + 7)
    formats.save(tmp_path / "scene.npz", rows, {"env": "tabletop/cube-single", "policy": "play"})
    flags = [tmp_path / "scene.npz", "--env", "tabletop/cube-single-task1", "--json"]
    code, out, err = run(capsys, "data", "info", *flags)
    found = json.loads(out)
    assert code == 0 and found["reward"]["max"] <= 0 and found["fingerprint"] == formats.fingerprint(rows), (out, err)
    assert run(capsys, "data", "convert", *flags, "--out", tmp_path / "again.npz")[0] == 0
    same(formats.load(tmp_path / "again.npz")[0], rows)


def test_all_defects_are_told_and_not_only_the_first(tmp_path, capsys):
    path = d(tmp_path, observations=lambda x: put(x, np.nan), rewards=lambda x: put(x, np.inf), actions=lambda x: 3 * x)
    code, out, _ = run(capsys, "data", "check", path)
    assert code == 2 and out.count("defect: ") == 3 and "3 defects" in out
    path = made.d4rl(tmp_path / "less.hdf5", {"rewards": np.zeros(3), "timeouts": np.ones(3)})
    assert run(capsys, "data", "check", path)[1].count("defect: ") == 2
    with pytest.raises(formats.UserError, match="obs holds NaN"):
        formats.read(d(tmp_path, observations=lambda x: put(x, np.nan)), None)


def test_ends_that_are_marked_as_both_are_told_once(tmp_path, capsys):
    """``done`` beside ``timeouts``, in episodes of one length: the rows alone would say it again, with less."""
    end = np.tile(np.arange(6) == 5, 4)
    path = made.d4rl(
        tmp_path / "done.hdf5",
        {
            "observations": np.arange(72.0, dtype=np.float32).reshape(24, 3),
            "actions": np.linspace(-1, 1, 48, dtype=np.float32).reshape(24, 2),
            "rewards": np.zeros(24, np.float32),
            "terminals": end,
            "timeouts": end,
        },
    )
    told = [x for x in run(capsys, "data", "check", path)[1].splitlines() if x.startswith("defect: ")]
    assert len(told) == 1 and "all 4 time-outs are marked terminal, too" in told[0]
    path = d(tmp_path, True, terminals=lambda x: ended(), timeouts=lambda x: 0 * x, rewards=lambda x: np.arange(26.0))
    assert "time-outs" not in run(capsys, "data", "check", path)[1]


def test_info_shows_figures_and_a_picture(tmp_path, capsys):
    path = le(tmp_path)
    code, out, err = run(capsys, "data", "info", path, "--picture", tmp_path / "p.png")
    assert code == 0 and not err
    for line in ("episodes       4, 24 transitions", "length         5 to 7", "ends           2 at a terminal, 2 cut"):
        assert line in out, out
    assert "action gripper" in out and "█" in out and "success        50.0% of the episodes" in out
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    code, out, _ = run(capsys, "data", "info", path, "--json")
    found = json.loads(out)
    rows, _ = formats.read(path, None)
    assert code == 0 and found["fingerprint"] == formats.fingerprint(rows) and found["defects"] == []
    low = rows.action[~rows.end].min(axis=0)
    np.testing.assert_allclose([a["min"] for a in found["actions"]], low, rtol=1e-6)
    assert found["return"] == {"min": 0.0, "mean": 0.5, "max": 1.0} and sum(found["actions"][0]["counts"]) == 24
    code, out, _ = run(capsys, "data", "info", d(tmp_path, observations=lambda x: put(x, np.nan)))
    assert code == 0 and "not finite     obs on 1 rows" in out and "defect  " in out
    code, _, err = run(capsys, "data", "info", path, "--picture", tmp_path / "p.png")
    assert code == 2 and "exists already" in err


def test_units_are_kept_with_their_inverse(tmp_path, capsys):
    """By the declared bounds, by those given, or by the lowest and highest of each action; one that never changes becomes 0."""
    episodes = made.episodes()
    for one in episodes:
        one["action"] = one["action"] * np.float32([2.0, 0.0]) + np.float32([5.0, 3.0])
    raw = np.concatenate([one["action"] for one in episodes])
    written = (
        made.minari(tmp_path / "box", episodes, box=(0, 10)),
        made.d4rl(tmp_path / "f.hdf5", made.flat(episodes, True)),
    )
    cases = (
        (written[0], "--scale-actions", ([0, 0], [10, 10])),
        (written[1], "--scale-actions", (raw.min(axis=0), raw.max(axis=0))),
        (written[1], "--action-range=2,8", ([2, 2], [8, 8])),
    )
    for i, (path, flag, (low, high)) in enumerate(cases):
        out = tmp_path / f"{i}.npz"
        assert (
            run(capsys, "data", "convert", path, "--out", out, *flag.replace(",", " ").replace("=", " ").split())[0]
            == 0
        )
        rows, about = formats.load(out)
        action = rows.action[~rows.end]
        np.testing.assert_allclose(about["action_scale"]["low"], low, rtol=1e-6)
        np.testing.assert_allclose(about["action_scale"]["high"], high, rtol=1e-6)
        np.testing.assert_allclose(in_units(action, about["action_scale"]), raw, rtol=1e-5)
        assert np.abs(action).max() <= 1.0
    assert (formats.load(tmp_path / "1.npz")[0].action[:, 1] == 0).all()
    code, _, err = run(capsys, "data", "convert", written[1], "--out", tmp_path / "x.npz", "--action-range", "3", "3")
    assert code == 2 and "is empty" in err


def test_units_that_are_too_narrow_say_what_the_data_reach(tmp_path, capsys):
    """Given or declared; the flag that was given, or did not help, is not advised again."""
    episodes = made.episodes()
    for one in episodes:
        one["action"] = np.clip(one["action"], -1, 1) + np.float32(5.0)
    episodes[0]["action"][:2, 0] = 3.5, 7.25
    box = made.minari(tmp_path / "box", episodes, box=(4, 6))
    for flags, told in (
        (("--action-range", "4", "6"), "--action-range 4 6 is too narrow: actions reach from 3.5 to 7.25"),
        (("--scale-actions",), "the range [4, 6] that the file declares is too narrow: actions reach from 3.5 to 7.25"),
    ):
        code, out, err = run(capsys, "data", "convert", box, "--out", tmp_path / "x.npz", *flags)
        assert code == 2 and told in out + err and "--scale-actions" not in out + err, (out, err)
        assert "--action-range LOW HIGH" in out + err and not (tmp_path / "x.npz").exists()
    good = ("--action-range", "3.5", "7.25")
    assert run(capsys, "data", "convert", box, "--out", tmp_path / "x.npz", *good)[0] == 0


def test_units_of_units_are_those_that_were_recorded(tmp_path, capsys):
    """A set that was scaled is scaled again, when the widest episode has gone."""
    episodes = made.episodes()
    for one, wide in zip(episodes, (1.0, 100.0, 3.0, 2.0), strict=True):
        one["action"] = one["action"] * np.float32(wide)
    raw = np.concatenate([one["action"] for i, one in enumerate(episodes) if i != 1])
    path = made.d4rl(tmp_path / "f.hdf5", made.flat(episodes, True))
    assert run(capsys, "data", "convert", path, "--out", tmp_path / "1.npz", "--scale-actions")[0] == 0
    again = ("--drop", "1", "--scale-actions")
    assert run(capsys, "data", "convert", tmp_path / "1.npz", "--out", tmp_path / "2.npz", *again)[0] == 0
    rows, about = formats.load(tmp_path / "2.npz")
    action = rows.action[~rows.end]
    np.testing.assert_allclose(in_units(action, about["action_scale"]), raw, atol=1e-3)
    assert np.abs(action).max(axis=0) == pytest.approx(1.0)


def test_our_own_format_says_itself_where_episodes_end(tmp_path, capsys):
    path = own(tmp_path / "set.npz")
    for flags in (("--episode-length", "2"), ("--cut-gaps",), ("--names", "obs=obs")):
        code, out, err = run(capsys, "data", "convert", path, "--out", tmp_path / "x.npz", *flags)
        assert code == 2 and f"own format, which {flags[0]} does not change" in out + err, (out, err)


def test_an_episode_without_a_step_is_left_out(tmp_path, capsys):
    episodes = made.episodes()
    cut = {n: episodes[1][n][:0] for n in ("action", "reward", "terminal", "timeout")}
    empty = {**cut, "obs": {n: x[:1] for n, x in episodes[1]["obs"].items()}}
    found = formats.survey(made.minari(tmp_path / "set", [episodes[0], empty, *episodes[1:]]))
    same(found.rows, expected(episodes, True))
    assert "1 episodes without a step are left out" in found.notes and not found.faults


def test_bytes_are_seen_as_the_environment_shows_them(tmp_path):
    """A device environment shows floats: bytes become such, in place of images to be divided by 255."""
    env, name = envs.make("probe/two-step"), "probe/two-step"
    size = env.observation_size
    obs = np.arange(12 * size).reshape(12, size) % 256
    end = np.arange(12) % 4 == 3
    rows = lambda obs: formats.Rows(  # noqa: E731
        obs, np.full((12, env.action_size), 0.5, np.float32), np.zeros(12, np.float32), end & False, end
    )
    for i, kind in enumerate((np.uint8, np.float32)):
        formats.save(tmp_path / f"{i}.npz", rows(obs.astype(kind)), {"env": name})
        data, _ = formats.for_env(tmp_path / f"{i}.npz", env, name)
        assert data.obs.dtype == np.float32
        np.testing.assert_array_equal(data.obs, obs)


def test_floats_of_0_to_1_are_no_images_of_bytes():
    """Of 0 and 1 alone nothing says whether they were divided by 255; other whole numbers were not."""
    env = types.SimpleNamespace(no_obs=np.zeros(4, np.uint8))
    obs = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match="d.npz: obs holds float32, and the environment shows uint8"):
        adapting.as_played(obs, env, "d.npz")
    for good in (255 * obs, 0 * obs, obs.astype(np.int64), obs.astype(np.uint8)):
        seen = adapting.as_played(good, env, "d.npz")
        assert seen.dtype == np.uint8
        np.testing.assert_array_equal(seen, good)


def test_a_part_with_a_slash_is_refused():
    """In a file it would be a part of a part, or take another's place."""
    rows = expected(made.episodes(), True)
    with pytest.raises(UserError, match="mine calls a part of its observations 'a/b'. give it a name without a slash"):
        formats.check(rows._replace(obs={"a": {"b": rows.obs}, "c": {"a/b": rows.obs}}), "mine")


@pytest.mark.parametrize("write", [made.robomimic, lambda p, e: made.d4rl(p, made.flat(e, following=True))])
def test_an_episode_of_one_step_alone(write, tmp_path):
    episodes = made.episodes(lengths=(1,))
    same(formats.read(write(tmp_path / "one.hdf5", episodes), None)[0], expected(episodes, True))


@pytest.mark.parametrize("kind", [">i4", ">u2", ">f8"])
def test_bytes_in_another_order_are_the_same_numbers(kind, tmp_path):
    arrays = made.flat(made.episodes(), following=True)
    arrays |= {n: np.round(100 + 9 * arrays[n]) for n in ("observations", "next_observations")}
    native = formats.read(npz(tmp_path / "native.npz", arrays), None)[0]
    arrays |= {n: x.astype(kind) for n, x in arrays.items() if n.endswith("observations")}
    rows = formats.read(npz(tmp_path / "other.npz", arrays), None)[0]
    data = formats.to_device(rows)
    np.testing.assert_array_equal(data.obs, native.obs)


@pytest.mark.parametrize("values", [(0.5, 0.5 + 6e-8), (1e17, 1e17), (3e38, -3e38), (1e308, -1e308)])
def test_actions_all_but_equal_and_huge_ones_are_counted_and_drawn(values, tmp_path, capsys):
    """Such as a gripper that is left open. What is beyond 32 bits is told, and not counted."""
    end = np.array([False, False, True])
    action = np.array([*values, 0.0])[:, None].astype(np.float64 if max(values) > 1e38 * 4 else np.float32)
    zeros = np.zeros(3, np.float32)
    formats.save(tmp_path / "d.npz", formats.Rows(zeros[:, None], action, zeros, end & False, end), {"env": "my/arm"})
    code, out, err = run(capsys, "data", "info", tmp_path / "d.npz", "--picture", tmp_path / "p.png", "--json")
    assert code == 0 and not err and (tmp_path / "p.png").exists()
    assert sum(json.loads(out)["actions"][0]["counts"]) == (2 if max(values) < 1e39 else 0)


def test_bounds_of_another_number_of_actions_are_a_line(tmp_path, capsys):
    space = json.dumps({"type": "Box", "low": [-1.0] * 3, "high": [1.0] * 3})
    path = made.minari(tmp_path / "set", made.episodes(), action_space=space)
    code, _, err = run(capsys, "data", "convert", path, "--scale-actions", "--out", tmp_path / "d.npz")
    assert code == 2 and "bounds of 3 numbers are declared, and actions have 2" in err and err.count("\n") == 1, err


def test_images_of_minari_are_taken_by_name(tmp_path):
    """Also where its description declares them, and where there is nothing else."""
    episodes = made.episodes()
    for one in episodes:
        one["obs"]["camera"] = pictures(len(one["reward"]) + 1)
    parts = {"pos": {"shape": [1]}, "vel": {"shape": [1]}, "camera": {"shape": [4, 4, 3]}}
    path = made.minari(tmp_path / "set", episodes, observation_space=json.dumps({"subspaces": parts}))
    read = lambda *keys: formats.survey(path, Reading(obs_keys=keys, tree=True)).rows.obs  # noqa: E731
    assert set(read()) == {"pos", "vel"}
    seen = np.concatenate([one["obs"]["camera"] for one in episodes]).reshape(-1, 48)
    np.testing.assert_array_equal(read("camera", "pos")["camera"], seen)
    np.testing.assert_array_equal(read("camera")["camera"], seen)


def test_a_folder_of_several_counts_all_successes(tmp_path, capsys):
    paths = []
    for i in range(2):
        columns = made.frames(made.episodes(seed=i))
        paths.append(made.lerobot(tmp_path / str(i), columns))
    assert run(capsys, "data", "convert", *paths, "--folder", "--out", tmp_path / "all")[0] == 0
    code, out, _ = run(capsys, "data", "info", tmp_path / "all", "--json")
    assert code == 0 and json.loads(out)["success"] == 0.5, out


def test_parts_of_observations(tmp_path, capsys):
    """In the order that is asked for, joined or as a dictionary; images only by name, and only into one."""
    episodes = made.episodes()
    path = made.robomimic(tmp_path / "d.hdf5", episodes, image=True)
    read = lambda *keys, **more: formats.survey(path, Reading(obs_keys=keys, **more)).rows  # noqa: E731
    np.testing.assert_array_equal(read("vel", "pos").obs, read().obs[:, ::-1])
    np.testing.assert_array_equal(read("vel").obs, read().obs[:, 1:])
    tree = read("camera", "pos", tree=True).obs
    assert set(tree) == {"camera", "pos"} and tree["camera"].shape[1] == 48 and tree["camera"].dtype == np.uint8
    assert tree["camera"][-1, 0] == 3
    assert read("states").obs.shape[1] == 6
    for flags, told in (
        (["--obs-keys", "pso"], "Did you mean pos"),
        (["--obs-keys", "camera", "pos"], "add --tree"),
        (["--names", "obs=pos"], "truncated or no npz|holds no actions|has no pos"),
        (["--reader", "mnari"], "Did you mean minari"),
        (["--names", "obs"], "no pair of names"),
        (["--drop", "9"], "no episode 9"),
        (["--drop", "0", "1", "2", "3"], "no episode is left"),
    ):
        code, out, err = run(capsys, "data", "check", path, *flags)
        assert code == 2, (flags, out)
        assert any(word in out + err for word in told.split("|")), (flags, out, err)


def test_names_of_ones_own(tmp_path):
    episodes = made.episodes()
    flat = made.flat(episodes, following=True)
    theirs = {
        "q": flat["observations"][:, :1],
        "dq": flat["observations"][:, 1:],
        "u": flat["actions"],
        "r": flat["rewards"],
    }
    theirs |= {"stop": flat["terminals"], "cut": flat["timeouts"]}
    pairs = [
        ("obs/q", "q"),
        ("obs/dq", "dq"),
        ("action", "u"),
        ("reward", "r"),
        ("terminal", "stop"),
        ("timeout", "cut"),
    ]
    for path in (npz(tmp_path / "own.npz", theirs), made.d4rl(tmp_path / "own.h5", theirs)):
        same(formats.survey(path, Reading(names=tuple(pairs))).rows, expected(episodes, False))
        found = formats.survey(path, Reading(names=tuple(pairs), tree=True)).rows
        assert set(found.obs) == {"q", "dq"}
        for pair, told in ((("obs", "x"), "has no x"), (("action_", "u"), "there is no action_")):
            with pytest.raises(formats.UserError, match=told):
                formats.survey(path, Reading(names=(pair,)))
    holds = "and holds q, dq, .*--names obs=NAME"
    with pytest.raises(formats.UserError, match=holds):  # a stranger's names need no new collection
        formats.load(tmp_path / "own.npz")
    with pytest.raises(formats.UserError, match="own.npz is no HDF5 file"):
        formats.survey(tmp_path / "own.npz", Reading(reader="d4rl"))


def test_rewards_of_robots(tmp_path, capsys):
    """Without rewards successes count as 1; without those, too, a set is enough to clone, and says so."""
    columns = {n: x for n, x in made.frames(made.episodes()).items() if n != "next.reward"}
    found = formats.survey(made.lerobot(tmp_path / "a", columns))
    assert found.rows.reward.sum() == 2 and found.about["successes"] == 2
    assert "successes" not in formats.survey(tmp_path / "a", Reading(drop=(0,))).about, "one of them may be gone"
    columns = {n: x for n, x in columns.items() if not n.startswith("next.")}
    code, out, _ = run(capsys, "data", "check", made.lerobot(tmp_path / "b", columns))
    assert code == 0 and "enough to clone" in out
    rows = formats.read(tmp_path / "b", None)[0]
    assert not rows.terminal.any() and not rows.reward.any() and rows.end.sum() == 4


TINY = ["--actor.hidden", "16", "--actor.steps", "2", "--chunk.horizon", "2", "--batch", "8"]
TINY += ["--offline-steps", "4", "--log-every", "2", "--eval-every", "4", "--episodes", "2", "--quiet"]


def test_training_reads_a_foreign_set_as_it_is_and_converted(tmp_path, capsys):
    """Sizes decide where nobody knows the environment; where a set names another, it is refused until --env says that they fit."""
    env = envs.make("probe/flag")
    episodes = made.episodes(actions=env.action_size)
    hdf5 = made.d4rl(tmp_path / "set.hdf5", made.flat(episodes))
    code, _, err = run(capsys, "train", "bc", "--env", "probe/flag", "--data", hdf5, "--out", tmp_path / "run", *TINY)
    assert code == 0, err
    kept = json.loads((tmp_path / "run/config.json").read_text())["config"]["data"]
    assert kept["fingerprint"] == formats.fingerprint(formats.read(hdf5, env)[0])
    actions = made.episodes(actions=env.action_size + 1)  # what does not fit is named
    other = made.d4rl(tmp_path / "other.hdf5", made.flat(actions))
    code, _, err = run(capsys, "train", "bc", "--env", "probe/flag", "--data", other, "--out", tmp_path / "no", *TINY)
    assert code == 2 and "qchunk data convert --names action=NAME" in err, err
    minari = made.minari(tmp_path / "set", episodes)
    flags = ["train", "bc", "--env", "probe/flag", "--out", tmp_path / "again", *TINY]
    code, _, err = run(capsys, *flags, "--data", minari)
    assert code == 2 and "holds data of gymnasium/Own/Reach-v0" in err and "qchunk data convert" in err
    code, out, err = run(
        capsys, "data", "convert", minari, "--env", "probe/flag", "--out", tmp_path / "ours.npz", "--json"
    )
    assert code == 0 and json.loads(out)["env"] == "probe/flag", err
    same(formats.load(tmp_path / "ours.npz")[0], expected(episodes, True))
    assert int(formats.for_env(tmp_path / "ours.npz", env, "probe/flag")[0].left.max()) == max(made.LENGTHS)
    code, out, err = run(capsys, "data", "convert", minari, "--env", "none", "--out", tmp_path / "robot.npz", "--json")
    assert code == 0 and json.loads(out)["env"] == "gymnasium/Own/Reach-v0" and json.loads(out)["episodes"] == 4, err
    wide = made.minari(tmp_path / "wide", made.episodes(actions=3))
    for argv in (["check", wide], ["convert", wide, "--out", tmp_path / "no.npz"]):
        code, out, err = run(capsys, "data", *argv, "--env", "probe/flag")
        assert code == 2 and "sizes" in out + err and not (tmp_path / "no.npz").exists(), (out, err)


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    import builtins

    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.partition(".")[0] in ("h5py", "pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    paths = d(tmp_path), le(tmp_path), made.minari(tmp_path / "m", made.episodes())
    monkeypatch.setattr(builtins, "__import__", missing)
    for path, extra in zip(paths, ("hdf5", "arrow", "hdf5"), strict=True):
        code, out, _ = run(capsys, "data", "check", path)
        assert code == 2 and f"pip install 'qchunk[{extra}]'" in out


def test_slips_are_one_line(tmp_path, capsys):
    path = tmp_path / "set.npz"
    d(tmp_path).rename(path)
    for argv, told in (
        ([], "data needs info, check or convert"),
        (["chek", path], "Did you mean check"),
        (["check"], "needs a file or folder"),
        (["check", path, "--obskeys", "a"], "Did you mean --obs-keys"),
        (["convert", path], "out"),
        (["convert", path, "--out", path], "exists already"),
        (["info", tmp_path / "none"], "there is no data set"),
        (["check", path, "--env", "probe/flg"], "Did you mean probe/flag"),
        (["check", path, "--terminals", "some"], "terminals"),
    ):
        code, _, err = run(capsys, "data", *argv)
        assert code == 2 and err.count("\n") == 1 and told in err, (argv, err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set.npz"]
