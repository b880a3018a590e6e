"""Policy gradients through denoising: advantages, probabilities of paths, the driver, and its commands."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import random_rows
from test_cli import run as command
from tiers import slow_but

from qchunk import cli, envs, normalise
from qchunk.actor_configs import DiffusionConfig, FlowConfig, GaussianConfig
from qchunk.actors import actor
from qchunk.actors.paths import count_steps, stochastic, with_min_std
from qchunk.algorithms.bc import BC, bc
from qchunk.algorithms.dppo import DPPO, PPO, dppo, ppo
from qchunk.config import ChunkConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.critics.state_v import state_v
from qchunk.data import chunks, formats
from qchunk.drivers import on_policy, train
from qchunk.drivers.common import assemble, init
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.drivers.reward_scale import no_scale, scaled
from qchunk.envs.base import wrap
from qchunk.losses.gae import gae
from qchunk.losses.ppo_path import clip_bounds, ppo_path, surrogate
from qchunk.losses.terms import mean_in_slices
from qchunk.play.execute import receding
from qchunk.play.on_device import begin, rollout_chunks
from qchunk.runs import checkpoint
from qchunk.sampling import log_prob, sample, sample_path, uniform
from qchunk.seeds import for_each, one
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Learner, Spec, Steps, Vars, view

ACTORS = {
    "flow": FlowConfig((32, 32), steps=4),
    "diffusion": DiffusionConfig((32, 32, 32), steps=4),
    "ddim": DiffusionConfig((32, 32, 32), steps=8, ddim=4),
    "gaussian": GaussianConfig((32, 32)),
}
SMALL = {"critic": ValueConfig((32, 32)), "optim": OptimConfig(1e-3), "critic_optim": OptimConfig(3e-3)}


def walk(name):
    kernel = actor(ACTORS[name])
    return kernel if kernel.noisy else stochastic(kernel)


def last(build, c, env, steps, given=None, **more):
    s = OnPolicySettings(online_steps=steps, log_every=steps, eval_every=steps, episodes=200, **more)
    *_, evaluated, saved = train(build, c, given=for_each(1, given or {}), env=env, settings=s)
    first = jax.tree.map(lambda x: x[0], saved.learner._replace(step=saved.learner.step[None]))
    return evaluated.values, view(first, given or {})


def test_advantages_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    reward, value, after = rng.normal(size=(3, 20, 3))
    last = rng.random((20, 3)) < 0.3
    discount = 0.9 * (1 - (last & (rng.random((20, 3)) < 0.5)))  # half of the ends are time-outs, with a bootstrap
    expected = np.zeros_like(reward)
    for e in range(3):
        trace = 0.0
        for t in reversed(range(20)):
            trace = 0.0 if last[t, e] else trace
            trace = reward[t, e] + discount[t, e] * after[t, e] - value[t, e] + 0.8 * discount[t, e] * trace
            expected[t, e] = trace
    advantage, target = gae(*(jnp.asarray(x, jnp.float32) for x in (reward, discount, value, after, last)), 0.8)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)
    np.testing.assert_allclose(target, expected + value, atol=1e-5)


@pytest.mark.parametrize("discount", ["step", "decision"])
def test_what_a_decision_led_to_equals_a_slow_loop(discount):
    """An environment that ends inside a chunk rests: no reward, no later observation, no later discount."""
    c, rng = ChunkConfig(5, gamma=0.9, discount=discount), np.random.default_rng(1)
    obs, after = rng.normal(size=(2, 4, 6, 2))  # four of five actions are played, in six environments
    action, reward = rng.uniform(-1, 1, (4, 6, 1)), rng.normal(size=(4, 6))
    stop, terminal = [4, 2, 3, 4, 1, 4], [0, 1, 0, 1, 0, 0]  # steps played; how it ended
    alive = (np.arange(4)[:, None] < stop).astype(np.float32)
    end = np.zeros((2, 4, 6))
    for e in range(5):  # the sixth goes on
        end[1 - terminal[e], stop[e] - 1, e] = 1
        end[0, stop[e] :, e] = 7.0  # what a resting environment shows does not matter
    parts = (jnp.asarray(x, jnp.float32) for x in (obs, action, reward, *end, after, alive))
    *before, last = parts
    chunk = chunks.of_decision(Steps(*before, None, last), c)
    for e in range(6):
        n = stop[e]
        gain = sum(0.9 ** (k if discount == "step" else 0) * reward[k, e] for k in range(n))
        left = 0.9 ** (n if discount == "step" else 1) * (1 - terminal[e])
        np.testing.assert_allclose([chunk.reward[e, 0], chunk.discount[e, 0]], [gain, left], rtol=1e-5)
        np.testing.assert_allclose(chunk.next_obs[e, 0], after[n - 1, e], rtol=1e-6)
        np.testing.assert_array_equal(chunk.mask[e], np.arange(5) < n)
        assert chunk.last[e] == (e < 5)


def test_gamma_once_per_decision_in_windows():
    c = ChunkConfig(2, (2, 3, 4), gamma=0.5, discount="decision")
    rows = np.arange(7)
    data = chunks.dataset(rows[:, None], np.zeros((7, 1)), np.ones(7), rows * 0, rows == 6)
    chunk = chunks.windows(data, jnp.asarray([0]), c)
    np.testing.assert_allclose(chunk.reward[0], [2.0, 2.5, 3.0])
    np.testing.assert_allclose(chunk.discount[0], [0.5, 0.25, 0.25])


@pytest.mark.parametrize("name", ACTORS)
def test_probabilities_are_those_of_the_noise(name):
    """One grid of levels for sampling and for probabilities: what they see is the noise that was drawn."""
    kernel, spec = with_min_std(walk(name), 0.1), Spec(3, 2, 4)
    module = kernel.modules[0]
    vars = Vars({module.name: module.init(jax.random.key(0), spec)}, {}, {}, {})
    policy, obs = sample_path(kernel), jax.random.normal(jax.random.key(1), (8, 3))
    noise = policy.draw(vars, jax.random.key(2), obs)
    plan = policy.plan(vars, noise, obs, None)
    path, drawn = plan.extras["path"], np.clip(noise[1], -3, 3)
    np.testing.assert_array_equal(plan.action, np.clip(path[:, -1], -1, 1))
    for k in range(path.shape[1] - 1):
        std = np.asarray(kernel.step(vars, obs, path[:, k], k)[1])
        assert std.min() >= 0.1
        each = np.clip(
            -0.5 * drawn[:, k] ** 2 - np.log(std * np.sqrt(2 * np.pi)), -5, 2
        )  # the mean of these, not the sum
        found = log_prob(kernel, vars, obs, path, jnp.ones((8, 4)))[:, k]
        np.testing.assert_allclose(found, each.mean((1, 2)), atol=2e-5)


def test_a_base_makes_all_but_the_last_steps():
    """Three of five by other weights, two by one's own; by a loop."""
    kernel, spec = actor(FlowConfig((8,), steps=5)), Spec(3, 2, 4)
    make = jax.jit(lambda key: kernel.modules[0].init(key, spec))
    own, other = (Vars({"actor": make(jax.random.key(i))}, {}, {}, {}) for i in range(2))
    base = kernel._replace(step=lambda vars, obs, x, k: kernel.step(other, obs, x, k))
    policy, obs, step = sample(kernel, base, 2), jnp.ones((4, 3)), jax.jit(kernel.step)
    x = noise = policy.draw(own, jax.random.key(2), obs)
    for k in range(5):
        x = step(other if k < 3 else own, obs, x, k)[0]
    np.testing.assert_allclose(policy.plan(own, noise, obs, None).action, jnp.clip(x, -1, 1), atol=1e-6)


