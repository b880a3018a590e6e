"""From rows of experience to chunks. The only home of gamma, of masks and of episode ends.

Rows stand in time order, episode after episode. An episode of L transitions takes L + 1 rows: the last one holds
the final observation only. Row i's action leads from row i's observation to row i + 1's.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.config import ChunkConfig
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Key

EDGE = 1.0 - 1e-5  # actions of data are clipped to +-EDGE, as the papers do, so that tanh can reach them


class Dataset(NamedTuple):
    """Experience on the device, float32. R rows, M transitions, O and A as in types.py."""

    obs: Array  # [R, O]
    action: Array  # [R, A] in [-1, 1]
    reward: Array  # [R]
    terminal: Array  # [R] 1 where the step reached a success or failure: no bootstrap; data may go on after it
    left: Array  # [R] int32, transitions from this row to its episode's end; 0 on a final observation
    starts: Array  # [M] int32, the rows that a window may start at


def left_of(end: np.ndarray) -> np.ndarray:
    """Transitions left at each row, from the flag [R] on rows that hold a final observation."""
    rows = np.arange(len(end))
    finals = rows[end.astype(bool)]
    return (finals[np.searchsorted(finals, rows)] - rows).astype(np.int32)


def dataset(obs, action, reward, terminal, end) -> Dataset:
    """Puts rows (see the module's docstring; ``end`` [R] flags final observations) on the device."""
    left = left_of(np.asarray(end))
    o, a, r, t = (jnp.asarray(np.asarray(x), jnp.float32) for x in (obs, action, reward, terminal))
    return Dataset(o, a, r, t, jnp.asarray(left), jnp.asarray(np.flatnonzero(left > 0).astype(np.int32)))


def with_history(data: Dataset, count: int) -> Dataset:
    """The same data seen through ``History``: each observation is the last ``count`` ones, oldest first [R, count * O].

    Before an episode's start its first observation is repeated (2303.04137, section IV).
    """
    if count == 1:
        return data
    row = jnp.arange(data.left.shape[0])
    stack, at = [], row
    for j in range(count):
        stack.append(data.obs[at])
        # the row before is of the same episode if it has one transition more to go; else an episode starts here
        before = jnp.maximum(row - j - 1, 0)
        same = (data.left[before] == data.left + j + 1) & (row > j)
        at = jnp.where(same, before, at)
    return data._replace(obs=jnp.concatenate(stack[::-1], axis=-1))


def length(c: ChunkConfig) -> int:
    """Steps that a window reads."""
    return max(c.horizon, c.points[-1])


def windows(data: Dataset, start: Array, c: ChunkConfig) -> Chunk:
    """The chunks that start at the rows ``start`` [B]; see ``cut``."""
    left = data.left[start]
    rows = start[:, None] + jnp.minimum(jnp.arange(length(c))[None], left[:, None] - 1)
    after = start[:, None] + jnp.minimum(jnp.asarray(c.points)[None], left[:, None])
    return cut(data.obs[start], data.action[rows], data.reward[rows], data.terminal[rows], left, data.obs[after], c)


def cut(
    obs: Array, action: Array, reward: Array, terminal: Array, left: Array, next_obs: Array, c: ChunkConfig
) -> Chunk:
    """Chunks from the steps of their windows; L = ``length(c)``.

    With n = backup point j, and the episode's own successes masked as m (1 before, 0 from one on):

    - reward_j = sum_{k<n} gamma^k r_{t+k} prod_{i<k} m_{t+i}: rewards after a success inside the window do not count
      (the published code adds them);
    - discount_j = gamma^n, or 0 if a success lies inside the window: an exact target, whatever the later actions
      (in both, with discount "decision", gamma counts once per H steps: see ``begun``);
    - weight_j = 1 if the window is whole or holds a success; 0 where a time-out cuts it;
    - next_obs_j is the true observation n steps on, or the episode's final one;
    - action is padded with the last action after an episode's end; mask is 0 there, or 1 with padding "repeated", and
      0 for the whole chunk with padding "whole".

    Args:
        obs: [B, O] at the start.
        action: [B, L, A]; ``reward`` and ``terminal`` [B, L]. From step ``left`` on they repeat the last one there is.
        left: [B] steps from the start to the end of the episode, or of the data.
        next_obs: [B, J, O] min(n_j, left) steps on.
    """
    points = np.asarray(c.points)
    left = left[:, None]  # [B, 1]
    k = jnp.arange(length(c))[None]
    inside = k < left  # [B, L]
    going = jnp.cumprod(1.0 - terminal * inside, axis=-1)  # [B, L] 1 while no success up to and at step k
    before = jnp.concatenate([jnp.ones_like(going[:, :1]), going[:, :-1]], axis=-1)
    discounted = jnp.cumsum(c.gamma ** begun(k, c) * reward * before * inside, axis=-1)
    n = jnp.asarray(points)[None]  # [1, J]
    alive = going[:, points - 1]
    played = inside[:, : c.horizon].astype(jnp.float32)
    masks = {
        "masked": played,
        "repeated": jnp.ones_like(played),
        "whole": jnp.broadcast_to(played[:, -1:], played.shape),
    }
    return Chunk(
        obs=obs,
        action=action[:, : c.horizon],
        mask=masks[c.padding],
        reward=discounted[:, points - 1],
        discount=c.gamma ** -begun(-n, c) * alive,
        next_obs=next_obs,
        weight=jnp.maximum((n <= left).astype(jnp.float32), 1.0 - alive),
        last=(left[:, 0] <= length(c)).astype(jnp.float32),
        extras={},
    )


def begun(steps, c: ChunkConfig):
    """How often gamma counts within so many steps: once each, or with discount "decision" once per whole chunk."""
    return steps if c.discount == "step" else steps // c.horizon


def of_decision(obs, action, reward, terminal, truncation, next_obs, alive, c: ChunkConfig) -> Chunk:
    """What one decision of E environments led to, h steps played of its plan; leading axes [h, E] but where told.

    An environment that ended inside the chunk rested from then on (``alive`` 0): nothing of that counts, next_obs is the
    true observation where it ended, and a time-out there is bootstrapped from that.
    """
    h = alive.shape[0]
    power = begun(jnp.arange(h), c)[:, None]
    count = jnp.sum(alive, axis=0)  # [E]
    ended, cut = (jnp.max(x * alive, axis=0) for x in (terminal, truncation))
    final = jnp.maximum(count.astype(jnp.int32) - 1, 0)
    after = jnp.take_along_axis(next_obs, final[None, :, None], axis=0)[0]  # [E, O]
    return Chunk(
        obs=obs[0],
        action=jnp.pad(jnp.moveaxis(action, 0, 1), ((0, 0), (0, c.horizon - h), (0, 0)), mode="edge"),
        mask=jnp.pad(alive.T, ((0, 0), (0, c.horizon - h))),
        reward=jnp.sum(c.gamma**power * reward * alive, axis=0)[:, None],
        discount=(c.gamma ** (count if c.discount == "step" else 1.0) * (1.0 - ended))[:, None],
        next_obs=after[:, None],
        weight=jnp.ones_like(count)[:, None],
        last=jnp.maximum(ended, cut),
        extras={},
    )


def draw(key: Key, data: Dataset, c: ChunkConfig, batch: int) -> Chunk:
    """``batch`` windows, whose starts are uniform over all transitions."""
    index = jax.random.randint(key, (batch,), 0, data.starts.shape[0])
    return windows(data, data.starts[index], c)


def check_fits(data: Dataset, c: ChunkConfig) -> None:
    """Refuses a chunk that is longer than every episode.

    Raises:
        UserError: names both lengths.
    """
    longest, needed = int(data.left.max()), length(c)
    if longest < needed:
        which = "--chunk.horizon" if c.horizon == needed else "--chunk.backup"
        raise UserError(
            f"{which} {needed} is longer than every episode of the data (the longest has {longest} steps)",
            f"give {which} {longest} or less",
        )
