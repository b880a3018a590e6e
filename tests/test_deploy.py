"""A policy out of its run: in Python, exported, served; it acts as the run does, and what is not fit to act on is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
import time
import zipfile

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from test_cli import run
from test_env_python import venv
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import qchunk
from qchunk import sampling
from qchunk.commands.serve import until_stopped
from qchunk.data import formats
from qchunk.deploy import standalone
from qchunk.deploy.artefact import zipped
from qchunk.deploy.control import programs_of
from qchunk.deploy.policy import acting
from qchunk.deploy.server import Limits, PolicyServer
from qchunk.deploy.wire import packed, unpacked
from qchunk.play.boundaries import dispersion
from qchunk.runs import checkpoint
from qchunk.system import stopping
from qchunk.system.errors import UserError
from qchunk.types import Plan, Policy, Vars

H = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two seeds, evaluated four times on its way."""
    place = tmp_path_factory.mktemp("deploy")
    flags = "--offline-steps 40 --eval-every 10 --log-every 10 --batch 16 --episodes 4 --seeds 2 --actor.hidden 16"
    flags += f" --actor.steps 2 --critic.hidden 16 --n 2 --chunk.horizon {H} --normalise-obs standard --quiet"
    for words in (
        f"collect probe/pole --out {place / 'd.npz'} --steps 200 --envs 4 --policy random",
        f"train qc --env probe/pole --data {place / 'd.npz'} --out {place / 'qc'} {flags}",
    ):
        with contextlib.redirect_stdout(None):
            qchunk_main(words.split())
    return place / "qc"


def qchunk_main(words):
    from qchunk import cli

    cli.command(words)


@pytest.fixture(scope="module")
def obs():
    return np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


def played(policy, obs, seed=3):
    policy.reset(seed)
    return np.array([policy(x) for x in obs])


