"""What acting costs: multiplications, time and memory of one decision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from qchunk import sampling
from qchunk.play.execute import Scheme
from qchunk.play.on_host import seen
from qchunk.types import Policy, PyTree, Vars

CALLS = 200  # that a decision is timed by
MANUAL = ("newly_manual_axes", "manual_axes")  # what jax calls them from 0.10.2 on, and before


class Product(NamedTuple):
    """One matrix product, as ``jax.lax.dot_general`` makes it."""

    left: jax.ShapeDtypeStruct
    right: jax.ShapeDtypeStruct
    out: jax.ShapeDtypeStruct
    dimensions: Any  # ((contracted axes of left, of right), (batch axes of left, of right))
    precision: Any

    @property
    def summed(self) -> int:
        """How many multiplications make one number of the result."""
        return math.prod(self.left.shape[i] for i in self.dimensions[0][0])


class Repeated(NamedTuple):
    """Products that follow each other, so many times over."""

    products: tuple[Product | Repeated, ...]
    times: int


def products(fn: Callable, *args: Any) -> tuple[Product | Repeated, ...]:
    """The matrix products of one call, in order, loops as loops.

    A ``while`` whose end depends on data counts as one round; of a ``cond`` the dearest branch counts.

    Args:
        fn: anything that jax can trace.
        args: arrays, or ``jax.ShapeDtypeStruct`` in their place: nothing is computed.
    """
    return _products(jax.make_jaxpr(fn)(*args).jaxpr)


def multiplications(fn: Callable, *args: Any) -> int:
    """Scalar multiplications of the ``products`` of one call."""
    return count(products(fn, *args))


def count(found: Iterable[Product | Repeated]) -> int:
    """Scalar multiplications of products, loops as often as they run."""
    return sum(p.times * count(p.products) if isinstance(p, Repeated) else p.out.size * p.summed for p in found)


def _products(jaxpr: Any) -> tuple[Product | Repeated, ...]:
    found: list[Product | Repeated] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            left, right, out = (jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in (*eqn.invars, *eqn.outvars))
            found.append(Product(left, right, out, eqn.params["dimension_numbers"], eqn.params["precision"]))
        elif eqn.primitive.name == "cond":
            found += max((_products(b.jaxpr) for b in eqn.params["branches"]), key=count)
        else:
            inside = tuple(p for inner in _inner(eqn.params) for p in _products(inner))
            times = _times(eqn)
            found += inside if times == 1 or not inside else [Repeated(inside, times)]
    return tuple(found)


def _times(eqn: Any) -> int:
    """How often what is written once runs: in every round of a loop, on every device of a mesh."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":  # along its other axes XLA divides what is written for all
        manual = next(eqn.params[name] for name in MANUAL if name in eqn.params)
        return math.prod(eqn.params["mesh"].shape[name] for name in manual)
    return 1


def _inner(params: dict) -> list[Any]:
    found = []
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                found.append(x.jaxpr)
            elif isinstance(x, core.Jaxpr):
                found.append(x)
    return found


def of_policy(policy: Policy, vars: Vars, size: PyTree) -> dict[str, float]:
    """One decision of a policy for one observation of these sizes (``Spec.obs``): see ``of_decision``."""
    return of_decision(lambda vars, key, obs: sampling.act(policy, vars, key, obs).action, vars, size)


def of_scheme(scheme: Scheme, vars: Vars, size: PyTree) -> dict[str, float]:
    """One decision of a scheme at an episode's start, likewise."""

    def decide(vars: Vars, key: jax.Array, obs: jax.Array):
        state, (begin_key, key) = seen(obs), jax.random.split(key)
        return jax.tree.leaves(scheme.decide(vars, key, state, scheme.init(vars, begin_key, state))[1])[0]

    return of_decision(decide, vars, size)


def of_decision(decide: Callable, vars: Vars, size: PyTree) -> dict[str, float]:
    """``decide(vars, key, obs [1, O])``, which returns an array, once for one observation of these sizes.

    Returns:
        ``multiplications``; ``p50`` and ``p99``, milliseconds of ``CALLS`` calls after a few that are not counted;
        ``memory``, bytes of the compiled program's temporaries; ``parameters``, how many numbers of ``vars`` it reads.
    """
    obs = jax.tree.map(lambda n: np.zeros((1, n), np.float32), size)
    args = (vars, jax.random.key(0), obs)
    compiled = jax.jit(decide).lower(*args).compile()
    times = []
    for i in range(CALLS + 10):
        key = jax.random.key(i)
        began = time.perf_counter()
        compiled(vars, key, obs).block_until_ready()
        times.append(1e3 * (time.perf_counter() - began))
    p50, p99 = np.percentile(times[10:], [50, 99])
    memory = compiled.memory_analysis()
    return {
        "multiplications": multiplications(decide, *args),
        "p50": float(p50),
        "p99": float(p99),
        "memory": float(memory.temp_size_in_bytes) if memory else math.nan,
        "parameters": _read(decide, *args),
    }


def _read(fn: Callable, vars: Vars, *more: Any) -> int:
    """Numbers of ``vars`` that a call depends on."""
    leaves, tree = jax.tree.flatten(vars)
    jaxpr = jax.make_jaxpr(lambda leaves, *more: fn(jax.tree.unflatten(tree, leaves), *more))(leaves, *more).jaxpr
    used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
    return sum(x.size for x, v in zip(leaves, jaxpr.invars, strict=False) if id(v) in used)
