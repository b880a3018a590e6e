"""Policy gradients on flows: learned noise, ratios of a flow's own losses, and that they learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_on_policy import last
from tiers import slow_but

from qchunk import envs
from qchunk.actor_configs import FlowConfig, GaussianConfig, MeanFlowConfig, OneStepConfig
from qchunk.actors.exploring import MOST, noise_network, shrinking, with_noise
from qchunk.actors.flow import flow
from qchunk.actors.paths import with_min_std
from qchunk.algorithms.dppo import PPO, ppo
from qchunk.algorithms.fpo import FPO, fpo, fpo_by_pair
from qchunk.algorithms.reinflow import ReinFlow, reinflow
from qchunk.compose import lagging
from qchunk.config import ChunkConfig, NoiseConfig, OptimConfig, RolloutConfig, ValueConfig, validate
from qchunk.drivers import train
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.improve import repeated
from qchunk.losses.flow_ratio import END, PAIRS, averaged, by_pair, of_flow, with_pairs
from qchunk.losses.group_ratio import climb_among
from qchunk.losses.joint_path import of_path, path_entropy
from qchunk.sampling import act, from_zero, sample, sample_path, telling
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Spec, Vars

SMALL = {"critic": ValueConfig((32, 32)), "optim": OptimConfig(3e-3), "critic_optim": OptimConfig(3e-3)}
NO_VARS = Vars({}, {}, {}, {})
ACTOR, ROLLOUT = FlowConfig((32, 32), steps=3), RolloutConfig(64, 4, 4, 2)
METHODS = {
    "reinflow": (reinflow, ReinFlow(ACTOR, ChunkConfig(1), noise=NoiseConfig((16,), 0.1, 0.3), rollout=ROLLOUT, clip=0.05, **SMALL)),
    "fpo": (fpo, FPO(ACTOR, ChunkConfig(1), rollout=ROLLOUT, **SMALL)),
    "fpo++": (fpo_by_pair, FPO(ACTOR, ChunkConfig(1), rollout=ROLLOUT, **SMALL)),
    "ppo@one-step": (ppo, PPO(OneStepConfig((32, 32)), ChunkConfig(1), rollout=ROLLOUT, explore_std=0.2, **SMALL)),
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but([], METHODS))
def test_they_learn_from_scratch(name):
    """The sign of a reward: half of the first policy's episodes succeed."""
    build, c = METHODS[name]
    values, _ = last(build, c, envs.make("probe/flag"), 64 * 4 * 60, seeds=2)
    assert values["success"].min() >= 0.95, values["success"]


def test_noise_stays_within_its_bounds_and_is_left_out():
    kernel, noise, spec = flow(FlowConfig((8,), steps=4)), noise_network(NoiseConfig((8,))), Spec(3, 2, 4)
    noisy = with_noise(kernel, noise, 0.1, lambda vars: vars.stats["most"])
    params = {m.name: m.init(jax.random.key(i), spec) for i, m in enumerate(noisy.modules)}
    params["noise"] = jax.tree.map(lambda x: 30 * x, params["noise"])  # saturates the tanh
    vars = Vars(params, {}, {"most": jnp.asarray(0.4)}, {})
    obs, x = jax.random.normal(jax.random.key(3), (64, 3)), 3 * jax.random.normal(jax.random.key(4), (64, 4, 2))
    mean, std = noisy.step(vars, obs, x, 1)
    assert mean.shape == std.shape == (64, 4, 2) and float(jnp.abs(mean).max()) == 1
    assert 0.1 - 1e-6 <= float(std.min()) < 0.12 and 0.35 < float(std.max()) <= 0.4 + 1e-6
    u = noise.apply(params["noise"], obs, jnp.full((64, 1), 0.25))
    np.testing.assert_allclose(std, np.exp(np.log(0.1) + np.log(4.0) * (np.tanh(u) + 1) / 2), rtol=1e-5)
    with pytest.raises(UserError, match=r"--noise.min-std 0.3 is more than --noise.max-std 0.2"):
        validate(ReinFlow(noise=NoiseConfig(min_std=0.3, max_std=0.2)))


