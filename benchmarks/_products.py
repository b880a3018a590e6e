"""The matrix products of network calls, which are the floor that methods are held against."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qchunk.report import cost


class Call(NamedTuple):
    """Products of one network on one batch."""

    dims: tuple[int, ...]  # widths from input to output
    rows: int
    members: int = 1
    backward: str = ""  # "weights" or "input": whose gradient follows


class Group(NamedTuple):
    """Calls that follow each other, so many times."""

    calls: tuple[Call, ...]
    times: int = 1


def run(call: Call, ws: list[jax.Array], x: jax.Array) -> jax.Array:
    """The products of a call; a number that depends on all of them."""
    used = jnp.zeros(())
    for m in range(call.members):
        xs = [x]
        for w in ws:
            xs.append(xs[-1] @ w[m])
        g, grads = xs[-1], [xs[-1]]
        for i in reversed(range(len(ws) if call.backward else 0)):
            if call.backward == "weights":
                grads.append(xs[i].T @ g)
            if i or call.backward == "input":
                g = g @ ws[i][m].T
        used += sum(jnp.sum(y[:1]) for y in (*grads, g))
    return used


def arrays(groups: list[Group]) -> list[list[tuple[list[jax.Array], jax.Array]]]:
    """Weights [members, in, out] and inputs of every call."""
    random = np.random.default_rng(1)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    def of(call: Call):
        pairs = zip(call.dims[:-1], call.dims[1:], strict=True)
        return [normal(call.members, a, b) / a**0.5 for a, b in pairs], normal(call.rows, call.dims[0])

    return [[of(call) for call in group.calls] for group in groups]


def products(groups: list[Group], data: list, start: jax.Array) -> jax.Array:
    """All of them, one after another: each round depends on the one before, so that nothing is left out."""
    for group, parts in zip(groups, data, strict=True):

        def once(used, _, group=group, parts=parts):
            for call, (ws, x) in zip(group.calls, parts, strict=True):
                used = used * 1e-9 + run(call, ws, x + 1e-9 * used)
            return used, None

        if group.times == 1:  # a loop of one round costs 0.1 ms and more on a CPU: a floor has none
            start, _ = once(start, None)
        else:
            start, _ = jax.lax.scan(once, start, None, length=group.times)
    return start


def covered(groups: list[Group], fn, *args) -> float:
    """The products' multiplications over those of ``fn(*args)``, the thing that they are the floor of.

    More than 1 where candidates share an observation: a first layer (nets.Dense) multiplies it once for all of them,
    the products once for each, as a network over joined inputs would. Less where some are left out (embeddings of time).
    """
    parts = arrays(groups)
    return cost.multiplications(lambda x: products(groups, parts, x), jnp.zeros(())) / cost.multiplications(fn, *args)


def with_adam(groups: list[Group], parts: list):
    """(start, step) of the floor of an update: ``step(i, loop)`` runs the products, and Adam on a tree of parameters.

    ``start(params)`` makes the loop's first value.
    """
    tx = optax.adam(3e-4)

    def start(params):
        return params, tx.init(params), jnp.zeros(())

    def step(_, loop):
        params, opt, used = loop
        used = products(groups, parts, used)
        moves, opt = tx.update(jax.tree.map(lambda p: p + 1e-9 * used, params), opt, params)
        return optax.apply_updates(params, moves), opt, used * 1e-9

    return start, step
