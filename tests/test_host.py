"""Host environments: worker processes, their loss, replay, evaluation and learning online."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import keep, kept, same

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.data import formats
from qchunk.drivers import train
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.host.pool import HostEnv, Pool
from qchunk.play import collecting, on_host
from qchunk.system.errors import UserError

pytest.importorskip("gymnasium")
WALK = "gymnasium/host_envs:Walk-v0"
C = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), OptimConfig(1e-3), n=2)
S = OnlineSettings(seeds=2, offline_steps=4, batch=16, log_every=4, eval_every=4, episodes=5)
PLAYED = {"online_steps": 48, "envs": 2, "start_training": 8, "update_ratio": 0.5, "online_eval_every": 24}
ONLINE = dataclasses.replace(S, **PLAYED)


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def walk(path):
    env = envs.make(WALK)
    yield env
    env.close()


@pytest.fixture
def trouble(monkeypatch, tmp_path):
    """Makes something go wrong in the next step of some worker."""
    import host_envs

    file = tmp_path / "trouble"
    monkeypatch.setenv(host_envs.TROUBLE, str(file))
    return file.write_text


def play(pool: Pool, steps: int = 5, at=lambda i: None):
    """Actions that depend on what is seen; episodes that end are not begun again."""
    state = pool.begin(pool.nothing(), np.ones(pool.envs, bool), 10 + np.arange(pool.envs))
    seen = []
    for i in range(steps):
        at(i)
        state = pool.step(state, np.sin(state.obs[:, :1] + i) - 0.25, state.done == 0)
        seen.append(state)
    return seen


def test_a_pool_does_what_the_environment_does(walk):
    """3 slots in 2 processes against 3 environments stepped here; action 0 is the middle of the box, 2."""
    import host_envs

    assert (walk.observation_size, walk.action_size, walk.episode_length, walk.has_success) == (2, 1, 7, True)
    pool = Pool(walk, 3, workers=2)
    seen = play(pool, 7)
    for e in range(3):
        env = host_envs.Walk()
        random.seed(10 + e)
        np.random.seed(10 + e)
        obs, _ = env.reset(seed=10 + e)
        for i, state in enumerate(seen):
            action = np.float32(np.sin(obs[0] + i) - 0.25)
            obs, reward, terminal, _, _ = env.step([2.0 + 4.0 * np.clip(action, -1, 1)])
            np.testing.assert_allclose(state.obs[e], obs, rtol=1e-6)
            assert state.reward[e] == pytest.approx(reward, rel=1e-6)
            assert state.terminal[e] == terminal and state.steps[e] == i + 1
            assert state.truncation[e] == (i == 6 and not terminal)
            if terminal:
                break
    assert {int(s.terminal.sum()) for s in seen} - {0}, "some episode shall reach the end"
    pool.close()


@pytest.mark.parametrize("what", ["", "die", "die at 4"])
def test_actions_at_once_do_what_they_do_one_after_the_other(walk, trouble, monkeypatch, what):
    """Chunks of 3 in episodes of at most 7 steps, one action of which is no number; a worker is lost in a chunk, before or behind its
    first step, and another bound on what is asked for at once changes nothing."""
    actions = np.sin(np.arange(9 * 3).reshape(9, 3, 1)).astype(np.float32)
    actions[4, 1] = np.nan
    pool, other = Pool(walk, 3, workers=2, strict=True), Pool(walk, 3, workers=2)
    start = other.begin(other.nothing(), np.ones(3, bool), 10 + np.arange(3))
    slow, state = [], start
    for action in actions:
        state = other.step(state, action, state.done == 0)
        slow.append(state)
    fast, state = [], pool.begin(pool.nothing(), np.ones(3, bool), 10 + np.arange(3))
    for i in (0, 3, 6):
        if what and i == 3:
            trouble(what)
        fast += pool.play(state, actions[i : i + 3], state.done == 0)
        state = fast[-1]
    state = other.begin(other.nothing(), np.ones(3, bool), 10 + np.arange(3))
    monkeypatch.setattr("qchunk.envs.host.pool.AT_ONCE", 2)
    few = other.play(state, actions, state.done == 0)
    assert slow[-1].done.all() and not slow[5].done.all()
    assert np.isnan(slow[4].reward[1]) and np.isfinite(slow[5].reward).all()
    for one, chunk, piece in zip(slow, fast, few, strict=True):
        same(one, chunk)
        same(one._replace(actions=piece.actions), piece)
    np.testing.assert_array_equal(few[-1].actions, fast[-1].actions)
    pool.close()
    other.close()


def test_what_looks_on_while_a_plan_is_played_is_asked_at_every_step(walk, monkeypatch):
    """What workers are sent at once: the two actions of a chunk; of a policy whose actions read each step's observation, one."""

    def looking(c: QC):
        made = qc(c)
        emit = lambda vars, plan, i, obs: plan.action[..., i, :] * jnp.cos(obs[..., :1])  # noqa: E731
        return made._replace(act=made.act._replace(emit=emit))

    lengths: set[int] = set()
    play = Pool.play

    def told(pool, state, actions, which):
        lengths.add(len(actions))
        return play(pool, state, actions, which)

    monkeypatch.setattr(Pool, "play", told)
    for build, expected in ((qc, {2}), (looking, {1})):
        lengths.clear()
        program, x = assemble(build, C, walk, S)
        evaluate(program, x, S, init(program, x))
        assert lengths == expected


