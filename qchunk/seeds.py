"""S seeds in one program, spread over devices; several of them may share each seed's batches and environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qchunk.system import hosts
from qchunk.system.errors import UserError
from qchunk.types import Learner

SEEDS, DATA = "seeds", "data"  # the axes of the mesh
SPLIT = PartitionSpec(SEEDS)
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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Share:
    """How many devices share each seed's batches and environments: static, wherever it stands among arrays."""

    devices: int = 1

    def check(self, batch: int, flag: str) -> None:
        """Refuses rows of an update that these devices cannot share equally.

        Raises:
            UserError: names ``flag``, which says how many there are.
        """
        if batch % self.devices:
            fix = f"give multiples of {self.devices}, or another --devices-per-seed"
            raise UserError(f"{batch} ({flag}) are no equal shares for {self.devices} devices", fix)


def mesh(seeds: int, share: Share = Share()) -> Mesh:
    """The devices, [seeds, data]: as many along "seeds" as share ``seeds`` equally, along "data" those that share each seed.

    Where there are fewer than a run was made with, as many as are here and divide what it had.
    """
    devices = jax.devices()
    each = max(n for n in range(1, len(devices) + 1) if share.devices % n == 0)
    lanes = max(n for n in range(1, len(devices) // each + 1) if seeds % n == 0)
    return Mesh(np.asarray(devices[: lanes * each]).reshape(lanes, each), (SEEDS, DATA))


def of_seeds(over: Mesh) -> NamedSharding:
    """Where leaves [S, ...] lie between programs; as XLA says it, too, where one device holds all seeds."""
    return NamedSharding(over, SPLIT if over.shape[SEEDS] > 1 else PartitionSpec())


def spread(seeds: int, tree: Any, share: Share = Share()) -> Any:
    """Leaves [S, ...] where ``over_seeds`` works on them, and everything else on each of its devices.

    What a driver goes on from is put there first: a program that met it elsewhere would be compiled again for its own results.
    """
    over = mesh(seeds, share)
    if over.size == 1:
        return tree
    place = lambda x: of_seeds(over) if np.shape(x)[:1] == (seeds,) else NamedSharding(over, PartitionSpec())  # noqa: E731
    return hosts.placed(tree, jax.tree.map(place, tree))


def mapped(fn: Callable, batched: tuple) -> Any:
    """``fn`` along the first axis. On a CPU in turn: batched products of small matrices were measured slower there than
    their loop. Elsewhere vmapped, or as it is where there is one: under ``vmap`` a condition becomes both of its branches."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda args: fn(*args), batched)
    if jax.tree.leaves(batched)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], batched)))
    return jax.vmap(fn)(*batched)


def divided(tree: Any, rows: int) -> Any:
    """Leaves [rows, ...] in equal parts on the devices that share a seed, where ``over_seeds`` runs it on several; else as they are.

    XLA divides what is computed from them likewise, and adds up where a mean or a gradient is over all rows: the program stays
    what it is on one device, its draws included, and its results differ by the order of sums alone.
    """
    over = jax.sharding.get_abstract_mesh()
    count = over.shape.get(DATA, 1)
    if count == 1 or rows % count:
        return tree
    part = lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))  # noqa: E731
    return jax.tree.map(lambda x: part(x) if jnp.shape(x)[:1] == (rows,) else x, tree)


def over_seeds(fn: Callable, *batched: Any, shared: tuple = (), share: Share = Share()) -> Any:
    """``fn`` for each seed, whose values lead the leaves of ``batched``, in one program.

    Seeds never speak to each other, so each device works on an equal share of them; with a ``share`` of several devices, these
    work on the same seeds, on equal parts of what is ``divided``. A ``Learner`` among the arguments or the
    results has one ``step`` for all seeds: ``fn`` sees it as a number that is no seed's own, so that a condition on it
    stays a branch where seeds are vmapped.

    Args:
        shared: further arguments of ``fn``, the same for every seed. What a driver has ``spread`` must come this way: JAX
            refuses it where it is closed over.
    """
    steps = [x.step for x in _learners(batched)]

    def one(args: tuple, steps: list, shared: tuple) -> Any:
        return fn(*_with_steps(args, steps), *shared)

    def some(batched: tuple, steps: list, shared: tuple) -> Any:
        return mapped(lambda *args: one(args, steps, shared), batched)

    bare, over = _with_steps(batched, [None] * len(steps)), mesh(jax.tree.leaves(batched)[0].shape[0], share)
    if over.size == 1:
        found = some(bare, steps, shared)
    else:
        specs = SPLIT, PartitionSpec(), PartitionSpec()
        ours = {SEEDS} if over.shape[DATA] > 1 else {SEEDS, DATA}  # XLA's is the rest
        each = jax.shard_map(some, mesh=over, in_specs=specs, out_specs=SPLIT, axis_names=ours, check_vma=False)
        found = each(bare, steps, shared)
        if over.shape[DATA] > 1:  # between programs everything lies as ``spread`` puts it
            found = jax.lax.with_sharding_constraint(found, of_seeds(over))
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
