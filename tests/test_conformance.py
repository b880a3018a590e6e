"""What every algorithm must do: the matrix runs over ``names.ALGORITHMS``.

``make test`` takes one method of each kind of driver through it, so that it takes no longer with every method; CI takes all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from jax.interpreters import partial_eval
from tiers import slow_but

from qchunk import envs, names, registry, sampling, seeds
from qchunk.actor_configs import FlowConfig
from qchunk.actors import actor
from qchunk.actors.flow import flow
from qchunk.config import ActorConfig, CriticConfig, Stands, actor_fields, of_kind, stands_on, validate
from qchunk.data import buffer, formats
from qchunk.data.goals import needs_goals
from qchunk.drivers import offline, on_policy, train
from qchunk.drivers.common import assemble, init
from qchunk.drivers.online import OnlineSettings
from qchunk.envs import base as envs_base
from qchunk.play import on_device
from qchunk.play.execute import parse
from qchunk.play.on_device import begin, rollout_chunks
from qchunk.runs import checkpoint
from qchunk.runs.prior import check_used
from qchunk.seeds import for_each
from qchunk.system.errors import UserError
from qchunk.types import Spec, view

SPEC = Spec(2, 1, 2)
SPECS = {False: SPEC, True: Spec({"state": 12, "goal": 3}, 5, 2)}  # by whether a method learns for goals
TINY = {"hidden": (16,), "steps": 2, "members": 2, "n": 2, "horizon": 2}
TINY |= {"tuned_steps": 1, "act_horizon": 1, "envs": 4, "decisions": 4, "epochs": 1, "minibatches": 2}
TINY |= {"depth": 2, "more": 1, "skill": 2, "climbs": 2, "levels": 2, "bins": 3, "atoms": 4}
TINY |= {"size": 8, "unroll": 3, "simulations": 4, "pairs": 2}
TINY |= {"guesses": 2, "candidates": 2, "target_n": 2, "divergence": 0.1, "group": 2, "top": 2}
TINY |= {"samples": 4, "gaussians": 2}
TINY |= {"codec": "none"}  # what is tested with primitives is in test_primitives.py
ONLINE_ALONE = {"SUPE": {"novelty", "reward_model", "end_model"}}  # what online windows alone teach; here are none
ACTOR = FlowConfig((16,), steps=2)  # the frozen prior of methods that stand on one
GIVEN = {"actor": flow(ACTOR).modules[0].init(jax.random.key(9), SPEC)}


def tiny(c):
    """The configuration with every network at width 16, K = 2, N = 2, H = 2."""
    values = {}
    for field in dataclasses.fields(c):
        value = getattr(c, field.name)
        values[field.name] = tiny(value) if dataclasses.is_dataclass(value) else TINY.get(field.name, value)
    return dataclasses.replace(c, **values)


@functools.cache
def world(goals):
    """An environment, with goals or without, and data of it; one for all methods, so that they share its programs."""
    env = envs.make("tabletop/cube-single-goal" if goals else "probe/two-step")
    rows = random_rows(env, 400, 8, dispatch=50)
    return env, formats.to_device(rows)


@pytest.fixture(scope="module")
def env(method):
    return world(needs_goals(type(method[1])))[0]


@pytest.fixture(scope="module")
def data(method):
    return world(needs_goals(type(method[1])))[1]


@pytest.fixture(scope="module")
def spec(method):
    return SPECS[needs_goals(type(method[1]))]


WHOLE = (
    "qc",
    "ppo",
)  # whom `make test` tries, however many methods there are: one for each way in which seeds are trained
OF_SEEDS = ("a_seed_alone_and_among_others", "seeds_vmapped_as_on_an_accelerator")  # what is around a method, not in it


def pytest_generate_tests(metafunc):
    if "method" in metafunc.fixturenames:
        seeds = metafunc.function.__name__.removeprefix("test_") in OF_SEEDS
        every = sorted(WHOLE if seeds else names.ALGORITHMS)
        metafunc.parametrize("method", slow_but(WHOLE, every), indirect=True, scope="module")


@pytest.fixture(scope="module")
def method(request, drop_old_programs):
    """A builder, its tiny configuration, and whose modules it is given."""
    drop_old_programs()  # here, so that no driver does so between two counts of one method's programs
    build, config_class = registry.builder(request.param)
    c = tiny(config_class())
    if request.param == "dppo":  # a prior that walks the first step; from scratch it would train both
        c = dataclasses.replace(c, tuned=ACTOR)
    stands = stands_on(c)
    if request.param == "ppo" or (stands and stands[1] is Stands.CLONED):
        return build, c, {}
    if not stands:
        return build, c, GIVEN
    prior = actor(getattr(c, stands[0])).modules[0]
    return build, c, {"actor": prior.init(jax.random.key(9), SPEC)}


def plays(c):
    return not registry.driver_of(type(c)).takes_data


def drive(method, env, data, seed=0, seeds=2, steps=6, learner=None, state=None):
    """``steps`` updates offline, or iterations on-policy, with figures and a checkpoint every 3."""
    build, c, given = method
    s, given = settings_of(method, seed, seeds, steps), for_each(seeds, given)
    if plays(c):
        return train(build, c, given=given, env=env, settings=s, learner=learner, state=state)
    return train(build, c, given=given, env=env, data=data, settings=s, learner=learner)


def settings_of(method, seed, seeds, steps):
    """Those of ``drive``, by the method's driver."""
    n, more = 1, {"offline_steps": steps, "online_steps": 0, "batch": 16}
    if plays(method[1]):
        n = per_iteration(method)
        more = {"online_steps": steps * n}
    every = {"log_every": 3 * n, "eval_every": 3 * n, "episodes": 4}
    return registry.driver_of(type(method[1])).settings(seed=seed, seeds=seeds, **every, **more)


