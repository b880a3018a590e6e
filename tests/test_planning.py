"""Planning in a model of latent states: categorical returns, planned values, search and unrolled losses, against slow loops and published arrays."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from test_parity_diffusion import load

from qchunk import planning, registry
from qchunk.actor_configs import FlowConfig, OneStepConfig
from qchunk.actors import actor
from qchunk.actors.one_step import one_step_actor
from qchunk.compose import run_terms, shown
from qchunk.config import ChunkConfig, validate
from qchunk.critics import categorical
from qchunk.losses import unrolled as along
from qchunk.losses.unrolled import unrolled
from qchunk.planning import Options, SearchConfig, gumbel_search, predicted, searched, tree_of
from qchunk.sampling import sample, uniform
from qchunk.system.errors import UserError
from qchunk.types import Chunk, Spec, Vars
from qchunk.world_model import Ahead, LatentConfig, latent_model, rescaled

B, U, H, A, O, F, N, D = 5, 3, 2, 1, 3, 6, 4, 3
SPEC, GAMMA = Spec(O, A, H), 0.9
SUPPORT = (-3.0, 5.0)
FLOW = actor(FlowConfig((8,), steps=2))
STUDENT = shown(one_step_actor(OneStepConfig((8,)), "student"), lambda spec: spec._replace(obs=F), lambda x: x)
ONE = latent_model(LatentConfig((8,), size=F, atoms=1))
MODEL = latent_model(LatentConfig((8,), size=F, atoms=7, support=SUPPORT), choosing=True)
OPTIONS = Options(sample(FLOW), sample(STUDENT), N, D)


def variables(model):
    modules = (*FLOW.modules, *STUDENT.modules, *model.modules)
    params = {m.name: m.init(jax.random.key(i), SPEC) for i, m in enumerate(modules)}
    return Vars(params, {"model": jax.tree.map(lambda x: 0.7 * x + 0.01, params["model"])}, {}, {})


VARS = {id(model): variables(model) for model in (ONE, MODEL)}
OBS = jax.random.normal(jax.random.key(5), (B, O))


# --- categorical returns


def test_two_hot_round_trip():
    """What two atoms share is found again, on the plain scale and on the squashed one; what lies beyond is moved to an end."""
    y = np.linspace(-3.0, 5.0, 41)
    shares = np.asarray(categorical.two_hot(jnp.asarray(y), SUPPORT, 9))
    np.testing.assert_allclose(shares.sum(-1), 1.0, atol=1e-6)
    assert ((shares > 1e-6).sum(-1) <= 2).all()
    np.testing.assert_allclose(shares @ np.linspace(*SUPPORT, 9), y, atol=1e-5)
    for support in (SUPPORT, (-100.0, 100.0)):
        scale = [float(categorical.squashed(jnp.asarray(x))) for x in support]
        y = np.linspace(*support, 41)
        aim = categorical.two_hot(categorical.squashed(jnp.asarray(y)), tuple(scale), 101)
        np.testing.assert_allclose(categorical.read(jnp.log(aim), support), y, atol=1e-3, rtol=1e-4)
    np.testing.assert_array_equal(categorical.two_hot(jnp.asarray([9.0]), SUPPORT, 3), [[0, 0, 1]])


def test_squashed_by_hand():
    """h(3) = sqrt(4) - 1 + 0.003, and its inverse undoes it from 1e-4 to 1e4."""
    np.testing.assert_allclose(categorical.squashed(jnp.asarray([3.0, -8.0, 0.0])), [1.003, -2.008, 0.0], rtol=1e-6)
    x = np.concatenate([-(10.0 ** np.arange(-4, 5)), [0.0], 10.0 ** np.arange(-4, 5)])
    np.testing.assert_allclose(categorical.stretched(categorical.squashed(jnp.asarray(x))), x, rtol=1e-3, atol=1e-6)


def test_errors_by_hand():
    """Cross-entropy with the two neighbours' shares; one atom is a number under Huber's loss."""
    out, y = np.asarray([0.3, -0.2, 1.0]), 0.7
    low, high = (float(categorical.squashed(jnp.asarray(x))) for x in (-1.0, 1.0))
    place = (float(categorical.squashed(jnp.asarray(y))) - low) / (high - low) * 2  # between atoms 1 and 2
    aim = np.asarray([0.0, 2 - place, place - 1])
    expected = -(aim * (out - np.log(np.exp(out).sum()))).sum()
    np.testing.assert_allclose(categorical.error(jnp.asarray(out), jnp.asarray(y), (-1.0, 1.0)), expected, rtol=1e-5)
    huber = categorical.error(jnp.asarray([[0.5], [3.0]]), jnp.asarray([0.0, 0.0]), SUPPORT)
    np.testing.assert_allclose(huber, [0.125, 2.5])
    np.testing.assert_array_equal(categorical.read(jnp.asarray([[0.5]]), SUPPORT), [0.5])


def test_latent_states_lie_between_0_and_1():
    """And what lies near together is not torn apart, so that gradients stay bounded."""
    found = np.asarray(rescaled(jnp.asarray([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0], [0.1, 0.2, 0.5]])))
    np.testing.assert_allclose(found, [[0, 0.25, 1], [0, 0, 0], [0, 0.1, 0.4]], atol=1e-6)
    slope = jax.jacobian(rescaled)(jnp.zeros(3))
    assert float(jnp.abs(slope).max()) <= 1.0 and float(jnp.abs(slope).max()) > 0.0


# --- planned values


def a_tree(state, action):
    """Made up: rewards, ends and values that a NumPy loop computes, too."""
    total = action.sum(axis=(-2, -1))
    going = 2.0 * state[..., 0] - total
    moved = state + total[..., None] * np.arange(1, F + 1) / 10
    return moved, total + state[..., 1], going


def a_model():
    def ahead(vars, state, action):
        return Ahead(*a_tree(state, action))

    return ONE._replace(
        encode=lambda vars, obs: jnp.pad(obs, ((0, 0),) * (obs.ndim - 1) + ((0, F - O),)),
        ahead=ahead,
        value=lambda vars, state: jnp.sin(3 * state.sum(axis=-1)),
        choice=lambda vars, state, action: action.sum(axis=(-2, -1)) * state[..., 0],
    )


def slow_q(state, action, noise, keep):
    """{option: Q^d} of those that are followed: every line is the paper's."""
    deeper = noise.shape[0]
    one, found = {}, {}
    for i, chunk in enumerate(action):
        after, reward, going = a_tree(state, chunk)
        through, value = GAMMA / (1 + np.exp(-going)), np.sin(3 * after.sum())
        one[i] = (reward + through * value, after, reward, through, value)
    if deeper == 0:
        return {i: q for i, (q, *_) in one.items()}
    for i in sorted(one, key=lambda i: -one[i][0])[:keep]:
        _, after, reward, through, value = one[i]
        best = max(slow_q(after, np.clip(noise[0], -1, 1), noise[1:], keep).values())
        found[i] = reward + through * (value + deeper * best) / (deeper + 1)
    return found


