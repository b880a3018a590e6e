"""One mesh of seeds and data: what several devices share comes out as on one. The tests' process has two (conftest.py)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk import envs, registry, seeds
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.config import ChunkConfig, RolloutConfig
from qchunk.data import chunks
from qchunk.drivers import offline, on_policy
from qchunk.drivers.common import assemble, check_devices, init
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import cost
from qchunk.seeds import Share, divided, over_seeds
from qchunk.system import hosts
from qchunk.system.errors import UserError

BOUND = 1e-5  # of parameters of about 1 after tens of updates: sums over a batch in another order
ROOT = Path(seeds.__file__).parents[1]
WORK = Path(__file__).with_name("mesh_runs.py")


def on(devices: int, body: str, *args: object, **more: str) -> dict:
    """What a function of mesh_runs.py returns in a process with so many devices."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, str(WORK), body, *map(str, args)]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize(("count", "share", "shape"), [(1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (1, 2)), (2, 2, (1, 2)), (1, 8, (1, 2)), (3, 3, (1, 1))])  # fmt: skip
def test_the_mesh_is_what_seeds_and_their_shares_make_of_the_devices(count, share, shape):
    over = seeds.mesh(count, Share(share))
    assert over.axis_names == ("seeds", "data") and over.devices.shape == shape