@pytest.mark.parametrize("name", ACTORS)
def test_the_first_minibatch_has_ratio_one(name):
    """Old and new probabilities come from the same path, the same grid and the same code."""
    env, c = (
        envs.make("probe/two-step"),
        DPPO(ACTORS[name], ChunkConfig(2), tuned_steps=count_steps(actor(ACTORS[name])), **SMALL),
    )
    state = dppo(c).init(jax.random.key(0), Spec(2, 1, 2), {})
    scheme, vars = receding(dppo(c).explore, 2, 2), view(state, {})
    loop = begin(wrap(env), scheme, vars, jax.random.split(jax.random.key(1)), 8)
    _, chunk, _ = rollout_chunks(wrap(env), scheme, vars, jax.random.key(2), 6, loop, c.chunk)
    _, chunk = dppo(c).prepare(state, {}, jax.random.key(3), chunk)
    some = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[5:29], chunk)
    kernel = with_min_std(walk(name), c.prob_std)
    new = jax.jit(lambda chunk: log_prob(kernel, vars, chunk.obs, chunk.extras["path"], chunk.mask))(some)
    assert float(jnp.abs(jnp.exp(new - some.extras["log_prob"]) - 1).max()) < 1e-6


def test_surrogate_by_hand():
    """Ratios 1.5 and 0.5 with bound 0.2: a gain is capped at 1.2 A, a loss that grew is not; and the other way round."""
    log = jnp.log(jnp.asarray([1.5, 1.5, 0.5, 0.5]))
    loss, metrics = surrogate(log, jnp.zeros(4), jnp.asarray([1.0, -1.0, 1.0, -1.0]), jnp.asarray(0.2))
    np.testing.assert_allclose(loss, np.mean([-1.2, 1.5, -0.5, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(metrics["approx_kl"], np.mean([0.5 - np.log(1.5), -0.5 - np.log(0.5)]), rtol=1e-5)
    assert metrics["clip_fraction"] == 1.0


def test_every_denoising_step_has_its_own_bound_and_discount():
    """The noisiest of three steps is bounded most, and counts least: a loop over decisions and steps."""
    kernel = with_min_std(walk("flow"), 0.1)
    vars = Vars(
        {"actor": jax.jit(lambda key: kernel.modules[0].init(key, Spec(3, 2, 2)))(jax.random.key(0))}, {}, {}, {}
    )
    path, obs = 0.3 * jax.random.normal(jax.random.key(1), (5, 4, 2, 2)), jnp.ones((5, 3))
    advantage, mask = np.asarray([2.0, -1.0, 0.5, -3.0, 1.0]), jnp.ones((5, 2))
    new = np.asarray(jax.jit(lambda: log_prob(kernel, vars, obs, path, mask))())
    old = new - np.linspace(-0.4, 0.4, 15).reshape(5, 3)[:, ::-1]
    extras = {"path": path, "advantage": jnp.asarray(advantage), "log_prob": jnp.asarray(old)}
    term = ppo_path(kernel, clip=0.3, clip_base=0.05, clip_rate=2.0, gamma_denoise=0.5)
    loss, _ = jax.jit(term.fn)(vars, (), Chunk(obs, jnp.zeros((5, 2, 2)), mask, *[None] * 5, extras))
    a, total = (advantage - advantage.mean()) / advantage.std(ddof=1), 0.0
    for b in range(5):
        for d in range(3):
            bound = 0.05 + 0.25 * (np.exp(2 * d / 2) - 1) / (np.exp(2) - 1)
            ratio, worth = np.exp(new[b, d] - old[b, d]), a[b] * 0.5 ** (2 - d)
            total += max(-worth * ratio, -worth * np.clip(ratio, 1 - bound, 1 + bound)) / 15
    np.testing.assert_allclose(loss, total, rtol=1e-4)


@pytest.mark.parametrize(("size", "rows"), [(12, 4), (12, 5), (12, 100), (13, 6)])
def test_a_mean_in_slices_is_the_mean(size, rows):
    """Value, metrics and gradient, also under vmap; a prime number of rows is taken whole."""

    def fn(params, rest, x):
        each = jnp.square(x @ params["w"] * rest)
        return jnp.mean(each), {"each": jnp.mean(jnp.abs(each))}

    params, x = {"w": jax.random.normal(jax.random.key(0), (3, 2))}, jax.random.normal(jax.random.key(1), (size, 3))
    grad = lambda f: jax.vmap(jax.value_and_grad(f, has_aux=True), in_axes=(None, 0, None))  # noqa: E731
    whole, sliced = (grad(f)(params, jnp.asarray([1.0, 2.0]), x) for f in (fn, mean_in_slices(fn, rows)))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(sliced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(mean_in_slices(fn, rows)(params, 1.0, x)[0], fn(params, 1.0, x)[0], rtol=1e-5)


def test_one_tuned_step_is_bounded_by_the_whole_clip():
    np.testing.assert_allclose(clip_bounds(1, 0.2, 0.01, 3.0), [0.2])


def test_values_bootstrap_at_time_outs():
    """A reward of 1 a step that only a limit of 10 ends: V = 1 / (1 - 0.9) everywhere, the last step too."""
    c = PPO(ACTORS["gaussian"], ChunkConfig(1, gamma=0.9), rollout=RolloutConfig(32, 16, 8, 4, False), **SMALL)
    _, vars = last(ppo, c, envs.make("probe/constant"), 32 * 16 * 80)
    obs = jnp.stack([jnp.arange(10) / 10, jnp.zeros(10)], axis=1)
    np.testing.assert_allclose(state_v(c.critic).score(vars, obs), 10.0, atol=0.5)


def test_updates_stop_when_the_policy_has_moved_far_enough():
    """With a limit below any divergence, an iteration makes one update; the others are counted all the same."""
    c = PPO(ACTORS["gaussian"], ChunkConfig(2), rollout=RolloutConfig(8, 4, 2, 4), target_kl=-1.0, **SMALL)
    s = OnPolicySettings(online_steps=3 * 64, episodes=4)
    events = list(train(ppo, c, env=envs.make("probe/two-step"), settings=s))
    ratio = [
        float(e.values["updates_per_second"][0] / e.values["env_steps_per_second"][0])
        for e in events
        if e.kind == "train"
    ]
    np.testing.assert_allclose(ratio, 1 / 64, rtol=1e-6)
    assert int(events[-1].learner.step) == 3 * 8


@pytest.mark.parametrize("most", [9, 4])
def test_each_epoch_deals_the_decisions_anew(most):
    """3 x 3 minibatches of 6 of 20 decisions, each with a key of its own; or 4 updates, after which nothing is learned, though the rest is counted."""

    def update(learner, given, key, some):
        i, seen = learner.step, (some.reward[:, 0], jax.random.key_data(key))
        params = jax.tree.map(lambda kept, x: kept.at[i].set(x), learner.params, dict(zip("rk", seen, strict=True)))
        return learner._replace(params=params, step=i + 1), {"last": jnp.asarray(i == most - 1, jnp.float32)}

    made = ppo(PPO(ACTORS["gaussian"]))._replace(update=update, stop=lambda metrics: metrics["last"] > 0)
    none_yet = {"r": jnp.full((9, 6), -1.0), "k": jnp.zeros((9, 2), jnp.uint32)}
    learner = Learner(none_yet, {}, {}, (), jnp.zeros((), jnp.int32))
    chunk = Chunk(*[None] * 3, jnp.arange(20.0).reshape(5, 4, 1), *[None] * 5)
    rollout = RolloutConfig(envs=4, decisions=5, epochs=3, minibatches=3)
    after, sums = jax.jit(lambda: on_policy.learn(made, rollout, learner, {}, jax.random.key(0), chunk))()
    rows, keys = np.asarray(after.params["r"]), np.asarray(after.params["k"])
    assert (sums["updates_done"], after.step, len(np.unique(keys[:most], axis=0))) == (most, 9, most)
    assert (rows[:most] >= 0).all() and (rows[most:] == -1).all()
    if most == 9:
        epochs = [tuple(x) for x in rows.reshape(3, 18)]
        assert all(len(set(x)) == 18 for x in epochs)
        assert len({*epochs, *(tuple(sorted(x)) for x in epochs)}) == 6, "in another order, and others sit out"


def test_an_iteration_goes_on_where_the_last_one_stopped():
    """Episodes of 10 steps, iterations of 4: rewards of 1 are divided by the deviation of all returns so far, units are those of all that was seen, and noise is new in each."""

    def keeping(c):
        made = ppo(c)
        kept = {"reward": jnp.zeros((4, 2)), "last": jnp.zeros((4, 2)), "action": jnp.zeros((4, 2, 1, 1))}

        def init(key, spec, given=None):
            return made.init(key, spec, given)._replace(stats=kept)

        def prepare(learner, given, key, chunk):
            stats = {"reward": chunk.reward[..., 0], "last": chunk.last, "action": chunk.action}
            return learner._replace(stats={**learner.stats, **stats}), chunk

        def update(learner, given, key, chunk):
            return learner._replace(step=learner.step + 1), {}

        stop = lambda metrics: jnp.asarray(False)  # noqa: E731
        return made._replace(init=init, explore=uniform(made.act), prepare=prepare, update=update, stop=stop)

    c = PPO(ACTORS["gaussian"], ChunkConfig(1), rollout=RolloutConfig(2, 4, 1, 2), **SMALL)
    s, stats = OnPolicySettings(online_steps=6 * 8, eval_every=6 * 8, episodes=4, normalise_obs="standard"), []
    for event in train(keeping, c, env=envs.make("probe/constant"), settings=s):
        if event.kind == "train":
            stats.append(jax.tree.map(lambda x: np.asarray(x[0]), event.learner.stats))
    found = jax.tree.map(lambda *x: np.stack(x), *stats)
    last = (np.arange(24) % 10 == 9).reshape(6, 4, 1) * np.ones(2)
    np.testing.assert_array_equal(found["last"], last)
    first, scale = np.concatenate([np.ones((1, 2)), last.reshape(24, 2)[:-1]]).reshape(6, 4, 2), no_scale(2)
    for i in range(6):
        scale, wanted = scaled(scale, jnp.ones((4, 2)), jnp.asarray(first[i]))
        np.testing.assert_allclose(found["reward"][i], wanted, rtol=1e-5)
        seen, units = np.arange(4 * (i + 1)) % 10 / 10, found[normalise.STATS]["obs"]
        np.testing.assert_allclose((units.shift[i, 0], units.scale[i, 0]), (seen.mean(), seen.std()), rtol=1e-5)
    assert len(np.unique(found["action"])) == found["action"].size


def test_the_actor_waits_for_the_critic():
    c = PPO(ACTORS["gaussian"], ChunkConfig(2), rollout=RolloutConfig(8, 4, 1, 2), critic_updates=4, **SMALL)
    s = OnPolicySettings(online_steps=3 * 64, checkpoint_every=64, episodes=4)
    kept = []
    for event in train(ppo, c, env=envs.make("probe/two-step"), settings=s):
        if event.kind in ("compile", "checkpoint"):
            kept.append(jax.tree.map(np.asarray, event.learner.params))
    moved = [[max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), x[n], y[n]))) > 0 for x, y in itertools.pairwise(kept)] for n in ("actor", "state_value")]  # fmt: skip
    assert moved == [[False, False, True], [True, True, True]]


