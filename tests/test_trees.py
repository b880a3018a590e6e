"""Observations as dictionaries, through everything that observations pass, beside the same world's flat ones."""

from __future__ import annotations

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows

from qchunk import drivers, envs, nets, normalise, trees
from qchunk.actor_configs import FlowConfig, GaussianConfig
from qchunk.actors.flow import flow
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.qc import QC, qc
from qchunk.compose import frozen, learner, seeing
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import buffer, chunks, formats
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import Env, History, State, obs_like, obs_spec, spec_of
from qchunk.losses.cloning import bc as clone
from qchunk.losses.td import td
from qchunk.play import collecting
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import PLAN_STEP, Spec, Steps, Vars

C = QC(ChunkConfig(2), FlowConfig((16,), steps=2), CriticConfig((16,)), OptimConfig(1e-3), n=2)
B, C3 = BC(C.chunk, C.actor), ChunkConfig(3)
S = OnlineSettings(
    seeds=2,
    offline_steps=4,
    batch=16,
    log_every=4,
    eval_every=4,
    episodes=4,
    online_steps=32,
    envs=2,
    start_training=8,
    update_ratio=0.5,
    online_eval_every=16,
    normalise_obs="standard",
    normalise_action="min-max",
)


class Reach(Env):
    """A point on a line shall reach a goal; each observation says where both are, and with ``picture`` shows it."""

    data_name = "own/reach"
    episode_length = 5
    action_size = property(lambda self: 1)
    backend = property(lambda self: "test")

    def __init__(self, flat: bool = False, picture: bool = False):
        self.flat, self.picture = flat, picture

    @property
    def observation_size(self):
        parts = {"state": {"place": 1, "speed": 1}, "goal": (1,)}  # brax writes the sizes of parts as shapes
        return 3 if self.flat else {**parts, "picture": 4} if self.picture else parts

    def show(self, place, speed, goal):
        if self.flat:  # in the order of the dictionary's sorted keys
            return jnp.stack([goal, place, speed])
        tree = {"state": {"place": place[None], "speed": speed[None]}, "goal": goal[None]}
        pixels = jnp.clip(100 * jnp.stack([place, goal, speed, goal]), 0, 255).astype(jnp.uint8)
        return {**tree, "picture": pixels} if self.picture else tree

    def reset(self, rng):
        place, goal = jax.random.uniform(rng, (2,), minval=-1.0)
        zero = jnp.zeros(())
        return State({"place": place, "goal": goal}, self.show(place, zero, goal), zero, zero, {"success": zero})

    def step(self, state, action):
        world = state.pipeline_state
        place = world["place"] + 0.5 * action[0]
        off = jnp.abs(place - world["goal"])
        there = (off < 0.2).astype(jnp.float32)
        return state.replace(
            pipeline_state={**world, "place": place},
            obs=self.show(place, 0.5 * action[0], world["goal"]),
            reward=-off,
            done=there,
            metrics={"success": there},
        )


def joined(obs):
    return np.concatenate([np.asarray(x) for x in trees.named(obs).values()], axis=-1)


