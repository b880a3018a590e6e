"""What is known about the probes: their experts, their data, and the best that who looks every k steps can do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import rows_of
from tiers import slow_but

from qchunk import envs
from qchunk.data import formats
from qchunk.envs.base import wrap
from qchunk.envs.probes.drifting import PUSH, SPEED, course
from qchunk.envs.probes.looking import GATE
from qchunk.play import collecting
from qchunk.play.execute import parse
from qchunk.play.on_device import episodes
from qchunk.runs.recording import CollectFlags, collect_to
from qchunk.sampling import emit_step
from qchunk.types import Plan, Policy

NO_VARS = collecting.NO_VARS


def measured(name, scheme, count=300, key=0, limit=None):
    env = wrap(envs.make(f"probe/{name}"), limit)
    return jax.jit(lambda k: episodes(env, scheme, NO_VARS, k, count))(jax.random.key(key))


def planned(plan, horizon, draw=lambda vars, key, obs: ()):
    """A policy without parameters: ``plan`` (noise, obs [E, O]) -> [E, H, A]."""
    return Policy(draw, lambda vars, noise, obs, old: Plan(plan(noise, obs)), emit_step, horizon)


EXPERTS = {  # return, from and to; steps
    "fog-gust": (0.56, 0.68, 80, 80),  # specification: 0.60
    "fog-gust-0.02": (0.74, 0.86, 80, 80),
    "pursuit-0": (94, 96.5, 100, 100),
    "pursuit": (77, 85, 100, 100),
    "pursuit-0.1": (41, 50, 100, 100),
    "catch": (0.99, 1, 16, 16),
    "pause": (-46, -26, 27, 47),
    "drift": (0.999, 1, 100, 100),
    "switch-2": (-21, -13, 13, 24),  # specification: 23, 36, 50, 61 steps; ours presses as it arrives
    "switch-4": (-33, -22, 22, 37),
    "switch-6": (-48, -35, 36, 51),
    "switch-8": (-58, -42, 43, 62),
}
FIRST = [(n, *EXPERTS[n]) for n in ("fog-gust", "pursuit", "catch", "pause", "switch-4")]


@pytest.mark.parametrize(
    ("name", "low", "high", "least", "most"), slow_but(FIRST, [(n, *figures) for n, figures in EXPERTS.items()])
)
def test_experts_of_the_probes(name, low, high, least, most):
    env = envs.make(f"probe/{name}")
    found = measured(name, collecting.scheme_of(env, "expert"))
    assert low <= float(found.ret.mean()) <= high
    assert least <= float(found.length.mean()) <= most
    assert (found.success is None) == name.startswith("pursuit")
    assert found.success is None or float(found.success.mean()) > 0.97


def chase(noise, obs):
    """The straight way to the goal that is seen, 32 steps ahead."""
    del noise

    def step(p, _):
        a = jnp.clip((obs[:, 2:] - p) / 0.1, -1.0, 1.0)
        return p + 0.1 * a, a

    return jnp.moveaxis(jax.lax.scan(step, obs[:, :2], length=32)[1], 0, 1)


CEILINGS = {  # specification: a perfect planner that looks every k steps
    "pursuit-0": {1: 0.95, 32: 0.95},
    "pursuit": {1: 0.82, 4: 0.79, 8: 0.76, 16: 0.71, 32: 0.62},
    "pursuit-0.1": {1: 0.47, 4: 0.41, 8: 0.33, 16: 0.24, 32: 0.16},
}


@pytest.mark.parametrize("name", slow_but(["pursuit-0.1"], CEILINGS))
def test_the_ceilings_of_pursuit(name):
    scheme = lambda k: parse(f"receding:{k}", 32).scheme(planned(chase, 32))  # noqa: E731
    found = {k: float(measured(name, scheme(k)).ret.mean()) / 100 for k in CEILINGS[name]}
    for k, known in CEILINGS[name].items():
        assert abs(found[k] - known) < 0.05, found
    assert name == "pursuit-0" or sorted(found.values(), reverse=True) == list(found.values())


def under(noise, obs):
    """Under the glass, if it falls straight, 16 steps ahead."""

    def step(hand, _):
        a = jnp.clip((obs[:, 1:2] - hand) / 0.1, -1.0, 1.0)
        return hand + 0.1 * a, a

    return jnp.moveaxis(jax.lax.scan(step, obs[:, 2:], length=16)[1], 0, 1)


@pytest.mark.parametrize("k", slow_but([1, 16], [1, 4, 5, 8, 16]))
def test_a_glass_is_caught_by_who_looks_in_time(k):
    chances = []
    for when in range(4, 12):
        look = -(-when // k) * k
        chances.append(min(1.0, (0.1 + 0.1 * (16 - look)) / 0.5) if look < 16 else 0.2)
    found = measured("catch", parse(f"receding:{k}", 16).scheme(planned(under, 16)), 500)
    assert abs(float(found.success.mean()) - np.mean(chances)) < 0.07
    assert float(found.ret.mean()) == pytest.approx(float(found.success.mean()))


def test_data_hold_episodes_of_the_environments_own_length(tmp_path):
    """Beyond it a task shows what no evaluation shows: 11 of 12 steps of fog-gust, if episodes had 1,000."""
    collect_to("probe/fog-gust", CollectFlags(tmp_path / "fog.npz", steps=400, envs=2, quiet=True))
    rows, _ = formats.load(tmp_path / "fog.npz")
    lengths = np.diff(np.flatnonzero(rows.end), prepend=-1) - 1
    assert lengths.max() == 80 and rows.obs[:, 0].max() == 1.0, "t / 80"
    assert envs.make("tabletop/cube-single").episode_length == 1000, "play without a task, as OGBench's"
    assert envs.make("tabletop/cube-single-goal").episode_length == 200
    assert envs.make("tabletop/cube-single-goal").scene.episode_length == 1000


def test_deviations_shrink_between_looks_and_grow_by_wrong_feedback():
    """A clone that is exact on the course, and answers a deviation by half of it too much: from roundings to the course's own size."""
    env = envs.make("probe/drift")

    def clone(noise, obs):
        del noise
        phases = jnp.arctan2(obs[:, 8], obs[:, 0])[:, None] + SPEED * jnp.arange(16)
        away = obs - course(phases[:, 0])
        return (course(phases + SPEED) - 0.8 * course(phases) + 0.5 * away[:, None]) / PUSH

    one, chunk = (measured("drift", parse(s, 16).scheme(planned(clone, 16))) for s in ("receding:1", "open-loop"))
    assert float(one.success.max()) == 0 and float(one.ret.mean()) < 0.7
    assert float(chunk.success.min()) == 1 and float(chunk.ret.min()) == pytest.approx(1, abs=1e-5)
    state = env.reset(jax.random.key(0))
    aside = state.replace(pipeline_state={**state.pipeline_state, "world": state.obs + 0.1})
    steps = [env.step(s, clone((), state.obs[None])[0, 0]) for s in (state, aside)]
    np.testing.assert_allclose(steps[1].obs - steps[0].obs, 0.8 * 0.1, atol=1e-6)
    assert [float(s.reward) for s in steps] == pytest.approx([0.01, 0]), "0.32 from the course: 4 times 0.08"