def per_iteration(method):
    """Environment steps."""
    build, c, _ = method
    return c.rollout.envs * c.rollout.decisions * parse("open-loop", c.chunk.horizon).scheme(build(c).explore).steps


def run(method, env, data, **more):
    """The events of ``drive``, their steps counted in its units."""
    c = method[1]
    unit = per_iteration(method) if plays(c) else 1
    return [e._replace(step=e.step / unit) for e in drive(method, env, data, **more)]


def programs(c):
    found = (on_policy.iterate, on_policy.start) if plays(c) else (offline.updates,)
    return [f._cache_size() for f in (*found, on_device.evaluate)]


def per_unit(c):
    return c.rollout.epochs * c.rollout.minibatches if plays(c) else 1


@pytest.fixture(scope="module")
def trained(method, env, data):
    """Events of two seeds, and a copy of what a checkpoint holds at step 3 (the driver reuses its memory)."""
    events, halfway = [], None
    for event in drive(method, env, data):
        if event.kind == "checkpoint" and halfway is None:
            halfway = jax.tree.map(jnp.copy, (event.learner, event.state))
        events.append(event._replace(learner=jax.tree.map(jnp.copy, event.learner), state=None))
    unit = events[-1].step / 6
    return [e._replace(step=e.step / unit) for e in events], halfway


def experience(method, env, data, state, key):
    """What one update learns from, and the learner that is prepared for it."""
    build, c, given = method
    draw_key, begin_key, prepare_key = jax.random.split(key, 3)
    if not plays(c):
        source = buffer.Source(data, goal_of=getattr(env, "goal_of", None))
        chunk = (build(c).draw or buffer.draw)(draw_key, source, c.chunk, 8)
        return build(c).prepare(state, given, prepare_key, chunk)
    wrapped, scheme, vars = envs_base.wrap(env), parse("open-loop", 2).scheme(build(c).explore), view(state, given)
    loop = begin(wrapped, scheme, vars, jax.random.split(begin_key), 4)
    _, chunk, _ = rollout_chunks(wrapped, scheme, vars, draw_key, 4, loop, c.chunk)
    state, chunk = build(c).prepare(state, given, prepare_key, chunk)
    return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunk)