@pytest.mark.slow
@pytest.mark.parametrize(("execute", "delay"), [("receding:2", 1), ("ensemble:0.1,2", 0)])
def test_figures_do_not_depend_on_what_is_sent_at_once(walk, monkeypatch, execute, delay):
    """Two seeds' episodes, by schemes whose plans overlap: two actions at once, and one after the other."""
    s = dataclasses.replace(S, execute=execute, delay=delay)
    program, x = assemble(qc, dataclasses.replace(C, chunk=ChunkConfig(4)), walk, s)
    learner, lengths, play = init(program, x), [], Pool.play
    monkeypatch.setattr(
        Pool, "play", lambda pool, state, a, which: lengths.append(len(a)) or play(pool, state, a, which)
    )
    fast = evaluate(program, x, s, learner)
    monkeypatch.setattr(on_host, "looks_on", lambda *args: True)
    slow = evaluate(program, x, s, learner)
    assert {2} < set(lengths) <= {1, 2}
    same(fast, slow)


def test_a_slot_at_rest_keeps_its_state(walk):
    pool = Pool(walk, 2, workers=2)
    state = pool.begin(pool.nothing(), np.asarray([True, False]), np.asarray([1, 2]))
    assert state.done.tolist() == [0, 1] and not state.obs[1].any()
    after = pool.step(state, np.zeros((2, 1)), np.asarray([False, False]))
    same(state, after)
    pool.close()


@pytest.mark.parametrize("what", ["die", "hang"])
def test_a_lost_worker_is_named_replaced_and_changes_nothing(walk, trouble, capfd, what):
    pool = Pool(walk, 4, workers=2, seconds=3.0)
    undisturbed = play(pool)
    pids = {w.process.pid for w in pool.workers}
    again = play(pool, at=lambda i: trouble(what) if i == 3 else None)
    same(undisturbed, again)
    assert len({w.process.pid for w in pool.workers} & pids) == 1
    told = capfd.readouterr().err
    assert f"of {WALK}" in told and "worker" in told and ("died" if what == "die" else "did not answer") in told
    pool.close()


def test_a_worker_that_always_dies_stops_the_run(walk, trouble):
    pool = Pool(walk, 2, workers=2)
    processes = [w.process for w in pool.workers]
    with pytest.raises(UserError, match="worker .* died, again and again"):
        play(pool, at=lambda i: trouble("die always") if i == 1 else None)
    assert not pool.workers and all(p.poll() is not None for p in processes)


def test_an_environment_that_raises_is_told_in_one_line(path):
    env = envs.make("gymnasium/host_envs:Raises-v0")
    pool = Pool(env, 2, workers=1)
    with pytest.raises(UserError, match="the environment raised RuntimeError: the motor is hot"):
        play(pool)
    pool.close()


