"""Actors of one step or a few: what they learn from data and from a teacher, and the rules that they learn by."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import slow_but

from qchunk import envs, names, registry
from qchunk.actor_configs import (
    ConsistencyConfig,
    DiffusionConfig,
    DistilledConfig,
    FlowConfig,
    MeanFlowConfig,
    OneStepConfig,
    ReflowConfig,
    ShortcutConfig,
    SkillConfig,
)
from qchunk.actors import actor
from qchunk.actors.consistency import consistency_kernel
from qchunk.actors.flow import flow
from qchunk.actors.paths import decode, end_of
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.distil import Distil, distil
from qchunk.algorithms.qc_fql import QCFQL, qc_fql
from qchunk.config import ActorConfig, ChunkConfig, CriticConfig, OptimConfig, RolloutConfig, of_kind, validate
from qchunk.drivers import train
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.sampling import act, sample
from qchunk.seeds import for_each
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Module, Spec, Vars, view

SPEC, W, OPTIM = Spec(1, 1, 2), (32, 32), OptimConfig(3e-3)
FLOW = FlowConfig(W, steps=10)
KINDS = {
    "one-step": OneStepConfig(W),
    "consistency": ConsistencyConfig(W),
    "shortcut": ShortcutConfig(W),
    "meanflow": MeanFlowConfig(W),
    "MVP": MeanFlowConfig(W, same=0.0, power=0.0, instant=True),
    "distilled": DistilledConfig(W, teacher=FLOW),
    "reflow": ReflowConfig(W, teacher=FLOW),
}


def batch(key, rows=256):
    """Chunks of two actions, both 0.6 or both -0.6 in equal parts, plus a little noise."""
    sign_key, noise_key = jax.random.split(key)
    sign = jnp.where(jax.random.bernoulli(sign_key, 0.5, (rows, 1, 1)), 0.6, -0.6)
    action = sign + 0.05 * jax.random.normal(noise_key, (rows, 2, 1))
    ones = jnp.ones((rows, 1))
    return Chunk(
        jnp.zeros((rows, 1)), action, jnp.ones((rows, 2)), ones, ones, jnp.zeros((rows, 1, 1)), ones, ones[:, 0], {}
    )


def trained(algorithm, updates, given=None):
    given = given or {}

    @jax.jit
    def run(learner):
        def one(learner, i):
            data_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            return algorithm.update(learner, given, key, batch(data_key))

        return jax.lax.scan(one, learner, jnp.arange(updates))[0]

    return run(algorithm.init(jax.random.key(0), SPEC, given))


def played(algorithm, learner, given=None, rows=2000):
    return jax.jit(lambda v: act(algorithm.act, v, jax.random.key(5), jnp.zeros((rows, 1))).action)(
        view(learner, given or {})
    )


def shares(action):
    """(share of chunks near a mode, share of those near the upper one)."""
    up, down = (np.abs(np.asarray(action)[..., 0] - m).max(axis=1) < 0.25 for m in (0.6, -0.6))
    return float((up | down).mean()), float(up.sum() / max((up | down).sum(), 1))


@pytest.mark.parametrize("kind", slow_but(("shortcut",), KINDS))
def test_cloned_in_few_steps_keeps_both_modes(kind):
    """A mean of the data, 0, is near neither."""
    algorithm = bc(BC(ChunkConfig(2), KINDS[kind], OPTIM))
    near, up = shares(played(algorithm, trained(algorithm, 2000)))
    assert near > 0.7 and 0.3 < up < 0.7, (near, up)


ONE_WORD = ("consistency", "shortcut", "meanflow", "distilled", "reflow", "one-step")


def built(name, kind):
    """A method's builder and its configuration at width 8, whose actor is of another kind: one word on the command line."""
    build, config_class = registry.builder(name)
    c = config_class()
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    role = "tuned" if "tuned" in values else "actor"
    values |= {role: of_kind(ActorConfig, kind), "chunk": ChunkConfig(2), "n": 2, "tuned_steps": 1}
    small = {n: dataclasses.replace(v, hidden=(8,)) if hasattr(v, "hidden") else v for n, v in values.items()}
    return build, dataclasses.replace(c, **{f.name: small[f.name] for f in dataclasses.fields(c)})