@pytest.mark.accelerator
def test_acts(method, spec):
    build, c, given = method
    algorithm = build(c)
    vars = view(jax.jit(lambda key: algorithm.init(key, spec, given))(jax.random.key(0)), given)
    others = () if algorithm.explore is algorithm.act else (algorithm.explore,)
    for policy in (algorithm.act, *others):
        for lead in ((), (3,)):
            obs = jax.tree.map(lambda n: jax.random.normal(jax.random.key(1), (*lead, n)), spec.obs)
            plan = jax.jit(lambda obs, p=policy: sampling.act(p, vars, jax.random.key(2), obs))(obs)
            length = policy.length or spec.horizon
            chex.assert_shape(plan.action, (*lead, length, spec.action))
            chex.assert_tree_all_finite(plan)
            assert float(jnp.abs(plan.action).max()) <= 1.0
            chex.assert_trees_all_equal(policy.emit(vars, plan, length - 1, obs), plan.action[..., length - 1, :])


CUT = {"backup": (4,), "padding": "repeated", "starts": "episode"}


def program_of_update(method, env, data, spec):
    """What an update computes of its key, without what nothing reads: (its text, the arrays that it holds)."""
    build, c, given = method
    validate(c)
    registry.driver_of(type(c)).check_read(c)

    def update(key):
        init_key, draw_key, key = jax.random.split(key, 3)
        state, chunk = experience(method, env, data, build(c).init(init_key, spec, given), draw_key)
        return build(c).update(state, given, key, chunk)

    made = jax.make_jaxpr(update)(jax.random.key(0))
    held, free = made.jaxpr.constvars, made.jaxpr.invars
    names = made.jaxpr.debug_info.with_unknown_names()
    whole = made.jaxpr.replace(constvars=[], invars=[*held, *free], debug_info=names)
    kept, read = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    arrays = [np.asarray(x).tobytes() for x, used in zip(made.consts, read, strict=False) if used]
    return re.sub("0x[0-9a-f]+", "", str(kept)), arrays


def test_how_windows_are_cut_is_read_or_refused(method, env, data, spec):
    """Who asks for windows otherwise gets another update, or a line: no method ignores them, or takes its own instead."""
    build, c, given = method
    usual = functools.cache(lambda: program_of_update(method, env, data, spec))
    for field, value in CUT.items():
        other = dataclasses.replace(c, chunk=dataclasses.replace(c.chunk, **{field: value}))
        with contextlib.suppress(UserError):
            found = program_of_update((build, other, given), env, data, spec)
            assert found != usual(), f"{field} {value} changes nothing"


KINDS = ("diffusion", "gaussian", "regression", "one-step", "tanh-gaussian", "consistency", "meanflow", "distilled")


@pytest.mark.parametrize("kind", KINDS)
def test_an_actor_of_any_kind_learns_or_is_refused(method, kind, env, data, spec):
    """In one line, and before anything is trained."""
    build, c, given = method
    if plays(c) or not (fields := actor_fields(type(c))):
        pytest.skip(
            "on-policy methods are refused for paths without probabilities (test_registry.py), others have no actor"
        )
    c = dataclasses.replace(c, **dict.fromkeys(fields, tiny(of_kind(ActorConfig, kind))))
    stands = stands_on(c)
    if stands and stands[1] is not Stands.CLONED:
        given = {"actor": actor(getattr(c, stands[0])).modules[0].init(jax.random.key(9), spec)}

    def one():
        before = build(c).init(jax.random.key(0), spec, given)
        ready, chunk = experience((build, c, given), env, data, before, jax.random.key(1))
        return build(c).update(ready, given, jax.random.key(2), chunk)

    try:
        assert jax.eval_shape(one)[1]["loss"].shape == ()
    except UserError as refusal:
        assert "take " in str(refusal) or "--actor.kind" in str(refusal)