def test_ppo_learns_from_scratch():
    """The sign of a reward: half of the first policy's episodes succeed."""
    c = PPO(ACTORS["gaussian"], ChunkConfig(1), rollout=RolloutConfig(64, 4, 4, 2), explore_std=0.2, **SMALL)
    values, _ = last(ppo, c, envs.make("probe/flag"), 64 * 4 * 60, seeds=2)
    assert values["success"].min() >= 0.95, values["success"]


@pytest.mark.parametrize("name", slow_but(["diffusion"], ["flow", "diffusion"]))
def test_fine_tuning_improves_a_prior_that_stays_as_it_is(name):
    """The second action must have the sign of the first: the clone of random play succeeds in half of the episodes."""
    env, chunk = envs.make("probe/two-step"), ChunkConfig(2)
    rows = random_rows(env, 3000, 16, dispatch=100)
    s = OnlineSettings(offline_steps=800, eval_every=800, log_every=800, episodes=200, batch=128)
    cloned = list(
        train(bc, BC(chunk, ACTORS[name], OptimConfig(3e-3)), env=env, data=formats.to_device(rows), settings=s)
    )
    given = jax.tree.map(lambda x: x[0], cloned[-1].learner.params)
    before = jax.tree.map(np.asarray, given)
    c = DPPO(ACTORS[name], dataclasses.replace(chunk, discount="decision"), tuned_steps=min(3, count_steps(actor(ACTORS[name]))), clip=0.1, clip_base=0.1,
             rollout=RolloutConfig(128, 4, 4, 4), **SMALL)  # fmt: skip
    values, _ = last(dppo, c, env, 128 * 4 * 2 * 40, given)
    assert cloned[-2].values["success"] < 0.7 and values["success"] >= 0.9, (cloned[-2].values, values)
    jax.tree.map(np.testing.assert_array_equal, before, given)


