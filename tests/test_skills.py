"""Skills: the autoencoder's loss by hand, a decoder that looks at every step, and methods that learn over skills."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from tiers import slow_but

from qchunk import envs, registry
from qchunk.actor_configs import FlowConfig, SkillConfig, TanhGaussianConfig
from qchunk.actors import actor
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.opal import OPAL, opal
from qchunk.algorithms.supe import SUPE, SUPEGT, supe, supe_gt
from qchunk.compose import frozen
from qchunk.config import ChunkConfig, CriticConfig, OptimConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.novelty import novelty
from qchunk.data import buffer, chunks, formats
from qchunk.drivers import train
from qchunk.drivers.from_scratch import FromScratchSettings
from qchunk.drivers.online import OnlineSettings
from qchunk.losses.optimism import familiar, optimistic, predicted
from qchunk.reporting import stats
from qchunk.sampling import act, sample
from qchunk.system import loading
from qchunk.system.errors import UserError
from qchunk.types import EDGE, PLAN_STEP, Chunk, Plan, Spec, Term, Vars

H, A, O, W = 3, 2, 4, 2
C = SkillConfig((8, 8), skill=W, kl=0.3)
SPEC = Spec(O, A, H)


@pytest.fixture(scope="module")
def vars():
    return Vars({"actor": actor(C).modules[0].init(jax.random.key(0), SPEC)}, {}, {}, {})


def chunk_of(rng, B=5):
    x = lambda *shape: jnp.asarray(rng.uniform(-0.9, 0.9, shape), jnp.float32)  # noqa: E731
    mask = jnp.asarray((np.arange(H) < rng.integers(1, H + 1, (B, 1))).astype(np.float32))
    return Chunk(x(B, O), x(B, H, A), mask, x(B, H), x(B, H), x(B, H, O), mask, x(B), {})


def perceptron(params, x):
    for i in range(2):
        x = np.maximum(x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"], 0)
    return (x @ params["head_kernel"]).reshape(*x.shape[:-1], 2, -1) + params["head_bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def recurrent(p, x, reverse):
    """Gates r, z, n along the steps [H, I], from either end."""
    h, found = np.zeros(8), [None] * len(x)
    for i in reversed(range(len(x))) if reverse else range(len(x)):
        r, z = (sigmoid(x[i] @ p[f"i{k}"]["kernel"] + p[f"i{k}"]["bias"] + h @ p[f"h{k}"]["kernel"]) for k in "rz")
        n = np.tanh(x[i] @ p["in"]["kernel"] + p["in"]["bias"] + r * (h @ p["hn"]["kernel"] + p["hn"]["bias"]))
        h = (1 - z) * n + z * h
        found[i] = h
    return np.stack(found)


def test_the_loss_by_hand(vars):
    kernel, rng = actor(C), np.random.default_rng(0)
    chunk = chunk_of(rng)
    noise = jnp.asarray(rng.normal(size=(5, W)), jnp.float32)
    found, p = kernel.loss(vars, noise, chunk), jax.tree.map(np.asarray, vars.params["actor"])
    encoded = kernel.decoder.encode(vars, chunk)
    for b in range(5):
        obs = np.concatenate([chunk.obs[b][None], chunk.next_obs[b][:-1]])
        x = obs
        for i in range(2):
            x = np.maximum(x @ p["encoder"][f"dense_{i}"]["kernel"] + p["encoder"][f"dense_{i}"]["bias"], 0)
        x = np.concatenate([x, chunk.action[b]], axis=-1)
        for i in range(2):
            x = np.concatenate(
                [recurrent(p["encoder"][f"{way}_{i}"], x, way == "backward") for way in ("forward", "backward")],
                axis=-1,
            )
        mean, log_var = (x.reshape(-1) @ p["encoder"]["head_kernel"]).reshape(2, W) + p["encoder"]["head_bias"]
        np.testing.assert_allclose(encoded[b, 0], np.tanh(mean), rtol=1e-4, atol=1e-5)
        z = mean + np.exp(log_var / 2) * np.asarray(noise[b])
        unlikely = 0.0
        for t in range(H):
            m, s = perceptron(p["decoder"], np.concatenate([obs[t], z]))
            s = np.clip(s, -5, 2)
            log = -0.5 * ((chunk.action[b, t] - m) / np.exp(s)) ** 2 - s - 0.5 * np.log(2 * np.pi)
            unlikely -= float(np.sum(log) * chunk.mask[b, t]) / H
        pm, ps = perceptron(p["prior"], np.asarray(chunk.obs[b]))
        ps = np.clip(ps, -5, 2)
        kl = ps - log_var / 2 + (np.exp(log_var) + (mean - pm) ** 2) / (2 * np.exp(2 * ps)) - 0.5
        np.testing.assert_allclose(found[b], unlikely + 0.3 * kl.sum() * chunk.mask[b].mean(), rtol=2e-4, atol=1e-4)


def test_a_plan_is_a_skill_and_every_action_looks(vars):
    policy, obs = sample(actor(C)), jax.random.normal(jax.random.key(1), (6, O))
    plan = act(policy, vars, jax.random.key(2), obs)
    assert plan.action.shape == (6, H, A) and plan.extras["skill"].shape == (6, W)
    z = np.arctanh(np.clip(plan.extras["skill"], -EDGE, EDGE))
    p = jax.tree.map(np.asarray, vars.params["actor"]["decoder"])
    for t, now in enumerate((obs, obs + 0.3)):
        wanted = np.clip(perceptron(p, np.concatenate([now, z], axis=-1))[:, 0], -1, 1)
        np.testing.assert_allclose(policy.emit(vars, plan, t, now), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(plan.action[:, 0], policy.emit(vars, plan, 0, obs))


def test_windows_become_skills_and_returns_of_whole_windows(vars):
    """IQL's batch: (state, skill of the window, its return, the state behind it)."""
    c = OPAL(C, ChunkConfig(H, gamma=0.9), TanhGaussianConfig((8,)), CriticConfig((8,)))
    algorithm, given = opal(c), {"actor": vars.params["actor"]}
    learner = jax.jit(algorithm.init, static_argnums=1)(jax.random.key(0), SPEC, given)
    assert learner.params["actor"]["head_bias"].shape == (1, W, 2) and "actor" not in learner.opt
    chunk = chunk_of(np.random.default_rng(1))
    _, seen = algorithm.prepare(learner, given, jax.random.key(0), chunk)
    skills = frozen(actor(C)).decoder.encode(Vars({}, {}, {}, given), chunk)
    np.testing.assert_array_equal(seen.action, skills)
    for name in ("reward", "discount", "weight", "mask"):
        np.testing.assert_array_equal(getattr(seen, name)[:, 0], getattr(chunk, name)[:, -1])
    np.testing.assert_array_equal(seen.next_obs[:, 0], chunk.next_obs[:, -1])
    run = lambda given: jnp.sum(algorithm.update(learner, given, jax.random.key(1), seen)[1]["loss"])  # noqa: E731
    assert all((x == 0).all() for x in jax.tree.leaves(jax.jit(jax.grad(run))(given)))  # nothing flows into the skills
    data = chunks.dataset(np.zeros((9, O)), np.zeros((9, A)), np.ones(9), np.zeros(9), np.arange(9) == 8)
    drawn = algorithm.draw(jax.random.key(0), buffer.Source(data), c.chunk, 4)
    assert drawn.reward.shape == (4, H) and drawn.next_obs.shape == (4, H, O)