def test_it_acts_as_the_run_does(folder, obs):
    """The algorithm's policy at the key of each decision, action after action; in the environment's units."""
    p, _, vars, _ = acting(folder, 1, "newest", "", None, False)
    policy = qchunk.load(folder, seed=1)
    found = played(policy, obs)
    robot = jax.random.fold_in(jax.random.key(3), 0)
    for decision in range(len(obs) // H):
        at = obs[decision * H][None]
        plan = sampling.act(p.algorithm.act, vars, jax.random.fold_in(robot, decision + 1), at)
        expected = np.stack([p.algorithm.act.emit(vars, plan, i, at)[0] for i in range(H)])
        np.testing.assert_allclose(found[decision * H :][:H], expected, atol=1e-6)
    np.testing.assert_array_equal(found, played(policy, obs))
    assert np.abs(found - played(policy, obs, seed=4)).max() > 1e-3
    policy.reset(3)
    np.testing.assert_array_equal(policy.plan(obs[0]), found[:H])
    assert policy.about["steps"] == H and policy.benchmark(repeats=3)["decide_p50"] > 0


@pytest.mark.parametrize("execute", ["", "receding:1", "ensemble:0.1"])
def test_robots_side_by_side_are_robots_alone(folder, obs, execute):
    policy = qchunk.load(folder, execute=execute)
    assert policy.about["scheme"] == (execute or "open-loop"), "with its numbers"
    both = played(policy, np.stack([obs, -obs], axis=1))
    np.testing.assert_allclose(both[:, 0], played(policy, obs), atol=1e-6)
    assert both.shape == (12, 2, 2)
    with pytest.raises(ValueError, match="is of 1 robot, and this episode began with 2: call policy.reset"):
        played(policy, [obs[:2], obs[0]])


@pytest.mark.parametrize("robots", [1, 2])
def test_robots_plan_no_oftener_than_their_scheme_asks(robots):
    """Plans of two steps whose samples agree: the scheme looks at every step, the policy is asked at every second one."""
    asked = []

    def plan(vars, noise, obs, old):
        jax.debug.callback(lambda: asked.append(1))
        return Plan(jnp.zeros((len(obs), 2, 1)))

    agreed = Policy(lambda vars, key, obs: obs, plan, lambda vars, p, i, obs: p.action[:, i])
    made = programs_of(dispersion(agreed, 2, 0.1, 3), Vars({}, {}, {}, {}), jnp.zeros(3))
    begin, decide, _ = map(jax.jit, made)
    obs, weights = jnp.zeros((robots, 3)), Vars({}, {}, {}, {})
    loop = begin(weights, standalone.keys_of(0, robots), obs)
    jax.effects_barrier()
    counts = []
    for _ in range(6):
        asked.clear()
        loop = decide(weights, loop, obs)
        jax.effects_barrier()
        counts.append(len(asked))
    assert counts == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("steps, delay", [(2, 1), (1, 1), (1, 2)])
def test_plans_in_the_background_change_no_action(folder, obs, steps, delay):
    """Also where a plan is ready no sooner than the next decision."""
    own = qchunk.load(folder, execute=f"receding:{steps}", delay=delay)
    ahead = qchunk.load(folder, execute=f"receding:{steps}", delay=delay, background=True)
    found = played(own, obs)
    np.testing.assert_array_equal(found, played(ahead, obs))
    assert np.abs(found[-4:] - played(own, [*obs[:4], *-obs[4:]])[-4:]).max() > 1e-3, "it plans again"
    assert 0 <= ahead.missed <= len(obs) // steps - 1


def test_what_cannot_be_planned_ahead_is_refused(folder, obs):
    own = qchunk.load(folder, execute="receding:2", delay=1)
    with pytest.raises(UserError, match="without a delay cannot be made in the background. give delay=1"):
        qchunk.load(folder, background=True)
    with pytest.raises(ValueError, match="plans with a delay overlap"):
        own.plan(obs[0])


def test_what_is_not_fit_to_act_on(folder, obs):
    policy = qchunk.load(folder)
    for wrong, line in [
        (np.array([0.0, np.nan]), "obs holds NaN"),
        (np.array([0.0, 1e39]), "obs holds NaN or infinite"),
        (np.zeros(3), r"obs is of shape \[3\]: give \[2\]"),
        (np.array(["a", "b"]), "give numbers"),
        ({"state": obs[0]}, "the observation has obs/state, and this policy sees obs"),
    ]:
        with pytest.raises(ValueError, match=line):
            policy(wrong)
    with pytest.raises(FloatingPointError, match="stop the robot"):
        policy.weights = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, policy.weights)
        policy.reset()
        policy(obs[0])


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A run on a robot's own data: 8 pixels, which say the action, and a button beside them."""
    place = tmp_path_factory.mktemp("pixels")
    rng, end = np.random.default_rng(0), np.tile(np.arange(9) == 8, 20)
    seen = {"img": rng.integers(0, 256, (180, 8), np.uint8), "button": rng.integers(-5, 5, (180, 1))}
    action, nothing = (seen["img"][:, :2] / 127.5 - 1).astype(np.float32), np.zeros(180, np.float32)
    formats.save(place / "d.npz", formats.Rows(seen, action, nothing, nothing > 0, end), {"env": "my/robot"})
    flags = "--offline-steps 20 --eval-every 20 --log-every 20 --batch 16 --actor.kind regression --actor.hidden 16"
    words = f"train bc --env none --data {place / 'd.npz'} --out {place / 'bc'} {flags} --chunk.horizon 2 --quiet"
    with contextlib.redirect_stdout(None):
        qchunk_main(words.split())
    return place / "bc", {name: x[:6] for name, x in seen.items()}


def test_pixels_are_seen_as_in_training(pixels, tmp_path, capsys):
    """Loaded and exported, by the types of the data."""
    folder, seen = pixels
    p, _, vars, about = acting(folder, 0, "newest", "", None, False)
    obs = jax.tree.map(np.asarray, {"img": seen["img"], "button": seen["button"].astype(np.int32)})
    expected = sampling.act(p.algorithm.act, vars, jax.random.key(0), obs).action
    assert about["obs"] == {"obs/button": [1, "int32"], "obs/img": [8, "uint8"]}
    code, told, _ = run(capsys, "export", folder, "--out", tmp_path / "b c.zip")
    assert code == 0 and f" '{tmp_path / 'b c.zip'}'\n" in told, "as it is typed"
    for policy in (qchunk.load(folder), qchunk.load(tmp_path / "b c.zip")):
        np.testing.assert_allclose(policy.plan(seen), expected, atol=1e-6)
        assert policy.about["obs"] == about["obs"]