@pytest.mark.parametrize(
    ("c", "told"),
    [
        (GaussianConfig((16,), components=2), "--tuned.components 1"),
    ],
)
def test_mixtures_are_refused(c, told):
    with pytest.raises(UserError, match=told):
        dppo(DPPO(c))


def test_an_ode_is_refused_by_name():
    with pytest.raises(UserError, match=r"actor draw no noise.*stochastic\(\.\.\.\)"):
        sample_path(actor(ACTORS["flow"]))


@pytest.mark.parametrize("given", [{"backup": (4,)}, {"padding": "repeated"}, {"starts": "episode"}])
def test_how_windows_are_cut_is_refused(given):
    chunk, s = ChunkConfig(2, discount="step", **given), OnPolicySettings(online_steps=10)
    with pytest.raises(
        UserError, match=f"--chunk.{next(iter(given))} .* has no effect: no windows are cut .* leave it out"
    ):
        next(train(ppo, PPO(chunk=chunk), env=envs.make("probe/constant"), settings=s))


def test_an_iteration_is_traced_once():
    """For its shapes, which are asked for before a run begins, for its figures' shapes, and in the program that adds these up."""
    counts = collections.Counter()

    def counted(c):
        made = ppo(c)

        def count(name):
            return lambda *args: (counts.update([name]), getattr(made, name)(*args))[1]

        return made._replace(prepare=count("prepare"), update=count("update"))

    c = PPO(GaussianConfig((8,)), ChunkConfig(2), ValueConfig((8,)), RolloutConfig(4, 4, 2, 2))
    s = OnPolicySettings(online_steps=32, seeds=2)
    program, x = assemble(counted, c, envs.make("probe/two-step"), s)
    once, args, _ = on_policy.unit(program, x, s)
    *_, sums = jax.eval_shape(once, *args)
    on_policy.iterate.trace(program, *args, sums)
    assert counts == {"prepare": 1, "update": 1}


