"""S seeds in one program, spread over the devices of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qchunk.system.errors import UserError
from qchunk.types import Learner

SPLIT = PartitionSpec("seeds")
MOST = 2**31 - 1  # the greatest seed: up to here each has a key of its own
STREAMS = {  # what a seed's key is folded with before a use; the key of update i is fold_in(key, i), with i below 2^30
    "online start": 2**30,
    "online play": 2**30 + 1,
    "on-policy start": 2**30 + 1,
    "iteration": 2**30 + 2,
    "first look": 2**30 + 3,
    "epochs": 2**30 + 4,
    "host slots": 2**30,  # and those after it, a slot each; on the host nothing else is between 2^30 and 2^31
    "evaluation": 2**31,
    "init": 2**31 + 1,
    "eval": 2**31 + 2,  # of the command, which has a seed of its own
    "collect": 2**31 + 3,
    "random actions": 2**31 + 4,
    "expert's noise": 2**31 + 5,
}


def stream(key: Any, name: str, *numbers: Any) -> Any:
    """A key of its own for a use in ``STREAMS``, and for what is counted in it. No two uses share one, nor an update.

    ``split(key, n)[i]`` is ``fold_in(key, i)`` in JAX: what splits a seed's key must come from here, or shares keys with updates.
    """
    for number in (STREAMS[name], *numbers):
        key = jax.random.fold_in(key, number)
    return key


def key_of(seed: int, name: str, *numbers: int) -> Any:
    """The ``stream`` of a seed from the command line.

    Raises:
        UserError: it is not from 0 to ``MOST``.
    """
    check(seed)
    return stream(jax.random.key(seed), name, *numbers)


def check(seed: int, count: int = 1) -> None:
    """Refuses seeds that are not from 0 to ``MOST``, such as two that would draw the same.

    Args:
        count: seeds from the first one on.

    Raises:
        UserError: names the seed and the range.
    """
    if not 0 <= seed <= MOST - count + 1:
        last = f" to {seed + count - 1}" if count > 1 else ""
        raise UserError(f"--seed {seed}{last} is out of range", f"give whole numbers from 0 to {MOST}")


def for_each(seeds: int, tree: Any) -> Any:
    """The same for every seed: leaves [...] -> [S, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *jnp.shape(x))), tree)


def repeated(tree: Any, times: int) -> Any:
    """The same for every setting: leaves [S, ...] -> [times * S, ...], all seeds, and then all of them again."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * times), tree) if times > 1 else tree


def mesh(seeds: int) -> Mesh:
    """As many of this process's devices as share ``seeds`` equally."""
    devices = jax.local_devices()
    return Mesh(np.asarray(devices[: max(n for n in range(1, len(devices) + 1) if seeds % n == 0)]), ("seeds",))


def spread(seeds: int, tree: Any) -> Any:
    """Leaves [S, ...] where ``over_seeds`` works on them, and everything else on each of its devices.

    What a driver goes on from is put there first: a program that met it elsewhere would be compiled again for its own results.
    """
    over = mesh(seeds)
    if over.size == 1:
        return tree
    place = lambda x: NamedSharding(over, SPLIT if np.shape(x)[:1] == (seeds,) else PartitionSpec())  # noqa: E731
    return jax.device_put(tree, jax.tree.map(place, tree))


def mapped(fn: Callable, batched: tuple) -> Any:
    """``fn`` along the first axis. On a CPU in turn: batched products of small matrices were measured slower there than
    their loop. Elsewhere vmapped, or as it is where there is one: under ``vmap`` a condition becomes both of its branches."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda args: fn(*args), batched)
    if jax.tree.leaves(batched)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], batched)))
    return jax.vmap(fn)(*batched)


def over_seeds(fn: Callable, *batched: Any, shared: tuple = ()) -> Any:
    """``fn`` for each seed, whose values lead the leaves of ``batched``, in one program.

    Seeds never speak to each other, so each device works on an equal share of them. A ``Learner`` among the arguments or the
    results has one ``step`` for all seeds: ``fn`` sees it as a number that is no seed's own, so that a condition on it
    stays a branch where seeds are vmapped.

    Args:
        shared: further arguments of ``fn``, the same for every seed. What a driver has ``spread`` must come this way: JAX
            refuses it where it is closed over.
    """
    steps = [x.step for x in _learners(batched)]

    def one(args: tuple, steps: list, shared: tuple) -> Any:
        return fn(*_with_steps(args, steps), *shared)

    def share(batched: tuple, steps: list, shared: tuple) -> Any:
        return mapped(lambda *args: one(args, steps, shared), batched)

    bare, over = _with_steps(batched, [None] * len(steps)), mesh(jax.tree.leaves(batched)[0].shape[0])
    if over.size == 1:
        found = share(bare, steps, shared)
    else:
        specs = SPLIT, PartitionSpec(), PartitionSpec()
        found = jax.shard_map(share, mesh=over, in_specs=specs, out_specs=SPLIT, check_vma=False)(bare, steps, shared)
    return _with_steps(found, [x.step[0] for x in _learners(found)])


def one(tree: Any, seed: int, keep: bool = False) -> Any:
    """What belongs to the seed at this place: leaves [S, ...] -> [...], or [1, ...] with ``keep``. A learner's step stays."""
    at = slice(seed, seed + 1) if keep else seed
    bare = _with_steps(tree, [None] * len(_learners(tree)))
    return _with_steps(jax.tree.map(lambda x: x[at], bare), [x.step for x in _learners(tree)])


def _is_learner(x: Any) -> bool:
    return isinstance(x, Learner)


def _learners(tree: Any) -> list[Learner]:
    return [x for x in jax.tree.leaves(tree, is_leaf=_is_learner) if _is_learner(x)]


def _with_steps(tree: Any, steps: list) -> Any:
    """The tree with the steps of its learners replaced, in the order of its leaves."""
    left = iter(steps)
    return jax.tree.map(lambda x: x._replace(step=next(left)) if _is_learner(x) else x, tree, is_leaf=_is_learner)
