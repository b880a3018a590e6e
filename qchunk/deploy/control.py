"""The control loops of robots as pure functions of a run's policy: see ``standalone.Programs``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import trees
from qchunk.deploy.standalone import IMPL, Programs
from qchunk.envs.base import obs_like
from qchunk.play.execute import Scheme
from qchunk.play.on_host import batch_of_one, seen
from qchunk.play.rollout import bounded
from qchunk.runs.opened import Opened
from qchunk.types import Array, PyTree, Vars


class ControlLoop(NamedTuple):
    """Where one robot stands in its episode."""

    key: Array  # [2] uint32, of the episode's noise
    decisions: Array  # [] int32, how many have been made
    carry: Any  # the scheme's
    plan: Any  # the newest


def programs_of(scheme: Scheme, vars: Vars, obs: PyTree) -> Programs:
    """The functions of a scheme; a row is a batch of one, so that its noise is its own. ``weights`` are a ``Vars``.

    Args:
        vars: what the policy reads, or its shapes.
        obs: what ONE observation looks like (``obs_like``).
    """

    def started(vars: Vars, key: Array, obs: PyTree) -> ControlLoop:
        typed = jax.random.wrap_key_data(key, impl=IMPL)
        state = seen(batch_of_one(obs))
        carry = scheme.init(vars, jax.random.fold_in(typed, 0), state)
        like = jax.eval_shape(scheme.decide, vars, typed, state, carry)[1]
        plan = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return ControlLoop(key, jnp.zeros((), jnp.int32), carry, plan)

    loop_like = jax.eval_shape(started, vars, jax.ShapeDtypeStruct((2,), jnp.uint32), obs)
    of = jax.tree.structure(loop_like).unflatten

    def begin(vars: Vars, key: Array, obs: PyTree) -> list[Array]:
        return jax.tree.leaves(started(vars, key, obs))

    def decide(vars: Vars, leaves: list[Array], obs: PyTree) -> list[Array]:
        loop = of(leaves)
        key = jax.random.fold_in(jax.random.wrap_key_data(loop.key, impl=IMPL), loop.decisions + 1)
        carry, plan = scheme.decide(vars, key, seen(batch_of_one(obs)), loop.carry)
        return jax.tree.leaves(ControlLoop(loop.key, loop.decisions + 1, carry, plan))

    def act(vars: Vars, leaves: list[Array], i: Array, obs: PyTree) -> Array:
        return bounded(scheme.act(vars, i, seen(batch_of_one(obs)), of(leaves).plan)[0])

    return Programs(*(jax.vmap(fn, in_axes=(None, *(0,) * n)) for fn, n in ((begin, 2), (decide, 2), (act, 3))))


def narrowed(made: Programs, vars: Vars, obs: PyTree) -> tuple[Programs, list]:
    """(the programs over a list of those weights alone that one of them reads, the list). A call is handed no more than it needs."""
    leaves, tree = jax.tree.flatten(vars)
    shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in leaves]
    whole = Programs(*(functools.partial(_of_leaves, fn, tree) for fn in made))
    reads: set[int] = set()
    for fn, args in zip(whole, arguments(whole, shapes, obs, (1,)), strict=True):
        jaxpr = jax.make_jaxpr(fn)(shapes, *args).jaxpr
        inside = {id(v) for eqn in jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.outvars}
        reads |= {i for i, v in enumerate(jaxpr.invars[: len(leaves)]) if id(v) in inside}
    used = sorted(reads)

    def narrow(fn: Callable) -> Callable:
        def call(weights: list, *args: Any) -> Any:
            filled = [jnp.zeros(s.shape, s.dtype) for s in shapes]  # nobody reads them
            for i, x in zip(used, weights, strict=True):
                filled[i] = x
            return fn(filled, *args)

        return call

    return Programs(*map(narrow, whole)), [leaves[i] for i in used]


def _of_leaves(fn: Callable, tree: Any, leaves: list, *args: Any) -> Any:
    return fn(tree.unflatten(leaves), *args)


def arguments(made: Programs, weights: Any, obs: PyTree, rows: tuple) -> list[tuple]:
    """What ``begin``, ``decide`` and ``act`` take besides the weights, as shapes.

    Args:
        obs: what ONE observation looks like.
        rows: (B,), how many robots there are.
    """
    seen_by_all = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*rows, *np.shape(x)), x.dtype), obs)
    keys = jax.ShapeDtypeStruct((*rows, 2), jnp.uint32)
    loop = jax.eval_shape(made.begin, weights, keys, seen_by_all)
    return [(keys, seen_by_all), (loop, seen_by_all), (loop, jax.ShapeDtypeStruct(rows, jnp.int32), seen_by_all)]


def described(p: Opened, scheme: Scheme, bounds: dict | None) -> dict[str, Any]:
    """What a robot must know: sizes, types and units of observations and actions, and how decisions follow each other.

    Args:
        bounds: {"low": [A], "high": [A]} of actions in recorded units; None: they are in [-1, 1].
    """
    like = trees.named(obs_like(p.program.env))
    return {
        "obs": {name: [int(np.shape(x)[-1]), np.dtype(x.dtype).name] for name, x in like.items()},
        "action": int(p.program.env.action_size),
        "bounds": bounds,
        "steps": scheme.steps,
        "length": (scheme.length or scheme.steps),
        "delay": scheme.delay,
        "horizon": int(p.config.chunk.horizon),
    }