ENV, PLAYS = "probe/two-step", ["--rollout.envs", "8", "--rollout.decisions", "4", "--online-steps", "192", "--quiet"]
TINY = ["--tuned.hidden", "16", "--critic.hidden", "16", "--chunk.horizon", "2", "--episodes", "4"]


@pytest.mark.slow
def test_two_stages_as_one_command(tmp_path, capsys):
    """Imitation, then fine-tuning: the first stage's data and updates are no business of the second."""
    cli.main(["collect", ENV, "--out", str(tmp_path / "d.npz"), "--steps", "400", "--episode-length", "10", "--quiet"])
    first = [
        "bc",
        "--env",
        ENV,
        "--data",
        str(tmp_path / "d.npz"),
        "--offline-steps",
        "10",
        "--batch",
        "16",
        "--seeds",
        "2",
    ]
    actor = ["--actor.kind", "diffusion", "--actor.hidden", "16", "--actor.steps", "3", "--chunk.horizon", "2"]
    chain = [
        *first,
        *actor,
        "--normalise-obs",
        "standard",
        "--episodes",
        "4",
        "--out",
        str(tmp_path / "chain"),
        "--quiet",
    ]
    cli.main(["train", *chain, "--then", "dppo", "--tuned-steps", "2", "--critic.hidden", "16", *PLAYS])
    folder = tmp_path / "chain" / "2-dppo"
    about = json.loads((folder / "config.json").read_text())["config"]
    assert about["driver"] == "on_policy" and about["data"] is None and about["settings"]["seeds"] == 2
    assert about["config"]["tuned"]["steps"] == 3 and about["config"]["chunk"]["discount"] == "decision"
    assert (tmp_path / "chain" / "report" / "report.html").exists()
    capsys.readouterr()
    code, out, _ = command(capsys, "eval", folder, "--episodes", "4", "--json")
    assert code == 0 and len(json.loads(out)["success"]["per_seed"]) == 2
    code, _, err = command(capsys, "train", "v-gps", "--env", ENV, "--data", tmp_path / "d.npz", "--prior", folder)
    assert code == 2 and "the last 2 denoising steps only" in err