def test_the_largest_noise_shrinks():
    at = shrinking(0.1, 0.2, 1000)
    found = [float(at(jnp.asarray(n))) for n in (0, 350, 675, 1000, 5000)]
    np.testing.assert_allclose(found, [0.2, 0.2, 0.185, 0.17, 0.17], rtol=1e-5)
    assert float(shrinking(0.1, 0.2, 0)(jnp.asarray(10**6))) == pytest.approx(0.2)


def test_objectives_of_ratios_by_hand():
    """Two decisions with two pairs: one that was better than expected, one that was worse."""
    new, old, a = jnp.log(jnp.asarray([[1.4, 0.9], [1.4, 0.9]])), jnp.zeros((2, 2)), jnp.asarray([2.0, -1.0])
    mean_ratio = np.sqrt(1.4 * 0.9)
    better, worse = min(mean_ratio, 1.1) * 2.0, -max(mean_ratio, 0.9)
    np.testing.assert_allclose(averaged(0.1)(new, old, a)[0], -(better + worse) / 2, rtol=1e-5)
    better = [1.1 * 2.0, 0.9 * 2.0]
    worse = [-r - (r - 1) ** 2 / 0.2 for r in (1.4, 0.9)]
    np.testing.assert_allclose(by_pair(0.1)(new, old, a)[0], -np.mean(better + worse), rtol=1e-5)
    far, ratio = jnp.full((1, 1), 10.0), np.exp(3)  # a difference of losses counts 3 at most
    worse = -ratio - (ratio - 1) ** 2 / 0.2
    np.testing.assert_allclose(by_pair(0.1)(far, 0 * far, -jnp.ones(1))[0], -worse, rtol=1e-5)
    # a chunk that has become far less likely than the trust region allows is still drawn back
    risen, ratio = jnp.full((1, 1), -5.0), np.exp(-5)
    slope = jax.grad(lambda new: by_pair(0.1)(new, 0 * risen, -jnp.ones(1))[0])(risen)
    np.testing.assert_allclose(slope, ratio * (1 + (ratio - 1) / 0.1) * jnp.ones((1, 1)), rtol=1e-4)


def test_a_path_is_judged_by_the_steps_that_were_played():
    """Log-probability and entropy, per number of what lies inside the episode, of K + 1 chunks; within [-1, 1] the former. By a loop."""
    kernel, noise = flow(FlowConfig((8,), steps=3)), noise_network(NoiseConfig((8,)))
    noisy = with_noise(kernel, noise, 0.3, lambda vars: 0.9)
    make = jax.jit(lambda: {m.name: m.init(jax.random.key(i), Spec(3, 1, 2)) for i, m in enumerate(noisy.modules)})
    vars, obs, mask = Vars(make(), {}, {}, {}), jnp.eye(3), np.asarray([[1.0, 1], [1, 0], [1, 1]])
    path = jnp.asarray([0.2, 0.2, 9.0])[:, None, None, None] * jax.random.normal(jax.random.key(3), (3, 4, 2, 1))
    chunk = Chunk(obs, None, jnp.asarray(mask), *[None] * 5, {"path": path})
    step, total, spread = jax.jit(noisy.step), np.zeros(3), np.full(3, 0.5 * np.log(2 * np.pi * np.e))
    for b in range(3):
        inside = mask[b] > 0
        total[b] = (-0.5 * np.asarray(path[b, 0, inside]) ** 2 - 0.5 * np.log(2 * np.pi)).mean()
        for k in range(3):
            mean, std = (np.asarray(x)[inside] for x in step(vars, obs[b], path[b, k], k))
            off = (np.asarray(path[b, k + 1])[inside] - mean) / std
            total[b] += (-0.5 * off**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).mean()
            spread[b] += (np.log(std) + 0.5 * np.log(2 * np.pi * np.e)).mean()
    assert (np.abs(total[:2]) < 4).all() and total[2] < -4, "the last one is bounded"
    found = jax.jit(of_path(noisy))(vars, chunk)
    np.testing.assert_allclose(found[:, 0], np.clip(total / 4, -1, 1), rtol=1e-4)
    loss, metrics = jax.jit(path_entropy(noisy, noise, 0.5).fn)(vars, (), chunk)
    np.testing.assert_allclose((loss, metrics["entropy"]), (-spread.mean() / 8, spread.mean() / 4), rtol=1e-4)