@pytest.mark.parametrize("kind", ONE_WORD)
@pytest.mark.parametrize("name", ["bc", "qc", "qc-fql"])
def test_any_of_them_by_one_word(name, kind):
    """It is traced that an update moves the actor, and nothing is refused."""
    build, c = built(name, kind)
    algorithm = build(c)

    def moved():
        before = algorithm.init(jax.random.key(0), SPEC, {})
        after, metrics = algorithm.update(before, {}, jax.random.key(1), batch(jax.random.key(2), 4))
        return (
            before.params,
            after.params,
            metrics,
            act(algorithm.act, view(after, {}), jax.random.key(3), jnp.zeros(1)),
        )

    before, after, metrics, plan = jax.eval_shape(moved)
    assert jax.tree.structure(before) == jax.tree.structure(after) and "actor" in after
    assert metrics["loss"].shape == () and plan.action.shape == (2, 1)


@pytest.mark.parametrize("kind", slow_but(["consistency"], ONE_WORD))
def test_dppo_tunes_any_of_them(kind):
    """On a prior of that kind, whose other steps, where it has several, stay the prior's."""
    build, c = built("dppo", kind)
    c = dataclasses.replace(c, rollout=RolloutConfig(4, 2, 1, 2))
    prior = bc(BC(ChunkConfig(2), c.tuned)).init(jax.random.key(0), Spec(2, 1, 2), {}).params
    given = for_each(1, {"actor": prior["actor"]})
    s = OnPolicySettings(online_steps=32, eval_every=32, log_every=16, episodes=2)
    *_, evaluated, saved = train(build, c, given=given, env=envs.make("probe/two-step"), settings=s)
    assert np.isfinite(evaluated.values["return"]).all()
    tuned = saved.learner.params["actor"]
    assert any(jnp.any(x != y) for x, y in zip(*map(jax.tree.leaves, (tuned, given["actor"])), strict=True))


@pytest.mark.parametrize("kind", slow_but(["consistency"], ["consistency", "diffusion"]))
def test_a_student_is_taught_by_what_draws_noise(kind):
    """By the chunk that the noise leads to where the teacher's steps add none, so both modes are kept."""
    teacher = {"consistency": KINDS["consistency"], "diffusion": DiffusionConfig((32, 32, 32), steps=10)}[kind]
    assert actor(teacher).noisy
    c = QCFQL(ChunkConfig(2), teacher, OneStepConfig(W), CriticConfig((8,)), OPTIM, alpha=1e4)
    near, up = shares(played(qc_fql(c), trained(qc_fql(c), 2000)))
    assert near > 0.7 and 0.3 < up < 0.7, (near, up)


FOLLOWERS = {
    **{n: KINDS[n] for n in ("one-step", "consistency", "shortcut")},
    "meanflow": KINDS["MVP"],
    "flow": FlowConfig(W, steps=1),
}


@pytest.fixture(scope="module")
def teacher():
    made = bc(BC(ChunkConfig(2), FLOW, OPTIM))
    learner = trained(made, 2000)
    assert shares(played(made, learner))[0] > 0.8
    return made.freeze(learner)


@pytest.mark.parametrize("kind", slow_but(("one-step",), FOLLOWERS))
def test_distilled_from_a_frozen_prior(teacher, kind):
    """Data are not looked at: half of the chunks are enough for what the prior knows of both modes."""
    algorithm = distil(Distil(FLOW, ChunkConfig(2), FOLLOWERS[kind], OPTIM))
    learner = trained(algorithm, 1500, teacher)
    assert set(learner.params) == {"actor"}
    near, up = shares(played(algorithm, learner, teacher))
    assert near > 0.7 and 0.3 < up < 0.7, (near, up)


