"""What acting costs: multiplications, time and memory of one decision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from qchunk.types import Policy, PyTree, Vars


def multiplications(fn: Callable, *args: Any) -> int:
    """Scalar multiplications of all matrix products in one call, loops counted as often as they run.

    A ``while`` whose end depends on data counts once; of a ``cond`` the dearest branch counts.
    """
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif eqn.primitive.name == "cond":
            total += max(_count(b.jaxpr) for b in eqn.params["branches"])
        else:
            total += _times(eqn) * sum(_count(inner) for inner in _inner(eqn.params))
    return total


def _times(eqn: Any) -> int:
    """How often what is written once runs: in every round of a loop, on every device of a mesh."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    return eqn.params["mesh"].size if eqn.primitive.name == "shard_map" else 1


def _inner(params: dict) -> list[Any]:
    found = []
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                found.append(x.jaxpr)
            elif isinstance(x, core.Jaxpr):
                found.append(x)
    return found


def of_policy(policy: Policy, vars: Vars, size: PyTree, repeats: int = 200) -> dict[str, float]:
    """One decision for one observation of these sizes (``Spec.obs``).

    Returns:
        ``multiplications``; ``p50`` and ``p99``, milliseconds of ``repeats`` calls after a few that are not counted;
        ``memory``, bytes of the compiled program's temporaries; ``parameters``, how many numbers of ``vars`` it reads.
    """

    def decide(vars: Vars, key: jax.Array, obs: jax.Array):
        return policy.plan(vars, policy.draw(vars, key, obs), obs, None).action

    obs = jax.tree.map(lambda n: np.zeros((1, n), np.float32), size)
    args = (vars, jax.random.key(0), obs)
    compiled = jax.jit(decide).lower(*args).compile()
    times = []
    for i in range(repeats + 10):
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
