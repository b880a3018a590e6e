"""A factorised critic: each number of a chunk is chosen by zooming into bins of its range (2411.12155).

Q has an entry for each level of the zoom, action of the chunk, number of the action and bin. Given the coarser intervals the
numbers are independent, so the best chunk is found bin by bin, without an actor. A Critic is an opinion of whole chunks; this is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import nets
from qchunk.config import config
from qchunk.critics import categorical
from qchunk.ranges import PositiveInt, Range, Widths
from qchunk.types import Array, Key, Module, PyTree, Spec, TargetNetwork, Vars

TIE = 1e-4  # bins whose values differ by less are as good as each other, and one is drawn (code)


@config
class ZoomConfig:
    """A critic that zooms into bins (2411.12155: two layers of 512, then a recurrent one as wide)."""

    hidden: Widths = (512, 512)
    """Widths of the hidden layers; the recurrent layer is as wide as the last."""
    levels: PositiveInt = 3
    """L, zooms into one of the bins."""
    bins: Annotated[int, Range(2)] = 5
    """Into which an interval is cut; a chunk's numbers have bins^levels values."""
    atoms: PositiveInt = 51
    """Of a distribution over returns (C51, 1707.06887); 1: a number, learned by squared error, as in the paper's humanoids."""
    support: tuple[float, float] = (-100.0, 0.0)
    """Returns of the first and the last atom: -1 / (1 - gamma) to 0 for rewards of -1 until success."""
    dueling: bool = True
    """A value beside the advantages of the bins."""
    tau: Annotated[float, Range(above=0, high=1)] = 0.02
    """Polyak rate of the target copy, in (0, 1]."""

    def check(self, where: str) -> None:
        """Raises UserError where the support is empty."""
        categorical.check_support(self.support, where)


class Cells(NamedTuple):
    """Where each number of a chunk lies in every zoom."""

    bins: Array  # [*B, L, H, A] int32
    centres: Array  # [*B, L, H, A] of the interval before each level: what the networks are shown


class ZoomCritic(NamedTuple):
    """A network over the cells of chunks."""

    modules: tuple[Module, ...]
    logits: Callable[..., Array]  # (vars, obs, centres [*B, l, H, A], levels) -> [*B, l, H, A, bins, atoms]
    shape: Callable[[Vars], tuple[int, ...]]  # (H, A), read off the parameters
    c: ZoomConfig


def zoom_q(c: ZoomConfig, name: str = "critic") -> ZoomCritic:
    """The critic and its target network, which lags by one update."""

    def net(horizon: int, actions: int) -> nets.Zooms:
        return nets.Zooms(c.hidden, (horizon, actions, c.bins, c.atoms), c.dueling)

    def sizes(params: PyTree) -> tuple[int, int]:
        stream = params["advantage"]
        return stream["position"].shape[0], stream["head_bias"].shape[0]

    def init(key: Key, spec: Spec) -> PyTree:
        obs = jax.tree.map(jnp.zeros, spec.obs)
        made = net(spec.horizon, spec.action)
        centres = jnp.zeros((c.levels, spec.horizon, spec.action))
        return made.init(key, nets.flatten_obs(obs), centres, jnp.eye(c.levels))["params"]

    def apply(params: PyTree, obs: PyTree, centres: Array, levels: tuple[int, ...]) -> Array:
        rows = jnp.eye(c.levels)[jnp.asarray(levels)]
        return nets.apply(net(*sizes(params)), params, nets.flatten_obs(obs), centres, rows)

    def logits(vars: Vars, obs: PyTree, centres: Array, levels: tuple[int, ...] | None = None) -> Array:
        return apply(vars.params[name], obs, centres, tuple(range(c.levels)) if levels is None else levels)

    module = Module(name, init, apply, TargetNetwork(c.tau))
    return ZoomCritic((module,), logits, lambda vars: sizes(vars.params[name]), c)


def values(logits: Array, c: ZoomConfig) -> Array:
    """The expected return of logits [..., atoms]: [...]."""
    return logits[..., 0] if c.atoms == 1 else categorical.mean(logits, c.support)


def atoms(c: ZoomConfig) -> Array:
    """The returns that the atoms stand for: [atoms]."""
    return categorical.atoms(c.support, c.atoms)


def cells(action: Array, c: ZoomConfig) -> Cells:
    """The cells of chunks [*B, H, A] in [-1, 1]."""
    low, width, found = jnp.full_like(action, -1.0), 2.0, []
    for _ in range(c.levels):
        centre, width = low + width / 2, width / c.bins
        chosen = jnp.clip(jnp.floor((action - low) / width), 0, c.bins - 1)
        low = low + chosen * width
        found.append((chosen.astype(jnp.int32), centre))
    return Cells(*(jnp.stack(part, axis=-3) for part in zip(*found, strict=True)))


def chunk_of(bins: Array, c: ZoomConfig) -> Array:
    """The chunks [*B, H, A] in the middle of the last cells of ``bins`` [*B, L, H, A]: what ``cells`` finds again."""
    width = 2.0 / c.bins ** jnp.arange(1, c.levels + 1)
    low = -1.0 + jnp.sum(bins * width[:, None, None], axis=-3)
    return low + width[-1] / 2


def best(critic: ZoomCritic, vars: Vars, obs: PyTree, draws: Array) -> Array:
    """The bins [*B, L, H, A] of the best chunk, zoom after zoom.

    Args:
        draws: [*B, L, H, A] int32 below the number of bins, taken where all bins are as good as each other.
    """
    c, found = critic.c, []
    lead = jax.tree.leaves(obs)[0].shape[:-1]
    low, width = jnp.full((*lead, *draws.shape[-2:]), -1.0), 2.0
    for level in range(c.levels):
        centre, width = low + width / 2, width / c.bins
        q = values(critic.logits(vars, obs, centre[..., None, :, :], (level,))[..., 0, :, :, :, :], c)
        tied = jnp.max(q, axis=-1) - jnp.min(q, axis=-1) < TIE
        chosen = jnp.where(tied, draws[..., level, :, :], jnp.argmax(q, axis=-1))
        low = low + chosen * width
        found.append(chosen)
    return jnp.stack(found, axis=-3)


def draw_bins(key: Key, shape: tuple[int, ...], c: ZoomConfig) -> Array:
    """Random bins [*B, L, H, A] for chunks of the shape [*B, H, A]: the ``draws`` of ``best``."""
    return jax.random.randint(key, (*shape[:-2], c.levels, *shape[-2:]), 0, c.bins)


def chosen(logits: Array, bins: Array) -> Array:
    """What logits [*B, L, H, A, bins, atoms] say of ``bins`` [*B, L, H, A]: [*B, L, H, A, atoms]."""
    return jnp.take_along_axis(logits, bins[..., None, None], axis=-2)[..., 0, :]
