"""Learning of a critic that zooms into bins: temporal differences, and demonstrations that no other bin is to beat (2411.12155)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qchunk.critics.categorical import two_hot
from qchunk.critics.zooms import Cells, ZoomConfig, ZoomCritic, atoms, best, cells, chosen, chunk_of, draw_bins, values
from qchunk.data.demonstrations import DEMONSTRATION
from qchunk.losses.td import one_point
from qchunk.losses.terms import module_names, no_noise, together, weighted_mean
from qchunk.target_networks import target_view
from qchunk.types import Array, Chunk, Key, Metrics, Term, Together, Vars


class Seen(NamedTuple):
    """What the terms share: the draws of next bins, the cells of the data's chunks, and the logits there."""

    draws: Array  # [B, L, H, A]
    cells: Cells
    logits: Array  # [B, L, H, A, bins, atoms]


def zooming(critic: ZoomCritic, terms: list[Term]) -> Together:
    """Terms on one forward pass over the cells of the data's chunks."""

    def draw(key: Key, chunk: Chunk) -> Array:
        return draw_bins(key, chunk.action.shape, critic.c)

    def shared(vars: Vars, draws: Array, chunk: Chunk) -> Seen:
        at = cells(chunk.action, critic.c)
        return Seen(draws, at, critic.logits(vars, chunk.obs, at.centres))

    return together(draw, terms, shared)


def td_of_zooms(critic: ZoomCritic, name: str = "td") -> Term:
    """Temporal differences of every entry: towards R_n + gamma^n m Qtarget(s', a') of the same level, action and number.

    a' is the best chunk of the online network. All actions of a chunk share the return from its FIRST step on (2411.12155, eq.
    7), so this is no backup of the chunk: ``--chunk.backup`` says n. Cross-entropy to the projected distribution, or a squared error
    with one atom.
    """
    c = critic.c

    def target(vars: Vars, draws: Array, chunk: Chunk) -> Array:
        reward, discount, obs = one_point(chunk, name)
        action = chunk_of(best(critic, vars, obs, draws), c)
        at = cells(action, c)
        later = chosen(critic.logits(target_view(vars), obs, at.centres), at.bins)
        reward, discount = (x[:, None, None, None] for x in (reward, discount))
        if c.atoms == 1:
            return reward[..., None] + discount[..., None] * later
        return projected(jax.nn.softmax(later), reward, discount, c)

    def fn(vars: Vars, seen: Seen, chunk: Chunk) -> tuple[Array, Metrics]:
        aim = target(jax.lax.stop_gradient(vars), seen.draws, chunk)
        mine = chosen(seen.logits, seen.cells.bins)
        error = jnp.square(mine - aim)[..., 0] if c.atoms == 1 else -jnp.sum(aim * jax.nn.log_softmax(mine), axis=-1)
        weight = (chunk.weight * chunk.mask)[:, None, :, None]
        q, y = values(mine, c), jnp.sum(aim * atoms(c), axis=-1) if c.atoms > 1 else aim[..., 0]
        return weighted_mean(weight, error), {"q": weighted_mean(weight, q), "target": weighted_mean(weight, y)}

    return Term(name, module_names(critic), no_noise, fn)


def projected(later: Array, reward: Array, discount: Array, c: ZoomConfig) -> Array:
    """The distribution of reward + discount * return on the atoms (1707.06887, eq. 7): [..., atoms].

    Each atom's mass is shared by its two neighbours, in proportion to how near they are.

    Args:
        later: [..., atoms]; ``reward`` and ``discount`` [...] broadcast against it.
    """
    share = two_hot(reward[..., None] + discount[..., None] * atoms(c), c.support, c.atoms)  # [..., from, to]
    return jnp.einsum("...f,...ft->...t", later, jnp.broadcast_to(share, (*later.shape, c.atoms)))


def margin(critic: ZoomCritic, least: float, name: str = "margin") -> Term:
    """No bin of a demonstration's number comes nearer to its own than ``least``, in units of return (2411.12155, eq. 9)."""

    def fn(vars: Vars, seen: Seen, chunk: Chunk) -> tuple[Array, Metrics]:
        q = values(seen.logits, critic.c)
        own = jnp.take_along_axis(q, seen.cells.bins[..., None], axis=-1)
        return of_demonstrations(chunk, jnp.mean(jax.nn.relu(least - (own - q)), axis=-1)), {}

    return Term(name, module_names(critic), no_noise, fn)


def dominance(critic: ZoomCritic, name: str = "dominance") -> Term:
    """The returns of a demonstration's bins dominate those of the others: no other's distribution function lies below (2411.12155, eq. 8).

    A critic of one atom has no distributions.
    """

    def fn(vars: Vars, seen: Seen, chunk: Chunk) -> tuple[Array, Metrics]:
        below = jnp.cumsum(jax.nn.softmax(seen.logits), axis=-1)
        own = chosen(below, seen.cells.bins)[..., None, :]
        return of_demonstrations(chunk, jnp.mean(jnp.sum(jax.nn.relu(own - below), axis=-1), axis=-1)), {}

    return Term(name, module_names(critic), no_noise, fn)


def of_demonstrations(chunk: Chunk, each: Array) -> Array:
    """The mean of ``each`` [B, L, H, A] over the numbers of the demonstrations in a batch, the levels among them."""
    shown = chunk.extras.get(DEMONSTRATION, jnp.ones_like(chunk.last))
    return weighted_mean((shown[:, None] * chunk.mask)[:, None, :, None], each)
