"""The composition of modules and terms, hand-worked."""

from __future__ import annotations

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows

from qchunk import compose, envs, names, registry, train
from qchunk.actor_configs import FlowConfig
from qchunk.actors.flow import flow
from qchunk.algorithms.bc import BC
from qchunk.algorithms.qc import QC, qc
from qchunk.compose import frozen, learner
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.zooms import ZoomCritic
from qchunk.data import formats
from qchunk.drivers.online import OnlineSettings
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.td import td
from qchunk.losses.terms import weighted_mean
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Critic, Kernel, Module, Plan, Policy, Spec, TargetNetwork, Term, Vars

SPEC = Spec(3, 2, 4)


def key():
    return jax.random.key(0)


NOTHING = Policy(lambda v, k, o: (), lambda v, z, o, old: Plan(jnp.zeros((4, 2))), lambda v, p, i, o: p.action[i])


def scalar(name, value, target=None):
    return Module(name, lambda k, spec: {"x": jnp.asarray(value)}, lambda p: p["x"], target)


def term(wrt, fn, name=None, **when):
    return Term(name or f"of_{'_'.join(wrt)}", wrt, lambda k, chunk: (), lambda v, z, c: (fn(v), {}), **when)


def chunk_of(batch=6):
    k = jax.random.split(jax.random.key(7), 3)
    return Chunk(
        jax.random.normal(k[0], (batch, 3)),
        jax.random.uniform(k[1], (batch, 4, 2), minval=-1),
        jnp.ones((batch, 4)),
        jnp.arange(batch, dtype=jnp.float32)[:, None],
        jnp.full((batch, 1), 0.5),
        jax.random.normal(k[2], (batch, 1, 3)),
        jnp.ones((batch, 1)),
        jnp.zeros(batch),
        {},
    )


def steps(algorithm, count, given=None):
    state, given = algorithm.init(key(), SPEC, given or {}), given or {}
    states = [state]
    for i in range(count):
        states.append(jax.jit(algorithm.update)(states[-1], given, jax.random.key(i), chunk_of())[0])
    return states


def test_a_term_trains_only_what_it_names():
    """The product a * b with wrt = a: b has a gradient of its own value, and must not get it."""
    a, b = scalar("a", 2.0), scalar("b", 3.0)
    product = term(("a",), lambda v: v.params["a"]["x"] * v.params["b"]["x"])
    idle = term(("b",), lambda v: 0.0 * v.params["b"]["x"])
    after = steps(learner([a, b], NOTHING, [product, idle], OptimConfig(0.1)), 1)[1]
    np.testing.assert_allclose(after.params["a"]["x"], 2.0 - 0.1, rtol=1e-5)  # Adam's first step is the learning rate
    np.testing.assert_allclose(after.params["b"]["x"], 3.0)


def test_every_and_start_gate_a_module_wholly():
    a, b = scalar("a", 1.0), scalar("b", 1.0)
    one = term(("a",), lambda v: v.params["a"]["x"] ** 2)
    late = term(("b",), lambda v: v.params["b"]["x"] ** 2, every=2, start=3)
    states = steps(learner([a, b], NOTHING, [one, late], OptimConfig(0.1)), 6)
    b_values = [float(s.params["b"]["x"]) for s in states]
    assert b_values[0] == b_values[1] == b_values[2] == b_values[3] == b_values[4] == 1.0  # updates 0 to 3
    assert b_values[5] == pytest.approx(0.9)  # update 4, Adam's first step: its moments had not moved either
    assert b_values[6] == b_values[5]
    a_values = [float(s.params["a"]["x"]) for s in states]
    assert all(x > y for x, y in itertools.pairwise(a_values))