def test_what_was_played_is_judged_by_the_noise_that_it_was_played_with():
    """The largest deviation follows the count of updates from one iteration to the next, before it is played, and stays within."""
    rollout, noise = RolloutConfig(4, 2, epochs=1, minibatches=2), NoiseConfig((8,), 0.1, 0.3, updates=10)
    c = ReinFlow(FlowConfig((8,), steps=2), ChunkConfig(1), ValueConfig((8,)), rollout, noise=noise)

    def telling_the_bound(c):
        made = reinflow(c)

        def plan(vars, *args):
            found = made.explore.plan(vars, *args)
            return found._replace(extras={**found.extras, "bound": jnp.full(len(found.action), vars.stats[MOST])})

        def update(learner, given, key, chunk):
            after, metrics = made.update(learner, given, key, chunk)
            return after, {**metrics, "played": chunk.extras["bound"].mean(), "judged": learner.stats[MOST]}

        return made._replace(explore=made.explore._replace(plan=plan), update=update)

    s = OnPolicySettings(online_steps=8 * 6, eval_every=8 * 6, episodes=4)
    run = train(telling_the_bound, c, env=envs.make("probe/flag"), settings=s)
    figures = [e.values for e in run if e.kind == "train"]
    wanted = [float(shrinking(0.1, 0.3, 10)(2.0 * i)) for i in range(6)]
    assert wanted[0] == wanted[1] > wanted[2] > wanted[3] > wanted[4] > wanted[5]
    for which in ("played", "judged"):
        np.testing.assert_allclose([f[which][0] for f in figures], wanted, rtol=1e-6)


def test_pairs_are_judged_by_the_steps_that_were_played():
    """Garbage behind an episode's end changes no pair of a velocity of 0, whose error is the chunk less the noise; by a loop."""
    kernel = flow(FlowConfig((8,), steps=4))
    still = kernel._replace(velocity=lambda vars, obs, x, t: jnp.zeros_like(x))
    rng, mask = np.random.default_rng(0), np.asarray([[1.0, 1, 1], [1, 0, 0]])
    z, t, end = rng.normal(size=(2, 5, 3, 1)), rng.random((2, 5, 1)), rng.normal(size=(2, 3, 1))
    extras = {PAIRS: (jnp.asarray(z), jnp.asarray(t)), END: jnp.asarray(end)}
    chunk = Chunk(jnp.zeros((2, 3)), None, jnp.asarray(mask), *[None] * 5, extras)
    off = np.square(z - end[:, None])[..., 0]
    for by_noise in (True, False):
        each = off * (t**2 if by_noise else 1.0)
        wanted = [[-each[b, i, mask[b] > 0].mean() for i in range(5)] for b in range(2)]
        np.testing.assert_allclose(of_flow(still, by_noise)(NO_VARS, chunk), wanted, rtol=1e-5)


def test_pairs_are_of_the_samplers_own_times():
    """The network is never asked at time 1, which no step of the sampler sees."""
    told = lambda learner, given, key, chunk: (learner, chunk)  # noqa: E731
    chunk = Chunk(None, jnp.zeros((40, 2, 3, 1)), jnp.ones((40, 2, 3)), *[None] * 5, {"mine": 1})
    prepare = with_pairs(flow(FlowConfig((8,), steps=4)), 5, told)
    _, made = prepare(None, {}, jax.random.key(0), chunk)
    noise, times = made.extras[PAIRS]
    assert noise.shape == (40, 2, 5, 3, 1) and times.shape == (40, 2, 5, 1) and made.extras["mine"] == 1
    np.testing.assert_array_equal(np.unique(times), [0.0, 0.25, 0.5, 0.75])


