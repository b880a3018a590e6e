"""From rows of experience to chunks. The only home of gamma, of masks and of episode ends.

Rows stand in time order, episode after episode. An episode of L transitions takes L + 1 rows: the last one holds
the final observation only. Row i's action leads from row i's observation to row i + 1's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.config import ChunkConfig
from qchunk.system.errors import UserError
from qchunk.types import PLAN_STEP, Array, Chunk, Key, PyTree, Steps


class Dataset(NamedTuple):
    """Experience on the device, float32 where it is not of whole numbers. R rows, M transitions, O and A as in types.py."""

    obs: PyTree  # [R, O]
    action: Array  # [R, A] in [-1, 1]
    reward: Array  # [R]
    terminal: Array  # [R] 1 where the step reached a success or failure: no bootstrap; data may go on after it
    left: Array  # [R] int32, transitions from this row to its episode's end; 0 on a final observation
    starts: Array  # [M] int32, the rows of all transitions: windows may start at each
    decisions: Array  # int32, those at which a policy decided; all of them where no PLAN_STEP is kept
    episodes: Array  # int32, those that are their episode's first
    extras: dict = {}  # noqa: RUF012  (never written to)  [R, ...] each, what else is kept of a step; see types.Steps


def left_of(end: np.ndarray) -> np.ndarray:
    """Transitions left at each row, from the flag [R] on rows that hold a final observation."""
    rows = np.arange(len(end))
    finals = rows[end.astype(bool)]
    return (finals[np.searchsorted(finals, rows)] - rows).astype(np.int32)


def dataset(obs, action, reward, terminal, end, extras: dict | None = None) -> Dataset:
    """Puts rows (see the module's docstring; ``end`` [R] flags final observations) on the device."""
    left, starts = places(np.asarray(end), extras or {})
    a, r, t = (jnp.asarray(np.asarray(x), jnp.float32) for x in (action, reward, terminal))
    obs, extras = jax.tree.map(_placed, (obs, extras or {}))
    return Dataset(obs, a, r, t, left, starts[0], starts[1], starts[2], extras)


def places(end: np.ndarray, extras: dict) -> tuple[Array, list[Array]]:
    """``left`` of a Dataset, and its ``starts``, ``decisions`` and ``episodes``."""
    left = left_of(end)
    inside, first = left > 0, np.append(True, left[:-1] == 0)
    decides = inside & (np.asarray(extras[PLAN_STEP]) == 0) if PLAN_STEP in extras else inside
    starts, decisions, episodes = (np.flatnonzero(at).astype(np.int32) for at in (inside, decides, inside & first))
    found = jnp.asarray(starts)
    return jnp.asarray(left), [found, found if decides is inside else jnp.asarray(decisions), jnp.asarray(episodes)]


def _placed(x: Any) -> Array:
    """Floats become float32; whole numbers keep their type."""
    x = np.asarray(x)
    return jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else None)


def with_history(data: Dataset, count: int) -> Dataset:
    """The same data seen through ``History``: each observation is the last ``count`` ones, oldest first [R, count * O].

    Before an episode's start its first observation is repeated (2303.04137, section IV).
    """
    if count == 1:
        return data
    row = jnp.arange(data.left.shape[0])
    rows, at = [], row
    for j in range(count):
        rows.append(at)
        # the row before is of the same episode if it has one transition more to go; else an episode starts here
        before = jnp.maximum(row - j - 1, 0)
        same = (data.left[before] == data.left + j + 1) & (row > j)
        at = jnp.where(same, before, at)
    return data._replace(obs=jax.tree.map(lambda x: jnp.concatenate([x[at] for at in rows[::-1]], axis=-1), data.obs))


def length(c: ChunkConfig) -> int:
    """Steps that a window reads."""
    return max(c.horizon, c.points[-1])


def windows(data: Dataset, start: Array, c: ChunkConfig, per_step: Sequence[str] = ()) -> Chunk:
    """The chunks that start at the rows ``start`` [B]; see ``cut``, also for ``per_step``."""
    left = data.left[start]
    rows = start[:, None] + jnp.minimum(jnp.arange(length(c))[None], left[:, None] - 1)
    after = start[:, None] + jnp.minimum(jnp.asarray(c.points)[None], left[:, None])
    obs, next_obs = (jax.tree.map(lambda x: x[at], data.obs) for at in (start, after))
    extras = rows_of(data.extras, start, rows, c, per_step)
    return cut(obs, data.action[rows], data.reward[rows], data.terminal[rows], left, next_obs, c, extras)


def rows_of(extras: dict, start: Array, rows: Array, c: ChunkConfig, per_step: Sequence[str]) -> dict:
    """What windows hold of ``extras`` [R, ...]: their start row's [B, ...], of those ``per_step`` every action's [B, H, ...].

    Args:
        start: [B]; ``rows`` [B, L], of the windows' steps.

    Raises:
        ValueError: a name of ``per_step`` that the experience does not have.
    """
    if missing := set(per_step) - extras.keys():
        raise ValueError(f"the experience has no extras {sorted(missing)}; it has {sorted(extras)}")
    at = {name: rows[:, : c.horizon] if name in per_step else start for name in extras}
    return {name: jax.tree.map(lambda x: x[at[name]], x) for name, x in extras.items()}