def test_restore_replays_open_episodes(walk):
    pool = Pool(walk, 3, workers=2)
    seen = play(pool, 4)
    middle = seen[1]._replace(actions=seen[1].actions.copy())
    pool.close()
    other = Pool(walk, 3, workers=1)
    other.restore(middle)
    state = middle
    for i in (2, 3):
        state = other.step(state, np.sin(state.obs[:, :1] + i) - 0.25, state.done == 0)
    same(seen[3], state)
    with pytest.raises(UserError, match="does not replay to the same state"):
        other.restore(middle._replace(seed=middle.seed + 1))
    other.close()


def test_figures_do_not_depend_on_the_number_of_slots(walk, monkeypatch):
    program, x = assemble(qc, C, walk, S)
    learner = init(program, x)
    many = evaluate(program, x, S, learner)
    monkeypatch.setattr(on_host, "SLOTS", 2)
    few = evaluate(program, x, S, learner)
    assert set(many) == {"success", "return", "length", "looks", "plans", "jump", "change"}
    for name in many:
        np.testing.assert_array_equal(many[name], few[name])
    assert len(np.unique(many["return"])) == 2, "the seeds differ"


def test_evaluation_equals_a_loop_over_one_environment(walk):
    """Every episode alone, by hand, with the actor's own noise: labelled by episode and decision."""
    s = OnlineSettings(seeds=1, episodes=3)
    program, x = assemble(qc, C, walk, s)
    learner = init(program, x)
    got = evaluate(program, x, s, learner)
    one = walk.instance()
    key = jax.random.fold_in(x.keys[0], 2**31)[None]
    x = x._replace(keys=key)
    returns = []
    for episode, seed in enumerate(on_host.reset_seeds(on_host.label(key[0]), 3)):
        random.seed(int(seed))
        np.random.seed(int(seed))
        row, total, decision = one.reset(int(seed)), 0.0, 0
        done, carry = False, on_host.nothing_carried(program, "act", learner, x, 1)
        while not done:
            label = np.asarray([[[episode, decision]]])
            obs = row[None, None, :2].astype(np.float32)
            carry, plan = on_host.decide(program, "act", learner, x, label, obs, np.ones((1, 1), bool), carry)
            for i in range(2):
                obs = row[None, None, :2].astype(np.float32)
                row = one.step(np.clip(np.asarray(on_host.act(program, "act", learner, x, i, obs, plan))[0, 0], -1, 1))
                total += np.float32(row[2])
                if done := bool(row[3] or row[4]):
                    break
            decision += 1
        returns.append(total)
    assert got["return"][0] == pytest.approx(np.mean(returns), rel=1e-6)


@pytest.fixture
def data(walk):
    rows = collecting.collect_host(walk, collecting.random_player(walk, 0), steps=150, envs=3)
    assert (rows.end.sum() >= 3) and rows.terminal.any()
    return formats.to_device(rows)


@pytest.mark.slow
def test_online_resumes_to_the_same_bits(walk, data):
    """48 steps of 2 environments a seed, 2 a decision: 12 decisions, the checkpoint after 6 within open episodes."""
    given = {"env": walk, "data": data, "settings": ONLINE}
    events = [e for e in kept(train(qc, C, **given)) if e.kind in ("eval", "checkpoint")]
    assert [e.step for e in events if e.kind == "checkpoint"] == [4, 28, 52]
    last, middle = events[-1], events[-3]
    assert int(last.learner.step) == 4 + (48 - 8) // 2
    assert (middle.state.loop[0].envs.done == 0).any() and (middle.state.loop[0].envs.steps > 0).any()
    walk.close()
    again = envs.make(WALK)
    given = {**given, "env": again}
    *_, resumed = train(qc, C, **given, learner=keep(middle.learner), state=keep(middle.state))
    again.close()
    same(last.learner, resumed.learner)
    same(last.state.ring, resumed.state.ring)
    np.testing.assert_array_equal(last.state.loop[0].begun, resumed.state.loop[0].begun)
    np.testing.assert_array_equal(last.state.loop[0].envs.obs, resumed.state.loop[0].envs.obs)


