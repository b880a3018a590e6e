"""Online from the first step: random actions at first, with a data set or without one, exact resume."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from driven import keep, kept, random_rows, same

from qchunk import envs
from qchunk.actor_configs import FlowConfig, TanhGaussianConfig
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.qc import QC, qc
from qchunk.algorithms.rlpd import RLPD, rlpd
from qchunk.algorithms.sear import SEAR, sear
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.prefix import PrefixConfig
from qchunk.data import buffer, formats
from qchunk.data.buffer import Source
from qchunk.drivers import online, train
from qchunk.drivers.common import assemble
from qchunk.drivers.from_scratch import FromScratchSettings
from qchunk.drivers.online import OnlineSettings
from qchunk.system.errors import UserError

W = (32, 32)
CRITIC, OPTIM = CriticConfig((16,), members=2, tau=0.05), OptimConfig(3e-3)
C = RLPD(ChunkConfig(2), TanhGaussianConfig((16,)), CRITIC, OPTIM)
# 20 decisions of 4 environments and 2 steps; the first 5 are random, and updates come from then on
S = FromScratchSettings(
    seeds=2,
    batch=16,
    log_every=2,
    episodes=8,
    online_steps=160,
    envs=4,
    start_training=40,
    update_ratio=0.25,
    online_eval_every=40,
)


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    return formats.to_device(random_rows(env, 200, 8, dispatch=50))


def run(env, data=None, build=rlpd, c=C, s=S, **state):
    return kept(train(build, c, env=env, data=data, settings=s, **state))


def actions(event):
    """What each seed's environments have played: [S, E, steps, A]."""
    ring = event.state.ring
    return np.asarray(ring.action).reshape(2, 4, -1, 1)


@pytest.fixture(scope="module")
def events(env):
    return run(env)


def test_it_needs_no_data_and_no_offline_part(events):
    """Updates begin after 40 steps and come one in 4; every event is of the online part."""
    assert all(e.state is not None for e in events) and [e.kind for e in events].count("compile") == 1
    assert int(events[-1].learner.step) == (160 - 40) // 4
    assert [e.step for e in events if e.kind == "eval"] == [40, 80, 120, 160]
    *_, trained = (e for e in events if e.kind == "train")
    assert np.isfinite(trained.values["td/loss"]).all()


@pytest.mark.slow
def test_actions_are_uniform_until_training_starts(env, events):
    """The same whatever the policy, in [-1, 1], and every one drawn for itself; from then on the policy's."""
    flow = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CRITIC, OPTIM, n=2)
    s = OnlineSettings(**{**dataclasses.asdict(S), "random_start": True, "offline_steps": 0})
    other = run(env, build=qc, c=flow, s=s)[-1]
    mine, theirs = actions(events[-1]), actions(other)
    np.testing.assert_array_equal(mine[:, :, :10], theirs[:, :, :10])
    assert (mine[:, :, 10:] != theirs[:, :, 10:]).mean() > 0.9
    flat = mine[:, :, :10].ravel()
    assert len(np.unique(flat)) == flat.size and np.abs(flat).max() <= 1
    assert abs(flat.mean()) < 0.25 and abs(flat.std() - 1 / np.sqrt(3)) < 0.12  # 80 numbers
    known = run(env, s=dataclasses.replace(S, random_start=False, online_steps=40))[-1]
    assert (actions(known) != mine[:, :, : actions(known).shape[2]]).mean() > 0.9, "without it the policy plays"


def test_random_actions_are_the_environments_in_units_too(env, data, events):
    """Units are of what the method chooses; random actions are played as they were drawn."""
    s = dataclasses.replace(S, normalise_action="standard", online_steps=40)
    narrow = data._replace(action=0.3 * data.action)
    found = actions(run(env, narrow, s=s)[-1])
    np.testing.assert_array_equal(found, actions(events[-1])[:, :, : found.shape[2]])


@pytest.mark.parametrize("name", ["zero-noise", "rtc:1,1", "committed:1,1"])
def test_random_actions_are_random_under_every_scheme(env, name):
    """Also where the policy's plans are of noise 0, or hold on to the old one, which random plans cannot."""
    s = dataclasses.replace(S, execute=name, online_steps=40)
    c = BC(ChunkConfig(2), FlowConfig((8,), steps=2, committed=1), OPTIM)
    flat = actions(run(env, build=bc, c=c, s=s)[-1])[:, :, :10].ravel()
    assert len(np.unique(flat)) == flat.size and np.abs(flat).max() <= 1
    assert abs(flat.mean()) < 0.25 and abs(flat.std() - 1 / np.sqrt(3)) < 0.12  # 80 numbers


@pytest.mark.parametrize("step", [40, 80])
def test_resume_is_bitwise_equal(env, events, step):
    """From the end of the random part, and from later."""
    start = next(e for e in events if e.kind == "checkpoint" and e.step == step)
    end = run(env, learner=keep(start.learner), state=keep(start.state))[-1]
    same((end.learner, end.state), (events[-1].learner, events[-1].state))


@pytest.mark.slow
def test_batches_are_half_and_half_beside_data_and_all_online_without(env, data, events):
    ring = jax.tree.map(lambda x: x[0], events[-1].state.ring)
    chunk = buffer.draw(jax.random.key(1), Source(None, ring, "share:0.5"), C.chunk, 64)
    assert chunk.extras["source"].tolist() == [1.0] * 64
    played = {tuple(o) for o in np.asarray(ring.obs).tolist()}
    assert {tuple(o) for o in np.asarray(chunk.obs).tolist()} <= played
    mixed = buffer.draw(jax.random.key(1), Source(data, ring, "share:0.5"), C.chunk, 64)
    assert mixed.extras["source"].sum() == 32
    with_data = run(env, data)[-1]
    np.testing.assert_array_equal(actions(with_data)[:, :, :10], actions(events[-1])[:, :, :10])
    differs = [
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(with_data.learner.params), jax.tree.leaves(events[-1].learner.params), strict=True
        )
    ]
    assert any(differs), "the data are learned from"


def test_one_traceable_function_is_the_same_run(env, events):
    program, x = assemble(rlpd, C, env, S)
    learner = online.whole(program, x, S)
    for a, b in zip(jax.tree.leaves(learner), jax.tree.leaves(events[-1].learner), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


PREFIXES = SEAR(ChunkConfig(2), TanhGaussianConfig(W), PrefixConfig(W, tau=0.05, network="masked"), OptimConfig(1e-2))
LEARNS = {
    "open-loop": (rlpd, RLPD(ChunkConfig(2), TanhGaussianConfig(W), CriticConfig(W, tau=0.05), OptimConfig(1e-2))),
    "random-k": (sear, PREFIXES),
    "receding:1": (sear, dataclasses.replace(PREFIXES, act_horizon=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("execute", LEARNS)
def test_it_learns_from_nothing(env, execute):
    """Chance succeeds in half of the episodes."""
    build, c = LEARNS[execute]
    played = {"online_steps": 2000, "envs": 16, "start_training": 400, "update_ratio": 0.5, "online_eval_every": 2000}
    s = dataclasses.replace(S, batch=64, log_every=500, episodes=64, execute=execute, **played)
    values = next(e for e in run(env, build=build, c=c, s=s) if e.kind == "eval").values
    assert values["success"].min() >= 0.85, values["success"]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"offline_steps": 3}, "offline updates need a data set"), ({"normalise_obs": "standard"}, "units")],
)
def test_what_needs_data_is_refused_without(env, change, says):
    with pytest.raises(UserError, match=says):
        run(env, s=dataclasses.replace(S, **change))