@pytest.mark.parametrize(("depth", "keep"), [(1, 2), (2, 4), (3, 2)])
def test_planned_values_against_a_loop(depth, keep):
    options = Options(uniform(sample(FLOW)), uniform(sample(STUDENT)), N, depth)
    planner, vars = predicted(a_model(), options, GAMMA, keep), VARS[id(ONE)]
    noise = planner.draw(vars, jax.random.key(1), OBS)
    found = jax.jit(planner.look)(vars, noise, OBS, None)
    for b in range(B):
        state = np.concatenate([np.asarray(OBS[b], np.float64), np.zeros(F - O)])
        q = slow_q(state, np.asarray(noise[0][b]), np.asarray(noise[1][b]), keep)
        best = max(q, key=q.get)
        np.testing.assert_allclose(found.value[b], q[best], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.plan.action[b], noise[0][b, best])
        np.testing.assert_array_equal(found.weight[b], np.arange(N) == best)


# --- search

GOLDEN = ("n16_m4_g1_seed0", "n16_m4_g0_seed0", "n8_m2_g1_seed7", "n12_m4_g1_seed3_depth1", "n32_m4_g0_seed0_norescale")


@pytest.mark.parametrize("case", [*GOLDEN, "n3_m4_g1_seed5"])
def test_search_is_the_published_one(case):
    """On a tree in tables, with its Gumbel noise given. ``invalid_actions`` are not used here."""
    g = load("mctx_gumbel")
    tree = {k.removeprefix("tree/"): jnp.asarray(v) for k, v in g.items() if k.startswith("tree/")}

    def expand(index, node):
        child = tree["child"][node, index]
        value, logits = tree["value"][child], tree["prior_logits"][child]
        reward, discount = tree["reward"][node, index], tree["discount"][node, index]
        return mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=value), child

    simulations, considered = (int(part[1:]) for part in case.split("_")[:2])
    depth = 1 if "depth1" in case else 3 if "norescale" in case else simulations
    node = jnp.asarray(g["root/node"])
    root = mctx.RootFnOutput(
        prior_logits=jnp.asarray(g["root/prior_logits"]), value=jnp.asarray(g["root/value"]), embedding=node
    )
    bounds = (simulations, depth, considered)
    run = lambda noise: gumbel_search(root, expand, noise, *bounds, rescale="norescale" not in case)  # noqa: E731
    out = jax.jit(run)(jnp.asarray(g[f"gumbel/{case}/gumbel"]))
    summary = out.search_tree.summary()
    np.testing.assert_array_equal(out.action, g[f"gumbel/{case}/action"])
    np.testing.assert_array_equal(summary.visit_counts, g[f"gumbel/{case}/visit_counts"])
    for name, mine in {
        "action_weights": out.action_weights,
        "root_value_search": out.search_tree.node_values[:, 0],
        "qvalues": summary.qvalues,
    }.items():
        np.testing.assert_allclose(mine, g[f"gumbel/{case}/{name}"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_search_grows_by_the_noise_of_each_depth():
    vars, states, key = VARS[id(MODEL)], MODEL.encode(VARS[id(MODEL)], OBS), jax.random.key(2)
    root_noise, z = planning.draw_options(MODEL, OPTIONS, vars, key, OBS)
    chunks = jnp.tanh(root_noise)
    root, expand = tree_of(MODEL, OPTIONS.below, vars, GAMMA, True, states, chunks, z)
    np.testing.assert_allclose(root.prior_logits[1, 2], MODEL.choice(vars, states[1], chunks[1, 2]), rtol=1e-5)
    index, node = jnp.asarray([0, 1, 2, 3, 0]), root.embedding
    for depth in range(D):
        state = node[0]
        out, node = jax.jit(expand)(index, node)
        for b, i in enumerate(index):
            chunk = chunks[b, i] if depth == 0 else OPTIONS.below.plan(vars, z[b, depth - 1, i], state[b], None).action
            ahead = MODEL.ahead(vars, state[b], chunk)
            np.testing.assert_allclose(node[0][b], ahead.state, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(out.reward[b], ahead.reward, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(out.discount[b], GAMMA / (1 + np.exp(-ahead.going)), rtol=1e-4)
            np.testing.assert_allclose(out.value[b], MODEL.value(vars, ahead.state), rtol=1e-4, atol=1e-5)
            if depth < D - 1:  # below the last one nothing is looked at
                nexts = OPTIONS.below.plan(vars, z[b, depth, 3], ahead.state, None).action
                np.testing.assert_allclose(out.prior_logits[b, 3], MODEL.choice(vars, ahead.state, nexts), rtol=1e-3)
        index = (index + 1) % N
    np.testing.assert_array_equal(node[1], D)


def test_a_search_of_one_chunk_by_hand():
    """Every option is looked at and its value exact, so the best is chosen, and weights are a softmax of rescaled values."""
    options, c = OPTIONS._replace(depth=1), SearchConfig(16)
    model, vars = a_model(), VARS[id(ONE)]
    planner = searched(model, options, GAMMA, c, 0.0)
    noise = planner.draw(vars, jax.random.key(3), OBS)
    found = jax.jit(planner.look)(vars, noise, OBS, None)
    state, reward, going = a_tree(model.encode(vars, OBS)[:, None], found.action)
    q = np.asarray(reward + GAMMA * jax.nn.sigmoid(going) * jnp.sin(3 * state.sum(axis=-1)))
    best = q.argmax(axis=-1)
    np.testing.assert_array_equal(found.plan.action, np.asarray(found.action)[np.arange(B), best])
    scaled = (q - q.min(-1, keepdims=True)) / np.ptp(q, axis=-1, keepdims=True)
    most = 16 // 4 // 2 + 16 // 2 // 2  # visits of the two that are left after one halving
    np.testing.assert_allclose(found.weight, jax.nn.softmax((50 + most) * 0.1 * scaled), rtol=1e-3, atol=1e-6)
    visits = np.where(scaled >= np.sort(scaled)[:, -2:-1], most, 2)
    root = jnp.sin(3 * model.encode(vars, OBS).sum(axis=-1))
    np.testing.assert_allclose(found.value, (root + (visits * q).sum(axis=-1)) / 17, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("looks", "tried"), [(8, 4), (4, 2), (1, 1)])
def test_fewer_looks_try_fewer_options(looks, tried):
    """Half as many as there are looks, one at least: those of the greatest noise, of which the best is chosen."""
    model, vars = a_model(), VARS[id(ONE)]
    planner = searched(model, OPTIONS._replace(depth=1), GAMMA, SearchConfig(looks), 1.0)
    *noise, drawn = planner.draw(vars, jax.random.key(3), OBS)
    gumbel = 1e-3 * jnp.broadcast_to(jnp.arange(4.0), drawn.shape)
    found = jax.jit(planner.look)(vars, (*noise, gumbel), OBS, None)
    state, reward, going = a_tree(model.encode(vars, OBS)[:, None], found.action)
    q = np.array(reward + GAMMA * jax.nn.sigmoid(going) * jnp.sin(3 * state.sum(axis=-1)))
    assert len(np.unique(q.argmax(axis=-1))) > 2
    best = N - tried + q[:, N - tried :].argmax(axis=-1)
    np.testing.assert_array_equal(found.plan.action, np.asarray(found.action)[np.arange(B), best])


PLANNERS = {
    "vpn": lambda: predicted(ONE, OPTIONS, GAMMA, 2),
    "muzero": lambda: searched(MODEL, OPTIONS, GAMMA, SearchConfig(8, "learned"), 1.0),
}


@pytest.mark.parametrize("name", list(PLANNERS))
def test_plans_follow_from_their_noise(name):
    """Twice the same; each observation's own, whatever stands beside it; options are the actor's."""
    planner, vars = PLANNERS[name](), VARS[id(ONE if name == "vpn" else MODEL)]
    noise = planner.draw(vars, jax.random.key(4), OBS)
    look = jax.jit(planner.look)
    first, again = look(vars, noise, OBS, None), look(vars, noise, OBS, None)
    chex.assert_trees_all_equal(first, again)
    alone = look(vars, jax.tree.map(lambda x: x[3], noise), OBS[3], None)
    chex.assert_trees_all_close(alone, jax.tree.map(lambda x: x[3], first), atol=1e-5)
    vmapped = jax.jit(jax.vmap(lambda n, o: planner.look(vars, n, o, None)))(noise, OBS)
    chex.assert_trees_all_close(vmapped, first, atol=1e-5)
    np.testing.assert_allclose(first.action[:, 1], OPTIONS.root.plan(vars, noise[0][:, 1], OBS, None).action, atol=1e-6)


# --- losses


@pytest.fixture(scope="module")
def chunk():
    """Rows: all count; a success ends the first; a time-out cuts the second; the third is not there; all, and a success at the end."""
    rng = np.random.default_rng(0)
    x = lambda *shape: jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)  # noqa: E731
    d = jnp.full((B, U, 1), GAMMA**H).at[1, 0].set(0).at[4, 2].set(0)
    w = jnp.ones((B, U, 1)).at[2, 1].set(0).at[2, 2].set(0).at[3, 2].set(0)
    obs = x(B, U + 1, O)
    ones, last = jnp.ones((B, U, H)), jnp.zeros((B, U))
    return Chunk(obs[:, :-1], x(B, U, H, A), ones, x(B, U, 1), d, obs[:, 1:, None], w, last, {})


COUNTS = np.asarray([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_what_counts(chunk):
    np.testing.assert_array_equal(along.counting(chunk), COUNTS)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_returns_against_a_loop(chunk, lam):
    later = np.random.default_rng(1).normal(size=(B, U))
    found = along.returns(chunk, jnp.asarray(later), lam)
    for b in range(B):
        for u in range(U):
            if not COUNTS[b, u]:
                continue
            total, weights = 0.0, 0.0
            last = max(j for j in range(U) if COUNTS[b, j])
            for n in range(1, last - u + 2):  # the return of n chunks and the planned value behind them
                g, value = 1.0, 0.0
                for j in range(u, u + n):
                    value += g * float(chunk.reward[b, j, 0])
                    g *= float(chunk.discount[b, j, 0])
                value += g * later[b, u + n - 1]
                share = lam ** (n - 1) * (1.0 if u + n - 1 == last else 1 - lam)
                total, weights = total + share * value, weights + share
            np.testing.assert_allclose([found[b, u], weights], [total, 1.0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_unrolled_losses_against_a_loop(chunk):
    vars, lam = VARS[id(MODEL)], 0.3
    planner = PLANNERS["muzero"]()
    group = unrolled(MODEL, STUDENT, sample(FLOW), planner, lam=lam, share=0.5, value=0.25, choosing=True)
    run = jax.jit(
        lambda vars: [loss for loss, _ in run_terms(group, vars, jax.random.key(7), chunk, jnp.zeros((), jnp.int32))]
    )
    model, value, distil, policy = run(vars)
    look_key, z = group.draw(jax.random.key(7), chunk)
    lagged = vars._replace(params={**vars.params, **vars.targets})
    every = jnp.concatenate([chunk.obs[:, :1], chunk.next_obs[:, :, 0]], axis=1)
    found = jax.jit(planner.look)(lagged, planner.draw(lagged, look_key, every), every, None)
    aims = along.returns(chunk, found.value[:, 1:], lam)
    sums, count = dict.fromkeys(("model", "value", "distil", "policy"), 0.0), COUNTS.sum()
    for b in range(B):
        state = MODEL.encode(vars, chunk.obs[b, 0])
        for u in range(U):
            out = MODEL.outputs(vars, state, chunk.action[b, u])
            if COUNTS[b, u]:
                p = 1 / (1 + np.exp(-float(out.going)))
                sums["model"] += float(categorical.error(out.reward, chunk.reward[b, u, 0], SUPPORT))
                sums["model"] -= np.log(p if chunk.discount[b, u, 0] > 0 else 1 - p)
                sums["value"] += 0.25 * float(categorical.error(MODEL.value_outputs(vars, state), aims[b, u], SUPPORT))
                mine = STUDENT.step(vars, state, z[b, u], 0)[0]
                teacher = sample(FLOW).plan(vars, z[b, u], chunk.obs[b, u], None).action
                sums["distil"] += float(np.mean((mine - teacher) ** 2))
                logits = jnp.stack([MODEL.choice(vars, state, a) for a in found.action[b, u]])
                sums["policy"] -= float((found.weight[b, u] * jax.nn.log_softmax(logits)).sum())
            state = out.state
    for mine, name in zip((model, value, distil, policy), sums, strict=True):
        np.testing.assert_allclose(mine, sums[name] / count, rtol=2e-4, err_msg=name)
    slope = jax.jit(jax.grad(lambda p: sum(run(vars._replace(params=p)))))(vars.params)
    moved = {name: any((x != 0).any() for x in jax.tree.leaves(s)) for name, s in slope.items()}
    assert moved == {"actor": False, "student": True, "model": True}


def test_half_of_the_gradient_goes_through_a_chunk(chunk):
    vars = VARS[id(ONE)]

    def slope(share):
        reach = lambda p: along.unroll(ONE, vars._replace(params={"model": p}), chunk, share)[0][:, 2, 1].sum()  # noqa: E731
        return jax.jit(jax.grad(reach))(vars.params["model"])["encode"]

    whole, half = slope(1.0), slope(0.5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole)) > 1e-4
    chex.assert_trees_all_close(half, jax.tree.map(lambda x: 0.25 * x, whole), rtol=1e-4, atol=1e-7)


# --- methods


def test_refused_by_one_line():
    for name in ("vpn", "muzero"):
        c = dataclasses.replace(registry.builder(name)[1](), chunk=ChunkConfig(5, (3,)))
        with pytest.raises(UserError, match="--chunk.backup 3 is not the horizon, .* give 5"):
            validate(c)
        validate(dataclasses.replace(c, chunk=ChunkConfig(5, (5,))))
    with pytest.raises(UserError, match="--model.support 1 1 does not ascend"):
        validate(dataclasses.replace(c, chunk=ChunkConfig(), model=LatentConfig(support=(1.0, 1.0))))