def test_target_networks_lag_or_follow():
    lag, lead = scalar("lag", 1.0, TargetNetwork(0.5)), scalar("lead", 1.0, TargetNetwork(0.5, lagged=False))
    rare = scalar("rare", 1.0, TargetNetwork(1.0, lagged=False, every=2))
    modules = [lag, lead, rare]
    down = term(("lag", "lead", "rare"), lambda v: sum(v.params[n]["x"] for n in v.params))
    states = steps(learner(modules, NOTHING, [down], OptimConfig(0.1)), 2)
    x = [float(s.params["lag"]["x"]) for s in states]
    np.testing.assert_allclose(x, [1.0, 0.9, 0.8], rtol=1e-4)
    np.testing.assert_allclose([float(s.targets["lag"]["x"]) for s in states], [1.0, 1.0, 0.95], rtol=1e-4)
    np.testing.assert_allclose([float(s.targets["lead"]["x"]) for s in states], [1.0, 0.95, 0.875], rtol=1e-4)
    np.testing.assert_allclose([float(s.targets["rare"]["x"]) for s in states], [1.0, 0.9, 0.9], rtol=1e-4)


def test_learning_rates_by_name_and_joint_clipping():
    a, b = scalar("a", 0.0), scalar("b", 0.0)
    both = term(("a", "b"), lambda v: v.params["a"]["x"] + v.params["b"]["x"])
    after = steps(learner([a, b], NOTHING, [both], {"": OptimConfig(0.1), "b": OptimConfig(0.2)}), 1)[1]
    np.testing.assert_allclose([after.params["a"]["x"], after.params["b"]["x"]], [-0.1, -0.2], rtol=1e-4)
    state = steps(learner([a, b], NOTHING, [both], OptimConfig(0.1), clip=1e-3), 1)[1]
    first_moments = [float(m) for m in jax.tree.leaves(state.opt) if jnp.ndim(m) == 0 and 0 < float(m) < 1e-3]
    assert any(m == pytest.approx(0.1 * 1e-3 / np.sqrt(2), rel=1e-3) for m in first_moments)


def test_two_modules_of_one_name_are_refused():
    with pytest.raises(UserError, match="share a name: a, a"):
        learner([scalar("a", 1.0), scalar("a", 2.0)], NOTHING, [], OptimConfig())


def test_whatever_a_part_computes_from_its_weights_can_be_redirected():
    """A field that ``reading`` forgets would read online networks where target networks are meant."""
    fixed = {"advance", "draw", "aggregate"}  # of numbers alone
    known = {*compose.OF_OBS, *fixed, "shape", "loss", "follow", "decoder"}
    for part in (Kernel, Critic, ZoomCritic):
        hints = {n: str(hint) for n, hint in part.__annotations__.items()}
        asked = {n for n, hint in hints.items() if "Fn" in hint or "Callable" in hint or "Decoder" in hint}
        assert asked and asked <= known, asked - known


def test_a_frozen_prior_is_read_and_never_touched():
    actor = FlowConfig((16,), steps=2)
    pi, q = frozen(flow(actor)), chunk_q(CriticConfig((16,)))
    act = best_of_n(sample(pi), q.score, 3)
    algorithm = learner([q], act, [td(q, act)], OptimConfig())
    given = {"actor": flow(actor).modules[0].init(key(), SPEC)}
    before = [np.asarray(x).tobytes() for x in jax.tree.leaves(given)]
    states = steps(algorithm, 2, given)
    assert set(states[-1].params) == {"critic"} and "actor" not in str(jax.tree.structure(states[-1].opt))
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(given)] == before
    vars, obs = Vars(states[-1].params, {}, {}, given), chunk_of().obs
    plan = act.plan(vars, act.draw(vars, key(), obs), obs, None)
    other = vars._replace(given=jax.tree.map(lambda x: x * 0.5, given))
    assert not np.allclose(plan.action, act.plan(other, act.draw(other, key(), obs), obs, None).action)


def test_weighted_mean():
    value = jnp.asarray([[1.0, 2.0], [3.0, 100.0]])
    assert float(weighted_mean(jnp.asarray([1.0, 0.0]), value)) == 2.0
    assert float(weighted_mean(jnp.zeros(2), value)) == 0.0