def test_runs_whose_name_says_no_types_load_as_they_did(pixels, tmp_path):
    """Those that were made before it did."""
    shutil.copytree(pixels[0], tmp_path / "old")
    kept = json.loads((tmp_path / "old" / "config.json").read_text())
    kept["config"]["env"] = "none/button:1,img:8,2"
    (tmp_path / "old" / "config.json").write_text(json.dumps(kept))
    policy = qchunk.load(tmp_path / "old")
    assert policy.about["obs"] == {"obs/button": [1, "float32"], "obs/img": [8, "float32"]}
    assert policy.plan(pixels[1]).shape == (6, 2, 2)


def test_whole_numbers_are_taken_as_they_are_or_not_at_all(pixels):
    policy, seen = qchunk.load(pixels[0]), {name: x[0] for name, x in pixels[1].items()}
    plan = policy.plan(seen)
    policy.reset(0)
    np.testing.assert_array_equal(policy.plan({name: x.astype(np.float64) for name, x in seen.items()}), plan)
    for part, number, line in [
        ("img", np.nan, "obs/img holds NaN"),
        ("img", np.inf, "obs/img holds NaN or infinite"),
        (
            "img",
            0.5,
            r"obs/img holds 0.5: give whole numbers from 0 to 255 \(an image in \[0, 1\]: times 255, rounded\)",
        ),
        ("img", 300, "obs/img holds 300"),
        ("img", -3, "obs/img holds -3"),
        ("button", 0.25, "obs/button holds 0.25: give whole numbers from -2147483648 to 2147483647$"),
        ("button", 1e12, "obs/button holds 1000000000000.0"),
    ]:
        wrong = np.append(seen[part][1:].astype(np.asarray(number).dtype), number)
        with pytest.raises(ValueError, match=line):
            policy({**seen, part: wrong})