def collected(env, steps=120):
    return random_rows(env, steps, 4, dispatch=50)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Both environments, each with its data set: collected, written and read again."""
    found = []
    for env in (Reach(), Reach(flat=True)):
        file = tmp_path_factory.mktemp("data") / "d.npz"
        formats.save(file, collected(env), {"env": "own/reach"})
        found.append((env, formats.for_env(file, env, "own/reach")[0]))
    return found


def test_data_sets(worlds, tmp_path):
    (env, data), (plain, flat) = worlds
    assert obs_spec(env) == {"state": {"place": 1, "speed": 1}, "goal": 1} == trees.sizes(data.obs)
    np.testing.assert_array_equal(joined(data.obs), flat.obs)
    chex.assert_trees_all_equal(data._replace(obs=0), flat._replace(obs=0))
    formats.save(tmp_path / "d.npz", collected(env, 20), {"env": "own/reach"})
    with np.load(tmp_path / "d.npz") as z:
        assert {"obs/goal", "obs/state/place", "obs/state/speed"} == {n for n in z.files if n.startswith("obs")}
    with pytest.raises(UserError, match=r"sizes .*'goal': 1.* but own/reach has \(3, 1\)"):
        formats.for_env(tmp_path / "d.npz", plain, "own/reach")
    rows = formats.load(tmp_path / "d.npz")[0]
    formats.save(tmp_path / "nan.npz", rows._replace(obs={"goal": rows.obs["goal"] * np.nan}), {"env": "own/reach"})
    with pytest.raises(UserError, match="obs/goal holds NaN"):
        formats.load(tmp_path / "nan.npz")
    end = np.arange(4) == 3
    formats.save(
        tmp_path / "short.npz", formats.Rows({"a": np.zeros((3, 1))}, *[np.zeros((4, 1))], np.zeros(4), end, end), {}
    )
    with pytest.raises(UserError, match="obs/a.* do not fit"):
        formats.load(tmp_path / "short.npz")


def test_units_histories_and_windows(worlds):
    c = ChunkConfig(2, (1, 3))
    (_, data), (_, flat) = (
        (env, chunks.with_history(data, 2)._replace(episodes=data.episodes)) for env, data in worlds
    )
    units = [normalise.of_data(d, "standard", "min-max") for d in (data, flat)]
    windows = [chunks.windows(d, d.starts[:20], c) for d in (data, flat)]
    for name in ("obs", "next_obs"):
        tree, plain = (getattr(w, name) for w in windows)
        assert trees.sizes(tree) == {"state": {"place": 2, "speed": 2}, "goal": 2} and plain.shape[-1] == 6
        np.testing.assert_array_equal(tree["state"]["place"], plain[..., [1, 4]])
        tree, plain = (normalise.apply(u["obs"], getattr(w, name)) for u, w in zip(units, windows, strict=True))
        np.testing.assert_array_equal(tree["goal"], plain[..., [0, 3]])
    given = {normalise.STATS: normalise.as_dict(units[0])}
    chex.assert_trees_all_equal(normalise.of_given(given), units[0])
    moments = [normalise.no_moments(trees.sizes(w.obs)) for w in windows]
    for _ in range(2):
        moments = [normalise.seen(m, w.next_obs) for m, w in zip(moments, windows, strict=True)]
    tree, plain = map(normalise.of_moments, moments)
    np.testing.assert_array_equal(tree["state"]["speed"].scale, plain.scale[jnp.asarray([2, 5])])


def test_history_of_an_environment():
    """What it shows is what data are given; newest undoes it."""
    env = History(Reach(picture=True), 3)
    assert obs_spec(env) == {"state": {"place": 3, "speed": 3}, "goal": 3, "picture": 12}
    shown, plain = (formats.to_device(collected(e, 40)) for e in (env, env.env))
    chex.assert_trees_all_equal(shown.obs, chunks.with_history(plain, 3).obs)
    chex.assert_trees_all_equal(env.newest(shown.obs), plain.obs)
    assert shown.obs["picture"].dtype == jnp.uint8


@pytest.fixture(scope="module")
def events(worlds):
    return [keep(drivers.train(qc, C, env=env, settings=S, data=data)) for env, data in worlds]


def keep(events):
    return [
        e._replace(learner=jax.tree.map(jnp.copy, e.learner), state=jax.tree.map(jnp.copy, e.state)) for e in events
    ]


@pytest.mark.slow
def test_the_same_run_as_with_flat_observations(events):
    """Offline, online and every evaluation: parameters, and figures but those of time."""
    tree, flat = events
    assert [e.kind for e in tree] == [e.kind for e in flat] and tree[-1].step == 4 + 32
    for a, b in zip(tree, flat, strict=True):
        for name in a.values:
            if "second" not in name:
                np.testing.assert_allclose(a.values[name], b.values[name], rtol=1e-5, err_msg=name)
    chex.assert_trees_all_close(tree[-1].learner.params, flat[-1].learner.params, rtol=1e-5)
    rings = [e[-1].state.ring for e in events]
    np.testing.assert_allclose(joined(rings[0].obs), rings[1].obs, rtol=1e-5)
    np.testing.assert_allclose(joined(rings[0].next_obs), rings[1].next_obs, rtol=1e-5)


@pytest.mark.slow
def test_the_ring_keeps_the_steps_of_plans(events):
    ring = events[0][-1].state.ring
    written = jax.tree.map(lambda x: np.asarray(x).reshape(2, 2, -1), (ring.extras[PLAN_STEP], ring.end))
    for s, e in np.ndindex(2, 2):
        step, end = (x[s, e, : int(ring.written[s, e])] for x in written)
        np.testing.assert_array_equal(step[1:], np.where(end[:-1] > 0, 0, 1 - step[:-1]))


@pytest.mark.slow
def test_resume(worlds, events):
    env, data = worlds[0]
    middle = next(e for e in events[0] if e.kind == "checkpoint" and e.step == 4 + 16)
    copy = functools.partial(jax.tree.map, jnp.copy)
    again = keep(
        drivers.train(qc, C, env=env, settings=S, data=data, learner=copy(middle.learner), state=copy(middle.state))
    )
    chex.assert_trees_all_equal(again[-1].learner, events[0][-1].learner)


def test_on_policy():
    c = PPO(GaussianConfig((16,)), ChunkConfig(1, discount="decision"), ValueConfig((16,)), RolloutConfig(4, 4, 1, 2))
    s = OnPolicySettings(online_steps=32, eval_every=32, episodes=4, normalise_obs="standard")
    *_, evaluation, last = drivers.train(ppo, c, env=Reach(), settings=s)
    units = last.learner.stats[normalise.STATS]["obs"]
    assert int(last.learner.step) == 4 and np.isfinite(evaluation.values["return"]).all()
    for part in (units["goal"], units["state"]["place"], units["state"]["speed"]):
        assert int(part.kind[0]) == 2 and 0.05 < float(part.scale[0, 0]) < 1.0


def test_what_a_decision_led_to():
    rng = np.random.default_rng(0)
    obs, after = ({"a": rng.normal(size=(3, 4, 2)), "b": rng.normal(size=(3, 4, 1))} for _ in range(2))
    number = rng.uniform(size=(3, 4))
    alive = (np.arange(3)[:, None] < [1, 2, 3, 3]).astype(np.float32)
    more = rng.normal(size=(3, 4, 1)), number, 0 * number, 0 * number
    tree, flat = (
        chunks.of_decision(Steps(o, *more, n, None, alive), C3) for o, n in ((obs, after), (joined(obs), joined(after)))
    )
    for name in ("obs", "next_obs"):
        np.testing.assert_array_equal(joined(getattr(tree, name)), getattr(flat, name))


def test_pictures_keep_their_type():
    """uint8 in data sets, rings, windows and units; a network reads them as numbers from 0 to 1."""
    data = formats.to_device(collected(Reach(picture=True), 40))
    ring = buffer.empty(2, 8, obs_like(Reach(picture=True)), 1)
    chunk = chunks.windows(data, data.starts[:3], C.chunk)
    units = normalise.of_data(data, "standard", "none")["obs"]
    for obs in (data.obs, ring.obs, ring.next_obs, chunk.obs, chunk.next_obs, normalise.apply(units, chunk.obs)):
        assert obs["picture"].dtype == jnp.uint8 and obs["goal"].dtype == jnp.float32
    np.testing.assert_array_equal(normalise.apply(units, chunk.obs)["picture"], chunk.obs["picture"])
    read = nets.flatten_obs(chunk.obs)
    assert read.dtype == jnp.float32
    np.testing.assert_allclose(read[:, 1:5], np.asarray(chunk.obs["picture"], np.float32) / 255)


def test_seeing_a_part():
    """A critic of a key and an actor of a function are built for what they see, and see nothing else."""
    spec = Spec({"state": 3, "goal": 2}, 1, 2)
    parts = seeing(chunk_q(C.critic), "state"), seeing(flow(C.actor), lambda obs: obs["goal"][..., :1])
    q, pi = parts
    whole = (chunk_q(C.critic), 3), (flow(C.actor), 1)
    params = {p.modules[0].name: p.modules[0].init(jax.random.key(0), spec) for p in parts}
    obs = {"state": jnp.arange(12.0).reshape(4, 3), "goal": jnp.arange(8.0).reshape(4, 2)}
    cut = {"state": obs["state"], "goal": obs["goal"][:, :1]}
    for plain, size in whole:
        same = plain.modules[0].init(jax.random.key(0), spec._replace(obs=size))
        chex.assert_trees_all_equal(params[plain.modules[0].name], same)
    vars, action = Vars(params, {}, {}, {}), jnp.ones((4, 2, 1))
    for f in ("values", "score"):
        got, want = getattr(q, f)(vars, obs, action), getattr(whole[0][0], f)(vars, cut["state"], action)
        np.testing.assert_array_equal(got, want)
    for f in ("denoise", "step"):
        got, want = getattr(pi, f)(vars, obs, action, 0), getattr(whole[1][0], f)(vars, cut["goal"], action, 0)
        chex.assert_trees_all_equal(got, want)
    given = Vars({}, {}, {}, params)
    np.testing.assert_array_equal(frozen(q).score(given, obs, action), q.score(vars, obs, action))
    np.testing.assert_array_equal(
        seeing(frozen(chunk_q(C.critic)), "state").score(given, obs, action), q.score(vars, obs, action)
    )


@pytest.mark.slow
def test_a_method_of_parts_that_draws_for_itself():
    """The actor does not see goal and picture, and learns from three consecutive chunks of each row, offline and online."""
    env, seen = Reach(picture=True), []

    def build(c):
        pi, q = seeing(flow(c.actor), "state"), chunk_q(c.critic)
        act, draw = sample(pi), functools.partial(buffer.draw, count=3)
        made = learner([pi, q], act, [clone(pi), td(q, act)], c.optim, draw=draw)

        def update(state, given, key, chunk):
            seen.append((chunk.action.shape, chunk.obs["goal"].shape, *sorted(chunk.extras)))
            return made.update(state, given, key, chunk)

        return made._replace(update=update)

    *_, last = drivers.train(build, C, env=env, settings=S, data=formats.to_device(collected(env)))
    assert int(last.learner.step) == 4 + (32 - 8) // 2
    shapes = (16, 3, 2, 1), (16, 3, 1)
    assert set(seen) == {shapes, (*shapes, "source")}
    size = {n: last.learner.params[n]["dense_0"]["kernel"].shape[-2] for n in ("actor", "critic")}
    assert size == {"actor": 2 + 2 + 1, "critic": 7 + 2}  # state, chunk, time; all, chunk
    assert last.state.ring.obs["picture"].dtype == jnp.uint8 and np.asarray(last.state.ring.obs["picture"]).any()


@pytest.mark.parametrize(("size", "told"), [((4, 4, 3), "which are not flat"), ({"a/b": 3}, "without a slash")])
def test_observations_that_are_no_trees_of_flat_leaves(size, told):
    class Odd(Reach):
        observation_size = property(lambda self: size)

    with pytest.raises(UserError, match=told):
        spec_of(Odd(), 2)


def test_specs_are_keys_of_programs():
    a, b = Spec({"x": 1, "y": 2}, 1, 2), Spec({"y": 2, "x": 1}, 1, 2)
    assert a == b and hash(a) == hash(b) and hash(Spec(3, 1, 2)) == hash(Spec(3, 1, 2))
    assert len({a, Spec({"x": 2, "y": 1}, 1, 2), Spec(3, 1, 2)}) == 3


@pytest.fixture
def on_the_host(monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made = [envs.make(f"gymnasium/host_envs:{name}-v0") for name in ("Parts", "Walk", "Pictures")]
    yield made
    for env in made:
        env.close()


@pytest.mark.slow
def test_host_environments(on_the_host, tmp_path):
    """gymnasium's dictionaries: the same walk in parts as flat, collected, trained on, played and evaluated in."""
    parts, walk, _ = on_the_host
    assert obs_spec(parts) == {"place": 1, "time": 1}
    found = []
    for env in (parts, walk):
        rows = collecting.collect_host(env, collecting.random_player(env, 0), steps=60, envs=3)
        file = tmp_path / f"{len(found)}.npz"
        formats.save(file, rows, {"env": env.data_name})
        data = formats.for_env(file, env, env.name)[0]
        found.append((data, keep(drivers.train(bc, B, env=env, settings=S, data=data))))
    (data, tree), (plain, flat) = found
    np.testing.assert_array_equal(joined(data.obs), plain.obs)
    for a, b in zip(tree, flat, strict=True):
        for name in a.values:
            if "second" not in name:
                np.testing.assert_allclose(a.values[name], b.values[name], rtol=1e-5, err_msg=name)
    ring = tree[-1].state.ring
    np.testing.assert_allclose(joined(ring.obs), flat[-1].state.ring.obs, rtol=1e-5)
    assert set(np.unique(ring.extras[PLAN_STEP])) == {0, 1}
    middle = next(e for e in tree if e.kind == "checkpoint" and e.step == 4 + 16)
    parts.close()
    copy = functools.partial(jax.tree.map, lambda x: np.array(x) if isinstance(x, np.ndarray) else jnp.copy(x))
    again = keep(
        drivers.train(bc, B, env=parts, settings=S, data=data, learner=copy(middle.learner), state=copy(middle.state))
    )
    chex.assert_trees_all_equal(again[-1].learner, tree[-1].learner)


def test_pictures_of_host_environments(on_the_host):
    """A flat uint8 leaf beside a dictionary within the dictionary, as the environment itself shows them."""
    env = on_the_host[2]
    assert obs_spec(env) == {"body": {"place": 1, "time": 1}, "picture": 6}
    rows = collecting.collect_host(env, collecting.random_player(env, 0), steps=20, envs=2)
    assert rows.obs["picture"].dtype == np.uint8 and rows.obs["body"]["time"].dtype == np.float32
    time = rows.obs["body"]["time"].astype(np.uint8)
    np.testing.assert_array_equal(rows.obs["picture"], np.arange(6, dtype=np.uint8) + 30 * time)
    s = OnlineSettings(offline_steps=2, batch=8, eval_every=2, episodes=2)
    *_, last = drivers.train(bc, B, env=env, settings=s, data=formats.to_device(rows))
    assert last.learner.params["actor"]["dense_0"]["kernel"].shape[1] == 8 + 2 + 1
