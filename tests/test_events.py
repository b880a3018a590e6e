"""What drivers report: how work is cut into dispatches changes no bit, and a run can be saved between two of them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import kept, random_rows, same

from qchunk import envs
from qchunk.actor_configs import FlowConfig, GaussianConfig
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig, RolloutConfig, ValueConfig
from qchunk.data import formats
from qchunk.drivers import events, train
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings

QC_SMALL = QC(ChunkConfig(2), FlowConfig((8,), steps=2), critic=CriticConfig((8,)), n=2)
ONLINE = {"online_steps": 96, "envs": 2, "start_training": 8, "update_ratio": 0.5, "online_eval_every": 48}
CUT = {"seeds": 2, "offline_steps": 8, "batch": 8, "log_every": 8, "eval_every": 8, "episodes": 2}
REGIMES = {
    "offline": (qc, QC_SMALL, OnlineSettings(**CUT)),
    "online": (qc, QC_SMALL, OnlineSettings(**CUT, **ONLINE)),
    "on-policy": (
        ppo,
        PPO(GaussianConfig((8,)), ChunkConfig(2), critic=ValueConfig((8,)), rollout=RolloutConfig(2, 4, 1, 2)),
        OnPolicySettings(seeds=2, online_steps=8 * 16, log_every=64, eval_every=64, episodes=2),
    ),
}


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    return formats.to_device(random_rows(env, 64, 2, dispatch=32))


def told(env, data, regime, seconds, monkeypatch, **start):
    """A run's events, where a dispatch takes its time from so many ``seconds`` on."""
    monkeypatch.setattr(events, "SECONDS", seconds)
    build, c, s = REGIMES[regime]
    more = {} if regime == "on-policy" else {"data": data}
    return kept(train(build, c, env=env, settings=s, **more, **start))


def lines(found, after=-1):
    """All but speeds, of the events that are not "progress"."""
    kept = [e for e in found if e.kind not in ("progress", "compile") and e.step > after]
    return [(e.kind, e.step, {n: v.tolist() for n, v in e.values.items() if "second" not in n}) for e in kept]


@pytest.mark.parametrize("regime", REGIMES)
def test_dispatches_of_any_length_end_with_the_same_bits(regime, env, data, monkeypatch):
    """Learner, state, evaluations and lines of training; and a run goes on from any place between two dispatches."""
    whole = told(env, data, regime, math.inf, monkeypatch)
    assert "progress" not in {e.kind for e in whole}
    cut = told(env, data, regime, 0.0, monkeypatch)
    assert lines(cut) == lines(whole)
    same((cut[-1].learner, cut[-1].state), (whole[-1].learner, whole[-1].state))
    between = [i for i, e in enumerate(cut) if e.kind == "progress"]
    assert len(between) >= 6 and all(cut[i].settled and not cut[i].values for i in between)
    start = cut[between[-1]]
    due = next(e for e in cut[between[-1] :] if e.kind == "train")
    assert start.step < due.step, "nothing is due there"
    rest = told(env, data, regime, math.inf, monkeypatch, learner=start.learner, state=start.state)
    same((rest[-1].learner, rest[-1].state), (whole[-1].learner, whole[-1].state))
    assert [x for x in lines(rest) if x[0] == "eval"] == [x for x in lines(whole, start.step) if x[0] == "eval"]


def test_the_pace_is_found_and_kept(monkeypatch):
    """A unit takes 0.3 seconds: dispatches grow to a few seconds, and get no longer; one cut short by a stop tells nothing."""
    monkeypatch.setattr(events, "SECONDS", 5.0)
    pace, held = events.Pace(), []
    for _ in range(12):
        held.append(pace.units)
        pace, long = pace.after(pace.units, 0.3 * pace.units)
        assert long == (0.3 * held[-1] > events.SECONDS / 2)
    assert held[:4] == [1, 2, 4, 8] and 0.3 * max(held) <= 2 * events.SECONDS and set(held[4:]) <= {8, 16}
    assert pace.after(1, 0.3)[0] == pace
    assert pace.after(1, 99.0)[0].units == 1, "slower than it was"


def test_a_run_that_has_diverged_meanwhile_is_not_to_be_saved(env, data, monkeypatch):
    """Before its line of training says so."""
    found = told(env, data, "offline", 0.0, monkeypatch)
    place = next(i for i, e in enumerate(found) if e.kind == "progress")
    learner = found[place].learner
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x, learner.params)
    rest = told(env, data, "offline", 0.0, monkeypatch, learner=learner._replace(params=broken))
    kinds = [e.kind for e in rest]
    assert "progress" not in kinds[: kinds.index("diverged")]
    np.testing.assert_array_equal(rest[kinds.index("diverged")].values["diverged"], [0.0, 1.0])


def test_figures_by_hand():
    """Of two seeds, of 8 steps each: the second makes no update, and its environments rest in every other step."""
    sums = {"reward_sum": [4.0, 3.0], "alive_steps": [8.0, 4.0], "updates_done": [2.0, 0.0], "td/loss": [5.0, 0.0]}
    found = events.figures({n: jnp.asarray(x) for n, x in sums.items()}, 8, 2, seconds=0.5)
    told = {"reward_per_step": [0.5, 0.75], "resting": [0.0, 0.5], "td/loss": [2.5, 0.0]}
    told |= {"env_steps_per_second": [32.0], "updates_per_second": [4.0]}
    assert {n: x.tolist() for n, x in found.items()} == told
