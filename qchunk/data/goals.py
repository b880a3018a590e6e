"""Windows towards goals: any state may be the goal of any window, so that each transition is learned from for many (1707.01495).

Observations are {"state": ..., "goal": ...}. What a goal is, the environment says: ``goal_of(obs) -> goal`` [*B, G].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp

from qchunk.config import ChunkConfig, config
from qchunk.data import buffer, chunks
from qchunk.data.buffer import Picked, Ring, Source
from qchunk.data.chunks import Dataset
from qchunk.ranges import NonNegativeFloat
from qchunk.system.errors import UserError
from qchunk.types import Array, Chunk, Key, PyTree

GOAL = "goal"  # the leaf of an observation


@config
class GoalConfig:
    """What the goals of windows are, in these shares (2512.10926)."""

    current: NonNegativeFloat = 0.2
    """Share of the window's own first state."""
    future: NonNegativeFloat = 0.5
    """Share of a later state of the same episode; as published, the first and the last of them are half as likely as others."""
    random: NonNegativeFloat = 0.3
    """Share of any state."""

    def check(self, where: str) -> None:
        """Raises UserError where there are none."""
        total = self.current + self.future + self.random
        if isinstance(total, (int, float)) and not total > 0:  # it may be traced
            problem = f"--{where}current, --{where}future and --{where}random are all 0"
            raise UserError(problem, "give one of them")


class Draws(NamedTuple):
    """The noise of a batch of goals."""

    kind: Array  # [B] in [0, 1): see ``offsets``
    later: Array  # [B] in [0, 1)
    goal: Array  # [B, G] that of a random state ...
    place: Array  # [B] int32 ... and which one it is: row r of the data is r, row r of the ring R + r


def needs_goals(config_class: type) -> bool:
    """Whether a method learns for goals: its configuration holds a ``GoalConfig``."""
    return GoalConfig in get_type_hints(config_class).values()


def no_goals(c: Any, env: str) -> UserError:
    """The error for a method that learns for goals where the environment of this name shows none."""
    fix = "take one with goals, such as tabletop/cube-double-goal; one of your own needs goal_of(obs)"
    return UserError(f"{type(c).__name__} learns for goals, and {env} has none", fix)


def draw_toward_goals(key: Key, source: Source, c: ChunkConfig, batch: int, goals: GoalConfig) -> Chunk:
    """``batch`` windows [B, ...] as ``buffer.draw`` finds them, each with a goal as ``goals`` says, judged by whether it is reached.

    With d the steps from the window's start to its goal (of another episode, or before the start: never reached), and n the
    backup point: k = d where 0 <= d < n, else n; reward [B, 1] is gamma^k where d < n, else 0; discount [B, 1] 0 there, else
    gamma^n; next_obs is k steps on. Weight is 0 where the window leaves its episode without reaching its goal. Rewards and
    terminals of the experience itself do not count.

    Args:
        source: ``goal_of`` is needed.

    Raises:
        UserError: several backup points.
    """
    if len(c.points) != 1:
        raise UserError(f"--chunk.backup names {len(c.points)} points, and goals need one", "give one backup point")
    start_key, random_key, kind_key, later_key = jax.random.split(key, 4)
    picked = buffer.pick(start_key, source, c, batch)
    goal, place = random_states(source, buffer.pick(random_key, source, dataclasses.replace(c, starts="step"), batch))
    noise = Draws(jax.random.uniform(kind_key, (batch,)), jax.random.uniform(later_key, (batch,)), goal, place)
    mine, theirs = picked.parts(noise)

    def offline(rows: Array) -> Chunk:
        return toward(in_data(source.data, rows, c), mine, c, goals, source.goal_of)

    def online(env: Array, position: Array) -> Chunk:
        return toward(in_ring(source.ring, env, position, rows_of(source), c), theirs, c, goals, source.goal_of)

    return picked.chunks(offline, online)


def rows_of(source: Source) -> int:
    """How many rows the data set has: the place of the ring's first one."""
    return 0 if source.data is None else len(source.data.left)


