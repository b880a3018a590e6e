"""Samplers and guidance against closed forms, and the contract that a guided prior is never touched."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import as_users_compile, slow_but

from qchunk import names, registry
from qchunk.actor_configs import DiffusionConfig, FlowConfig, GaussianConfig, RegressionConfig
from qchunk.actors import actor, paths
from qchunk.actors.paths import decode
from qchunk.config import CriticConfig, Stands, stands_on
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.noisy_value import noisy_value
from qchunk.critics.state_v import state_v
from qchunk.envs.probes import bandit
from qchunk.improve import best_of_n, diffuser, guide
from qchunk.losses.cloning import bc
from qchunk.losses.implicit_q import expectile
from qchunk.losses.noise_value import noise_value
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Critic, Module, Plan, Spec, Vars, view

NOTHING = Vars({}, {}, {}, {})
SPEC = Spec(3, 2, 4)
K, N = 400, 6000


def cosine(steps):
    return paths.variance_preserving(paths.signal("cosine", steps), np.arange(steps)[::-1])


def vp(steps):
    return paths.variance_preserving(paths.signal("vp", steps), np.arange(steps)[::-1])


SAMPLERS = {
    "flow": (paths.linear, 0.0),
    "stochastic flow": (paths.linear, 1.0),
    "ddpm": (cosine, 1.0),
    "ddim": (cosine, 0.0),
    "vp": (vp, 1.0),
}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw(kernel, n, noisy, key):
    start_key, step_key = jax.random.split(key)
    shape = kernel.shape(NOTHING)
    start = jax.random.normal(start_key, (n, *shape))
    steps = jax.random.normal(step_key, (n, len(kernel.levels) - 1, *shape)) if noisy else None
    return decode(kernel, NOTHING, jnp.zeros((n, 1)), start, steps)[:, 0]


def moments(kernel, n=N, seed=0):
    kernel = kernel._replace(levels=Levels(kernel.levels))
    out = np.asarray(draw(kernel, n, kernel.noisy, jax.random.key(seed)))
    return out.mean(axis=0), np.cov(out.T).reshape(out.shape[1], -1)


class Levels(np.ndarray):
    """Levels that hash, so that a Kernel can be static."""

    def __new__(cls, levels):
        return np.asarray(levels).view(cls)

    def __hash__(self):
        return hash(self.tobytes())

    def __eq__(self, other):
        return self is other


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_have_the_moments_of_a_gaussian_prior(name):
    grid, eta = SAMPLERS[name]
    p = bandit.correlated(3)
    mean, cov = moments(bandit.kernel(p, grid(K), eta))
    np.testing.assert_allclose(mean, p.m, atol=0.03)
    np.testing.assert_allclose(cov, p.S, atol=0.03)


def test_stochastic_is_the_same_prior_with_noise():
    """It takes the deterministic Kernel, and gives the marginals of the noisy one; one-step actors are refused."""
    p = bandit.correlated(2, seed=1)
    mean, cov = moments(paths.stochastic(bandit.kernel(p, paths.linear(K), 0.0)))
    np.testing.assert_allclose(mean, p.m, atol=0.03)
    np.testing.assert_allclose(cov, p.S, atol=0.03)
    with pytest.raises(UserError, match="noise levels"):
        paths.stochastic(actor(RegressionConfig((4,))))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("dimensions", "weight"), [(1, 2.0), (3, 0.5), (3, 2.0)])
def test_exact_guidance_samples_the_tilted_prior(name, dimensions, weight):
    grid, eta = SAMPLERS[name]
    p = bandit.SCALAR if dimensions == 1 else bandit.correlated(dimensions)
    kernel = guide(bandit.kernel(p, grid(K), eta), bandit.value(p, "log-expectation", weight), weight)
    wanted_mean, wanted_cov = bandit.tilted(p, weight)
    mean, cov = moments(kernel)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.03)
    np.testing.assert_allclose(cov, wanted_cov, atol=0.03)


@pytest.mark.parametrize("name", ["flow", "ddpm"])
def test_the_guided_score_is_the_tilted_one_at_every_level(name):
    """The identity behind it, without sampling: the guided clean estimate is the posterior mean of the tilted prior."""
    p, weight = bandit.correlated(3), 2.0
    kernel = bandit.kernel(p, SAMPLERS[name][0](20), 0.0)
    steered = guide(kernel, bandit.value(p, "log-expectation", weight), weight)
    mean, cov = bandit.tilted(p, weight)
    other = bandit.kernel(p._replace(m=mean, S=cov), kernel.levels, 0.0)
    x = jax.random.normal(jax.random.key(0), (5, 1, 3))
    with jax.default_matmul_precision("highest"):
        for k in range(1, 20):
            ours, theirs = (kk.denoise(NOTHING, None, x, k) for kk in (steered, other))
            np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize(
    ("target", "mean", "variance"),
    [("log-expectation", 0.898, 0.247), ("mean", 1.17, 0.184), ("clean", 1.71, 0.0)],
)
def test_what_the_approximations_do(target, mean, variance):
    """The scalar case of the specification, Euler with 400 steps: clean-Q gradients over-guide."""
    p, weight = bandit.SCALAR, 2.0
    kernel = guide(bandit.kernel(p, paths.linear(K), 0.0), bandit.value(p, target, weight), weight)
    m, v = moments(kernel, 20_000)
    np.testing.assert_allclose(m[0], mean, atol=0.015)
    np.testing.assert_allclose(v[0, 0], variance, atol=0.01)


def test_diffusers_rule_tends_to_the_exact_one():
    """One step of gradient scaled by the posterior variance: right to first order on many levels, up to the gain."""
    p, weight = bandit.correlated(2), 1.0
    value = bandit.value(p, "log-expectation", weight)
    steered = diffuser(bandit.kernel(p, cosine(K), 1.0), value, weight, repeats=1, stop=0)
    wanted_mean, wanted_cov = bandit.tilted(p, weight)
    mean, cov = moments(steered)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.05)
    np.testing.assert_allclose(cov, wanted_cov, atol=0.05)
    with pytest.raises(UserError, match="stochastic"):
        diffuser(bandit.kernel(p, cosine(4), 0.0), value, weight)


@pytest.mark.parametrize(("n", "mean"), [(2, 0.564), (10, 1.539), (50, 2.249)])
def test_best_of_n_of_a_normal(n, mean):
    p = bandit.Gaussian(np.zeros(1), np.eye(1), np.zeros(1), np.eye(1))
    kernel = bandit.kernel(p, paths.linear(50), 0.0)
    unclipped = sample(kernel)._replace(plan=lambda v, z, o, old: sample(kernel).plan(v, z, o, old)._replace(action=z))
    policy = best_of_n(unclipped, lambda vars, obs, a: a[..., 0, 0], n)
    obs = jnp.zeros((20_000, 1))
    best = policy.plan(NOTHING, policy.draw(NOTHING, jax.random.key(0), obs), obs, None).action
    np.testing.assert_allclose(best.mean(), mean, atol=0.02)


def test_softmax_reranking_tilts():
    """Many candidates with temperature beta: the normal prior times exp(Q / beta), Q = a, is N(1 / beta, 1)."""
    pick = best_of_n(
        sample(actor(FlowConfig((4,), steps=1)))._replace(
            draw=lambda v, key, obs: jax.random.normal(key, (*obs.shape[:-1], 1, 1)), plan=lambda v, z, o, old: Plan(z)
        ),
        lambda vars, obs, a: a[..., 0, 0],
        400,
        temperature=2.0,
    )
    obs = jnp.zeros((5000, 1))
    out = np.asarray(pick.plan(NOTHING, pick.draw(NOTHING, jax.random.key(0), obs), obs, None).action)
    np.testing.assert_allclose([out.mean(), out.std()], [0.5, 1.0], atol=0.05)


# ------------------------------------------------------------------------------------------ the contract


GUIDANCE = ["log-expectation", "mean", "clean", "diffuser"]
PRIORS = {
    "flow": FlowConfig((16,), steps=3),
    "diffusion": DiffusionConfig((16,), steps=3, time_features=4),
    "ddim": DiffusionConfig((16,), steps=4, ddim=2, time_features=4),
}


def chunk_of(batch=8):
    k = jax.random.split(jax.random.key(7), 3)
    one = jnp.ones((batch, 1))
    action = jax.random.uniform(k[1], (batch, 4, 2), minval=-1)
    obs, after = jax.random.normal(k[0], (batch, 3)), jax.random.normal(k[2], (batch, 1, 3))
    return Chunk(obs, action, jnp.ones((batch, 4)), -one, 0.9 * one, after, one, one[:, 0], {})


@functools.cache
def stage(name, prior, **more):
    """An algorithm of two stages at a small size, its learner and its prior."""
    build, config_class = registry.builder(name)
    small = {"hidden": (16,), "members": 2, "n": 3}
    c = dataclasses.replace(config_class(), given=prior, **more)
    fit = lambda x: dataclasses.replace(x, **{k: v for k, v in small.items() if hasattr(x, k)})  # noqa: E731
    c = dataclasses.replace(fit(c), **{n: fit(getattr(c, n)) for n in ("critic", "value") if hasattr(c, n)})
    algorithm = build(c)
    given = {"actor": actor(prior).modules[0].init(jax.random.key(1), SPEC)}
    return algorithm, algorithm.init(jax.random.key(2), SPEC, given), given


def bytes_of(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


STAGES = [  # on any prior, from data; those of opal and supe have skills (test_skills.py)
    n
    for n in names.ALGORITHMS
    if hasattr(c := registry.builder(n)[1], "given")
    and registry.driver_of(c).takes_data
    and n not in ("opal", "supe", "supe-gt")
]
CASES = [(n, {}) for n in STAGES] + [("value-guided", {"guidance": g}) for g in ("mean", "clean", "diffuser")]
CASES += [("value-guided", {"backup": "prior"}), ("value-guided", {"backup": "iql"}), ("v-gps", {"learning": "td"})]


@pytest.mark.parametrize(("name", "more"), slow_but(CASES[: len(STAGES)], CASES))
def test_the_prior_is_never_touched(name, more):
    prior = "diffusion" if "guidance" in more else "flow"
    algorithm, state, given = stage(name, PRIORS[prior], **more)
    before = bytes_of(given)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(given):  # nothing flows into the prior even when asked
        after, metrics = algorithm.update(state, given, jax.random.key(3), chunk_of())
        return jnp.sum(metrics["loss"]), (after, metrics)

    slope, (after, metrics) = run(given)
    assert bytes_of(given) == before
    if name != "distil":  # whose own actor bears that name
        assert "actor" not in after.params and "actor" not in str(jax.tree_util.tree_flatten_with_path(after.opt)[0])
    assert all(np.isfinite(v).all() for v in metrics.values())
    assert jax.tree.all(jax.tree.map(lambda x: (x == 0).all(), slope))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guidance", slow_but(["log-expectation", "diffuser"], GUIDANCE))
@pytest.mark.parametrize("jit", slow_but([True], [True, False]), ids=["jit", "op by op"])
def test_weight_0_is_the_unguided_sampler_bit_for_bit(prior, guidance, jit):
    algorithm, state, given = stage("value-guided", PRIORS[prior], guidance=guidance, weight=0.0)
    kernel = actor(PRIORS[prior])
    kernel = paths.stochastic(kernel) if guidance == "diffuser" and not kernel.noisy else kernel
    same_bits(algorithm.act, sample(kernel), view(state, given), given, jit)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ["v-gps", "qc-frozen"])
def test_one_candidate_is_the_unguided_sampler_bit_for_bit(prior, name):
    algorithm, state, given = stage(name, PRIORS[prior])
    build, config_class = registry.builder(name)
    algorithm = build(dataclasses.replace(config_class(), given=PRIORS[prior], n=1, critic=CriticConfig((16,))))
    same_bits(algorithm.act, sample(actor(PRIORS[prior])), view(state, given), given, True)


def same_bits(guided, plain, vars, given, jit):
    obs = jax.random.normal(jax.random.key(4), (64, 3))
    act = lambda policy, vars: policy.plan(vars, policy.draw(vars, jax.random.key(5), obs), obs, None).action  # noqa: E731
    act = as_users_compile(act, static_argnums=0) if jit else act
    ours = act(guided, vars)
    theirs = act(plain, Vars(given, {}, {}, {}))
    if jit:
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    # loops are compiled op by op, too, and round as they are fused
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_weight_moves_the_samples():
    algorithm, state, given = stage("value-guided", PRIORS["flow"], weight=5.0)
    obs, vars = jnp.zeros((16, 3)), view(state, given)
    plain = sample(actor(PRIORS["flow"]))
    noise = plain.draw(Vars(given, {}, {}, {}), jax.random.key(5), obs)
    moved = algorithm.act.plan(vars, noise, obs, None).action - plain.plan(Vars(given, {}, {}, {}), noise, obs).action
    assert float(jnp.abs(moved).max()) > 1e-3


# ------------------------------------------------------------------------------------------ losses by hand


def constant(name, value):
    """A critic that is one number, whatever it sees."""
    read = lambda vars, obs, a=None, level=None: jnp.broadcast_to(vars.params[name], (1, obs.shape[0]))  # noqa: E731
    module = Module(name, lambda k, s: jnp.asarray(value), lambda p: p)
    return Critic((module,), read, lambda q: q[0], lambda *a, **k: read(*a, **k)[0])


def of_first_action(vars, obs, action, level=None):
    return action[..., 0, 0]


def test_noise_values_find_the_mean_and_the_log_expectation():
    """A value that sees nothing: its best number is E[Q], or log E[exp(w Q)] / w, over the batch."""
    chunk, w = chunk_of(64), 3.0
    q = np.asarray(chunk.action[:, 0, 0])
    critic = chunk_q(CriticConfig((4,)))._replace(score=of_first_action)
    v, kernel = constant("value", 0.0), actor(PRIORS["flow"])
    for weight, best in ((None, q.mean()), (w, np.log(np.exp(w * q).mean()) / w)):
        term = noise_value(v, critic.score, kernel, weight)
        noise = term.draw(jax.random.key(0), chunk)
        slope = jax.grad(lambda x, term=term, noise=noise: term.fn(Vars({"value": x}, {}, {}, {}), noise, chunk)[0])
        assert abs(float(slope(jnp.asarray(best, jnp.float32)))) < 1e-5
        assert float(slope(jnp.asarray(best - 0.1))) < -1e-2 < 1e-2 < float(slope(jnp.asarray(best + 0.1)))


def test_noise_values_count_whole_windows_and_rise_straight_where_they_are_far_off():
    """exp(d) - d - 1 with d = w gap up to 5, its tangent beyond; windows that leave their episode are left out."""
    chunk, w, v = chunk_of(4), 0.5, -8.0
    chunk = chunk._replace(mask=jnp.ones((4, 4)).at[1, 1:].set(0.0).at[2, 3].set(0.0))
    q = jnp.asarray([1.0, 90.0, -90.0, 4.0])  # gaps of the first and of the last are 9 and 12: d is 4.5 and 6
    term = lambda weight: noise_value(constant("value", 0.0), lambda vars, obs, a: q, actor(PRIORS["flow"]), weight)  # noqa: E731
    noise = term(None).draw(jax.random.key(0), chunk)
    loss = lambda weight: term(weight).fn(Vars({"value": jnp.asarray(v)}, {}, {}, {}), noise, chunk)[0]  # noqa: E731
    np.testing.assert_allclose(loss(None), (9.0**2 + 12.0**2) / 2, rtol=1e-6)
    far = np.exp(5) - 6 + (np.exp(5) - 1) * (6 - 5)
    np.testing.assert_allclose(loss(w), (np.exp(4.5) - 5.5 + far) / 2 * 2 / w**2, rtol=1e-5)


def test_expectile_finds_the_expectile():
    """Q is 0 or 1 in equal shares: the expectile tau solves tau (1 - v) = (1 - tau) v, so v = tau."""
    chunk = chunk_of(10)
    chunk = chunk._replace(action=chunk.action.at[:, 0, 0].set(jnp.arange(10) % 2))
    critic = chunk_q(CriticConfig((4,)))._replace(score=of_first_action)
    for tau in (0.5, 0.7, 0.9):
        term = expectile(constant("v", 0.0), critic, tau)
        slope = jax.grad(lambda x, term=term: term.fn(Vars({"v": x}, {}, {}, {}), (), chunk)[0])
        assert abs(float(slope(jnp.asarray(tau)))) < 1e-6
        assert float(slope(jnp.asarray(tau - 0.1))) < 0 < float(slope(jnp.asarray(tau + 0.1)))


def test_values_see_what_they_should():
    """A noisy value depends on the level, a chunk critic does not, a state's value sees no chunk."""
    chunk, c = chunk_of(), CriticConfig((16,))
    for make, sees_level, sees_action in ((noisy_value, True, True), (chunk_q, False, True), (state_v, False, False)):
        critic = make(c)
        vars = Vars({critic.modules[0].name: critic.modules[0].init(jax.random.key(0), SPEC)}, {}, {}, {})
        at = lambda level, a=chunk.action, critic=critic, vars=vars: critic.score(vars, chunk.obs, a, level)  # noqa: E731
        assert bool((at((1.0, 0.0)) != at((0.5, 0.8))).any()) == sees_level
        assert bool((at((1.0, 0.0)) != at((1.0, 0.0), -chunk.action)).any()) == sees_action