def cut(
    obs: PyTree,
    action: Array,
    reward: Array,
    terminal: Array,
    left: Array,
    next_obs: PyTree,
    c: ChunkConfig,
    extras: dict | None = None,
) -> Chunk:
    """Chunks from the steps of their windows; L = ``length(c)``.

    With n = backup point j, and the episode's own successes masked as m (1 before, 0 from one on):

    - reward_j = sum_{k<n} gamma^k r_{t+k} prod_{i<k} m_{t+i}: rewards after a success inside the window do not count
      (the published code adds them);
    - discount_j = gamma^n, or 0 if a success lies inside the window: an exact target, whatever the later actions
      (in both, with discount "decision", gamma counts once per H steps: see ``begun``);
    - weight_j = 1 if the window is whole or holds a success; 0 where a time-out cuts it (docs/decisions.md says what
      that does to short episodes);
    - next_obs_j is the true observation n steps on, or the episode's final one;
    - action is padded with the last action after an episode's end; mask is 0 there, or 1 with padding "repeated", and
      0 for the whole chunk with padding "whole";
    - extras are those of the first step, except for those taken ``per_step``, which go with the actions: [B, H, ...],
      and are padded like them.

    Args:
        obs: [B, O] at the start.
        action: [B, L, A]; ``reward`` and ``terminal`` [B, L]. From step ``left`` on they repeat the last one there is.
        left: [B] steps from the start to the end of the episode, or of the data.
        next_obs: [B, J, O] min(n_j, left) steps on.
        extras: see ``rows_of``.
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
        extras=extras or {},
    )


def consecutive(data: Dataset, start: Array, count: int, c: ChunkConfig, per_step: Sequence[str] = ()) -> Chunk:
    """U = ``count`` chunks from the rows ``start`` [B] on, each H steps after the last: leaves [B, U, ...].

    Each is its own window (``cut``), also after a success that data go on from: ``discount`` 0 says that nothing behind it
    counts. A chunk that would start at or after its episode's end is not there: see ``absent``.
    """
    left, ahead = data.left[start][:, None], jnp.arange(count)[None] * c.horizon  # [B, 1], [1, U]
    at = start[:, None] + jnp.minimum(ahead, left - 1)
    return side_by_side(windows(data, at.reshape(-1), c, per_step), ahead < left)


def side_by_side(chunk: Chunk, there: Array) -> Chunk:
    """Chunks [B * U, ...] as [B, U, ...], those ``absent`` that are not ``there`` [B, U]."""
    chunk = absent(chunk, ~there.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(*there.shape, *x.shape[1:]), chunk)


def absent(chunk: Chunk, gone: Array) -> Chunk:
    """The chunks [B, ...], of which those ``gone`` [B] count nowhere: mask, reward and weight are 0 and ``last`` is 1.

    Such a chunk stands at the last step of its episode; its obs is made the final observation, as its next_obs is.
    """

    def where(yes: Any, no: Any) -> Array:
        return jnp.where(gone.reshape(-1, *[1] * (jnp.ndim(no) - 1)), yes, no)

    final = jax.tree.map(lambda x: x[:, -1], chunk.next_obs)
    zeros = {name: where(0.0, getattr(chunk, name)) for name in ("mask", "reward", "weight")}
    return chunk._replace(obs=jax.tree.map(where, final, chunk.obs), last=where(1.0, chunk.last), **zeros)


def begun(steps, c: ChunkConfig):
    """How often gamma counts within so many steps: once each, or with discount "decision" once per whole chunk."""
    return steps if c.discount == "step" else steps // c.horizon


def whole_discount(c: ChunkConfig):
    """gamma^h, the discount of a whole chunk."""
    return c.gamma ** begun(c.horizon, c)


def of_chunk(fn: Callable, see: Callable[[Chunk], Chunk]) -> Callable:
    """The same function of (..., chunk), called with what ``see`` makes of the chunk."""
    return lambda *a: fn(*a[:-1], see(a[-1]))


def beginning(chunk: Chunk, length: int) -> Chunk:
    """The first ``length`` actions of a chunk; what it led to stays that of the whole."""
    return chunk._replace(action=chunk.action[..., :length, :], mask=chunk.mask[..., :length])


def of_decision(steps: Steps, c: ChunkConfig) -> Chunk:
    """What one decision of E environments led to, h steps [h, E, ...] played of its plan; without extras.

    An environment that ended inside the chunk rested from then on (``alive`` 0): nothing of that counts, next_obs is the
    true observation where it ended, and a time-out there is bootstrapped from that.
    """
    alive, h = steps.alive, steps.alive.shape[0]
    power = begun(jnp.arange(h), c)[:, None]
    count = jnp.sum(alive, axis=0)  # [E]
    ended, cut = (jnp.max(x * alive, axis=0) for x in (steps.terminal, steps.truncation))
    final = jnp.maximum(count.astype(jnp.int32) - 1, 0)
    return Chunk(
        obs=jax.tree.map(lambda x: x[0], steps.obs),
        action=jnp.pad(jnp.moveaxis(steps.action, 0, 1), ((0, 0), (0, c.horizon - h), (0, 0)), mode="edge"),
        mask=jnp.pad(alive.T, ((0, 0), (0, c.horizon - h))),
        reward=jnp.sum(c.gamma**power * steps.reward * alive, axis=0)[:, None],
        discount=(c.gamma ** (count if c.discount == "step" else 1.0) * (1.0 - ended))[:, None],
        next_obs=jax.tree.map(
            lambda x: jnp.take_along_axis(x, final[None, :, None], axis=0)[0][:, None], steps.next_obs
        ),
        weight=jnp.ones_like(count)[:, None],
        last=jnp.maximum(ended, cut),
        extras={},
    )


def kept(extras: dict, steps: int, envs: int) -> dict:
    """``Steps.extras`` of the ``steps`` [n, E] of a plan that has these ``extras`` [E, ...]: they stand at every step.

    PLAN_STEP is beside them, unless every step is a decision; a plan that has it says how far it had come at the first step.
    """
    found = jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), extras)
    if steps == 1:
        return found
    before = found.get(PLAN_STEP, jnp.zeros((steps, envs), jnp.int32))
    return {**found, PLAN_STEP: before + jnp.arange(steps, dtype=jnp.int32)[:, None]}


def draw(key: Key, data: Dataset, c: ChunkConfig, batch: int, per_step: Sequence[str] = ()) -> Chunk:
    """``batch`` windows, whose starts are uniform over ``starts_of``."""
    return windows(data, draw_starts(key, data, c, batch), c, per_step)


def draw_starts(key: Key, data: Dataset, c: ChunkConfig, batch: int) -> Array:
    """The rows [B] of ``draw``."""
    return start_at(data, jax.random.randint(key, (batch,), 0, count_starts(data, c)), c)


def starts_of(data: Dataset, c: ChunkConfig) -> Array:
    """The rows among which a window may start: those that ``c.starts`` names, or every transition's, of which "whole" takes some (``may_start``)."""
    return {"decision": data.decisions, "episode": data.episodes}.get(c.starts, data.starts)


