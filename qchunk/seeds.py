"""S seeds in one program, spread over the devices of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SPLIT = PartitionSpec("seeds")


def for_each(seeds: int, tree: Any) -> Any:
    """The same for every seed: leaves [...] -> [S, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *jnp.shape(x))), tree)


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
    their loop. Elsewhere vmapped."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda args: fn(*args), batched)
    return jax.vmap(fn)(*batched)


def over_seeds(fn: Callable, *batched: Any, shared: tuple = ()) -> Any:
    """``fn`` for each seed, whose values lead the leaves of ``batched``, in one program.

    Seeds never speak to each other, so each device works on an equal share of them.

    Args:
        shared: further arguments of ``fn``, the same for every seed. What a driver has ``spread`` must come this way: JAX
            refuses it where it is closed over.
    """

    def share(batched: tuple, shared: tuple) -> Any:
        return mapped(lambda *args: fn(*args, *shared), batched)

    over = mesh(jax.tree.leaves(batched)[0].shape[0])
    if over.size == 1:
        return share(batched, shared)
    specs = SPLIT, PartitionSpec()
    return jax.shard_map(share, mesh=over, in_specs=specs, out_specs=SPLIT, check_vma=False)(batched, shared)
