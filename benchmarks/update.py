"""One Q-chunking update, and one act, over the floor of their matrix products (and one Adam step).

The floor runs the forward and backward products of every network call of the update at their shapes, and
``optax.adam`` on the same tree; no activation, no normalisation, no sampling, no batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from _timing import medians, tell

from qchunk import train
from qchunk.actors.flow import flow
from qchunk.algorithms.qc import QC, qc
from qchunk.config import CriticConfig, FlowConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.types import Spec, view

SPEC, BATCH = Spec(37, 5, 5), 256
SIZES = {"3x128-N8": ((128,) * 3, 8, 15), "4x512-N32": ((512,) * 4, 32, 5)}


def weights(dims: list[int], members: int = 1) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(1), len(dims))
    pairs = zip(keys, dims[:-1], dims[1:], strict=False)
    return [jax.random.normal(k, (members, a, b)) / a**0.5 for k, a, b in pairs]


def forward(ws: list[jax.Array], x: jax.Array) -> list[jax.Array]:
    """Inputs of every layer and the output, of one member."""
    xs = [x]
    for w in ws:
        xs.append(xs[-1] @ w)
    return xs


def backward(ws: list[jax.Array], xs: list[jax.Array]) -> list[jax.Array]:
    """Gradients of the weights; none of the input."""
    g, grads = xs[-1], []
    for i in reversed(range(len(ws))):
        grads.append(xs[i].T @ g)
        if i:
            g = g @ ws[i].T
    return grads[::-1]


def floor(c: QC, params: dict):
    """(args, function): the products of one update and one Adam step on ``params``."""
    chunk, (b, n, k) = SPEC.horizon * SPEC.action, (BATCH, c.n, c.actor.steps)
    actor = weights([SPEC.obs + chunk + 1, *c.actor.hidden, chunk])
    critic = weights([SPEC.obs + chunk, *c.critic.hidden, 1], c.critic.members)
    tx = optax.adam(3e-4)
    key = jax.random.key(2)
    inputs = {
        "steps": jax.random.normal(key, (b * n, actor[0].shape[1])),
        "actor": jax.random.normal(key, (b, actor[0].shape[1])),
        "scored": jax.random.normal(key, (b * n, critic[0].shape[1])),
        "critic": jax.random.normal(key, (b, critic[0].shape[1])),
    }

    def one(i, loop):
        params, opt, inputs = loop
        first = [w[0] for w in actor]
        member = [[w[m] for w in critic] for m in range(c.critic.members)]

        def step(x, _):  # the output, padded to the input's width, is the next step's input
            out = forward(first, x)[-1]
            return jax.lax.dynamic_update_slice(x, out, (0, SPEC.obs)), None

        sampled = jax.lax.scan(step, inputs["steps"], None, length=k)[0]
        scores = [forward(ws, inputs["scored"])[-1] for ws in member]
        targets = [forward(ws, inputs["critic"] + 1.0)[-1] for ws in member]
        grads = [backward(first, forward(first, inputs["actor"]))]
        grads += [backward(ws, forward(ws, inputs["critic"])) for ws in member]
        used = sum(jnp.sum(x[:1]) for x in jax.tree.leaves((sampled, scores, targets, grads)))
        updates, opt = tx.update(jax.tree.map(lambda p: p + 1e-9 * used, params), opt, params)
        # the next round depends on this one, so that nothing is moved out of the loop
        return optax.apply_updates(params, updates), opt, jax.tree.map(lambda x: x + 1e-9 * used, inputs)

    return (params, tx.init(params), inputs), one


def repeat(fn, args, count: int):
    """``count`` rounds of (i, loop) -> loop in one dispatch."""
    run = jax.jit(lambda args: jax.lax.fori_loop(0, count, fn, args))
    return lambda: run(args)


def data_set(rows: int = 20_000) -> Dataset:
    key = jax.random.key(0)
    obs = jax.random.normal(key, (rows, SPEC.obs))
    action = jax.random.uniform(key, (rows, SPEC.action), minval=-1.0)
    end = (jnp.arange(rows) + 1) % 1001 == 0
    end = end.at[-1].set(True)
    return chunks.dataset(obs, action, -jnp.ones(rows), jnp.zeros(rows), end)


def main() -> None:
    data = data_set()
    for name, (hidden, n, count) in SIZES.items():
        c = QC(actor=FlowConfig(hidden), critic=CriticConfig(hidden), n=n)
        state = jax.jit(lambda c=c: qc(c).init(jax.random.key(0), SPEC, {}))()
        settings = train.Settings()
        stacked = jax.tree.map(lambda x: x[None], state)._replace(step=state.step)
        keys = train.seed_keys(settings)
        fixed = chunks.draw(jax.random.key(3), data, c.chunk, BATCH)

        def whole(stacked=stacked, c=c, keys=keys, count=count):
            copy = jax.tree.map(jnp.copy, stacked)  # the driver donates its learner
            return train.updates(qc, BATCH, copy, c, {}, data, keys, count)

        def one_batch(i, state, c=c, fixed=fixed):
            return qc(c).update(state, {}, jax.random.fold_in(jax.random.key(0), i), fixed)[0]

        args, products = floor(c, state.params)
        t = medians(
            7, floor=repeat(products, args, count), update=repeat(one_batch, state, count), driver=lambda w=whole: w()
        )
        tell(
            f"update {name}",
            ms=t["update"] / count * 1e3,
            floor_ms=t["floor"] / count * 1e3,
            ratio=t["update"] / t["floor"],
            with_batch=t["driver"] / t["update"],
        )
        act(name, c, state)


def act(name: str, c: QC, state) -> None:
    """One decision for one observation, and its products alone."""
    vars, policy = view(state, {}), qc(c).act
    obs = jax.random.normal(jax.random.key(4), (1, SPEC.obs))
    decide = jax.jit(lambda vars, key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None).action)
    chunk = SPEC.horizon * SPEC.action
    actor = [w[0] for w in weights([SPEC.obs + chunk + 1, *c.actor.hidden, chunk])]
    critic = weights([SPEC.obs + chunk, *c.critic.hidden, 1], c.critic.members)

    @jax.jit
    def products(actor, critic, x, y):
        def step(x, _):
            return jax.lax.dynamic_update_slice(x, forward(actor, x)[-1], (0, SPEC.obs)), None

        x = jax.lax.scan(step, x, None, length=c.actor.steps)[0]
        return x, [forward([w[m] for w in critic], y)[-1] for m in range(c.critic.members)]

    x, y = jnp.ones((c.n, actor[0].shape[0])), jnp.ones((c.n, critic[0].shape[1]))
    key = jax.random.key(5)
    t = medians(200, floor=lambda: products(actor, critic, x, y), act=lambda: decide(vars, key, obs))
    tell(f"act {name}", ms=t["act"] * 1e3, floor_ms=t["floor"] * 1e3, ratio=t["act"] / t["floor"])
    assert flow(c.actor).shape(vars) == (SPEC.horizon, SPEC.action) and chunk_q(c.critic).modules


if __name__ == "__main__":
    main()