def test_priors_without_skills_are_refused(vars):
    with pytest.raises(UserError, match="a flow actor has no skills"):
        opal(OPAL(FlowConfig((8,))))
    short = chunk_of(np.random.default_rng(0))
    with pytest.raises(UserError, match="other backup points"):
        actor(C).loss(vars, jnp.zeros((5, W)), short._replace(reward=short.reward[:, :1]))


@pytest.mark.parametrize(("build", "kind"), [(supe_gt, SUPEGT), (supe, SUPE)])
def test_the_temperature_starts_where_it_is_told(vars, build, kind):
    c = kind(C, ChunkConfig(H), TanhGaussianConfig((8,)), CriticConfig((8,), members=2), start_temperature=0.05)
    start = build(c).init(jax.random.key(0), SPEC, {"actor": vars.params["actor"]})
    np.testing.assert_allclose(start.params["temperature"], np.log(0.05), rtol=1e-6)


@pytest.fixture(scope="module")
def explored(vars):
    """SUPE-GT and the ring of a seed of it: 60 steps with random skills, then 60 with its own."""
    c = SUPEGT(C, ChunkConfig(H), TanhGaussianConfig((8,)), CriticConfig((8,), members=2))
    s = FromScratchSettings(seeds=1, batch=8, episodes=2, online_steps=120, envs=2, start_training=60, update_ratio=0.1)
    given = {"actor": jax.tree.map(lambda x: x[None], vars.params["actor"])}
    *_, last = train(supe_gt, c, env=envs.make("probe/pursuit"), settings=s, given=given)
    return supe_gt(c), jax.tree.map(lambda x: x[0], last.state.ring)


