"""Parity with published code that puts a critic behind a diffusion: DAC, QSM and Diffusion-QL (tests/golden/README.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity import CLOSE, WIDTHS, A, assert_parameters, chunk_of, load, mlp_params, unflat
from test_parity_actor_critic import assert_gradients, drawing, key, losses_of, noisy
from test_parity_diffusion import plain
from tiers import slow_but

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import paths
from qchunk.actors.diffusion import diffusion
from qchunk.actors.paths import decode
from qchunk.compose import acting, learner, reading
from qchunk.config import CriticConfig, OptimConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import mean, opinion
from qchunk.losses.cloning import bc
from qchunk.losses.noised import estimating, lean, match, noised
from qchunk.losses.proposals import ascend_one, proposing
from qchunk.losses.td import td
from qchunk.losses.terms import weighed
from qchunk.nets import flatten_chunk, mish
from qchunk.sampling import sample
from qchunk.target_networks import target_view, with_target
from qchunk.types import Chunk, Learner, Module, Spec, TargetNetwork, Vars

pytestmark = pytest.mark.accelerator

LEVELS = paths.variance_preserving(paths.signal("vp", 4), np.arange(4)[::-1])


def published(params, obs, x, k):
    """QAM's noise network, whose levels it has learned Fourier features of; k = 0 is the noisiest."""
    dense = lambda part, i, y: y @ params[part][i]["kernel"] + params[part][i]["bias"]  # noqa: E731
    angle = 2 * jnp.pi * (4.0 - k)[..., None] @ params["fourier"].T
    time = dense("cond", 1, mish(dense("cond", 0, jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1))))
    time = jnp.broadcast_to(time, (*x.shape[:-2], time.shape[-1]))
    y = jnp.concatenate([flatten_chunk(x), obs, time], -1)
    return dense("reverse", 2, mish(dense("reverse", 1, mish(dense("reverse", 0, y))))).reshape(x.shape)


def network(g, prefix):
    layers = lambda part, n: [  # noqa: E731
        {kind: jnp.asarray(g[f"{prefix}/{part}/layer{i}/{kind}"]) for kind in ("kernel", "bias")} for i in range(n)
    ]
    return {
        "fourier": jnp.asarray(g[f"{prefix}/fourier/kernel"]),
        "cond": layers("cond", 2),
        "reverse": layers("reverse", 3),
    }


def qam_actor():
    """A Kernel around that network; its loss is ours of a diffusion that predicts noise."""

    def denoise(vars, obs, x, k):
        k = jnp.asarray(k)
        alpha, sigma = paths.numbers(LEVELS, k)
        return (x - sigma * published(vars.params["actor"], obs, x, k)) / alpha

    def loss(vars, noise, chunk):
        x, _ = noised(kernel, noise, chunk.action)
        error = published(vars.params["actor"], chunk.obs, x, noise[1][..., 0]) - noise[0]
        return jnp.mean(jnp.square(error) * chunk.mask[..., None], axis=(-2, -1))

    module = Module("actor", None, published)
    kernel = paths.denoiser_kernel(module, LEVELS, 1.0, denoise, lambda key, chunk: (), loss, clip=True)
    return kernel._replace(shape=lambda vars: (4, A))


@pytest.mark.parametrize("name", ["dac", "qsm"])
def test_dac_and_qsm(name):
    g = load("qam_dcgql")
    pi, q = qam_actor(), chunk_q(CriticConfig(WIDTHS, tau=0.1, members=3, aggregate="pessimistic:0.5"))
    np.testing.assert_allclose(LEVELS[::-1, 0] ** 2, g["schedule/alpha_hats"], rtol=2e-5)
    critics = [mlp_params(g, f"params0/{n}", ()) for n in ("critic", "target_critic")]
    vars = Vars({"actor": network(g, "params0/actor"), "critic": critics[0]}, {"critic": critics[1]}, {}, {})
    out = {k.split("/")[1]: v for k, v in g.items() if k.startswith(f"out0_{name}/")}
    draw = {k.split("/")[1]: v for k, v in g.items() if k.startswith(f"draws0_{name}/")}
    slope = opinion(reading(q, target_view), mean)
    term, alpha = (lean(pi, slope), 0.5) if name == "dac" else (match(pi, slope, 2.0, by_level=False), 3.0)
    noise = unflat(draw["noise"]), 4 - jnp.asarray(draw["t"])[:, None]
    terms = [drawing(weighed(bc(pi), alpha), noise), drawing(estimating(pi, [term]), noise)]

    # the published means are over all rows, to each of which one that does not count adds 1 (x ** 0)
    whole = chunk_of(g, "batch0", 4)
    counts = np.asarray(whole.weight[:, 0]) > 0
    some = jax.tree.map(lambda x: x[counts], (whole, noise))
    terms = [drawing(t, some[1]) for t in terms]
    cloned, followed = losses_of(terms, vars, some[0])
    share, rest = counts.mean(), 1 - counts.mean()
    np.testing.assert_allclose(cloned / alpha * share + rest, out["bc_loss"], **CLOSE)
    np.testing.assert_allclose(followed * share + rest, out["actor_loss"], **CLOSE)
    expected = jax.tree.map(lambda x: x / share, network(g, f"grads_{name}/actor"))
    assert_gradients(terms, vars, some[0], {"actor": expected})

    made = estimating(pi, []).shared(vars, noise, whole)
    np.testing.assert_allclose(flatten_chunk(made.x), out["noisy_actions"], **CLOSE)
    np.testing.assert_allclose(flatten_chunk(made.predicted), out["eps_pred"], **CLOSE)


