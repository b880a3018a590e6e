"""Parity of CQN-AS with its published code: cells, projected distributions, networks, losses and gradients (tests/golden/README.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parity_diffusion import load

from qchunk import nets
from qchunk.compose import run_terms
from qchunk.critics import zooms
from qchunk.critics.zooms import ZoomConfig, ZoomCritic, zoom_q
from qchunk.data.demonstrations import DEMONSTRATION
from qchunk.improve import zoomed
from qchunk.losses.terms import weighed
from qchunk.losses.zooming import dominance, margin, projected, td_of_zooms, zooming
from qchunk.types import Chunk, Module, Vars

pytestmark = pytest.mark.accelerator

H, A, LEVELS, BINS, ATOMS = 4, 3, 3, 5, 11
C = ZoomConfig((16, 16), LEVELS, BINS, ATOMS, (-2.0, 2.0))
STREAMS = ("value", "adv")
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def chunks(flat):
    return jnp.asarray(flat.reshape(*flat.shape[:-1], H, A))


@pytest.mark.parametrize("case", ["codec", "codec_L2_B5", "codec_L3_B3", "codec_L4_B2"])
def test_cells(case):
    g = load("cqnas_codec")
    levels, bins = (LEVELS, BINS) if case == "codec" else (int(case[7]), int(case[10]))
    c = ZoomConfig(levels=levels, bins=bins)
    found = zooms.cells(chunks(g[f"{case}/action"]), c)
    np.testing.assert_array_equal(found.bins, chunks(g[f"{case}/bins"]))
    np.testing.assert_allclose(zooms.chunk_of(found.bins, c), chunks(g[f"{case}/decoded"]), atol=1e-6)
    if case == "codec":
        np.testing.assert_allclose(found.centres, chunks(g["codec/center_before_level"]), atol=1e-6)
        some = chunks(g["codec/random_bins"])
        np.testing.assert_allclose(zooms.chunk_of(some, c), chunks(g["codec/random_bins_decoded"]), atol=1e-6)
        np.testing.assert_array_equal(zooms.cells(zooms.chunk_of(some, c), c).bins, some)


@pytest.mark.parametrize("case", ["m2_2_atoms11", "m2_2_atoms51", "m100_0_atoms21"])
def test_projected_distributions(case):
    """An atom that lands on another is counted there once (the published code counts it twice: compared where it does not)."""
    g = {k.removeprefix(f"c51/{case}/"): v for k, v in load("cqnas_c51").items()}
    c = ZoomConfig(atoms=len(g["support"]), support=(float(g["support"][0]), float(g["support"][-1])))
    found = projected(g["next_probs"], g["reward"][..., None], g["discount"][..., None], c)
    np.testing.assert_allclose(found, g["formula_target_probs_f64"], atol=1e-5)
    once = np.abs(g["row_mass"] - 1) < 1e-4
    assert once.any()
    np.testing.assert_allclose(found[once], g["target_probs"][once], atol=1e-5)


def encoded(g, network, stream, rgb, low):
    """The published encoders of pictures and numbers, which are no part of ours: [*B, 16]."""

    def layer(x, i, part):
        name = f"{network}/network.{stream}_{part}_encoder"
        x = x @ g[f"{name}.{i}.weight"].T
        return np.asarray(norm(x, g, f"{name}.{i + 1}"))

    def norm(x, g, name):
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return x * g[f"{name}.weight"] + g[f"{name}.bias"]

    picture = np.tanh(layer(np.asarray(jax.nn.silu(layer(rgb, 0, "rgb"))), 3, "rgb"))
    return np.concatenate([picture, np.tanh(layer(low, 0, "low_dim"))], axis=-1)


def observation(g, rgb, low):
    """All that either network sees of an observation, side by side."""
    return jnp.asarray(
        np.concatenate([encoded(g, n, s, rgb, low) for n in ("critic", "critic_target") for s in STREAMS], -1)
    )


def parameters(g, prefix, offset):
    """The published weights in our names; rows of features that a stream does not see are 0."""
    return {
        ours: stream(g, f"{prefix}.{theirs}", offset + i, out)
        for i, (theirs, ours, out) in enumerate(
            [("value", "value", (A, 1, ATOMS)), ("adv", "advantage", (A, BINS, ATOMS))]
        )
    }


def stream(g, name, place, out):
    rows = g[f"{name}_net.0.weight"].T  # features 16, centres A, position H, level L
    seen = np.zeros((64, 16), np.float32)
    seen[16 * place : 16 * place + 16] = rows[:16]
    norms = {
        f"norm_{i}": {"scale": g[f"{name}_net.{j}.weight"], "bias": g[f"{name}_net.{j}.bias"]}
        for i, j in ((0, 1), (1, 4))
    }
    made = {
        "dense_0": {"kernel": np.concatenate([seen, rows[16 : 16 + A], rows[16 + A + H :]]), "bias": np.zeros(16)},
        "position": rows[16 + A : 16 + A + H],
        "dense_1": {"kernel": g[f"{name}_net.3.weight"].T, "bias": np.zeros(16)},
        **norms,
        "gru": gru(g, f"{name}_gru"),
        "head_kernel": g[f"{name}_head.weight"].T,
        "head_bias": g[f"{name}_head.bias"].reshape(out),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def gru(g, name):
    """Torch's rows (reset, update, new); of its two biases of a gate ours is the sum, but for the new one's."""
    into, on = (np.split(g[f"{name}.weight_{k}_l0"].T, 3, axis=-1) for k in ("ih", "hh"))
    b_in, b_on = (np.split(g[f"{name}.bias_{k}_l0"], 3) for k in ("ih", "hh"))
    made = {f"i{k}": {"kernel": into[i], "bias": b_in[i] + b_on[i] * (k != "n")} for i, k in enumerate("rzn")}
    made |= {f"h{k}": {"kernel": on[i]} for i, k in enumerate("rzn")}
    made["hn"]["bias"] = b_on[2]
    return made


@pytest.fixture(scope="module")
def g():
    return load("cqnas_network")


@pytest.fixture(scope="module")
def vars(g):
    online, lagged = (parameters(g, f"{n}/network", 2 * i) for i, n in enumerate(("critic", "critic_target")))
    return Vars({"critic": online}, {"critic": lagged}, {}, {})


def test_logits_and_the_best_chunk(g, vars):
    critic, obs = zoom_q(C), observation(g, g["rgb_feature"], g["low_dim"])
    np.testing.assert_allclose(obs[:, :16], g["forward/value_features"], **CLOSE)
    at = zooms.cells(chunks(g["action"]), C)
    np.testing.assert_array_equal(at.bins, chunks(g["forward/bins"]))
    logits = critic.logits(vars, obs, at.centres)
    theirs = g["forward/q_logits"].reshape(6, LEVELS, H, A, BINS, ATOMS)
    np.testing.assert_allclose(logits, theirs, **CLOSE)
    np.testing.assert_allclose(
        jax.nn.softmax(zooms.chosen(logits, at.bins)), g["forward/q_probs_a"].reshape(6, LEVELS, H, A, ATOMS), **CLOSE
    )
    noise = jnp.zeros((6, LEVELS, H, A), jnp.int32)  # of no use: nothing is tied
    action = zoomed(critic).plan(vars, noise, obs, None).action
    np.testing.assert_allclose(action, chunks(g["greedy/action"]), atol=1e-6)
    assert zoomed(critic).draw(vars, jax.random.key(0), obs).shape == noise.shape


@pytest.mark.slow
def test_losses_and_gradients(g, vars):
    critic = zoom_q(C)
    term = zooming(critic, [weighed(td_of_zooms(critic), 0.1), dominance(critic), margin(critic, 0.1)])
    row = lambda name: jnp.asarray(g[f"update/{name}"])  # noqa: E731
    chunk = Chunk(
        observation(g, g["rgb_feature"], g["low_dim"]),
        chunks(g["action"]),
        jnp.ones((6, H)),
        row("reward"),
        row("discount"),
        observation(g, g["update/next_rgb_feature"], g["update/next_low_dim"])[:, None],
        jnp.ones((6, 1)),
        jnp.zeros(6),
        {DEMONSTRATION: row("demos")[:, 0]},
    )

    def total(params):
        found = run_terms(term, vars._replace(params=params), jax.random.key(0), chunk, jnp.zeros((), jnp.int32))
        return sum(loss for loss, _ in found), [loss for loss, _ in found]

    (loss, (td, fosd, apart)), grads = jax.value_and_grad(total, has_aux=True)(vars.params)
    theirs = [0.1 * g["update/q_critic_loss"], g["update/bc_fosd_loss"], g["update/bc_margin_loss"]]
    np.testing.assert_allclose([td, fosd, apart], theirs, **CLOSE)
    np.testing.assert_allclose(loss, g["update/total_loss"], **CLOSE)
    slopes = {k.replace("update/grad/", "grad/network."): v for k, v in g.items() if "update/grad/" in k}
    wanted = parameters(slopes, "grad/network", 0)
    for name in ("value", "advantage"):
        ours, own = dict(grads["critic"][name]), dict(wanted[name])
        for part in (ours, own):  # rows that only one of the two has, and biases that the published layers lack
            part["gru"] = {k: v["kernel"] for k, v in part["gru"].items()}
            first = part.pop("dense_0")["kernel"]
            i = ("value", "advantage").index(name)
            part["seen"] = jnp.concatenate([first[16 * i : 16 * i + 16], first[64:]])
            part["dense_1"] = part["dense_1"]["kernel"]
        for at, (a, b) in enumerate(zip(jax.tree.leaves(ours), jax.tree.leaves(own), strict=True)):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5 * max(1.0, float(jnp.abs(b).max())), err_msg=str(at))


def test_the_best_chunk_against_a_loop():
    """Bin after bin, number after number; where all are as good as each other the draw decides."""
    c = ZoomConfig((8,), 2, 3, 1, dueling=False)
    critic, rng = zoom_q(c), np.random.default_rng(0)
    params = nets.Zooms((8,), (H, A, 3, 1), False).init(
        jax.random.key(0), jnp.zeros(5), jnp.zeros((2, H, A)), jnp.eye(2)
    )
    vars, obs = Vars({"critic": params["params"]}, {}, {}, {}), jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    draws = jnp.asarray(rng.integers(0, 3, (4, 2, H, A)), jnp.int32)
    np.testing.assert_array_equal(zooms.best(critic, vars, obs, draws), draws)  # heads are 0 at first
    head = params["params"]["advantage"]["head_kernel"]
    params["params"]["advantage"]["head_kernel"] = jnp.asarray(rng.normal(size=head.shape), jnp.float32)
    found = zooms.best(critic, vars, obs, draws)
    low, width = np.full((4, H, A), -1.0), 2.0
    for level in range(2):
        q = critic.logits(vars, obs, jnp.asarray(low + width / 2, jnp.float32)[:, None], (level,))[:, 0, ..., 0]
        width /= 3
        for place in np.ndindex(4, H, A):
            b = int(np.argmax(q[place]))
            assert found[(place[0], level, *place[1:])] == b
            low[place] += b * width
    np.testing.assert_allclose(zooms.chunk_of(found, c), low + width / 2, atol=1e-6)


@pytest.mark.parametrize("atoms", [1, 3])
def test_losses_count_what_lies_inside_the_episode(atoms):
    """Of windows that no time-out cuts, and of demonstrations, the steps inside: by a loop over entries, with one atom and with several."""
    c, rng, b = ZoomConfig((8,), 2, 3, atoms, (-2.0, 2.0)), np.random.default_rng(0), 4
    table = jnp.asarray(rng.normal(size=(2, 3, atoms)))  # of levels, bins and atoms

    def logits(vars, obs, centres, levels=(0, 1)):
        rows = table[jnp.asarray(levels)][:, None, None]
        return vars.params["critic"] * jnp.sin(3 * rows + (centres + obs[..., None, None, :])[..., None, None])

    critic = ZoomCritic((Module("critic", None, None),), logits, lambda vars: (H, A), c)
    vars = Vars({"critic": jnp.asarray(1.5)}, {"critic": jnp.asarray(-0.7)}, {}, {})
    obs, after = jnp.asarray(rng.normal(size=(2, b, 1)))
    mask, weight = np.ones((b, H)), np.asarray([1.0, 1.0, 0.0, 1.0])
    mask[1, 2:], mask[2, 1:], demos = 0.0, 0.0, np.asarray([1.0, 0.0, 1.0, 1.0])
    action, reward = jnp.asarray(rng.uniform(-1, 1, (b, H, A))), rng.normal(size=b)
    discount, extras = np.asarray([0.9, 0.0, 0.9, 0.9]), {DEMONSTRATION: jnp.asarray(demos)}
    column = lambda x: jnp.asarray(x)[:, None]  # noqa: E731
    chunk = Chunk(
        obs,
        action,
        jnp.asarray(mask),
        column(reward),
        column(discount),
        after[:, None],
        column(weight),
        jnp.zeros(b),
        extras,
    )
    term, key = zooming(critic, [td_of_zooms(critic), dominance(critic), margin(critic, 0.4)]), jax.random.key(0)

    @jax.jit
    def run():
        found = [x for x, _ in run_terms(term, vars, key, chunk, jnp.zeros((), jnp.int32))]
        at = zooms.cells(action, c)
        then = zooms.cells(zooms.chunk_of(zooms.best(critic, vars, after, 0 * at.bins), c), c)
        mine, lagged = logits(vars, obs, at.centres), logits(vars._replace(params=vars.targets), after, then.centres)
        return found, mine, zooms.values(mine, c), at.bins, lagged, then.bins

    found, mine, q, bins, lagged, then = jax.tree.map(np.asarray, run())
    grid, sums, counts = np.linspace(-2, 2, 3), np.zeros(3), np.zeros(3)
    for i, k, h, a in np.ndindex(b, 2, H, A):
        here, own, behind = bins[i, k, h, a], mine[i, k, h, a], lagged[i, k, h, a, then[i, k, h, a]]
        chances = np.exp(own) / np.exp(own).sum(axis=-1, keepdims=True)
        if atoms == 1:
            error = (own[here, 0] - reward[i] - discount[i] * behind[0]) ** 2
        else:
            aim = np.zeros(3)
            for share, z in zip(np.exp(behind) / np.exp(behind).sum(), grid, strict=True):
                place = (np.clip(reward[i] + discount[i] * z, -2, 2) + 2) / 2
                low = min(int(place), 1)
                aim[low : low + 2] += share * np.asarray([low + 1 - place, place - low])
            error = -(aim * np.log(chances[here])).sum()
        below = chances.cumsum(axis=-1)
        lower = np.maximum(below[here] - below, 0).sum(axis=-1).mean()
        nearer = np.maximum(0.4 - (q[i, k, h, a, here] - q[i, k, h, a]), 0).mean()
        inside = mask[i, h] * np.asarray([weight[i], demos[i], demos[i]])
        sums, counts = sums + inside * [error, lower, nearer], counts + inside
    np.testing.assert_allclose(found, sums / counts, rtol=1e-4, atol=1e-6)
