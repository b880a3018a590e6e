"""Terms: their names on metrics, shared draws and forward passes, and the optimisers behind them."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_learner import NOTHING, SPEC, chunk_of, key, scalar, steps, term

from qchunk import registry
from qchunk.actor_configs import FlowConfig
from qchunk.actors.flow import flow
from qchunk.compose import learner
from qchunk.config import CriticConfig, OptimConfig, ValueConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n
from qchunk.losses.cloning import bc
from qchunk.losses.implicit_q import implicit_q
from qchunk.losses.td import regression, td
from qchunk.losses.terms import no_noise, of_first, together
from qchunk.sampling import sample
from qchunk.system.errors import UserError
from qchunk.types import Term

CRITIC = CriticConfig((16,))


def metrics_of(parts, terms):
    algorithm = learner(parts, NOTHING, terms, OptimConfig())
    return jax.jit(algorithm.update)(algorithm.init(key(), SPEC, {}), {}, jax.random.key(1), chunk_of())[1]


def test_two_critics_under_two_terms_have_both_curves():
    pi, q, other = flow(FlowConfig((16,), steps=2)), chunk_q(CRITIC), chunk_q(CRITIC, "other")
    metrics = metrics_of([pi, q, other], [bc(pi), td(q, sample(pi)), td(other, sample(pi))])
    figures = ("loss", "q", "target")
    both = {f"td_{critic}/{figure}" for critic in ("critic", "other") for figure in figures}
    assert set(metrics) == {"loss", "bc/loss"} | both
    assert all(float(metrics[f"td_critic/{f}"]) != float(metrics[f"td_other/{f}"]) for f in figures)
    total = sum(float(value) for name, value in metrics.items() if name.endswith("/loss"))
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-6)


def test_a_term_is_called_after_its_idea_or_as_one_likes():
    q, v = chunk_q(CRITIC), state_v(ValueConfig((16,)))
    own = term(("critic",), lambda v: jnp.sum(v.params["critic"]["head_bias"]), "mine")
    found = metrics_of([q, v], [*implicit_q(q, v, 0.7), own])
    assert {n for n in found if n.endswith("/loss")} == {"expectile/loss", "td/loss", "mine/loss"}
    with pytest.raises(UserError, match="two terms share the name td_critic"):
        learner([q], NOTHING, [td(q, NOTHING), td(q, NOTHING)], OptimConfig())
    learner([q], NOTHING, [td(q, NOTHING), td(q, NOTHING, "again")], OptimConfig())


def test_a_term_that_trains_no_module_is_refused():
    with pytest.raises(UserError, match=r"the term mine trains citric, which is no module.*which hold a, b"):
        learner([scalar("a", 1.0), scalar("b", 1.0)], NOTHING, [term(("citric",), None, "mine")], OptimConfig())


def noise(key, chunk):
    del key
    return jax.random.normal(jax.random.key(5), chunk.reward.shape)


def forward(vars, z, chunk):
    """The "forward pass" of module a, [B, 1]."""
    return jnp.tanh(vars.params["a"]["x"] * z + chunk.obs[:, 1:2])


TERMS = (
    Term("pull", ("a",), no_noise, lambda v, y, c: (jnp.mean((y - v.params["b"]["x"]) ** 2), {})),
    Term("push", ("a",), no_noise, lambda v, y, c: (-jnp.mean(y * c.obs[:, :1]), {"y": jnp.mean(y)})),
    # as a temperature does, which must not reach the actor whose probabilities it reads
    Term("price", ("b",), no_noise, lambda v, y, c: (jnp.mean((v.params["b"]["x"] * y) ** 2), {})),
)


def after(terms, count):
    modules = [scalar("a", 0.7), scalar("b", -0.4)]
    return steps(learner(modules, NOTHING, terms, {"": optax.sgd(0.3)}), count)[-1].params


def alone(t):
    """The same term, drawing the same noise and making its own forward pass."""
    return t._replace(draw=noise, fn=lambda vars, z, chunk: t.fn(vars, forward(vars, z, chunk), chunk))


@pytest.mark.parametrize("every, start", [(1, 0), (2, 0), (3, 1)])
def test_together_is_as_apart(every, start):
    """Terms that train the same and other modules, in all and in some updates: the same gradients to rounding."""
    terms = [*TERMS[:2], TERMS[2]._replace(every=every, start=start)]
    chex.assert_trees_all_close(
        after([together(noise, terms, forward)], 4), after([alone(t) for t in terms], 4), rtol=1e-6
    )
    moved = [after([together(noise, some, forward)], 1)["a"]["x"] for some in (TERMS[:2], TERMS)]
    np.testing.assert_allclose(*moved, rtol=1e-6)  # what trains b leaves a where it was
    assert abs(float(moved[0]) - 0.7) > 0.01


def test_one_draw_and_one_forward_pass_for_the_terms_of_a_module():
    calls = []

    def counted(name, fn):
        return lambda *args: calls.append(name) or fn(*args)

    group = together(counted("draw", noise), TERMS[:2], counted("forward", forward))
    metrics = metrics_of([scalar("a", 0.7), scalar("b", -0.4)], [group])
    assert calls == ["draw", "forward"]
    assert set(metrics) == {"loss", "pull/loss", "push/loss", "push/y"}
    calls.clear()
    metrics_of(
        [scalar("a", 0.7), scalar("b", -0.4)], [together(counted("draw", noise), TERMS, counted("forward", forward))]
    )
    assert calls == ["draw", "forward", "forward"]  # once for a, once for b


def test_together_without_a_shared_computation_shares_the_noise():
    seen = [Term(n, ("a",), no_noise, lambda v, z, c: (v.params["a"]["x"] * 0, {"z": z})) for n in ("one", "two")]
    draw = lambda key, chunk: jax.random.normal(key)  # noqa: E731
    metrics = metrics_of(
        [scalar("a", 0.7)], [together(draw, seen), *(s._replace(draw=draw, name=f"{s.name}_alone") for s in seen)]
    )
    assert float(metrics["one/z"]) == float(metrics["two/z"])
    assert float(metrics["one_alone/z"]) != float(metrics["two_alone/z"])


def test_a_term_of_the_first_of_consecutive_chunks():
    """It draws for that one and sees no other."""
    seen = Term(
        "mine",
        ("a",),
        lambda key, chunk: chunk.reward,
        lambda v, z, c: (jnp.sum(c.reward - z), {"sum": jnp.sum(c.reward)}),
    )
    chunk = jax.tree.map(lambda x: jnp.stack([x, x + 1, x + 2], axis=1), chunk_of())
    made = of_first(seen)
    loss, metrics = made.fn(None, made.draw(key(), chunk), chunk)
    assert loss == 0 and metrics["sum"] == chunk_of().reward.sum()


def test_any_transformation_of_optax():
    a, b = scalar("a", 0.0), scalar("b", 0.0)
    both = term(("a", "b"), lambda v: 3 * v.params["a"]["x"] + 4 * v.params["b"]["x"])
    for optim, clip, expected in (
        (optax.sgd(0.5), None, (-1.5, -2.0)),
        (optax.sgd(0.5), 1.0, (-0.3, -0.4)),  # joint norm 5
        (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5)), None, (-0.5, -0.5)),  # each by itself
        ({"a": optax.sgd(0.5), "": OptimConfig(0.1)}, None, (-1.5, -0.1)),
        ({"a": OptimConfig(0.2), "b": optax.sgd(0.5)}, None, (-0.2, -2.0)),
    ):
        params = steps(learner([a, b], NOTHING, [both], optim, clip=clip), 1)[1].params
        np.testing.assert_allclose([params["a"]["x"], params["b"]["x"]], expected, rtol=1e-5)


def test_a_transformation_may_follow_the_loss():
    """reduce_on_plateau asks for the loss: here it never falls, and steps are halved after each update but the first."""
    flat = term(("a",), lambda v: v.params["a"]["x"] - jax.lax.stop_gradient(v.params["a"]["x"]))
    optim = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    x = [float(s.params["a"]["x"]) for s in steps(learner([scalar("a", 0.0)], NOTHING, [flat], optim), 4)]
    np.testing.assert_allclose(np.diff(x), [-1.0, -0.5, -0.25, -0.125])


def test_weight_decay_rests_with_its_module():
    """adamw moves weights without a gradient, but not those of a module whose term is not active."""
    late = term(("a",), lambda v: 0.0 * v.params["a"]["x"], start=2)
    states = steps(learner([scalar("a", 1.0)], NOTHING, [late], optax.adamw(0.1, weight_decay=0.5)), 3)
    np.testing.assert_allclose([float(s.params["a"]["x"]) for s in states], [1.0, 1.0, 1.0, 0.95])


@pytest.mark.parametrize(
    "optim, says",
    [
        ({"a": OptimConfig(), "citric": OptimConfig()}, "citric, which no module"),
        ({"a": OptimConfig()}, "nothing for b"),
    ],
)
def test_optimisers_of_no_module_and_modules_of_no_optimiser_are_refused(optim, says):
    with pytest.raises(UserError, match=says):
        learner([scalar("a", 1.0), scalar("b", 1.0)], NOTHING, [], optim)


def column(vars, obs, *chunk):
    return jnp.zeros((*obs.shape[:-1], 1))


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        (lambda pi, q: bc(pi, weight=lambda vars, chunk: jnp.ones((6, 1))), r"the weight of the term bc .*\(6, 1\)"),
        (lambda pi, q: bc(pi._replace(loss=lambda vars, noise, c: c.mask)), r"the loss of the actor .*, not \(6,\)"),
        (
            lambda pi, q: regression(q, lambda vars, key, obs: column(vars, obs), "mine"),
            r"the target of the term mine has the shape \(6, 6\)",
        ),
        (lambda pi, q: td(q, best_of_n(sample(pi), column, 2)), r"the score of candidates .*, not \(6, 2\)"),
        (lambda pi, q: td(q._replace(aggregate=registry.aggregate(f"{__file__}:lowest")), sample(pi)), "axis=0"),
    ],
)
def test_a_shape_that_would_broadcast_is_refused(slip, told):
    """A column beside a row is a table: weights of other chunks, and no error from jax."""
    pi, q = flow(FlowConfig((16,), steps=2)), chunk_q(CriticConfig((16,), members=1))
    with pytest.raises(UserError, match=told):
        metrics_of([pi, q], [slip(pi, q)])


def lowest(values):
    return jnp.min(values)


def test_one_weight_counts_for_all_chunks():
    pi = flow(FlowConfig((16,), steps=2))
    plain, twice = (metrics_of([pi], [bc(pi, weight=lambda vars, chunk, w=w: jnp.float32(w))]) for w in (1, 2))
    assert float(twice["loss"]) == pytest.approx(2 * float(plain["loss"]))