def test_dac_samples_and_values_what_it_samples():
    """The published sampler adds sqrt(beta) times its noise, where ours adds the posterior's deviation."""
    g = load("qam_dcgql")
    pi, q = qam_actor(), chunk_q(CriticConfig(WIDTHS, tau=0.1, members=3, aggregate="pessimistic:0.5"))
    critics = [mlp_params(g, f"params0/{n}", ()) for n in ("critic", "target_critic")]
    vars = Vars({"actor": network(g, "params0/actor"), "critic": critics[0]}, {"critic": critics[1]}, {}, {})
    chunk = chunk_of(g, "batch0", 4)
    std = [float(pi.advance(jnp.zeros((4, A)), jnp.zeros((4, A)), k)[1].squeeze()) for k in range(4)]
    ratio = [np.sqrt(b) / s if s > 0 else 0.0 for b, s in zip(g["schedule/betas"][:0:-1], std, strict=True)]
    steps = jnp.moveaxis(unflat(g["draws0_dac/next_z"]), 0, 1) * jnp.asarray(ratio)[:, None, None]
    act = noisy(sample(pi), (unflat(g["draws0_dac/next_noise"]), steps))
    plan = act.plan(vars, act.draw(vars, key(), None), chunk.next_obs[:, 0], None)
    np.testing.assert_allclose(flatten_chunk(plan.action), g["out0_dac/next_actions"], **CLOSE)
    (loss,) = losses_of([td(q, act)], vars, chunk)
    np.testing.assert_allclose(loss * jnp.mean(chunk.weight), g["out0_dac/critic_loss"], **CLOSE)
    norm = lambda params: sum(losses_of([td(q, act)], vars._replace(params=params), chunk)) * jnp.mean(chunk.weight)  # noqa: E731
    grads = jax.tree.leaves(jax.grad(norm)(vars.params)["critic"])
    np.testing.assert_allclose(jnp.sqrt(sum(jnp.sum(x**2) for x in grads)), g["grad_norm_dac/critic"], rtol=1e-5)


def test_the_published_qsm_sampler_is_one_of_our_kernel():
    """It goes on from the clean estimate itself, sqrt(beta) of noise added, and is clipped in each step."""
    g = load("qam_dcgql")
    pi, vars = qam_actor(), Vars({"actor": network(g, "params0/actor")}, {}, {}, {})
    noise = jnp.sqrt(jnp.asarray(g["schedule/betas"][:0:-1])).at[-1].set(0.0)[:, None, None, None] * unflat(
        g["draws0_qsm/next_z"]
    )

    def step(vars, obs, x, k):
        return jnp.clip(pi.denoise(vars, obs, x, k) + noise[k], -1.0, 1.0), 0.0

    obs = chunk_of(g, "batch0", 4).next_obs[:, 0]
    found = decode(pi._replace(step=step), vars, obs, unflat(g["draws0_qsm/next_noise"]))
    np.testing.assert_allclose(flatten_chunk(found), g["out0_qsm/next_actions"], atol=5e-5)


def critic_of(g, prefix, order=(1, 2)):
    """Both critics of the fixture as one ensemble, its members in this order."""
    each = [
        {
            **{f"dense_{i}": (f"q{n}_model.{2 * i}.weight", f"q{n}_model.{2 * i}.bias") for i in range(3)},
            "head": (f"q{n}_model.6.weight", f"q{n}_model.6.bias"),
        }
        for n in order
    ]
    stack = lambda name, i: jnp.stack([jnp.asarray(g[f"{prefix}/{e[name][i]}"]) for e in each])  # noqa: E731
    found = {
        f"dense_{i}": {"kernel": jnp.swapaxes(stack(f"dense_{i}", 0), 1, 2), "bias": stack(f"dense_{i}", 1)}
        for i in range(3)
    }
    return {**found, "head_kernel": jnp.swapaxes(stack("head", 0), 1, 2), "head_bias": stack("head", 1)[:, 0]}