@pytest.mark.parametrize("slice_rows", [0, 1, 6, 9, 100])
def test_best_of_n_takes_the_best_whatever_the_slices(slice_rows):
    pi = flow(FlowConfig((16,), steps=2))
    vars = Vars({"actor": pi.modules[0].init(key(), SPEC)}, {}, {}, {})
    likes = lambda vars, obs, action: jnp.sum(action, (-1, -2)) + jnp.sum(obs, -1)  # noqa: E731
    policy, obs = best_of_n(sample(pi), likes, 3, slice_rows), chunk_of(7).obs
    noise = policy.draw(vars, key(), obs)
    each = [sample(pi).plan(vars, noise[:, i], obs, None).action for i in range(3)]
    scores = jnp.stack([jnp.sum(a, (-1, -2)) for a in each])
    best = jnp.stack(each)[jnp.argmax(scores, 0), jnp.arange(7)]
    np.testing.assert_allclose(policy.plan(vars, noise, obs, None).action, best, atol=1e-6)


def constant_critic(value):
    """Two members that differ by 2 around ``value``, which is a parameter."""
    module = Module("critic", lambda k, s: {"x": jnp.asarray(value)}, lambda p: p["x"], TargetNetwork(0.1))

    def values(vars, obs, action, t=1.0):
        flat = jnp.zeros(action.shape[:-2])
        return jnp.stack([vars.params["critic"]["x"] - 1 + flat, vars.params["critic"]["x"] + 1 + flat])

    mean = lambda q: jnp.mean(q, 0)  # noqa: E731
    return Critic((module,), values, mean, lambda v, o, a, t=1.0: mean(values(v, o, a)))


def test_td_hand_worked():
    q = constant_critic(5.0)
    policy = NOTHING._replace(plan=lambda v, z, obs, old: Plan(jnp.zeros((len(obs), 4, 2))))
    vars = Vars({"critic": {"x": jnp.asarray(5.0)}}, {"critic": {"x": jnp.asarray(7.0)}}, {}, {})
    chunk = chunk_of(3)._replace(
        reward=jnp.asarray([[1.0], [2.0], [3.0]]),
        discount=jnp.asarray([[0.5], [0.0], [0.5]]),
        weight=jnp.asarray([[1.0], [1.0], [0.0]]),
    )
    # targets: 1 + 0.5 * 7 (the target network's), 2, and a row that does not count; members are 4 and 6
    loss, metrics = td(q, policy).fn(vars, key(), chunk)
    rows = [np.mean([(4 - 4.5) ** 2, (6 - 4.5) ** 2]), np.mean([(4 - 2.0) ** 2, (6 - 2.0) ** 2])]
    assert float(loss) == pytest.approx(np.mean(rows))
    assert float(metrics["target"]) == pytest.approx((4.5 + 2.0) / 2) and float(metrics["q"]) == pytest.approx(5.0)
    grads = jax.grad(lambda p: td(q, policy).fn(vars._replace(params=p), key(), chunk)[0])(vars.params)
    expected = np.mean([2 * (4 - 4.5), 2 * (6 - 4.5), 2 * (4 - 2), 2 * (6 - 2)])  # no gradient through the target
    assert float(grads["critic"]["x"]) == pytest.approx(expected)


def test_an_update_reads_the_target_networks_of_a_few_members():
    """Of five, whose values lie apart, the target is the least of two: every pair has its turn, and none with itself; the networks all learn."""
    q = chunk_q(CriticConfig((8,), members=5, aggregate="min", subset=2))
    policy = NOTHING._replace(plan=lambda v, z, obs, old: Plan(jnp.zeros((len(obs), 4, 2))))
    made = learner([q], policy, [td(q, policy)], OptimConfig(1e-3))
    state = made.init(key(), SPEC)
    says = jnp.asarray([1.0, 2.0, 4.0, 8.0, 16.0])  # as the bias of the last layer, where all other weights are 0
    zeros = jax.tree.map(jnp.zeros_like, state.targets)
    state = state._replace(targets=jax.tree.map(lambda x: says.reshape(x.shape) if x.size == 5 else x, zeros))
    chunk = chunk_of()._replace(reward=jnp.zeros((6, 1)), discount=jnp.ones((6, 1)))
    update = jax.jit(lambda k: made.update(state, {}, k, chunk))
    seen = [update(jax.random.key(i)) for i in range(60)]
    counts = dict.fromkeys((1.0, 2.0, 4.0, 8.0), 0)
    for _, metrics in seen:
        counts[float(metrics["td/target"])] += 1
    assert counts[1.0] > counts[2.0] > counts[8.0] > 0  # 4, 3 and 1 of the ten pairs
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).reshape(5, -1).max(-1), seen[0][0].params, state.params)
    assert (np.stack(jax.tree.leaves(moved)).max(0) > 0).all()
    assert jax.tree.leaves(seen[0][0].targets)[0].shape[0] == 5