def test_every_action_online_is_a_skills_the_random_ones_too(vars, explored):
    _, ring = explored
    skill = np.asarray(ring.extras["skill"])
    played = actor(C).decoder.emit(vars, Plan(ring.action, {"skill": skill}), 0, ring.obs)
    np.testing.assert_allclose(ring.action, played, rtol=1e-4, atol=1e-5)
    assert len(np.unique(skill.reshape(2, -1, H, W)[:, :, 0], axis=0)) == 2 and (np.abs(skill) > 1e-3).all()


def test_online_windows_keep_the_skill_that_was_played(vars, explored):
    """Those of online experience begin where skills did and keep theirs; of data, and where another plan broke in, the encoder reads them."""
    algorithm, ring = explored
    given, rng = {"actor": vars.params["actor"]}, np.random.default_rng(0)
    learner = algorithm.init(jax.random.key(0), SPEC, given)
    rows = rng.uniform(-0.9, 0.9, (40, O)), rng.uniform(-0.9, 0.9, (40, A))
    data = chunks.dataset(*rows, np.ones(40), np.zeros(40), np.arange(40) == 39)
    draw = jax.jit(
        lambda ring: algorithm.draw(jax.random.key(0), buffer.Source(data, ring, "share:0.5"), ChunkConfig(H), 32)
    )
    prepare = jax.jit(lambda chunk: algorithm.prepare(learner, given, jax.random.key(0), chunk))
    encode = jax.jit(lambda chunk: actor(C).decoder.encode(vars, chunk))
    for plan_step, kept in ((ring.extras[PLAN_STEP], True), (ring.extras[PLAN_STEP] % 2, False)):
        drawn = draw(ring._replace(extras={**ring.extras, PLAN_STEP: plan_step}))
        (_, seen), read = prepare(drawn), encode(drawn)
        np.testing.assert_array_equal(seen.action[:16], read[:16])
        for window, u, by_encoder in zip(*(np.asarray(x)[16:] for x in (drawn.obs, seen.action, read)), strict=True):
            (row,) = np.flatnonzero((np.asarray(ring.obs) == window).all(axis=1))
            assert plan_step[row] == 0
            np.testing.assert_array_equal(u[0], ring.extras["skill"][row] if kept else by_encoder[0])
    alone = algorithm.draw(jax.random.key(0), buffer.Source(data), ChunkConfig(H), 4)
    np.testing.assert_array_equal(prepare(alone)[1].action, encode(alone))


