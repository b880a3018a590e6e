"""What every algorithm must do: the matrix runs over ``names.ALGORITHMS``."""

from __future__ import annotations

import dataclasses
import functools
import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk import checkpoint, collect, envs, flags, names, train
from qchunk.actors.flow import flow
from qchunk.config import FlowConfig
from qchunk.data import formats
from qchunk.types import Spec, view

SPEC = Spec(2, 1, 2)
TINY = {"hidden": (16,), "steps": 2, "members": 2, "n": 2, "horizon": 2}
ACTOR = FlowConfig((16,), steps=2)  # the frozen prior of methods that stand on one
GIVEN = {"actor": flow(ACTOR).modules[0].init(jax.random.key(9), SPEC)}


def tiny(c):
    """The configuration with every network at width 16, K = 2, N = 2, H = 2."""
    values = {}
    for field in dataclasses.fields(c):
        value = getattr(c, field.name)
        values[field.name] = tiny(value) if dataclasses.is_dataclass(value) else TINY.get(field.name, value)
    return dataclasses.replace(c, **values)


@pytest.fixture(scope="module")
def env():
    return envs.make("probe/two-step")


@pytest.fixture(scope="module")
def data(env):
    rows = collect.collect(
        env, collect.scheme_of(env, "random"), collect.NO_VARS, jax.random.key(0), steps=400, envs=8, dispatch=50
    )
    return formats.to_device(rows)


@pytest.fixture(scope="module", params=sorted(names.ALGORITHMS))
def method(request):
    build, config_class = flags.builder(request.param)
    return build, tiny(config_class())


def run(build, c, env, data, seed=0, seeds=2, steps=6, learner=None):
    s = train.Settings(seed=seed, seeds=seeds, offline_steps=steps, batch=16, log_every=3, eval_every=3, episodes=4)
    return list(train.offline(build, c, GIVEN, env=env, data=data, settings=s, learner=learner))


@pytest.fixture(scope="module")
def trained(method, env, data):
    """Events of two seeds, and a copy of the learner at update 3 (the driver reuses its memory)."""
    build, c = method
    s = train.Settings(seeds=2, offline_steps=6, batch=16, log_every=3, eval_every=3, episodes=4)
    events, halfway = [], None
    for event in train.offline(build, c, GIVEN, env=env, data=data, settings=s):
        if event.step == 3 and event.kind == "checkpoint":
            halfway = jax.tree.map(jnp.copy, event.learner)
        events.append(event._replace(learner=jax.tree.map(jnp.copy, event.learner)))
    return events, halfway


def test_acts(method):
    build, c = method
    algorithm = build(c)
    vars = view(algorithm.init(jax.random.key(0), SPEC, GIVEN), GIVEN)
    for policy in (algorithm.act, algorithm.explore):
        for lead in ((), (3,)):
            obs = jax.random.normal(jax.random.key(1), (*lead, SPEC.obs))
            plan = policy.plan(vars, policy.draw(vars, jax.random.key(2), obs), obs, None)
            chex.assert_shape(plan.action, (*lead, SPEC.horizon, SPEC.action))
            chex.assert_tree_all_finite(plan)
            assert float(jnp.abs(plan.action).max()) <= 1.0
            chex.assert_trees_all_equal(policy.emit(vars, plan, 1, obs), plan.action[..., 1, :])


def test_events_and_figures(trained):
    events, _ = trained
    assert [(e.kind, e.step) for e in events] == [
        ("compile", 0),
        *[(kind, step) for step in (3, 6) for kind in ("train", "eval", "checkpoint")],
    ]
    for event in events:
        for name, value in event.values.items():
            assert np.isfinite(value).all(), (event.kind, name)
            assert value.shape in ((2,), (1,))


def test_updates_move_every_module(trained):
    events, _ = trained
    before, after = events[0].learner, events[-1].learner
    assert int(after.step) == 6
    for name in before.params:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params[name], after.params[name])
        assert max(jax.tree.leaves(moved)) > 0, f"{name} never moved"
    for name in before.slow:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.slow[name], after.slow[name])
        assert max(jax.tree.leaves(moved)) > 0, f"the slow copy of {name} never moved"


def test_a_seed_alone_and_among_others(method, env, data, trained):
    build, c = method
    alone = run(build, c, env, data, seed=1, seeds=1)[-1].learner
    both = trained[0][-1].learner
    second = jax.tree.map(lambda x: x[1], both._replace(step=both.step[None].repeat(2)))
    alone = jax.tree.map(lambda x: x[0], alone._replace(step=alone.step[None]))
    chex.assert_trees_all_close(alone, second, atol=1e-6)