def test_rows_are_divided_and_draws_and_statistics_are_those_of_one_device():
    """Rows drawn to the bit; what divides by a sum over the batch, which no mean of the shares' own results would give, to its rounding."""

    def one_seed(w, key):
        places = divided(jax.random.randint(key, (6,), 0, 10**6), 6)
        noise = jax.random.uniform(jax.random.fold_in(key, 1), (6, 3))
        rows, weight = noise + (places % 7)[:, None], places % 3 > 0
        loss = lambda w: jnp.sum(weight * jnp.tanh(rows @ w)) / jnp.maximum(jnp.sum(weight), 1)  # noqa: E731
        return places, noise, divided(noise[:5], 5), jax.grad(loss)(w)  # five rows are no two equal shares

    w, key = jnp.full((1, 3), 0.1), jax.random.key(0)[None]
    run = jax.jit(lambda share, w, key: over_seeds(one_seed, w, key, share=share))
    alone, shared = run(Share(1), w, key), run(Share(2), *seeds.spread(1, (w, key), Share(2)))
    for a, b in zip(alone[:3], shared[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(alone[3], shared[3], rtol=1e-5)
    assert {len(x.sharding.device_set) for x in shared} == {2} and {x.sharding.spec for x in shared} == {jax.P()}


@pytest.mark.parametrize("each", [1, 2])
def test_what_devices_share_is_counted_once(each):
    run = lambda w, x: over_seeds(lambda w, x: divided(x, 8) @ w, w, x, share=Share(each))  # noqa: E731
    assert cost.multiplications(run, jnp.ones((2, 3, 3)), jnp.ones((2, 8, 3))) == 2 * 8 * 9


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    end = np.arange(60) % 6 == 5
    return chunks.dataset(rng.normal(size=(60, 2)), rng.uniform(-1, 1, (60, 1)), rng.normal(size=60), np.zeros(60), end)


def test_updates_on_two_devices_are_those_of_one_and_each_does_half(data):
    env, c = envs.make("probe/two-step"), BC(ChunkConfig(horizon=2), FlowConfig((16,), steps=2))
    found, work = [], []
    for each in (1, 2):
        program, x = assemble(bc, c, env, OnlineSettings(devices_per_seed=each), {}, data)
        learner, rows = seeds.spread(1, (init(program, x), data), x.share)
        x = x._replace(data=rows)
        compiled = offline.updates.lower(program, 16, learner, x, 3).compile()
        work.append(compiled.cost_analysis()["flops"])
        found.append(compiled(learner, x, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)
    assert 0 < work[1] < 0.75 * work[0]


def test_shares_that_cannot_be_are_refused(data):
    env = envs.make("probe/two-step")
    s = OnlineSettings(batch=15, devices_per_seed=2)
    with pytest.raises(UserError, match=r"15 \(--batch\) are no equal shares for 2 devices.*multiples of 2"):
        offline.check(*assemble(bc, BC(), env, s, {}, data), s)
    ppo, config = registry.builder("ppo")
    c, s = config(rollout=RolloutConfig(envs=3, decisions=3, minibatches=1)), OnPolicySettings(devices_per_seed=2)

    with pytest.raises(UserError, match="9 .the decisions of a minibatch. are no equal shares"):
        on_policy.check(*assemble(ppo, c, env, s), s)
    with pytest.raises(UserError, match="--devices-per-seed 4 is more than the 2 devices here"):
        check_devices(assemble(bc, BC(), env, s, {}, data)[0], OnlineSettings(devices_per_seed=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "count", "each"), [("qc", 1, 8), ("ppo", 2, 4)]
)  # offline and then online; on-policy
def test_eight_devices_are_as_one(method, count, each):
    found = on(8, "differences", method, count, each)
    assert found["learner"] < BOUND and found["state"] < BOUND and found["figures"] < BOUND
    assert found["compiled"] == 1 and found["moved"] > 0.001


SIZES = "--actor.hidden 16 --actor.steps 2 --chunk.horizon 2 --batch 16 --episodes 8"
STEPS = "--offline-steps 40 --log-every 10 --eval-every 20 --online-steps 64 --envs 8 --start-training 16 --update-ratio 0.25"


def started(folder: Path, line: str, devices: int = 1) -> subprocess.Popen:
    """``qchunk`` in a folder, in a process with so many devices."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "qchunk", *line.split()]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err[-3000:]
    return out, err


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two(folder: Path, line: str, other: str = "") -> list[subprocess.Popen]:
    """Two processes of one device each, over loopback; the second by the same command, or another."""
    more = f"--coordinator 127.0.0.1:{free_port()} --processes 2 --process-id"
    return [started(folder, f"{own} {more} {i}") for i, own in enumerate((line, other or line))]


def figures(folder: Path) -> dict:
    """What a run's metrics say, but for times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        (x["kind"], x["step"], n): v
        for x in lines
        for n, v in x["values"].items()
        if "second" not in n and x["kind"] != "compile"
    }


def close(a: dict, b: dict) -> None:
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=BOUND, err_msg=str(name))


@pytest.mark.slow
@pytest.mark.parametrize("share", ["--seeds 2", "--devices-per-seed 2"])  # a seed each; halves of each update
def test_two_processes_train_one_run(tmp_path, share):
    ended(started(tmp_path, "collect probe/two-step --out d.npz --steps 400 --envs 8 --quiet"))
    train = f"train bc --env probe/two-step --data d.npz {SIZES} {STEPS} {share}"
    alone, pair = started(tmp_path, f"{train} --out alone --json", 2), in_two(tmp_path, f"{train} --out pair --json")
    figure, other = json.loads(ended(alone)[0]), ended(pair[1])
    assert json.loads(ended(pair[0])[0]).keys() == figure.keys() and other[0] == ""  # nothing else is on stdout
    close(figures(tmp_path / "alone"), figures(tmp_path / "pair"))
    assert {p.name for p in tmp_path.iterdir()} == {"alone", "pair", "d.npz"}
    for run in ("alone", "pair"):
        step = max((tmp_path / run / "checkpoints").iterdir(), key=lambda p: int(p.name))
        assert step.name == "104" and (step / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--batch 8", "--batch 4"), ("--data d.npz", "--data e.npz")])
def test_two_processes_of_different_commands_train_nothing(tmp_path, flags):
    """Each would work on with what the other sums up with it, or wait for ever."""
    for name, seed in (("d", 0), ("e", 1)):
        ended(started(tmp_path, f"collect probe/two-step --out {name}.npz --steps 400 --envs 8 --seed {seed} --quiet"))
    train = (
        f"train bc --env probe/two-step --data d.npz {SIZES} --offline-steps 20 --devices-per-seed 2 --quiet --out pair"
    )
    for process in in_two(tmp_path, *(f"{train} {own}" for own in flags)):
        assert "would train different things. give each the same command" in ended(process, 2)[1]
    assert not (tmp_path / "pair").exists()


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(tmp_path):
    """A signal to either; then on one device, to within rounding where an undisturbed run ends. Both refuse together, too."""
    ended(started(tmp_path, "collect probe/two-step --out d.npz --steps 400 --envs 8 --quiet"))
    train = f"train bc --env probe/two-step --data d.npz {SIZES} --offline-steps 2000 --log-every 5 --eval-every 1000"
    whole = started(tmp_path, f"{train} --out whole --quiet")
    pair = in_two(tmp_path, f"{train} --out cut --devices-per-seed 2 --quiet")
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while all(p.poll() is None for p in pair) and not (metrics.exists() and metrics.read_text().count('"train"') > 5):
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGTERM)
    for process in pair:
        assert "is saved" in ended(process, 143)[1]
    ended(whole)
    for process, said in zip(
        in_two(tmp_path, f"{train} --out cut --devices-per-seed 2"), ("exists", "another"), strict=True
    ):
        assert said in ended(process, 2)[1]
    _, err = ended(started(tmp_path, "train --resume cut"))
    assert "made on 2 devices, here are 1: bits may differ" in err
    close(figures(tmp_path / "whole"), figures(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"processes": 2}, "give --coordinator HOST:PORT"),
        ({"coordinator": "here"}, "does not say who the others are"),
        ({"coordinator": "here:1", "processes": 2}, "does not say who the others are"),
        ({"coordinator": "here:1", "processes": 2, "process_id": 2}, "give numbers from 0 to 1"),
    ],
)
def test_processes_that_cannot_meet_are_refused(flags, said):
    with pytest.raises(UserError, match=said):
        hosts.join(hosts.HostFlags(**flags))


def test_a_port_that_is_taken_is_refused():
    """By a process that listens there; one that is left of what has ended is free."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        with pytest.raises(UserError, match=f"cannot be met at port {port}: Address already in use. give all"):
            hosts.join(hosts.HostFlags(f"127.0.0.1:{port}", 2, 0))


ALONE = """
import sys
from qchunk import cli
from qchunk.system import hosts
hosts.MEETING = 2.0
cli.main(["train", "bc", "--env", "probe/two-step", "--out", "run", "--processes", "2", *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", ["0", "1"])
def test_a_process_whose_others_never_come_ends_by_a_line(tmp_path, number):
    """The first, and one whose coordinator is not there; jax would abort it, with a stack trace."""
    words = ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id", number]
    env = {**os.environ, "PYTHONPATH": str(Path(hosts.__file__).parents[2])}
    command = [sys.executable, "-P", "-c", ALONE, *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the others are not here after 2 seconds. start all processes within five minutes" in done.stderr
    assert not list(tmp_path.iterdir())
