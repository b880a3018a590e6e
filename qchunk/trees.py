"""Trees of observations: nested dictionaries whose leaves have one event axis each. No jax: worker processes read this.

A plain array is a tree of one leaf, without a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qchunk.system.errors import UserError


def named(tree: Any, root: str = "obs") -> dict[str, Any]:
    """The leaves by name, in the order of ``jax.tree.leaves``: {"obs": x} of a plain one, else {"obs/goal": ..., ...}."""
    if not isinstance(tree, Mapping):
        return {root: tree}
    return {name: leaf for key in sorted(tree) for name, leaf in named(tree[key], f"{root}/{key}").items()}


def unnamed(leaves: Mapping[str, Any], root: str = "obs") -> Any:
    """The tree that ``named`` took apart; leaves of other roots are passed over.

    Raises:
        UserError: one name is that of a leaf and of what has leaves below it.
    """
    below = [name.removeprefix(f"{root}/").split("/")[0] for name in leaves if name.startswith(f"{root}/")]
    if root in leaves and below:
        raise UserError(f"{root} is an array and has parts, such as {root}/{below[0]}", "name one of them otherwise")
    if root in leaves:
        return leaves[root]
    return {key: unnamed(leaves, f"{root}/{key}") for key in dict.fromkeys(below)}


def first(tree: Any) -> Any:
    """Any one leaf, for its leading axes."""
    return next(iter(named(tree).values()))


def sizes(tree: Any) -> Any:
    """The length of every leaf's last axis, as ``Spec.obs`` holds it."""
    return unnamed({name: leaf.shape[-1] for name, leaf in named(tree).items()})


def total(size: Any) -> int:
    """How many numbers an observation of these sizes has."""
    return sum(named(size).values())


def misnamed(tree: Any) -> list[Any]:
    """The keys, at any depth, that ``named`` cannot make names of: no texts, or with a slash."""
    if not isinstance(tree, Mapping):
        return []
    odd = [key for key in tree if not isinstance(key, str) or "/" in key]
    return odd + [key for part in tree.values() for key in misnamed(part)]


def declared(size: Any, where: str) -> Any:
    """The tree of sizes that an environment declares; brax writes a leaf of a dictionary as its shape, (12,).

    Args:
        where: the environment's name, for the refusal.

    Raises:
        UserError: a leaf of several axes, or a name with a slash in it.
    """
    if odd := misnamed(size):
        raise UserError(f"{where} calls a part of its observations {odd[0]!r}", "give it a name without a slash")
    if isinstance(size, Mapping):
        return {key: declared(part, where) for key, part in size.items()}
    shape = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if len(shape) != 1:
        fix = "flatten it, obs.reshape(-1): what reads an image gives it its shape again"
        raise UserError(f"{where} has observations of the shape {shape}, which are not flat", fix)
    return int(shape[0])
