"""Offline, then online: schedules, exact resume, and that experience helps."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from driven import keep, kept, random_rows, same
from test_cli import run as command

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.data import buffer, formats
from qchunk.drivers import online, train
from qchunk.drivers.online import OFFLINE_TO_ONLINE, OnlineSettings
from qchunk.sampling import emit_step
from qchunk.system.errors import UserError
from qchunk.types import Plan, Policy

C = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), OptimConfig(1e-3), n=4)
S = OnlineSettings(seeds=2, offline_steps=6, batch=32, log_every=3, eval_every=3, episodes=8)
PLAYED = {"online_steps": 160, "envs": 4, "start_training": 16, "update_ratio": 0.25, "online_eval_every": 80}
ONLINE = dataclasses.replace(S, **PLAYED)


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    rows = random_rows(env, 200, 8, dispatch=50)
    return formats.to_device(rows)


def run(env, data, s=ONLINE, **state):
    return kept(train(qc, C, env=env, data=data, settings=s, **state))


@pytest.fixture(scope="module")
def events(env, data):
    return run(env, data)


def test_schedule(events):
    """20 decisions of 4 environments and 2 steps: 160 steps; updates begin at 16 and come one in 4 steps."""
    phase = [(e.kind, e.step) for e in events if e.state is not None and e.kind != "train"]
    assert phase == [("compile", 6), ("eval", 86), ("checkpoint", 86), ("eval", 166), ("checkpoint", 166)]
    assert int(events[-1].learner.step) == 6 + (160 - 16) // 4
    evals = [e for e in events if e.kind == "eval"]
    assert [int(e.values["env_steps"][0]) for e in evals if e.state is not None] == [80, 160]
    np.testing.assert_array_equal(events[-1].state.ring.written.sum(axis=1), 160)  # no episode ends inside a chunk
    *_, trained = (e for e in events if e.kind == "train")
    assert trained.values["td/loss"].shape == (2,) and np.isfinite(trained.values["td/loss"]).all()


def test_batches_are_mixed_as_told(env, data):
    half = Policy(
        lambda vars, key, obs: (),
        lambda vars, noise, obs, old: Plan(jnp.full((*obs.shape[:-1], 2, 1), 0.5)),
        emit_step,
    )

    def build(c):
        def update(learner, given, key, chunk):
            return learner._replace(step=learner.step + 1), {"online": jnp.mean(chunk.extras[buffer.SOURCE])}

        return qc(c)._replace(act=half, explore=half, update=update)

    s = dataclasses.replace(ONLINE, offline_steps=0, eval_every=0, mix="share:0.25")
    *_, trained, _, _ = train(build, C, env=env, data=data, settings=s)
    np.testing.assert_array_equal(trained.values["online"], 0.25)


def test_resume_is_bitwise_equal(env, data, events):
    """From the checkpoint within the online part, and from the last one of the offline part (the switch)."""
    middle = next(e for e in events if e.kind == "checkpoint" and e.step == 86)
    switch = next(e for e in events if e.kind == "checkpoint" and e.step == 6)
    for start in (middle, switch):
        end = run(env, data, learner=keep(start.learner), state=keep(start.state))[-1]
        assert end.step == 166
        same((end.learner, end.state), (events[-1].learner, events[-1].state))


def test_the_second_run_compiles_nothing(env, data, events):
    before = online.device_block._cache_size()
    run(env, data, dataclasses.replace(ONLINE, seed=5))
    assert online.device_block._cache_size() == before


def test_no_online_steps_is_the_offline_driver(env, data, events):
    end = run(env, data, S)[-1]
    assert end.step == 6 and end.state is None


@pytest.mark.slow
def test_experience_helps(env, data):
    """Offline data that never succeed (the signs of the two actions differ): what works is only found online.

    By 14 of 20 seeds that were tried: the others never stumble over it.
    """
    size = jnp.abs(data.action)
    action = jnp.where(data.obs[:, :1] == 0.0, size, -size)
    obs = data.obs.at[:, 1].set(jnp.where(data.obs[:, 0] > 0.0, 1.0, 0.0))
    failing = data._replace(obs=obs, action=action, reward=jnp.zeros_like(data.reward))
    played = {"online_steps": 6000, "envs": 16, "start_training": 0, "update_ratio": 0.25, "online_eval_every": 6000}
    s = dataclasses.replace(S, seeds=4, offline_steps=300, eval_every=300, log_every=300, episodes=64, **played)
    before, after = (e.values["success"] for e in run(env, failing, s) if e.kind == "eval")
    assert (after - before).mean() > 0.3 and (after > 0.9).mean() >= 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mix": "half"}, "share:0.5"),
        ({"update_ratio": -1.0}, "--update-ratio"),
        ({"capacity": 4}, "--capacity"),
        ({"envs": 0}, "--envs"),
        ({"start_training": -1}, "--start-training"),
    ],
)
def test_impossible_settings(env, data, change, told):
    with pytest.raises(UserError, match=told):
        run(env, data, dataclasses.replace(ONLINE, **change))
    with pytest.raises(UserError, match="nothing to train"):
        run(env, data, dataclasses.replace(S, offline_steps=0))


@pytest.mark.parametrize("flag", ["--eval-every", "--checkpoint-every"])
def test_intervals_of_offline_updates_are_refused_where_there_are_none(flag, tmp_path, capsys):
    """They would change nothing. Settings that are resolved stay as they are; with offline updates they count."""
    argv = ["train", "rlpd", "--env", "probe/two-step", "--online-steps", "64", "--out", tmp_path / "run"]
    code, _, err = command(capsys, *argv, flag, "50")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert f"{flag} 50 counts offline updates" in err and "give --online-eval-every" in err
    plain = OnlineSettings(offline_steps=0, online_steps=64, online_eval_every=8)
    assert OFFLINE_TO_ONLINE.resolve(OFFLINE_TO_ONLINE.resolve(plain)) == OFFLINE_TO_ONLINE.resolve(plain)
    both = dataclasses.replace(plain, offline_steps=9, **{flag[2:].replace("-", "_"): 3})
    assert getattr(OFFLINE_TO_ONLINE.resolve(both), flag[2:].replace("-", "_")) == 3