def test_the_best_checkpoint_stays(folder, capsys):
    kept = checkpoint.steps(folder / "checkpoints")
    scores = {n: checkpoint.about(folder / "checkpoints", n)["score"] for n in kept}
    evals = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evals = {
        e["step"]: float(np.mean(e["values"].get("success", e["values"]["return"])))
        for e in evals
        if e["kind"] == "eval"
    }
    best = max(evals, key=lambda n: (evals[n], n))
    assert kept == sorted({30, 40, best}) and scores[best] == evals[best]
    code, out, _ = run(capsys, "eval", folder, "--checkpoint", "best", "--episodes", 2)
    assert code == 0 and f"step {best} of" in out
    assert qchunk.load(folder, checkpoint="best").about["step"] == best
    code, _, err = run(capsys, "eval", folder, "--checkpoint", "bets")
    assert code == 2 and "give newest, best or a step" in err and err.count("\n") == 1


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
from policy import load
import numpy as np
policy = load(sys.argv[1])
obs = np.load(sys.argv[2])
policy.reset(3)
alone = np.array([policy(x) for x in obs])
policy.reset(3)
both = np.array([policy(x) for x in np.stack([obs, -obs], axis=1)])
assert not [name for name in sys.modules if name.split(".")[0] in ("qchunk", "flax", "optax", "brax")]
np.savez(sys.argv[3], alone=alone, both=both)
"""


@pytest.fixture(scope="module")
def exported(folder):
    out = folder.parent / "qc.zip"
    with contextlib.redirect_stdout(None):
        qchunk_main(["export", str(folder), "--out", str(out)])
    return out


def test_an_exported_policy_acts_the_same_without_qchunk(folder, exported, tmp_path):
    """In an interpreter with numpy, jax and what jax asks for alone, for one robot and for two."""
    obs = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
    np.save(tmp_path / "obs.npy", obs)
    words = [exported, tmp_path / "obs.npy", tmp_path / "out.npz"]
    asked_for = ("ml_dtypes", "opt_einsum", "scipy", "scipy.libs")
    python = venv(tmp_path / "robot", "numpy", "numpy.libs", "jax", "jaxlib", *asked_for)
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", ALONE, *map(str, words)], cwd=tmp_path, env=bare, check=True)
    own = played(qchunk.load(folder), obs)
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["alone"], own, atol=1e-6)
        np.testing.assert_allclose(found["both"][:, 0], own, atol=1e-5)  # products of two rows round otherwise
    np.testing.assert_allclose(played(qchunk.load(exported), obs[:8]), own[:8], atol=1e-6)


def test_weights_by_their_names(folder, tmp_path, capsys):
    """Every array of one seed, as its own network has it; nothing is written over, and no scheme goes with them."""
    from safetensors import safe_open

    out = tmp_path / "qc.safetensors"
    code, told, err = run(capsys, "export", folder, "--out", out, "--seed", 1, "--checkpoint", 30)
    assert code == 0 and "of step 30 of" in told and "seed 1" in told, err
    vars = acting(folder, 1, 30, "", None, False)[2]
    with safe_open(out, "numpy") as f:
        found, about = {name: f.get_tensor(name) for name in f.keys()}, f.metadata()  # noqa: SIM118
    assert len(found) == len(jax.tree.leaves(vars))
    for part in ("params", "targets"):
        for module, params in getattr(vars, part).items():
            for layer, values in params.items():
                for name, array in values.items() if isinstance(values, dict) else (("", values),):
                    np.testing.assert_array_equal(found[".".join(filter(None, (part, module, layer, name)))], array)
    assert json.loads(about["step"]) == 30 and json.loads(about["config"])["chunk"]["horizon"] == H
    for more, line in ((("--delay", 1), "leave out all but --seed"), ((), "exists")):
        code, _, err = run(capsys, "export", folder, "--out", out, *more)
        assert code == 2 and line in err and err.count("\n") == 1, err


def test_a_damaged_or_foreign_file_is_refused(folder, exported, tmp_path, capsys):
    about, files = standalone.opened(exported)
    assert about["algorithm"] == "qc" and about["units"]["obs"] == "standard" and about["horizon"] == H
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        for name, data in files.items():
            z.writestr(name, data[:-1] + bytes([data[-1] ^ 1]) if name == "weights.npz" else data)
    (tmp_path / "text.zip").write_text("no zip")
    for name, line in (("bad.zip", "does not match its fingerprint"), ("text.zip", "no whole file of qchunk export")):
        with pytest.raises(UserError, match=line):
            qchunk.load(tmp_path / name)
    for chosen in ({"execute": "receding:1"}, {"weaker": folder}):
        with pytest.raises(UserError, match="was exported with its seed, checkpoint, scheme and delay"):
            qchunk.load(exported, **chosen)
    for words, line in [
        (("export", folder), "give --out a name that ends in .zip"),
        (("export", folder, "--out", exported), "exists"),
        (("export", folder, "--out", tmp_path / "x.zip", "--execute", "receding:9"), "give receding:1 to receding:4"),
        (("export", tmp_path / "none", "--out", tmp_path / "x.zip"), "none"),
        (("serve", exported, "--key-file", tmp_path / "none"), "cannot be read"),
        (("serve", folder, "--execute", "receding:1", "--delay", 1), "give --by-step, or --delay 0"),
    ]:
        code, _, err = run(capsys, *words)
        assert code == 2 and line in err and err.count("\n") == 1, err


def sealed(files, **changed):
    """An exported file whose maker has changed it, and has marked it as whole again."""
    about = {**json.loads(files["about.json"]), **changed, "fingerprint": standalone.fingerprint(files)}
    about["seal"] = standalone.seal(about)
    return {**files, "about.json": json.dumps(about).encode()}


def test_what_is_said_of_a_policy_is_kept_whole(exported, tmp_path):
    """Units, sizes and steps decide what a robot does; a file that was made to harm is a line, too."""
    about, files = standalone.opened(exported)
    bounds = {"low": [-9.0, -9.0], "high": [9.0, 9.0]}
    edited = {**files, "about.json": json.dumps({**about, "bounds": bounds}).encode()}
    older = {**files, "about.json": json.dumps({k: v for k, v in about.items() if k != "seal"}).encode()}
    refused = [
        (edited, "what about.json says has changed"),
        *(
            (sealed(files, **more), "nobody can act by")
            for more in ({"steps": 0}, {"bounds": {"low": [1.0]}}, {"obs": 2})
        ),
        (sealed({n: x for n, x in files.items() if n != "weights.npz"}), "no whole file of qchunk export"),
        (sealed({**files, "decide": files["decide"][:100]}), "no whole file of qchunk export"),
        (sealed({**files, "weights.npz": b"none"}), "no whole file of qchunk export"),
    ]
    for i, (found, line) in enumerate(refused):
        (tmp_path / f"{i}.zip").write_bytes(zipped(found))
        with pytest.raises(UserError, match=line):
            qchunk.load(tmp_path / f"{i}.zip")
    for name, found in (("older", older), ("bounded", sealed(files, bounds=bounds))):
        (tmp_path / name).write_bytes(zipped(found))
    plain, wide = (played(qchunk.load(tmp_path / name), np.zeros((1, 2))) for name in ("older", "bounded"))
    np.testing.assert_allclose(wide, 9 * plain, rtol=1e-5)


def test_an_exported_file_is_compressed():
    files = {"about.json": b"0" * 10_000, "act": b"1" * 10_000}
    made = zipped(files)
    assert made == zipped(files) and len(made) < 1000, "the same bytes for the same files"


async def asked(port, messages, **options):
    """The answers on one connection."""
    async with connect(f"ws://127.0.0.1:{port}", **options) as robot:
        about = unpacked(await robot.recv())
        found = []
        for message in messages:
            await robot.send(message)
            found.append(await robot.recv())
        return about, found


def serving(server, test):
    """Runs ``test(port)`` beside a server."""

    async def both():
        async with server.running("127.0.0.1", 0) as listening:
            return await test(listening.sockets[0].getsockname()[1])

    return asyncio.run(both())


def test_a_served_policy_acts_the_same(folder, obs):
    """Whole plans, and step by step; each robot as if it were alone. One on 1,000 observations: with others, last bits may differ."""
    policy = qchunk.load(folder)
    about, found = serving(
        PolicyServer(policy), lambda port: asked(port, [packed({"seed": 3, "observation/state": obs[0]})])
    )
    policy.reset(3)
    np.testing.assert_allclose(unpacked(found[0])["actions"], policy.plan(obs[0]), atol=1e-6)
    assert about["action"] == 2 and unpacked(found[0])["server_timing"]["infer_ms"] > 0

    by_step = qchunk.load(folder, execute="receding:3")
    robots = [(0, obs), (5, -obs), (9, obs * 2)]
    requests = [
        [packed({"obs": x} | ({"seed": seed} if i == 0 else {})) for i, x in enumerate(o)] for seed, o in robots
    ]

    async def together(port):
        return await asyncio.gather(*(asked(port, messages) for messages in requests))

    server = PolicyServer(by_step, by_step=True)
    answers = serving(server, together)
    assert server.counts["batches"] < server.counts["requests"] == 3 * len(obs), "one call answers several"
    many = np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32)
    messages = [packed({"obs": x}) for x in many]
    answers.append(serving(PolicyServer(by_step, by_step=True), lambda port: asked(port, messages)))
    for (seed, o), (_, each) in zip([*robots, (0, many)], answers, strict=True):
        actions = np.array([unpacked(x)["actions"][0] for x in each])
        np.testing.assert_allclose(actions, played(by_step, o, seed), atol=1e-6)


def test_parts_of_observations_may_lie_under_obs(pixels):
    """As the documentation's client sends them, and side by side."""
    policy, seen = qchunk.load(pixels[0]), {name: x[0] for name, x in pixels[1].items()}
    messages = [packed({"obs": seen, "seed": 3}), packed({**seen, "seed": 3}), packed({"obs": {"obs": seen}})]
    _, (under, beside, deeper) = serving(PolicyServer(policy), lambda port: asked(port, messages))
    policy.reset(3)
    for found in (under, beside):
        np.testing.assert_allclose(unpacked(found)["actions"], policy.plan(seen), atol=1e-6)
    assert (
        deeper == "refused: the observation has obs/obs/button, obs/obs/img, and this policy sees obs/button, obs/img"
    )