@pytest.mark.slow
def test_online_experience_is_what_the_environment_did(walk, data):
    """The ring's rows chain: next_obs is the following row's obs inside an episode, t counts from 0."""
    *_, last = train(qc, C, env=walk, data=data, settings=ONLINE)
    ring = jax.tree.map(np.asarray, last.state.ring)
    capacity = ring.reward.shape[1] // 2
    for s in range(2):
        for e in range(2):
            rows = slice(e * capacity, e * capacity + int(ring.written[s, e]))
            obs, after, end = ring.obs[s, rows], ring.next_obs[s, rows], ring.end[s, rows]
            inside = end[:-1] == 0
            np.testing.assert_array_equal(after[:-1][inside], obs[1:][inside])
            np.testing.assert_array_equal(obs[1:, 1][~inside], 0)
            np.testing.assert_array_equal(after[:, 1], obs[:, 1] + 1)
            np.testing.assert_array_equal(ring.terminal[s, rows] > 0, after[:, 0] >= 1.0)


def test_processes_end_with_a_killed_parent(tmp_path):
    code = (
        "import time, numpy as np\n"
        "from qchunk import envs\n"
        "from qchunk.envs.host.pool import Pool\n"
        f"pool = Pool(envs.make({WALK!r}), 2, workers=2)\n"
        "pool.begin(pool.nothing(), np.ones(2, bool), np.arange(2))\n"
        "print(*[w.process.pid for w in pool.workers], flush=True)\n"
        "time.sleep(1000)\n"
    )
    root, here = str(Path(envs.__file__).parents[2]), str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, here])}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(p) for p in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 120
    while any(alive(p) for p in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(alive(p) for p in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shown(name, actions, **how):
    """What an environment shows after each of these actions (of all its numbers)."""
    env = envs.make(f"gymnasium/host_envs:{name}")
    pool = Pool(env, 1, workers=1, **how)
    state, seen = pool.begin(pool.nothing(), np.ones(1, bool), np.zeros(1, int)), []
    for x in actions:
        state = pool.step(state, np.full((1, env.action_size), x), np.ones(1, bool))
        seen.append(state.obs)
    pool.close()
    return seen


def test_observations_of_every_space_that_flattens(path):
    """Whole numbers out of several are ones among zeros; what a box shows is not cast to what its space says."""
    wanted = {"a": [0, 1, 0], "b": [0, 1, 0, 0, 1], "c": [0, 1], "d": [0.5, 0, 1], "e": [-0.5, 2]}
    (seen,) = shown("Many-v0", [0.0])
    assert {name: x[0].tolist() for name, x in seen.items()} == wanted


@pytest.mark.parametrize("name", ["Bytes-v0", "Pixels-v0", "Bytes-v0?odd=0.5", "Pixels-v0?odd=300"])
def test_what_is_no_byte_is_not_shown_as_one(path, name):
    assert [x.tolist() for x in shown(name, [0, 0])] == [[[7, 200]]] * 2
    with pytest.raises(UserError, match="holds what is no byte, and its space .* says uint8"):
        shown(name, [0, 0, 0])


def test_actions_of_whole_numbers_are_the_nearest_and_bounds_may_be_huge(path):
    near = [x[0, 0] for x in shown("Acts-v0", [0.99, -0.99, 0.4, -0.1, 1.0])]
    assert near == [1.0, -1.0, 0.5, 0.0, 1.0]
    huge = shown("Acts-v0?most=1.5e308&kind=float64", [0.5, -1.0], strict=True)
    np.testing.assert_allclose([x[0, 0] for x in huge], [0.5, -1.0])


def test_refusals(path):
    with pytest.raises(UserError, match="Discrete.*no continuous ones"):
        envs.make("gymnasium/host_envs:Discrete-v0")
    with pytest.raises(UserError, match="Did you mean gymnasium/Pendulum-v1"):
        envs.make("gymnasium/Pendulam-v1")
    with pytest.raises(UserError, match="cannot be made"):
        envs.make("gymnasium/no_such_module:Walk-v0")
    limited = HostEnv(WALK, {"id": "host_envs:Walk-v0", "limit": 4})
    assert limited.episode_length == 4