def test_bc_counts_only_steps_inside_the_episode():
    """Garbage behind the mask changes nothing, and a half-masked batch has the mean of its unmasked half."""
    pi = flow(FlowConfig((16,), steps=2))
    vars, chunk = Vars({"actor": pi.modules[0].init(key(), SPEC)}, {}, {}, {}), chunk_of(4)
    zero_head = jax.tree.map(jnp.zeros_like, vars.params)
    vars = vars._replace(params=zero_head)  # v = 0: the error is a - z itself
    z, t = pi.draw(key(), chunk)
    mask = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], jnp.float32)
    loss, _ = bc(pi).fn(vars, (z, t), chunk._replace(mask=mask))
    error = np.mean(np.square(np.asarray(chunk.action - z)), axis=-1)
    assert float(loss) == pytest.approx(float((error * np.asarray(mask)).sum() / mask.sum()), rel=1e-5)


@pytest.mark.parametrize("kind", [n for n in names.ACTORS if n != "skills"])  # whose loss is worked by hand elsewhere
def test_steps_behind_an_episodes_end_teach_no_actor(kind):
    """Of networks whose weights are all 0: garbage there changes no loss, and a window of nothing else has none; nor has a teacher's lesson."""
    make, config = registry.actor(kind)
    kernel, teacher, chunk = make(config((8,)), "actor"), flow(FlowConfig((8,), steps=2), "teacher"), chunk_of()
    mask = jnp.asarray(np.arange(4) < np.asarray([4, 3, 2, 1, 1, 2])[:, None], jnp.float32)
    garbage = jnp.where(mask[..., None] > 0, chunk.action, -0.7 * chunk.action + 0.2)

    def variables(key, scale):
        keys = jax.random.split(key, 3)
        made = {m.name: m.init(k, SPEC) for m, k in zip((*kernel.modules, *teacher.modules), keys, strict=False)}
        return Vars(jax.tree.map(lambda x: scale * x, made), {}, {}, {})

    @jax.jit
    def losses(key):
        own_key, key = jax.random.split(key)
        vars, noise = variables(jax.random.clone(key), 0.0), kernel.draw(own_key, chunk)
        cases = (chunk.action, mask), (garbage, mask), (chunk.action, 1 + 0 * mask), (chunk.action, 0 * mask)
        found = [kernel.loss(vars, noise, chunk._replace(action=a, mask=m)) for a, m in cases]
        if kernel.follow is None:
            return found, None
        lesson = functools.partial(kernel.follow(teacher), variables(key, 1.0), noise)
        return found, [lesson(chunk._replace(mask=m)) for m in (1 + 0 * mask, 0 * mask)]

    (inside, same, whole, none), taught = losses(key())
    np.testing.assert_allclose(same, inside, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(none, 0.0, atol=1e-5)
    found = jnp.abs(whole - inside) > 1e-5
    assert not found[0] and found.sum() >= 4  # a row that jumps along a velocity of 0 has no error
    if taught is not None:
        np.testing.assert_allclose(taught[1], 0.0, atol=1e-5)
        assert (taught[0] > 1e-5).any()


def opt_of(state, name):
    return state.opt.inner_states[name]


def test_before_its_start_nothing_of_a_module_moves():
    """Parameters, optimiser and target network to the bit; then Adam's first step; the target an update later."""
    a, b = scalar("a", 1.0), scalar("b", 1.0, TargetNetwork(0.5))
    one = term(("a",), lambda v: v.params["a"]["x"] ** 2)
    terms = [one, term(("b",), lambda v: v.params["b"]["x"] ** 2, start=3)]
    states = steps(learner([a, b], NOTHING, terms, OptimConfig(0.1)), 5)
    for state in states[1:4]:
        for get in (lambda s: s.params["b"], lambda s: s.targets["b"], lambda s: opt_of(s, "b")):
            chex.assert_trees_all_equal(get(state), get(states[0]))
        moments = [jax.tree.leaves(opt_of(s, "a")) for s in (state, states[0])]
        assert any((x != y).any() for x, y in zip(*moments, strict=True)), "that of a moves"
    assert float(states[4].params["b"]["x"]) == pytest.approx(0.9) and float(states[4].targets["b"]["x"]) == 1.0
    assert float(states[5].targets["b"]["x"]) == pytest.approx(0.95)


def test_after_its_end_a_module_rests():
    """Two updates and no more; in Q-chunking so for the actor, while the critic goes on."""
    a, b = scalar("a", 1.0), scalar("b", 1.0)
    terms = [
        term(("a",), lambda v: v.params["a"]["x"] ** 2),
        term(("b",), lambda v: v.params["b"]["x"] ** 2, end=2),
    ]
    states = steps(learner([a, b], NOTHING, terms, OptimConfig(0.1)), 4)
    assert float(states[2].params["b"]["x"]) < float(states[1].params["b"]["x"]) < 1.0
    for state in states[3:]:
        chex.assert_trees_all_equal(
            (state.params["b"], opt_of(state, "b")), (states[2].params["b"], opt_of(states[2], "b"))
        )
    c = QC(ChunkConfig(4), FlowConfig((8,), steps=1), CriticConfig((8,)), n=1, clone_until=1)
    _, one, two = steps(qc(c), 2)
    chex.assert_trees_all_equal(one.params["actor"], two.params["actor"])
    assert any((x != y).any() for x, y in zip(*(jax.tree.leaves(s.params["critic"]) for s in (one, two)), strict=True))


def test_between_its_turns_a_modules_optimiser_rests():
    """every=3: five updates hold two turns, 0 and 3, and equal two updates of an ungated learner."""
    b = scalar("b", 1.0)
    square = lambda v: v.params["b"]["x"] ** 2  # noqa: E731
    gated = steps(learner([b], NOTHING, [term(("b",), square, every=3)], OptimConfig(0.1)), 5)
    plain = steps(learner([b], NOTHING, [term(("b",), square)], OptimConfig(0.1)), 2)
    for i, j in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 2)):
        chex.assert_trees_all_close(gated[i].params, plain[j].params, rtol=1e-6)
        chex.assert_trees_all_close(gated[i].opt, plain[j].opt, rtol=1e-6)
    assert [int(s.step) for s in gated] == [0, 1, 2, 3, 4, 5]