def test_who_repeats_its_last_action_never_starts():
    """The exact means of what experts do next, by the last move for one step and for chunks of 16, and without it.

    Between rest and move they are drawn as a line, as a network would: what is shown must not creep along it to 5 / 7, which moves.
    """
    ahead = 0.86 ** np.arange(1, 17)

    def means(noise, obs):
        moving = obs[:, 1:]
        return (5 / 7 + (moving - 5 / 7) * ahead)[..., None]

    one, chunk = (measured("pause", parse(s, 16).scheme(planned(means, 16))) for s in ("receding:1", "open-loop"))
    blind = measured(
        "pause", parse("open-loop", 1).scheme(planned(lambda z, obs: jnp.full((len(obs), 1, 1), 5 / 7), 1))
    )
    assert float(one.success.max()) == 0 and float(chunk.success.min()) == float(blind.success.min()) == 1
    # the means are those of the data
    env = envs.make("probe/pause")
    rows = rows_of(env, "expert", 20_000, 100)
    last, inside = rows.obs[:, 1], ~rows.end
    for state, mean in ((0.0, 0.1), (1.0, 0.96)):
        assert rows.action[inside & (last == state), 0].mean() == pytest.approx(mean, abs=0.01)


def fog_policy(horizon=16):
    """Chunks exactly as experts of fog-gust would go on from what is seen: the side by chance, and gusts as they come."""

    def draw(vars, key, obs):
        side_key, when_key, where_key = jax.random.split(key, 3)
        shape = obs.shape[:-1]
        side = jnp.where(jax.random.bernoulli(side_key, shape=shape), 1.0, -1.0)
        where = jax.random.uniform(where_key, (*shape, horizon), minval=-0.45, maxval=0.45)
        return side, jax.random.bernoulli(when_key, 0.1, (*shape, horizon)), where

    def plan(noise, obs):
        side, when, where = noise
        t, gusts, y, target = jnp.moveaxis(obs, -1, 0)
        t = jnp.round(80 * t)
        start = jnp.where(gusts > 0, y, side * 0.5 * (1 - 0.9**t)), jnp.where(gusts > 0, target, where[..., 0])

        def step(carry, xs):
            (y, target), (i, jumps, to) = carry, xs
            in_gusts = t + i >= GATE
            a = jnp.where(in_gusts, jnp.clip((target - 0.9 * y) / 0.05, -1.0, 1.0), side)
            return (0.9 * y + 0.05 * a, jnp.where(in_gusts & jumps, to, target)), a

        xs = (jnp.arange(horizon), jnp.moveaxis(when, -1, 0), jnp.moveaxis(where, -1, 0))
        return jnp.moveaxis(jax.lax.scan(step, start, xs)[1], 0, -1)[..., None]

    return planned(plan, horizon, draw)