def test_who_can_follow_nobody_is_refused():
    with pytest.raises(UserError, match="a diffusion actor cannot follow another"):
        distil(Distil(actor=DiffusionConfig()))
    for given in (DiffusionConfig(), ShortcutConfig()):  # a shortcut acts by its jumps
        with pytest.raises(UserError, match="no velocity at any time"):
            distil(Distil(given, actor=MeanFlowConfig()))
    with pytest.raises(UserError, match="makes skills"):
        distil(Distil(SkillConfig()))
    with pytest.raises(UserError, match=r"--actor.grid 12 is no power of two"):
        validate(BC(actor=ShortcutConfig(grid=12)))
    for steps in (3, 16):
        with pytest.raises(UserError, match=f"jumps of 1 / {steps}"):
            validate(BC(actor=ShortcutConfig(steps=steps, grid=8)))


def setting(c):
    kernel = actor(c)
    params = {m.name: m.init(jax.random.key(i), SPEC) for i, m in enumerate(kernel.modules)}
    chunk = batch(jax.random.key(3), 8)
    return kernel, Vars(params, {}, {}, {}), chunk, kernel.draw(jax.random.key(4), chunk)


@pytest.mark.parametrize("instant", [False, True])
def test_mean_velocities_regress_on_their_own_derivative(instant):
    """By finite differences along the path, chunk by chunk."""
    kernel, vars, chunk, (z, t, jump) = setting(MeanFlowConfig((8,), same=0.5, power=0.5, instant=instant))
    assert float(jnp.min(jump)) == 0 < float(jnp.max(jump)) and float(jnp.max(t + jump)) <= 1
    drawn = actor(MeanFlowConfig((8,), same=0.25)).draw(jax.random.key(0), batch(jax.random.key(1), 2000))[2]
    np.testing.assert_allclose(jnp.mean(drawn == 0), 0.25, atol=0.04)

    def u(x, t, jump):
        return kernel.modules[0].apply(vars.params["actor"], chunk.obs, x, t, jump)

    x, v, step = (1 - t[..., None]) * z + t[..., None] * chunk.action, chunk.action - z, 1e-2
    ahead, behind = (u(x + s * v, t + s, jump - s) for s in (step, -step))
    aim = v + jump[..., None] * (ahead - behind) / (2 * step)
    mask = chunk.mask.at[4:, 1].set(0.0)  # the second step of some lies behind their episode's end
    inside, size = jnp.mean(mask, axis=1), lambda error: jnp.mean(error**2 * mask[..., None], axis=(1, 2))
    e = size(u(x, t, jump) - aim)
    expected = e / (e / inside + 1e-3) ** 0.5
    if instant:
        expected = expected + size(u(x, t, 0 * t) - v)
    cut = chunk._replace(mask=mask)
    np.testing.assert_allclose(kernel.loss(vars, (z, t, jump), cut), expected, rtol=2e-3)

    @jax.jit
    def slopes(params):  # neither what is aimed at nor an error's weight has a gradient
        ours = jax.grad(lambda p: jnp.sum(kernel.loss(vars._replace(params=p), (z, t, jump), cut)))(params)

        def held(p):
            at = lambda jump: kernel.modules[0].apply(p["actor"], chunk.obs, x, t, jump)  # noqa: E731
            each = size(at(jump) - aim) / (e / inside + 1e-3) ** 0.5
            return jnp.sum(each + size(at(0 * t) - v) if instant else each)

        return ours, jax.grad(held)(params)

    for ours, wanted in zip(*map(jax.tree.leaves, slopes(vars.params)), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=5e-3 * float(jnp.abs(wanted).max()) + 1e-6)


def test_the_energy_score_by_hand():
    """Half of how far each of two samples is from the data, less half of how far they are from each other, as root mean squares."""
    kernel, vars, chunk, noise = setting(OneStepConfig((8,)))
    mask = chunk.mask.at[4:, 1].set(0.0)
    one, two = (np.asarray(kernel.step(vars, chunk.obs, z, 0)[0]) for z in noise)
    size = lambda x: np.sqrt((np.square(x)[..., 0] * np.asarray(mask)).mean(axis=1))  # noqa: E731
    a = np.asarray(chunk.action)
    expected = (size(one - a) + size(two - a) - size(one - two)) / 2
    assert size(one - two).min() > 1e-2
    np.testing.assert_allclose(kernel.loss(vars, noise, chunk._replace(mask=mask)), expected, rtol=1e-4)