@pytest.mark.slow  # test_conformance resumes the driver, test_cli a command
def test_a_run_resumes_to_the_same_bits(tmp_path, capsys):
    argv = ["train", "ppo", "--env", ENV, "--checkpoint-every", "64", "--normalise-obs", "standard", *TINY, *PLAYS]
    for name in ("a", "b"):
        cli.main([*argv, "--out", str(tmp_path / name)])
    (tmp_path / "b" / "summary.json").unlink()
    about = json.loads((tmp_path / "b" / "config.json").read_text())
    about["config"]["config"]["chunk"]["padding"] = "repeated"  # new runs are refused, older ones go on
    (tmp_path / "b" / "config.json").write_text(json.dumps(about))
    cli.main(["train", "--resume", str(tmp_path / "b"), "--step", "128", "--quiet"])
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("a", "b")]
    figures = [[json.loads(x) for x in found] for found in lines]
    drop = ("updates_per_second", "env_steps_per_second", "compile_seconds")
    plain = [[(f["kind"], f["step"], {k: v for k, v in f["values"].items() if k not in drop}) for f in found if f["kind"] != "compile"] for found in figures]  # fmt: skip
    assert plain[0] == plain[1] and len(plain[0]) >= 4
    # the last checkpoint has no environments left; a run that was killed before it was summed up needs none
    states = {n: checkpoint.about(tmp_path / "b" / "checkpoints", n)["state"] for n in (128, 192)}
    assert states == {128: True, 192: False}
    before = (tmp_path / "b" / "summary.json").read_text()
    (tmp_path / "b" / "summary.json").unlink()
    cli.main(["train", "--resume", str(tmp_path / "b"), "--quiet"])
    assert (tmp_path / "b" / "summary.json").read_text() == before
    code, out, _ = command(
        capsys, "collect", ENV, "--policy", tmp_path / "a", "--out", tmp_path / "c.npz", "--steps", "50", "--json"
    )
    assert code == 0 and json.loads(out)["transitions"] >= 50