class Way(NamedTuple):
    """What lies ahead of the starts [B] of some windows."""

    chunk: Chunk  # [B] the windows
    left: Array  # [B] int32, steps to the end of the episode, or of the data
    ahead: Callable  # place [B] -> steps from the start to that state, negative or beyond ``left`` where it is another way's
    state: Callable  # steps [B], at most ``left`` -> obs [B, O]


def in_data(data: Dataset, rows: Array, c: ChunkConfig) -> Way:
    """Windows that start at rows [B] of a data set."""

    def state(steps: Array) -> PyTree:
        return jax.tree.map(lambda x: x[rows + steps], data.obs)

    return Way(chunks.windows(data, rows, c), data.left[rows], lambda place: place - rows, state)


def in_ring(ring: Ring, env: Array, position: Array, first: int, c: ChunkConfig) -> Way:
    """Windows that start at a position [B] of environments [B].

    Args:
        first: the place of the ring's first row.
    """
    _, capacity = buffer.size(ring)
    left = buffer.left_in_all(ring, env, position)

    def ahead(place: Array) -> Array:
        steps = (place - first - position) % capacity
        mine = (place >= first) & ((place - first) // capacity == env)
        # what an episode ends in has no row of its own: the next one begins there
        return jnp.where(mine & (steps < left), steps, -1)

    def state(steps: Array) -> PyTree:
        before = buffer.rows_at(ring, env, position, jnp.maximum(steps - 1, 0)[:, None])[:, 0]
        start = steps == 0

        def pick(obs: Array, after: Array) -> Array:
            return jnp.where(start[:, None], obs[before], after[before])

        return jax.tree.map(pick, ring.obs, ring.next_obs)

    return Way(buffer.windows(ring, env, position, c), left, ahead, state)


def random_states(source: Source, picked: Picked) -> tuple[Array, Array]:
    """The goals [B, G] that the states of these starts reach, and their places [B] (``Draws``)."""
    data: Any = source.data
    ring: Any = source.ring

    def reached(obs: PyTree, rows: Array) -> Array:
        return source.goal_of(jax.tree.map(lambda x: x[rows], obs))  # type: ignore[misc]

    def online(env: Array, position: Array) -> tuple[Array, Array]:
        rows = buffer.rows_at(ring, env, position, jnp.zeros((1, 1), jnp.int32))[:, 0]
        return reached(ring.obs, rows), rows_of(source) + rows

    return picked.joined(lambda rows: (reached(data.obs, rows), rows), online)


def toward(way: Way, noise: Draws, c: ChunkConfig, goals: GoalConfig, goal_of: Callable) -> Chunk:
    """The windows of a way, each towards its goal; see ``draw_toward_goals``."""
    n, chunk = c.points[0], way.chunk
    steps, is_random = offsets(way, noise, goals)
    own = goal_of(way.state(jnp.clip(steps, 0, way.left)))
    goal = jnp.where(is_random[:, None], noise.goal, own)
    reached = (steps >= 0) & (steps < n) & (steps <= way.left)
    k = jnp.where(reached, steps, n)
    success = reached.astype(jnp.float32)
    worth = c.gamma ** chunks.begun(k, c)
    after = jax.tree.map(lambda x: x[:, None], way.state(jnp.minimum(k, way.left)))
    return chunk._replace(
        obs={**chunk.obs, GOAL: goal},
        next_obs={**after, GOAL: goal[:, None]},
        reward=(worth * success)[:, None],
        discount=(worth * (1.0 - success))[:, None],
        weight=jnp.maximum(success, (n <= way.left).astype(jnp.float32))[:, None],
    )


def offsets(way: Way, noise: Draws, goals: GoalConfig) -> tuple[Array, Array]:
    """Steps [B] from each start to its goal, and whether that is a random state, bool [B].

    ``noise.kind`` below the share of ``current`` is the start itself, the next share a later state of the episode, the rest random ones.
    """
    kind = noise.kind * (goals.current + goals.future + goals.random)
    later = jnp.round(noise.later + way.left * (1.0 - noise.later)).astype(jnp.int32)  # in 1 ... left
    is_random = kind >= goals.current + goals.future
    found = jnp.where(kind < goals.current, 0, later)
    return jnp.where(is_random, way.ahead(noise.place), found), is_random