def may_start(data: Dataset, c: ChunkConfig) -> Array:
    """Whether a window may start at each of ``starts_of``: "whole" takes those that lie inside their episode."""
    return data.left[starts_of(data, c)] >= (length(c) if c.starts == "whole" else 1)


def count_starts(data: Dataset, c: ChunkConfig) -> Array | int:
    """How many rows a window may start at."""
    return jnp.sum(whole_starts(data, c)) if c.starts == "whole" else starts_of(data, c).shape[0]


def start_at(data: Dataset, index: Array, c: ChunkConfig) -> Array:
    """The rows of starts number ``index`` [B]; 0 is the first, and what is beyond the last one is that."""
    if c.starts != "whole":
        rows = starts_of(data, c)
        return rows[jnp.minimum(index, rows.shape[0] - 1)]
    upto = jnp.cumsum(whole_starts(data, c))
    index = jnp.minimum(index, upto[-1] - 1)
    episode = jnp.searchsorted(upto, index, side="right")
    return data.episodes[episode] + index - jnp.where(episode > 0, upto[episode - 1], 0)


def whole_starts(data: Dataset, c: ChunkConfig) -> Array:
    """How many windows lie inside each episode, int32; the first of them starts at its first row.

    The published code of goal-conditioned methods drops the last of each (2512.10926).
    """
    return jnp.maximum(data.left[data.episodes] - length(c) + 1, 0)


def check_rows(data: Dataset) -> None:
    """Refuses data put together by hand whose leaves are of different rows, or that hold no transition.

    Raises:
        UserError: names the lengths.
    """
    leaves = {n: getattr(data, n) for n in ("obs", "action", "reward", "terminal", "left", "extras")}
    rows = {n: sorted({x.shape[0] for x in jax.tree.leaves(leaf)}) for n, leaf in leaves.items()}
    if len({n for found in rows.values() for n in found}) > 1:
        raise UserError(
            f"the data's leaves have other numbers of rows: {rows}", "make them by qchunk.data.chunks.dataset"
        )
    if 0 in (data.starts.shape[0], data.decisions.shape[0], data.episodes.shape[0]):
        raise UserError("the data hold no transition to start from", "make them by qchunk.data.chunks.dataset")


def check_fits(data: Dataset, c: ChunkConfig, which: str = "of the data") -> None:
    """Refuses a chunk that is longer than every episode; ``which`` says of what these are.

    Raises:
        UserError: names both lengths.
    """
    longest, needed = int(np.asarray(data.left).max()), length(c)  # not jnp: it may be within a trace
    if longest < needed:
        flag = "--chunk.horizon" if c.horizon == needed else "--chunk.backup"
        raise UserError(
            f"{flag} {needed} is longer than every episode {which} (the longest has {longest} steps)",
            f"give {flag} {longest} or less" + (" (in compare: --horizon)" if flag == "--chunk.horizon" else ""),
        )