def test_a_groups_chunks_are_judged_among_each_other():
    """OGPO against a loop: paths of the slow copy, one ratio for each, its advantage what its chunk has over its own group's mean."""
    rows, group, bound, std = 3, 4, 0.01, 0.2
    kernel = with_min_std(flow(FlowConfig((8,), steps=3))._replace(noisy=True), std)
    slow = jax.jit(lambda key: kernel.modules[0].init(key, Spec(3, 2, 2)))(jax.random.key(0))
    vars, obs = Vars({"actor": jax.tree.map(lambda x: x + 0.02, slow)}, {"actor": slow}, {}, {}), np.eye(3)
    score = lambda vars, obs, a: obs[..., 0] - jnp.sum((a - 0.3) ** 2, axis=(-2, -1))  # noqa: E731
    term, chunk = climb_among(kernel, lagging(kernel), score, group, bound), Chunk(jnp.asarray(obs), *[None] * 7, {})

    @jax.jit
    def run(vars, key):
        many = repeated(chunk.obs, group)
        plan = act(sample_path(lagging(kernel)), vars, jax.random.clone(key), many)
        path = plan.extras["path"]
        reads = (vars, vars._replace(params=vars.targets))
        means = [[kernel.step(v, many, path[..., k, :, :], k)[0] for k in range(3)] for v in reads]
        return term.fn(vars, key, chunk), path, plan.action, means

    (loss, metrics), path, action, means = jax.tree.map(np.asarray, run(vars, jax.random.key(2)))
    q, total, clipped = obs[:, :1] - ((action - 0.3) ** 2).sum(axis=(-2, -1)), 0.0, 0
    for b in range(rows):
        for g in range(group):
            apart = 0.0  # of log-probabilities, per number and step; the deviations are the same
            for k in range(3):
                new, old = ((path[b, g, k + 1] - mean[k][b, g]) / std for mean in means)
                apart += (old**2 - new**2).mean() / 2 / 3
            ratio, a = np.exp(apart), q[b, g] - q[b].mean()
            total += max(-a * ratio, -a * np.clip(ratio, 1 - bound, 1 + bound)) / (rows * group)
            clipped += abs(ratio - 1) > bound
    assert 0 < clipped < rows * group
    np.testing.assert_allclose(loss, total, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["q"], q.mean(), rtol=1e-5)


def test_what_is_told_is_what_was_not_clipped():
    kernel, spec = flow(FlowConfig((8,), steps=2)), Spec(3, 2, 4)
    vars = Vars({"actor": jax.tree.map(lambda x: 3 * x, kernel.modules[0].init(jax.random.key(0), spec))}, {}, {}, {})
    obs, policy = jnp.ones((5, 3)), telling(kernel, "end")
    noise = policy.draw(vars, jax.random.key(1), obs)
    plan = policy.plan(vars, noise, obs, None)
    assert float(jnp.abs(plan.extras["end"]).max()) > 1
    np.testing.assert_array_equal(jnp.clip(plan.extras["end"], -1, 1), plan.action)
    still = from_zero(sample(kernel))
    one, two = (still.plan(vars, still.draw(vars, jax.random.key(k), obs), obs, None).action for k in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_who_has_no_velocity_or_has_noise_is_refused():
    with pytest.raises(UserError, match="no velocity at any time"):
        fpo(FPO(OneStepConfig()))
    with pytest.raises(UserError, match="are no flow's"):
        reinflow(ReinFlow(GaussianConfig()))
    reinflow(ReinFlow(MeanFlowConfig()))  # it acts by its jumps
    with pytest.raises(UserError, match="no velocity at any time"):
        fpo(FPO(MeanFlowConfig()))  # its velocity at a time is not what it acts by
    with pytest.raises(UserError, match=r"give --tuned.steps 2 or more"):
        fpo(FPO(FlowConfig(steps=1)))
    with pytest.raises(UserError, match=r"give --tuned.components 1"):
        fpo(FPO(GaussianConfig(components=2)))