def test_an_update_reads_a_few_target_networks_or_is_refused(method, env, data, spec):
    """One of three members, whoever it is: its target network matters to what is learned, and no other's."""
    build, c, given = method
    if plays(c) or not isinstance(getattr(c, "critic", None), CriticConfig):
        pytest.skip("has no ensemble of chunk critics")
    c = dataclasses.replace(c, critic=dataclasses.replace(c.critic, members=3, subset=1))
    try:
        validate(c)
    except UserError as refusal:
        assert "--critic.subset 1 picks among target networks, but " in str(refusal)
        return

    @jax.jit
    def one(sizes):
        state = build(c).init(jax.random.key(0), spec, given)
        ready, chunk = experience((build, c, given), env, data, state, jax.random.key(1))
        scaled = jax.tree.map(lambda x: x * sizes.reshape(-1, *(1,) * (x.ndim - 1)), ready.targets["critic"])
        ready = ready._replace(targets={**ready.targets, "critic": scaled})
        chunk = chunk._replace(discount=jnp.ones_like(chunk.discount))  # here all windows end their episodes
        return build(c).update(ready, given, jax.random.key(2), chunk)[1]["loss"]

    losses = [float(one(jnp.ones(3).at[i].set(3.0))) for i in range(3)]
    plain = float(one(jnp.ones(3)))
    assert sum(loss != plain for loss in losses) == 1


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


def learns_here(method, name):
    """Whether data alone teach a module."""
    return name not in ONLINE_ALONE.get(type(method[1]).__name__, ())


@pytest.mark.accelerator
def test_updates_move_every_module(method, trained):
    events, _ = trained
    before, after = events[0].learner, events[-1].learner
    assert int(after.step) == 6 * per_unit(method[1])
    for name in before.params:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.params[name], after.params[name])
        learns = learns_here(method, name)
        assert (max(jax.tree.leaves(moved)) > 0) == learns, f"{name} {'never' * learns} moved"
    for name in before.targets:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.targets[name], after.targets[name])
        assert max(jax.tree.leaves(moved)) > 0, f"the target network of {name} never moved"


def test_a_seed_alone_and_among_others(method, env, data, trained):
    alone = run(method, env, data, seed=1, seeds=1)[-1].learner
    both = trained[0][-1].learner
    second = jax.tree.map(lambda x: x[1], both._replace(step=both.step[None].repeat(2)))
    alone = jax.tree.map(lambda x: x[0], alone._replace(step=alone.step[None]))
    chex.assert_trees_all_close(alone, second, atol=1e-6)


@pytest.mark.accelerator
def test_resumes_to_the_same_bits(method, env, data, trained, tmp_path):
    events, (learner, online) = trained
    tree = {"learner": learner} | ({} if online is None else {"online": online})
    checkpoint.save(tmp_path, 3, tree, {"step": 3})
    restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: tree))[0]
    restored = jax.tree.map(jnp.asarray, restored)
    again = run(method, env, data, learner=restored["learner"], state=restored.get("online"))[-1].learner
    chex.assert_trees_all_equal(again, events[-1].learner)


@pytest.fixture(scope="module")
def one_update(method, env, data, spec):
    """(learning rate, gamma) -> learners before and after one update without a driver, and its metrics; compiled."""
    build, c, given = method

    def one(lr, gamma):
        mine = dataclasses.replace(
            c, optim=dataclasses.replace(c.optim, lr=lr), chunk=dataclasses.replace(c.chunk, gamma=gamma)
        )
        before = build(mine).init(jax.random.key(0), spec, given)
        ready, chunk = experience((build, mine, given), env, data, before, jax.random.key(1))
        return before, *build(mine).update(ready, given, jax.random.key(2), chunk)

    return jax.jit(one)  # op by op it compiles longer