@pytest.mark.slow
def test_both_levels_at_once_is_an_update_of_skills_and_then_one_over_what_they_are_by_then(vars):
    """experiments/opal_at_once.py against its parts: the skills are cloned, and OPAL's update is over them as they are then."""
    build, config_class = registry.builder(f"{loading.beside('experiments') / 'opal_at_once.py'}:opal_at_once")
    c = config_class(C, ChunkConfig(H), TanhGaussianConfig((8,)), CriticConfig((8,)), OptimConfig(1e-2))
    algorithm, chunk = build(c), chunk_of(np.random.default_rng(0))
    state = algorithm.init(jax.random.key(1), SPEC, {})
    made, metrics = jax.jit(algorithm.update)(state, {}, jax.random.key(2), chunk)
    keys = jax.random.split(jax.random.key(2), 3)
    alone = bc(BC(c.chunk, C, c.optim))
    skills = alone.init(jax.random.key(1), SPEC, {})._replace(params={"actor": state.params["skills"]})
    skills, cloned = jax.jit(alone.update)(skills, {}, keys[0], chunk)
    chex.assert_trees_all_close(made.params["skills"], skills.params["actor"], rtol=1e-5, atol=1e-6)
    assert metrics["bc/loss"] == pytest.approx(float(cloned["bc/loss"]), rel=1e-5)

    above, given = opal(OPAL(C, c.chunk, c.policy, c.critic, c.optim)), {"actor": skills.params["actor"]}
    high = state._replace(params={n: p for n, p in state.params.items() if n != "skills"}, opt=state.opt[1])
    high, recoded = above.prepare(high, given, keys[1], chunk)
    high, _ = jax.jit(above.update)(high, given, keys[2], recoded)
    chex.assert_trees_all_close(
        {n: p for n, p in made.params.items() if n != "skills"}, high.params, rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_close(made.targets, high.targets, rtol=1e-5, atol=1e-6)


def windows_of_both(rng, B=6):
    x = lambda *shape: jnp.asarray(rng.uniform(-0.9, 0.9, shape), jnp.float32)  # noqa: E731
    discount, source = jnp.asarray([[0.5], [0], [0.5]] * 2), jnp.asarray([0.0, 1, 1, 0, 0, 1])
    weight = jnp.asarray([[1.0], [1], [0], [1], [1], [1]])
    mask = jnp.asarray([[0.0], [0], [0], [1], [1], [1]])
    chunk = Chunk(x(B, O), x(B, 1, W), mask, x(B, 1), discount, x(B, 1, O), weight, jnp.zeros(B), {})
    return chunk._replace(extras={"source": source})


def test_optimism_by_hand():
    """Data earn the least and go on by chance, online windows what they earned; all get a bonus, and only online ones teach."""
    spec, c = Spec(O, W, 1), CriticConfig((8,), members=1)
    new, reward, going = novelty(c), chunk_q(c, "reward_model", False), chunk_q(c, "end_model", False)
    modules = [m for part in (new, reward, going) for m in part.modules]
    vars = Vars({m.name: m.init(jax.random.key(i), spec) for i, m in enumerate(modules)}, {}, {}, {})
    chunk, seen = windows_of_both(np.random.default_rng(0)), {}
    noted = Term(
        "td", (), lambda key, chunk: (), lambda vars, noise, chunk: (seen.update(chunk=chunk) or jnp.zeros(()), {})
    )
    optimistic(noted, new, going, -3.0, 0.25, 2.0).fn(vars, (), chunk)
    online, news = np.asarray(chunk.extras["source"]) > 0, np.asarray(new.score(vars, chunk.obs, chunk.action))
    p = 1 / (1 + np.exp(-np.asarray(going.score(vars, chunk.obs, chunk.action))))
    np.testing.assert_allclose(
        seen["chunk"].reward[:, 0], np.where(online, chunk.reward[:, 0], -3.0) + 2 * news, rtol=1e-5
    )
    np.testing.assert_allclose(
        seen["chunk"].discount[:, 0], np.where(online, chunk.discount[:, 0], 0.25 * p), rtol=1e-5
    )
    np.testing.assert_array_equal(seen["chunk"].weight[:, 0], [0, 1, 0, 1, 1, 1])  # the first is of data, and cut
    optimistic(noted, new, going, reward.score, 0.25, 2.0).fn(vars, (), chunk)
    taken = reward.score(vars, chunk.obs, chunk.action)
    np.testing.assert_allclose(
        seen["chunk"].reward[:, 0], np.where(online, chunk.reward[:, 0], taken) + 2 * news, rtol=1e-5
    )
    counted = [1, 5]  # online, and not cut by a time-out
    off = (np.asarray(reward.score(vars, chunk.obs, chunk.action)) - np.asarray(chunk.reward[:, 0])) ** 2
    wrong = -np.where(np.asarray(chunk.discount[:, 0]) > 0, np.log(p), np.log(1 - p))
    loss, _ = predicted(reward, going).fn(vars, (), chunk)
    np.testing.assert_allclose(loss, (off + wrong)[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(familiar(new).fn(vars, (), chunk)[0], news[online].mean(), rtol=1e-5)
    plain = jax.tree.map(jnp.zeros_like, vars.params["novelty"])
    plain["guess"]["head_bias"] = plain["guess"]["head_bias"] + 0.5
    told = new.score(vars._replace(params={"novelty": plain}), chunk.obs, chunk.action)
    np.testing.assert_allclose(told, 0.25)  # the mean over the outputs
    slope = jax.grad(lambda p: familiar(new).fn(vars._replace(params=p), (), chunk)[0])(vars.params)["novelty"]
    assert all((x == 0).all() for x in jax.tree.leaves(slope["random"]))
    assert any((x != 0).any() for x in jax.tree.leaves(slope["guess"]))


@pytest.mark.parametrize("earned", slow_but(["least"], ["least", "predicted"]))
def test_rewards_of_data_are_not_seen(vars, earned):
    """Updates on data alone are those of any rewards and ends in it, and teach neither novelty nor what is predicted.

    Half of the windows reach beyond their episode of four steps: none of them counts, whether it ends in a success or in a time-out.
    """
    c = SUPE(C, ChunkConfig(H), TanhGaussianConfig((8,)), CriticConfig((8,), members=2), earned=earned)
    algorithm, given, rng = supe(c), {"actor": vars.params["actor"]}, np.random.default_rng(0)
    rows = rng.uniform(-0.9, 0.9, (40, O)), rng.uniform(-0.9, 0.9, (40, A))
    start = algorithm.init(jax.random.key(0), SPEC, given)

    @jax.jit
    def updated(reward, terminal):
        data = chunks.dataset(*rows, np.ones(40), np.zeros(40), np.arange(40) % 5 == 4)
        drawn = algorithm.draw(
            jax.random.key(1), buffer.Source(data._replace(reward=reward, terminal=terminal)), c.chunk, 8
        )
        state, chunk = algorithm.prepare(start, given, jax.random.key(2), drawn)
        return algorithm.update(state, given, jax.random.key(3), chunk)[0].params

    one = updated(jnp.ones(40), jnp.zeros(40))
    chex.assert_trees_all_equal(one, updated(jnp.full(40, -7.0), jnp.ones(40)))
    for name in ("novelty", "reward_model", "end_model"):
        chex.assert_trees_all_equal(one[name], start.params[name])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(one["critic"], start.params["critic"])


def test_no_optimiser_moves_the_random_network(vars):
    """Weight decay shrinks what has no gradient, too: novelty would be measured against something else in every update."""
    decaying = OptimConfig(1e-2, kind="adamw:weight_decay=0.1")
    c = SUPE(C, ChunkConfig(H), TanhGaussianConfig((8,)), CriticConfig((8,), members=2), decaying)
    algorithm, given = supe(c), {"actor": vars.params["actor"]}
    start = algorithm.init(jax.random.key(0), SPEC, given)
    state, chunk = algorithm.prepare(start, given, jax.random.key(1), chunk_of(np.random.default_rng(0)))
    moved = jax.jit(algorithm.update)(state, given, jax.random.key(2), chunk)[0].params["novelty"]
    chex.assert_trees_all_equal(moved["random"], start.params["novelty"]["random"])
    assert (moved["guess"]["head_kernel"] != start.params["novelty"]["guess"]["head_kernel"]).any()


@pytest.mark.slow
def test_skills_are_used_and_the_better_ones_are_found():
    """Two actions of one sign, either: a skill says which. IQL over skills improves on what the prior plays by chance."""
    env = envs.make("probe/two-step")
    rows = random_rows(env, 3000, 16, dispatch=100)
    data, chunk = formats.to_device(rows), ChunkConfig(2)
    s = OnlineSettings(seeds=6, offline_steps=1500, eval_every=1500, log_every=1500, episodes=200, batch=128)
    cloned = BC(chunk, SkillConfig((32, 32), skill=2, kl=0.02), OptimConfig(3e-3))
    *_, prior, saved = train(bc, cloned, env=env, data=data, settings=s)
    given = {"actor": saved.learner.params["actor"]}
    kernel, vars = actor(cloned.actor), Vars({"actor": jax.tree.map(lambda x: x[0], given["actor"])}, {}, {}, {})
    batch = buffer.backing_up((1, 2))(jax.random.key(1), buffer.Source(data), chunk, 512)
    skill = kernel.decoder.encode(vars, batch)[:, 0]
    played = lambda u: kernel.decoder.plan(vars, batch.obs, u[:, None]).action[:, 0]  # noqa: E731
    error = lambda u: float(jnp.mean(jnp.square(played(u) - batch.action[:, 0])))  # noqa: E731
    assert error(skill) < 0.3 * error(skill[::-1])  # shuffled skills decode to others' actions
    c = OPAL(
        cloned.actor, chunk, TanhGaussianConfig((32,)), CriticConfig((32,), tau=0.05), OptimConfig(3e-3), alpha=30.0
    )
    *_, found, _ = train(opal, c, given=given, env=env, data=data, settings=dataclasses.replace(s, offline_steps=600))
    gained = stats.paired_difference(found.values["success"], prior.values["success"], episodes=s.episodes)
    assert gained.low > 0.05, "better than chance by a paired interval"