FOG = {  # specification: gate, score
    "receding:1": (0.0, 0.0),
    "receding:4": (0.11, 0.06),
    "receding:8": (0.31, 0.11),
    "open-loop": (0.53, 0.14),
    "coherent:16": (1.0, 0.59),
    "coherent:16,4": (1.0, 0.38),
    "coherent:16,8": (1.0, 0.29),
    "dispersion:0.3": (0.0, 0.0),
    "dispersion:0.7": (0.02, 0.01),
    "supported:16,0.5,1": (0.99, 0.58),
    "supported:16,0.5,2": (0.98, 0.55),
    "supported:16,0.5,4": (0.97, 0.46),
}


@pytest.mark.parametrize("name", slow_but(["receding:1", "coherent:16", "supported:16,0.5,2"], FOG))
def test_fog_and_gusts_want_coherence_and_reaction(name):
    """No fixed number of steps does both, and looking where samples differ does neither; coherence and support do."""
    gate, score = FOG[name]
    found = measured("fog-gust", parse(name, 16).scheme(fog_policy()), 400)
    assert abs(float(found.success.mean()) - gate) < 0.12, (found.success.mean(), found.ret.mean())
    assert abs(float(found.ret.mean()) - score) < 0.1, (found.success.mean(), found.ret.mean())


PLAYED = {2: (0.25, 1.0), 4: (0.065, 0.84), 6: (0.016, 0.38), 8: (0.004, 0.11)}  # specification: states, episodes


@pytest.mark.parametrize("n", slow_but([4], PLAYED))
def test_play_with_lamps_reaches_success_by_chance(n):
    """A state in 2^n has all lamps on; data are for every limit, and relabelled as the task judges."""
    env = envs.make(f"probe/switch-{n}")
    rows = rows_of(env.scene, "play", 400 * 200, 200, episode_length=400)
    reward, terminal = env.relabel(rows.obs[:-1], rows.action[:-1], rows.obs[1:])
    inside = ~rows.end[:-1]
    states, wanted = np.asarray(terminal)[inside].mean(), PLAYED[n]
    episode = np.cumsum(np.append(0, rows.end[:-2]))
    reached = np.zeros(episode.max() + 1)
    np.maximum.at(reached, episode[inside], np.asarray(terminal)[inside])
    assert 0.6 * wanted[0] < states < 1.6 * wanted[0], (states, reached.mean())
    assert abs(reached.mean() - wanted[1]) < 0.2, (states, reached.mean())
    np.testing.assert_array_equal(np.asarray(reward)[inside], np.asarray(terminal)[inside] - 1)