def network_of(g, prefix):
    return plain(g, prefix, [f"mid_layer.{i}" for i in (0, 2, 4)], "time_mlp", "final_layer", (1, 3))


COINS = ["coin_q1", "coin_q2", "ema_coin_q1"]


@pytest.mark.parametrize("case", slow_but(COINS[1:2], COINS))
def test_a_step_of_diffusion_ql(case):
    """Its actor climbs the critic from after the critic's own step, and its critic's loss is the members' sum; ours are one gradient, and their mean."""
    g = load("dql_train_step")
    draw = {k.removeprefix(f"{case}/"): jnp.asarray(v) for k, v in g.items() if k.startswith(f"{case}/")}
    pi = diffusion(DiffusionConfig((16,) * 3, residual=False, time_features=8, steps=5, schedule="vp", ema=True))
    if case.startswith("ema"):
        pi = pi._replace(modules=(pi.modules[0]._replace(target=TargetNetwork(0.005, lagged=False, acts=True)),))
    q = chunk_q(CriticConfig((16,) * 3, layer_norm=False, activation="mish", aggregate="min"))
    q = with_target(q, lagged=False)
    path = lambda name: (draw[f"{name}/x_init"][:, None], jnp.moveaxis(draw[f"{name}/noise"], 0, 1)[:, :, None])  # noqa: E731
    act = noisy(sample(acting(pi)), path("next_action"))
    first = float(draw["new_action/x_init"][0, 0]) < 0  # which member our coin climbs
    order = (1, 2) if first == case.endswith("q1") else (2, 1)
    before = {"actor": network_of(g, "actor_before"), "critic": critic_of(g, "critic_before", order)}
    targets = {"actor": network_of(g, "ema_actor_before"), "critic": critic_of(g, "critic_target_before", order)}
    one = jnp.ones((8, 1))
    obs, next_obs, action = (jnp.asarray(g[n])[:, None] for n in ("state", "next_state", "action"))
    chunk = Chunk(
        obs[:, 0],
        action,
        one,
        jnp.asarray(g["reward"]),
        0.99 * jnp.asarray(g["not_done"]),
        next_obs,
        one,
        one[:, 0],
        {},
    )
    vars = Vars(before, targets, {}, {})
    clone = drawing(bc(pi), (draw["bc/noise"][:, None], draw["bc/t"][:, None]))
    climb = drawing(proposing(pi, [weighed(ascend_one(pi, q), 0.7)]), path("new_action"))

    (critic,) = losses_of([td(q, act)], vars, chunk)
    np.testing.assert_allclose(2 * critic, draw["critic_loss"], **CLOSE)
    after = vars._replace(params={**before, "critic": critic_of(draw, "critic_after", order)})
    cloned, climbed = losses_of([clone, climb], after, chunk)
    np.testing.assert_allclose(cloned, draw["bc_loss"], **CLOSE)
    np.testing.assert_allclose(climbed / 0.7, draw["ql_loss"], **CLOSE)
    np.testing.assert_allclose(cloned + climbed, draw["actor_loss"], **CLOSE)
    assert_gradients([clone, climb], after, chunk, {"actor": network_of(draw, "grad_actor")})
    halved = jax.tree.map(lambda x: x / 2, critic_of(draw, "grad_critic", order))
    assert_gradients([td(q, act)], vars, chunk, {"critic": halved})

    def updated(terms, vars):
        made = learner([pi, q], act, terms, OptimConfig(3e-4))
        fresh = made.init(key(), Spec(5, 3, 1), {})
        start = Learner(vars.params, vars.targets, {}, fresh.opt, jnp.zeros((), jnp.int32))
        return jax.jit(made.update)(start, {}, key(), chunk)[0]

    state = updated([td(q, act)], vars)
    assert_parameters(state.params["critic"], critic_of(draw, "critic_after", order))
    assert_parameters(state.targets["critic"], critic_of(draw, "critic_target_after", order))
    state = updated([clone, climb], after)
    assert_parameters(state.params["actor"], network_of(draw, "actor_after"))
    if case.startswith("ema"):
        assert_parameters(state.targets["actor"], network_of(draw, "ema_actor_after"))
