"""A model of whole chunks: what it learns, what is imagined in it, and the values of that, against slow loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qchunk.config import CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.losses.imagined import expansion, fitted
from qchunk.sampling import emit_step
from qchunk.target_networks import with_target
from qchunk.types import Chunk, Plan, Policy, Spec, Vars
from qchunk.world_model import LatentConfig, ModelConfig, chunk_model, imagine, latent_model

B, H, A, O, D = 6, 2, 2, 3, 4
SPEC = Spec(O, A, H)
MODEL = chunk_model(ModelConfig((8,)))
Q, V = chunk_q(CriticConfig((8,), members=2), target=False), with_target(state_v(CriticConfig((8,))), rate=0.1)


def noted(vars, key, obs):
    return jax.random.uniform(key, (*obs.shape[:-1], H, A), minval=-1.0)


PLAYS = Policy(noted, lambda vars, noise, obs, old: Plan(jnp.tanh(noise + obs[..., None, :1])), emit_step)


@pytest.fixture(scope="module")
def vars():
    modules = [*MODEL.modules, *Q.modules, *V.modules]
    params = {m.name: m.init(jax.random.key(i), SPEC) for i, m in enumerate(modules)}
    return Vars(params, {"state_value": jax.tree.map(lambda x: 0.7 * x + 0.01, params["state_value"])}, {}, {})


@pytest.fixture(scope="module")
def chunk():
    rng = np.random.default_rng(0)
    x = lambda *shape: jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)  # noqa: E731
    discount, weight = (
        jnp.asarray([[0.9], [0.9], [0], [0.9], [0], [0.9]]),
        jnp.asarray([[1.0], [0], [1], [1], [1], [1]]),
    )
    return Chunk(x(B, O), x(B, H, A), jnp.ones((B, H)), x(B, 1), discount, x(B, 1, O), weight, jnp.zeros(B), {})


def test_what_a_model_learns_by_hand(vars, chunk):
    """Windows that a time-out cuts count nowhere; an end is a success inside the window."""
    found, total = MODEL.ahead(vars, chunk.obs, chunk.action), 0.0
    for b in (0, 2, 3, 4, 5):
        p = 1 / (1 + np.exp(-float(found.going[b])))
        total += float(np.mean((np.asarray(found.state[b]) - np.asarray(chunk.next_obs[b, 0])) ** 2))
        total += float(found.reward[b] - chunk.reward[b, 0]) ** 2
        total -= float(np.log(p if chunk.discount[b, 0] > 0 else 1 - p))
    loss, parts = fitted(MODEL).fn(vars, (), chunk)
    np.testing.assert_allclose(loss, total / 5, rtol=1e-5)
    assert set(parts) == {"obs", "reward", "end"}


def test_a_network_adds_to_what_is_there(vars, chunk):
    """One that says 0 leaves an observation, and a latent state, as it is."""
    obs = {"b": chunk.obs[:, :1], "a": chunk.obs[:, 1:]}  # read in the order of the names
    found = MODEL.ahead(vars._replace(params=jax.tree.map(jnp.zeros_like, vars.params)), obs, chunk.action)
    np.testing.assert_array_equal(found.state, jnp.concatenate([obs["a"], obs["b"]], axis=-1))
    np.testing.assert_array_equal((found.reward, found.going), 0.0)
    latent = latent_model(LatentConfig((8,), size=3, atoms=1))
    params = jax.tree.map(jnp.zeros_like, latent.modules[0].init(jax.random.key(0), SPEC))
    state = jnp.asarray([[0.0, 0.3, 1.0]])
    np.testing.assert_allclose(latent.ahead(Vars({"model": params}, {}, {}, {}), state, chunk.action[:1]).state, state)


def test_imagined_chunks_follow_each_other(vars, chunk):
    path = imagine(MODEL, PLAYS, vars, jax.random.key(1), chunk.obs, D)
    now = chunk.obs
    for d in range(D):
        np.testing.assert_allclose(path.obs[d], now, rtol=1e-5)
        ahead = MODEL.ahead(vars, now, path.action[d])
        np.testing.assert_allclose(path.reward[d], ahead.reward, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(path.going[d], np.asarray(ahead.going) > 0)
        now = ahead.state
    assert path.action.shape == (D, B, H, A) and len(np.unique(path.action[:, 0, 0, 0])) == D
    assert 0 < path.going.mean() < 1


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_value_expansion_against_a_loop(vars, chunk, lam):
    key, discount = jax.random.key(2), 0.8
    path = imagine(MODEL, PLAYS, vars, jax.random.key(2), chunk.obs, D)
    lagged = vars._replace(params={**vars.params, **vars.targets})
    v = np.asarray([V.score(lagged, o) for o in [*path.obs, path.next_obs[-1]]])
    target = np.zeros((D, B))
    for b in range(B):
        after = v[D, b]
        for d in reversed(range(D)):  # (1 - lam) of one step's value, lam of what follows
            m = float(path.going[d, b])
            after = float(path.reward[d, b]) + discount * m * ((1 - lam) * v[d + 1, b] + lam * after)
            target[d, b] = after
    mine = np.asarray([V.values(vars, o)[0] for o in path.obs])
    q = np.asarray(Q.values(vars, path.obs[0], path.action[0]))
    aim = np.asarray(path.reward[0]) + discount * np.asarray(path.going[0]) * v[1]
    term = expansion(MODEL, Q, V, PLAYS, discount, D, lam)
    loss, _ = term.fn(vars, term.draw(key, chunk), chunk)
    np.testing.assert_allclose(loss, np.mean((mine - target) ** 2) + np.mean((q - aim) ** 2), rtol=1e-4)
    slope = jax.grad(lambda p: term.fn(vars._replace(params=p), jax.random.key(2), chunk)[0])(vars.params)
    moved = {name: any((x != 0).any() for x in jax.tree.leaves(s)) for name, s in slope.items()}
    assert moved == {"model": False, "critic": True, "state_value": True} and term.wrt == ("state_value", "critic")