def test_the_figures_of_a_term_are_of_the_updates_that_it_is_in():
    """A loss of 3 in every fourth update is 3 on every line, whose updates hold 1, 1 and 0 of its turns; the last has none to tell of."""
    env, b = envs.make("probe/two-step"), scalar("b", 1.0)
    rest = Policy(
        NOTHING.draw,
        lambda v, z, o, old: Plan(jnp.zeros((*o.shape[:-1], 2, 1))),
        lambda v, p, i, o: p.action[..., i, :],
    )
    terms = [
        term(("b",), lambda v: 3.0 + 0 * v.params["b"]["x"], "rare", every=4),
        term(("b",), lambda v: 5.0 + 0 * v.params["b"]["x"], "often"),
    ]
    build = lambda c: learner([b], rest, terms, OptimConfig(0.1))  # noqa: E731
    rows = random_rows(env, 40, 4, dispatch=10)
    s = OnlineSettings(offline_steps=8, log_every=3, eval_every=8, episodes=2, batch=4)
    told = train(build, BC(ChunkConfig(2)), env=env, data=formats.to_device(rows), settings=s)
    lines = [e.values for e in told if e.kind == "train"]
    assert [v["rare/active"].item() for v in lines] == pytest.approx([1 / 3, 1 / 3, 0.0])
    assert [v["rare/loss"].item() for v in lines] == [3.0, 3.0, 0.0]
    assert [v["often/loss"].item() for v in lines] == [5.0] * 3 and "often/active" not in lines[0]
    assert [v["loss"].item() for v in lines] == pytest.approx([6.0, 6.0, 5.0])