@pytest.mark.parametrize("components", [1, 3])
def test_gaussian_likelihood_by_hand(components):
    """The loss is the negative log-likelihood of the masked chunk per number, and samples follow the same mixture."""
    kernel = actor(GaussianConfig((8,), components=components))
    module, chunk = kernel.modules[0], chunk_of(5)
    chunk = chunk._replace(mask=chunk.mask.at[:, 2:].set(0.0))
    params = module.init(jax.random.key(0), SPEC)
    mean, std, weight = (np.asarray(x, np.float64) for x in module.apply(params, chunk.obs))
    a = np.asarray(chunk.action, np.float64)[:, None]
    each = -0.5 * ((a - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    joint = np.log((np.exp(weight) * np.exp(each[:, :, :2].sum((-1, -2)))).sum(-1))
    vars = Vars({"actor": params}, {}, {}, {})
    np.testing.assert_allclose(kernel.loss(vars, (), chunk), -joint / 8, rtol=1e-4)
    obs = jnp.broadcast_to(chunk.obs[:1], (20_000, 3))
    policy = sample(kernel)
    start, steps = policy.draw(vars, jax.random.key(3), obs)
    got = np.asarray(decode(kernel, vars, obs, start, steps))
    shares = np.exp(weight[0])[:, None, None]
    np.testing.assert_allclose(got.mean(0), (shares * mean[0]).sum(0), atol=0.02)
    second = (shares * (mean[0] ** 2 + std[0] ** 2)).sum(0)
    np.testing.assert_allclose((got**2).mean(0), second, atol=0.03)


def test_deviations_of_a_gaussian_have_bounds():
    """However far the network's output goes: 0.01 and 1, in units of action."""
    kernel = actor(GaussianConfig((8,)))
    params = jax.tree.map(jnp.zeros_like, kernel.modules[0].init(jax.random.key(0), SPEC))
    for out, std in ((-80.0, 0.01), (0.0, 0.1), (80.0, 1.0)):
        told = {**params, "head_bias": params["head_bias"].at[..., 1].set(out)}
        mean, found = kernel.step(Vars({"actor": told}, {}, {}, {}), jnp.zeros((1, 3)), jnp.zeros((1, 4, 2)), 0)
        np.testing.assert_allclose(found, std, rtol=1e-5)
        np.testing.assert_array_equal(mean, 0.0)


def test_regression_is_the_squared_error():
    kernel, chunk = actor(RegressionConfig((8,))), chunk_of(5)
    vars = Vars({"actor": kernel.modules[0].init(jax.random.key(0), SPEC)}, {}, {}, {})
    out = sample(kernel).plan(vars, jnp.zeros((5, 4, 2)), chunk.obs, None).action
    np.testing.assert_allclose(bc(kernel).fn(vars, (), chunk)[0], jnp.mean((out - chunk.action) ** 2), rtol=1e-5)


CLONED = [n for n in names.ALGORITHMS if (s := stands_on(registry.builder(n)[1])) and s[1] is Stands.CLONED]


@pytest.mark.parametrize("name", slow_but(["dsrl"], CLONED))
def test_a_cloned_actor_gives_way_to_the_priors(name):
    """Its bits stay the prior's, and nothing imitates; without a prior it is trained."""
    build, config_class = registry.builder(name)
    fields = {f.name: getattr(config_class(), f.name) for f in dataclasses.fields(config_class)}
    fields = {n: dataclasses.replace(x, hidden=(16,)) for n, x in fields.items() if hasattr(x, "hidden")}
    algorithm = build(config_class(**{**fields, "actor": PRIORS["flow"]}))
    given = {"actor": actor(PRIORS["flow"]).modules[0].init(jax.random.key(1), SPEC)}
    chunk = chunk_of()
    if hasattr(config_class(), "unroll"):  # consecutive ones
        chunk = jax.tree.map(lambda x: jnp.stack([x, x], axis=1), chunk)
    for prior in (given, {}):
        state = algorithm.init(jax.random.key(2), SPEC, prior)
        after, metrics = jax.jit(algorithm.update)(state, prior, jax.random.key(3), chunk)
        same = bytes_of(after.params["actor"]) == bytes_of(state.params["actor"])
        others = [n for n in after.params if n != "actor" and bytes_of(after.params[n]) != bytes_of(state.params[n])]
        assert same == bool(prior) and ("bc/loss" in metrics) != bool(prior)
        assert {"critic", "model"} & set(others)
        if prior:
            assert bytes_of(state.params["actor"]) == bytes_of(given["actor"])
            moved = [
                n for n in after.targets if n == "actor" and bytes_of(after.targets[n]) != bytes_of(given["actor"])
            ]
            assert not moved