def test_a_plain_observation_that_is_not_alone_is_told_its_name(folder, obs):
    messages = [packed({**named, "seed": 3}) for named in ({}, {"obs": obs[0], "image": obs[0]})]
    _, answers = serving(PolicyServer(qchunk.load(folder)), lambda port: asked(port, messages))
    for answer, held in zip(answers, ("no observation", "image, obs"), strict=True):
        assert answer == f'refused: the message holds {held}: this policy sees one array, so give it as "obs"'


@pytest.mark.parametrize("seed, following", [(np.uint8(255), 256), (2**32 - 1, 0)])
def test_every_seed_has_a_next_one(folder, obs, seed, following):
    """Of any type, the last one, too: served, and in Python."""
    policy = qchunk.load(folder)
    messages = [packed({"obs": obs[0], "seed": seed})] + 2 * [packed({"obs": obs[0], "reset": True})]
    _, answers = serving(PolicyServer(policy), lambda port: asked(port, messages))
    policy.reset(seed)
    for answer, now in zip(answers, (seed, following, following + 1), strict=True):
        own = policy.plan(obs[0])
        np.testing.assert_allclose(unpacked(answer)["actions"], own, atol=1e-6)
        policy.reset(int(now))
        np.testing.assert_array_equal(policy.plan(obs[0]), own)
        policy.reset()