def test_a_metric_is_not_called_as_the_share_of_its_updates_is():
    odd = Term("odd", ("b",), lambda k, chunk: (), lambda v, z, c: (v.params["b"]["x"], {"active": jnp.ones(())}))
    with pytest.raises(UserError, match='the term odd has a metric called "active"'):
        steps(learner([scalar("b", 1.0)], NOTHING, [odd], OptimConfig(0.1)), 1)


def test_a_module_moves_while_any_of_its_terms_does():
    """Two terms of one module: their gradients add up in the updates that both have."""
    b = scalar("b", 0.0)
    slope = lambda v: v.params["b"]["x"]  # noqa: E731
    first_moment = []
    for terms in ([term(("b",), slope)], [term(("b",), slope), term(("b",), slope, "rare", every=2)]):
        states = steps(learner([b], NOTHING, terms, OptimConfig(0.1)), 2)
        first_moment.append([float(s.opt.inner_states["b"].inner_state[0].mu["b"]["x"]) for s in states])
    # Adam: m <- 0.9 m + 0.1 g
    np.testing.assert_allclose(first_moment[0], [0.0, 0.1, 0.19], rtol=1e-5)  # g = 1
    np.testing.assert_allclose(first_moment[1], [0.0, 0.2, 0.28], rtol=1e-5)  # g = 2, then 1


def test_the_joint_norm_is_clipped():
    """Gradients (3, 4) have norm 5; clipped to 1 they are (0.6, 0.8); below the bound they stay."""
    a, b = scalar("a", 0.0), scalar("b", 0.0)
    both = term(("a", "b"), lambda v: 3 * v.params["a"]["x"] + 4 * v.params["b"]["x"])
    for clip, expected in ((1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))):
        state = steps(learner([a, b], NOTHING, [both], OptimConfig(0.1), clip=clip), 1)[1]
        inner = state.opt[-1].inner_states
        got = [float(inner[n].inner_state[0].mu[n]["x"]) for n in ("a", "b")]
        np.testing.assert_allclose(got, 0.1 * np.asarray(expected), rtol=1e-5)


def test_rows_without_discount_or_weight_ignore_what_follows():
    """Discount 0: the target is the return. Weight 0: not even a NaN-free but absurd reward counts."""
    q, zero = constant_critic(5.0), jnp.asarray(0.0)
    policy = NOTHING._replace(plan=lambda v, z, obs, old: Plan(jnp.zeros((len(obs), 4, 2))))
    chunk = chunk_of(3)._replace(
        reward=jnp.asarray([[1.0], [2.0], [1e6]]),
        discount=jnp.asarray([[0.0], [0.0], [0.9]]),
        weight=jnp.asarray([[1.0], [1.0], [0.0]]),
    )
    losses = []
    for target in (7.0, -300.0):
        vars = Vars({"critic": {"x": jnp.asarray(5.0)}}, {"critic": {"x": zero + target}}, {}, {})
        losses.append(td(q, policy).fn(vars, key(), chunk))
    np.testing.assert_array_equal(losses[0][0], losses[1][0])
    assert float(losses[0][1]["target"]) == 1.5
    nothing, _ = td(q, policy).fn(vars, key(), chunk._replace(weight=jnp.zeros((3, 1))))
    assert float(nothing) == 0.0