def test_the_units_of_a_seed_are_its_own():
    """From scratch: of what it has seen itself, alone or among others."""
    c = PPO(GaussianConfig((8,)), ChunkConfig(2), ValueConfig((8,)), RolloutConfig(4, 4, 1, 2))

    def units(seed, seeds):
        s = OnPolicySettings(seed=seed, seeds=seeds, online_steps=32, normalise_obs="min-max")
        program, x = assemble(ppo, c, envs.make("gymnax/Pendulum-v1"), s)
        return on_policy.in_units(program, x, init(program, x)).stats[normalise.STATS]

    both = units(3, 2)
    for i in range(2):
        mine, alone = one(both, i), one(units(3 + i, 1), 0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mine, alone)
    assert np.ptp(both["obs"].scale, axis=0).min() > 0, "and they differ"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["dppo", "--env", ENV], "--tuned-steps 20 to train all from scratch"),
        (["ppo", "--env", ENV, "--data", "d.npz"], "leave --data out"),
        (["ppo", "--env", ENV, "--offline-steps", "5"], "unknown flag"),
        (["ppo", "--env", "gymnasium/Pendulum-v1"], "worker processes"),
        (["ppo", "--env", ENV, "--normalise-action", "min-max"], "no data to take the units of actions from"),
        (["ppo", "--env", ENV, "--rollout.envs", "1", "--rollout.decisions", "2"], "--rollout.minibatches 4"),
        (["bc", "--env", ENV], "give --data FILE"),
    ],
)
def test_mistakes(tmp_path, capsys, argv, told):
    code, _, err = command(capsys, "train", *argv, "--out", tmp_path / "run")
    assert code == 2 and told in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()