def test_jumps_of_a_shortcut_stay_on_their_grid():
    kernel, _, _, _ = setting(ShortcutConfig((8,), grid=8))
    _, t, start, jump = kernel.draw(jax.random.key(0), batch(jax.random.key(1), 500))
    assert set(np.unique(jump)) == {1.0, 0.5, 0.25}, "half of the shortest is 1 / 8"
    np.testing.assert_array_equal(start % jump, 0 * start)
    assert float(jnp.max(start + jump)) <= 1.0 and float(jnp.max(t)) < 1.0


@pytest.mark.parametrize("c", [ShortcutConfig((8,), steps=2), MeanFlowConfig((8,), steps=2)])
def test_jumps_add_up(c):
    """Two jumps of one half, by hand."""
    kernel, vars, chunk, (z, *_) = setting(c)
    half, x = jnp.full((8, 1), 0.5), z
    for t in (0.0, 0.5):
        x = x + 0.5 * kernel.modules[0].apply(vars.params["actor"], chunk.obs, x, jnp.full((8, 1), t), half)
    found = x
    for k in (0, 1):
        z = kernel.step(vars, chunk.obs, z, k)[0]
    np.testing.assert_allclose(z, found, rtol=1e-5, atol=1e-6)


def test_a_taught_actor_and_its_teacher():
    """The teacher's gradient is imitation's alone; the student's is that of its own lesson."""
    kernel, vars, chunk, noise = setting(DistilledConfig((8,), teacher=FlowConfig((8,), steps=3)))
    alone = flow(FlowConfig((8,), steps=3), "actor_teacher")
    slope = jax.grad(lambda p: jnp.sum(kernel.loss(vars._replace(params=p), noise, chunk)))(vars.params)
    own = jax.grad(lambda p: jnp.sum(alone.loss(vars._replace(params=p), noise[1], chunk)))(vars.params)
    for a, b in zip(*(jax.tree.leaves(x["actor_teacher"]) for x in (slope, own)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(slope["actor"]))


def test_what_is_followed_is_what_would_be_played():
    """The teacher's chunk within [-1, 1], also where its flow leads beyond, and without a gradient."""
    kernel, vars, chunk, (z, _) = setting(FlowConfig((8,), steps=2))

    @jax.jit
    def run(params):
        seen = vars._replace(params=params)
        end = end_of(kernel)(seen, chunk.obs, z)
        return jnp.sum(end), (
            end,
            sample(kernel).plan(seen, z, chunk.obs, None).action,
            decode(kernel, seen, chunk.obs, z),
        )

    slope, (end, played, free) = jax.grad(run, has_aux=True)(jax.tree.map(lambda x: 3 * x, vars.params))
    np.testing.assert_allclose(end, played, atol=1e-6)
    assert float(jnp.abs(free).max()) > 1 and all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(slope))


def test_consistency_at_the_least_noise_is_what_it_sees():
    kernel, vars, chunk, _ = setting(ConsistencyConfig((8,), steps=1))
    after = kernel.step(vars, chunk.obs, jnp.ones((8, 2, 1)), 0)
    assert float(after[1].max()) == 0, "the last step draws no noise"
    many = actor(dataclasses.replace(ConsistencyConfig((8,)), steps=40))
    x = jnp.full((8, 2, 1), 0.3)
    found = many.denoise(vars, chunk.obs, x, 39)  # sigma 0.0026
    np.testing.assert_allclose(found, x, atol=5e-3)