def test_resumes_to_the_same_bits(method, env, data, trained, tmp_path):
    build, c = method
    events, halfway = trained
    checkpoint.save(tmp_path, 3, {"learner": halfway}, {"step": 3})
    like = jax.eval_shape(lambda: halfway)
    restored = checkpoint.restore(tmp_path, {"learner": like})[0]["learner"]
    again = run(build, c, env, data, learner=jax.tree.map(jnp.asarray, restored))[-1].learner
    chex.assert_trees_all_equal(again, events[-1].learner)


def test_float_fields_are_vmapped(method, data):
    """Learning rate and gamma differ between the members of one program; each equals its own run."""
    build, c = method

    def one(lr, gamma):
        mine = dataclasses.replace(
            c, optim=dataclasses.replace(c.optim, lr=lr), chunk=dataclasses.replace(c.chunk, gamma=gamma)
        )
        state = build(mine).init(jax.random.key(0), SPEC, GIVEN)
        chunk = train.chunks.draw(jax.random.key(1), data, mine.chunk, 8)
        return build(mine).update(state, GIVEN, jax.random.key(2), chunk)[0].params

    lrs, gammas = jnp.asarray([1e-3, 1e-2]), jnp.asarray([0.9, 0.5])
    together = jax.jit(jax.vmap(one))(lrs, gammas)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], together), one(1e-2, 0.5), atol=2e-5)
    apart = jax.tree.map(lambda x: float(jnp.abs(x[0] - x[1]).max()), together)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_the_second_call_compiles_nothing(method, env, data, trained):
    build, c = method
    size = train.updates._cache_size(), train.evaluation._cache_size()
    other = dataclasses.replace(c, optim=dataclasses.replace(c.optim, lr=1e-2))  # another float, and other counts
    run(build, other, env, data, steps=6)
    assert (train.updates._cache_size(), train.evaluation._cache_size()) == size


def test_one_update(method, data):
    """Without the driver: finite, one step further, and every module has moved."""
    build, c = method
    algorithm = build(c)

    def one(key):
        init_key, draw_key, prepare_key, update_key = jax.random.split(key, 4)
        before = algorithm.init(init_key, SPEC, GIVEN)
        chunk = train.chunks.draw(draw_key, data, c.chunk, 8)
        ready, chunk = algorithm.prepare(before, GIVEN, prepare_key, chunk)
        return before, *algorithm.update(ready, GIVEN, update_key, chunk)

    before, after, metrics = jax.jit(one)(jax.random.key(0))
    assert int(before.step) == 0 and int(after.step) == 1
    chex.assert_tree_all_finite((after.params, after.slow, metrics))
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    for name in before.params:
        pairs = zip(*(jax.tree.leaves(x.params[name]) for x in (before, after)), strict=True)
        assert any((x != y).any() for x, y in pairs), f"{name} did not move"


def test_seeds_vmapped_as_on_an_accelerator(method, data, trained, monkeypatch):
    """A CPU loops over seeds; everywhere else they are vmapped. Both must give the same numbers."""
    build, c = method
    monkeypatch.setattr(train, "over_seeds", lambda fn, *batched: jax.vmap(fn)(*batched))
    anew = functools.partial(build)  # another function to jit, which must not reuse the loop's program
    s = train.Settings(seeds=2, batch=16)
    state = train.init(anew, c, GIVEN, SPEC, s)
    vmapped, _ = train.updates(anew, s.batch, state, c, GIVEN, data, train.seed_keys(s), 3)
    looped = trained[1]
    assert int(vmapped.step) == int(looped.step) == 3
    chex.assert_trees_all_close(vmapped.params, looped.params, atol=1e-5)
    chex.assert_trees_all_close(vmapped.slow, looped.slow, atol=1e-5)


def test_a_checkpoint_is_the_learner_bit_for_bit(method, trained, tmp_path):
    _, halfway = trained
    checkpoint.save(tmp_path, 3, {"learner": halfway}, {})
    again = checkpoint.restore(tmp_path, {"learner": jax.eval_shape(lambda: halfway)})[0]["learner"]
    chex.assert_trees_all_equal_shapes_and_dtypes(again, halfway)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(halfway), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_other_counts_compile_nothing(method, env, data, trained):
    """A run of 7 updates is cut into 3, 3 and 1, where the first was cut into 3 and 3."""
    build, c = method
    size = train.updates._cache_size(), train.evaluation._cache_size()
    steps = [e.step for e in run(build, c, env, data, steps=7) if e.kind == "train"]
    assert steps == [3, 6, 7]
    assert (train.updates._cache_size(), train.evaluation._cache_size()) == size


def test_the_second_init_compiles_nothing(method, caplog):
    build, c = method
    s = train.Settings(seeds=2)
    train.init(build, c, GIVEN, SPEC, s)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        caplog.clear()
        train.init(build, c, GIVEN, SPEC, s)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert not compiled, compiled