def array(dtype="<f4", shape=(2,), data=b"\0" * 8):
    return msgpack.packb({"obs": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}})


HOSTILE = {
    "a text": "hello",
    "no msgpack": b"\xc1",
    "a pickle": pickle.dumps(print),
    "cut": packed({"obs": np.zeros(2)})[:-3],
    "no map": packed([1, 2]),
    "objects": array(dtype="|O"),
    "a huge type": array(dtype="V1000000000"),
    "a shape beyond its bytes": array(shape=(2**40,)),
    "a negative shape": array(shape=(-1,)),
    "nested deeply": b"\x91" * 5000 + b"\x00",
    "no number": packed({"obs": np.array([0.0, np.nan])}),
    "another size": packed({"obs": np.zeros(3)}),
    "many robots": packed({"obs": np.zeros((5, 2))}),
    "a seed below 0": packed({"obs": np.zeros(2), "seed": -1}),
    "no observation": packed({"reset": True}),
    "a reset that is a word": packed({"obs": np.zeros(2), "reset": "no"}),
    "many parts": packed({f"part {i}": 0.0 for i in range(300)}),
    "a period of 0": packed({"obs": np.zeros(2), "period": 0.0}),
    "a period that is none": packed({"obs": np.zeros(2), "period": np.nan}),
}


def test_late_answers_are_counted_for_those_who_say_how_long_they_can_wait(folder, obs):
    server = PolicyServer(qchunk.load(folder), limits=Limits(batch=1))
    answers, slow = server.answers, [False, True, True, True]

    def timed(asked):
        time.sleep(0.3 * slow.pop(0))
        return answers(asked)

    server.warm()
    server.answers = timed
    # the first may take as long as it likes and the second is slow, but has time; the third is late, and so is the
    # fourth, whose period is that of the third
    periods = [{}, {"period": 30}, {"period": np.float32(0.2)}, {}]
    _, found = serving(server, lambda port: asked(port, [packed({"obs": obs[0]} | more) for more in periods]))
    assert all("actions" in unpacked(x) for x in found)
    assert server.counts["missed_deadlines"] == 2 and "qchunk_missed_deadlines 2\n" in server.metrics()