@pytest.mark.parametrize("rows", [1, 3, 6, 9])
def test_a_batch_of_any_size_has_its_jumps_spread(rows):
    """Every fourth row jumps, and each row's error is its own: a batch in another order has the same errors in that order."""
    kernel, vars, _, _ = setting(ShortcutConfig((8,), grid=8))
    chunk = batch(jax.random.key(1), rows)
    noise = kernel.draw(jax.random.key(2), chunk)
    found = kernel.loss(vars, noise, chunk)
    assert found.shape == (rows,) and np.isfinite(found).all()
    z, t, *_ = noise
    x = (1 - t[..., None]) * z + t[..., None] * chunk.action
    v = kernel.modules[0].apply(vars.params["actor"], chunk.obs, x, t, 0 * t)
    of_flow = jnp.mean((v - (chunk.action - z)) ** 2, axis=(1, 2))
    steady = np.arange(rows) % 4 != 3
    np.testing.assert_allclose(found[steady], of_flow[steady], rtol=1e-4)


def test_what_is_distilled_has_no_gradient_at_the_lesser_noise():
    """A network that says p: f moves with p by g(sigma) = (sigma - 0.002) 0.5 / sqrt(0.25 + sigma^2), and only f at the greater noise, 80, is to."""
    module = Module("actor", None, lambda p, obs, x, level: p * jnp.ones_like(x))
    follow = consistency_kernel(module, 1, 4).follow(teacher := flow(FlowConfig((8,), steps=2), "teacher"))
    chunk, params = batch(jax.random.key(3), 8), teacher.modules[0].init(jax.random.key(0), SPEC)
    noise = jax.random.normal(jax.random.key(4), (8, 2, 1)), jnp.full((8, 1), 0.2)  # from pure noise to sigma = 1
    at = lambda p: jnp.sum(follow(Vars({"actor": p, "teacher": params}, {}, {}, {}), noise, chunk))  # noqa: E731
    g = lambda sigma: (sigma - 0.002) * 0.5 / np.sqrt(0.25 + sigma**2)  # noqa: E731
    slope, (low, high) = jax.jit(jax.grad(at))(jnp.asarray(0.5)), map(jax.jit(at), (0.0, 1.0))
    np.testing.assert_allclose(slope, (high - low) * g(80.0) / (g(80.0) - g(1.0)), rtol=1e-2)


def test_equal_levels_of_a_teacher_teach_nothing():
    """A diffusion of many levels has several beyond the greatest noise that a consistency model knows."""
    kernel, vars, chunk, noise = setting(ConsistencyConfig((8,)))
    teacher = actor(DiffusionConfig((8,), residual=False, steps=200), "teacher")
    vars = vars._replace(params={**vars.params, "teacher": teacher.modules[0].init(jax.random.key(1), SPEC)})
    noisy = noise[0], jnp.zeros_like(noise[1])
    found = kernel.follow(teacher)(vars, noisy, chunk)
    np.testing.assert_array_equal(found, 0 * found)


STUDENTS = sorted(n for n in names.ALGORITHMS if hasattr(registry.builder(n)[1](), "student"))


@pytest.mark.parametrize("name", slow_but(["qc-fql"], STUDENTS))
def test_a_students_moving_average_acts_for_it(name):
    """``--student.ema`` as ``--actor.ema``: the plan is that of the average, and of weights that are it alike."""
    build, config_class = registry.builder(name)
    c, spec = config_class(), Spec(3, 2, 4)
    fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    fields = {n: dataclasses.replace(x, hidden=(8,)) for n, x in fields.items() if hasattr(x, "hidden")}
    made = {**fields, "chunk": ChunkConfig(4), "student": dataclasses.replace(c.student, hidden=(8,), ema=True)}
    made |= {"n": 8, "depth": 2} if hasattr(c, "depth") else {}
    algorithm = build(dataclasses.replace(c, **made))
    state, obs = algorithm.init(jax.random.key(0), spec, {}), jax.random.normal(jax.random.key(2), (64, 3))
    plan = jax.jit(lambda state: act(algorithm.act, view(state, {}), jax.random.key(1), obs).action)
    average = jax.tree.map(lambda x: x + 0.5, state.targets["student"])
    averaged = state._replace(targets={**state.targets, "student": average})
    lagging = plan(averaged)
    whole = plan(averaged._replace(params={**state.params, "student": average}))
    np.testing.assert_array_equal(lagging, whole)
    assert not jnp.array_equal(lagging, plan(state))