def test_float_fields_are_vmapped(one_update):
    """Learning rate and gamma differ between the members of one program; each equals its own run."""
    lrs, gammas = jnp.asarray([1e-3, 1e-2]), jnp.asarray([0.9, 0.5])
    together = jax.jit(jax.vmap(lambda *floats: one_update(*floats)[1].params))(lrs, gammas)
    alone = one_update(1e-2, 0.5)[1].params
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], together), alone, atol=2e-5)
    apart = jax.tree.map(lambda x: float(jnp.abs(x[0] - x[1]).max()), together)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_the_second_call_compiles_nothing(method, env, data, trained):
    build, c, given = method
    size = programs(c)
    other = dataclasses.replace(c, optim=dataclasses.replace(c.optim, lr=1e-2))  # another float
    run((build, other, given), env, data, steps=6)
    assert programs(c) == size


@pytest.mark.accelerator
def test_one_update(method, one_update):
    """Without the driver: finite, one step further, and every module has moved."""
    before, after, metrics = one_update(1e-3, 0.9)
    assert int(before.step) == 0 and int(after.step) == 1
    chex.assert_tree_all_finite((after.params, after.targets, metrics))
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    for name in before.params:
        pairs = zip(*(jax.tree.leaves(x.params[name]) for x in (before, after)), strict=True)
        learns = learns_here(method, name)
        assert any((x != y).any() for x, y in pairs) == learns, f"{name} {'did not move' if learns else 'moved'}"


def test_seeds_vmapped_as_on_an_accelerator(method, env, data, trained, monkeypatch):
    """A CPU loops over seeds; everywhere else they are vmapped. Both must give the same numbers."""
    build, c, given = method
    monkeypatch.setattr(seeds, "mapped", lambda fn, batched: jax.vmap(fn)(*batched))
    again = functools.partial(build)  # another function to jit, which must not reuse the loop's program
    with jax.debug_key_reuse(False):  # it mistakes the guards that jax puts around a vmapped cond's operands for a use
        vmapped = run((again, c, given), env, data, steps=3)[-1].learner
    looped, _ = trained[1]
    assert int(vmapped.step) == int(looped.step) == 3 * per_unit(c)
    chex.assert_trees_all_close(vmapped.params, looped.params, atol=1e-5)
    chex.assert_trees_all_close(vmapped.targets, looped.targets, atol=1e-5)


def test_a_checkpoint_is_the_learner_bit_for_bit(trained, tmp_path):
    _, (halfway, _) = trained
    checkpoint.save(tmp_path, 3, {"learner": halfway}, {})
    again = checkpoint.restore(tmp_path, {"learner": jax.eval_shape(lambda: halfway)})[0]["learner"]
    chex.assert_trees_all_equal_shapes_and_dtypes(again, halfway)
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(halfway), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_other_counts_compile_nothing(method, env, data, trained):
    """A run of 7 steps is cut into 3, 3 and 1, where the first was cut into 3 and 3."""
    size = programs(method[1])
    steps = [e.step for e in run(method, env, data, steps=7) if e.kind == "train"]
    assert steps == [3, 6, 7]
    assert programs(method[1]) == size


def test_a_method_that_stands_on_a_prior_reads_its_weights(method, env, data, spec):
    build, c, _ = method
    stands = stands_on(c)
    if not stands:
        pytest.skip("stands on no prior")
    given = {"actor": actor(getattr(c, stands[0])).modules[0].init(jax.random.key(9), spec)}
    s = settings_of(method, seed=0, seeds=2, steps=1)
    program, x = assemble(build, c, env, s, for_each(2, given), None if plays(c) else data)
    check_used(program, x, registry.driver_of(type(c)).unit(program, x, s)[:2])


def test_the_second_init_compiles_nothing(method, env, caplog):
    build, c, given = method
    given = for_each(2, given)
    first, second = (assemble(build, c, env, OnlineSettings(seeds=2), given) for _ in range(2))
    init(*first)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        caplog.clear()
        init(*second)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert not compiled, compiled
