"""The control loops of robots as pure functions of a run's policy: see ``standalone.Programs``."""

from __future__ import annotations

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

    return Programs(*(rows(fn, n) for fn, n in ((begin, 2), (decide, 2), (act, 3))))


def rows(fn: Callable, batched: int) -> Callable:
    """A function of weights and ``batched`` arguments of one robot, for B of them."""
    return jax.vmap(fn, in_axes=(None, *(0,) * batched))


def described(p: Opened, scheme: Scheme) -> dict[str, Any]:
    """What a robot must know: sizes and types of observations and actions, and how decisions follow each other."""
    like = trees.named(obs_like(p.program.env))
    return {
        "obs": {name: [int(np.shape(x)[-1]), np.dtype(x.dtype).name] for name, x in like.items()},
        "action": int(p.program.env.action_size),
        "steps": scheme.steps,
        "length": (scheme.length or scheme.steps),
        "delay": scheme.delay,
        "scheme": p.inputs.execution.name,
        "horizon": int(p.config.chunk.horizon),
    }