def test_hostile_requests_disturb_nobody(folder, obs, capfd):
    """Each is refused, counted and logged; so is one that is too large, which ends its connection."""
    policy = qchunk.load(folder)
    server = PolicyServer(policy, by_step=True, limits=Limits(frame=10_000, lines=1000))
    good = [packed({"obs": x} | ({"seed": 3} if i == 0 else {})) for i, x in enumerate(obs)]

    async def oversized(port):
        with pytest.raises(ConnectionClosed, match="1009"):
            await asked(port, [b"\0" * 20_000])

    async def attack(port):
        return await asyncio.gather(asked(port, good), asked(port, HOSTILE.values()), oversized(port))

    (_, answers), (_, refusals), _ = serving(server, attack)
    actions = np.array([unpacked(x)["actions"][0] for x in answers])
    np.testing.assert_allclose(actions, played(policy, obs), atol=1e-6)
    for name, answer in zip(HOSTILE, refusals, strict=True):
        assert isinstance(answer, str) and answer.startswith("refused: ") and "\n" not in answer, (name, answer)
        assert len(answer) < 500, name
    assert server.counts["refused"] == len(HOSTILE) + 1 and "qchunk_latency_seconds" in server.metrics()
    logged = [re.fullmatch(r"127\.0\.0\.1:\d+ (refused: .+)", line)[1] for line in capfd.readouterr().err.splitlines()]
    assert sorted(refusals) == sorted(x for x in logged if "exceeds limit of 10000 bytes" not in x)
    assert len(logged) == len(HOSTILE) + 1


def test_nobody_fills_a_log(folder, capfd):
    """Lines in a second are few, short and of what can be printed; all refusals are counted."""
    server = PolicyServer(qchunk.load(folder), limits=Limits(lines=3))
    serving(server, lambda port: asked(port, [packed({"\x1b[2J\n" * 500: 0.0, "b": 0.0})] * 50))
    lines = capfd.readouterr().err.splitlines()
    assert server.counts["refused"] == 50 and 3 <= len(lines) < 50
    assert all(len(line) < 400 and line.isprintable() for line in lines)


@pytest.mark.slow
def test_who_reads_nothing_holds_no_place(folder):
    """One that asks and asks, and never takes an answer, is cut off as one that asks nothing is."""
    server = PolicyServer(qchunk.load(folder), limits=Limits(idle=0.5))
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    hello = f"GET / HTTP/1.1\r\nHost: x\r\n{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    text = packed({"x" * 60_000: 0})  # its refusal names it
    request = b"\x82" + bytes([0x80 | 127]) + struct.pack(">Q", len(text)) + b"\0\0\0\0" + text

    async def flood(port):
        running = asyncio.get_running_loop()
        with socket.socket() as robot:
            robot.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            robot.connect(("127.0.0.1", port))
            robot.setblocking(False)
            async with asyncio.timeout(120):
                with pytest.raises(OSError, match="reset|Broken pipe"):
                    await running.sock_sendall(robot, hello)
                    while True:
                        await running.sock_sendall(robot, request)

    serving(server, flood)
    assert server.counts["clients"] == 0 and server.counts["requests"] > 0


def test_where_a_server_listens(folder, capsys, monkeypatch):
    """An address that can be copied from the line; one that nobody has is a line."""
    monkeypatch.setattr(stopping, "asked", lambda: True)
    server = PolicyServer(qchunk.load(folder), limits=Limits(batch=1))
    if socket.has_ipv6:
        asyncio.run(until_stopped(server, "::1", 0))
        told = capsys.readouterr().out
        assert re.fullmatch(r"serving on ws://\[::1\]:\d+ \(metrics: http://\[::1\]:\d+/metrics\)\n", told), told
    for host in ("no.such.host.invalid", f"{'a' * 80}.b"):
        with pytest.raises(UserError, match="there is no such host. give another --port or --host"):
            asyncio.run(until_stopped(server, host, 0))


def test_who_may_ask(folder, obs):
    server = PolicyServer(qchunk.load(folder), limits=Limits(clients=1, idle=1.5, key="secret"))
    told = {"additional_headers": {"Authorization": "Api-Key secret"}}

    async def visits(port):
        twice = [("Authorization", "Api-Key secret"), ("Authorization", "Api-Key other")]
        for headers in ({}, twice):
            with pytest.raises(InvalidStatus, match="401"):
                await asked(port, [], additional_headers=headers)
        async with connect(f"ws://127.0.0.1:{port}", **told) as first:
            await first.recv()
            with pytest.raises(InvalidStatus, match="503"):
                await asked(port, [], **told)
            with pytest.raises(ConnectionClosed, match="no request for too long"):
                await asyncio.wait_for(first.recv(), 60)
        return await asked(port, [packed({"obs": obs[0]})], **told)

    _, (answer,) = serving(server, visits)
    assert unpacked(answer)["actions"].shape == (H, 2)
