"""Scripted pick-and-place, as pure functions of (key, state, carry).

The plan has the keyframes, durations (0.4 s per segment, 20 Hz) and noise of OGBench's plan oracle: above the cube, down,
close, up, over, above the goal, down, open, up, away. Its noise is Gaussian with standard deviation 0.1 times (5 cm, 5 cm,
5 cm, 0.3 rad, 1), smoothed over neighbouring steps with a Gaussian of 0.5 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.envs.base import Behaviour, State
from qchunk.envs.tabletop.physics import MOVE, TURN, World, fold
from qchunk.envs.tabletop.tasks import ARM_START, CUBE, OBJECTS, REST
from qchunk.types import Array, Key

SEGMENTS = np.asarray([0, 1, 1.5, 1, 1, 1, 1, 1.5, 1, 1, 1]) * 8.0  # steps between keyframes; 0.4 s are 8 steps
GRASPS = np.asarray([0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0], np.float32)
UNIT = np.asarray([MOVE, MOVE, MOVE, TURN, 1.0], np.float32)  # of one unit of action
NOISE = 0.1
SMOOTHING = np.exp(-np.asarray([1.0, 0.0, 1.0]) / (2 * 0.5**2))
SMOOTHING = (SMOOTHING / SMOOTHING.sum()).astype(np.float32)
ASIDE = (0.5, 0.0)  # where a cube waits that is in another's way


class Target(NamedTuple):
    """One cube's errand."""

    cube: Array  # [] int32
    place: Array  # [3]
    yaw: Array  # []


class Carry(NamedTuple):
    """What a plan oracle remembers."""

    frames: Array  # [11, 5] keyframes: xyz, yaw, closing
    times: Array  # [11] in steps, ascending
    clock: Array  # [] steps since the plan began
    noise: Array  # [2, 5] the last two draws
    stack: Array  # [] this episode's probability to stack


def nearest(angle: Array, to: Array, period: float) -> Array:
    """The angle equivalent to ``angle`` modulo ``period`` that is nearest to ``to``."""
    return to + fold(angle - to, period)


def draw_plan(key: Key, w: World, target: Target) -> tuple[Array, Array]:
    """Keyframes [11, 5] and times [11] that carry a cube to its target."""
    keys = jax.random.split(key, 5)
    rise = jax.random.uniform(keys[0], (2,), minval=0.1, maxval=0.2)
    away = jax.random.uniform(keys[1], (3,), minval=np.asarray(ARM_START[0]), maxval=np.asarray(ARM_START[1]))
    away_yaw = jax.random.uniform(keys[2], (), minval=-np.pi, maxval=np.pi)
    wander = jax.random.uniform(keys[3], (3,), minval=np.asarray([-0.1, -0.1, 0.0]), maxval=np.asarray([0.1, 0.1, 0.2]))
    jitter = jax.random.uniform(keys[4], (11,), minval=-1.6, maxval=1.6) * (np.arange(11) > 0)
    up = jnp.asarray([0.0, 0.0, 1.0])
    cube = w.cubes[target.cube]
    pick_yaw = nearest(w.turned[target.cube], w.yaw, np.pi / 2)
    place_yaw = nearest(target.yaw, pick_yaw, np.pi / 2)
    above, over = cube + up * rise[0], target.place + up * rise[1]
    midway = ((above + over) / 2).at[2].set(w.gripper[2]) + wander
    xyz = jnp.stack([w.gripper, above, cube, cube, above, midway, over, target.place, target.place, over, away])
    half = (pick_yaw + place_yaw) / 2
    last = nearest(away_yaw, place_yaw, 2 * np.pi)
    yaw = jnp.stack([w.yaw, *[pick_yaw] * 4, half, *[place_yaw] * 4, last])
    frames = jnp.concatenate([xyz, yaw[:, None], jnp.asarray(GRASPS)[:, None]], axis=1)
    return frames, jnp.asarray(np.cumsum(SEGMENTS), jnp.float32) + jitter


def read_plan(carry: Carry) -> Array:
    """The plan's pose [5] at the clock, linear between keyframes."""
    t = jnp.minimum(carry.clock, carry.times[-1])
    return jax.vmap(jnp.interp, in_axes=(None, None, 1))(t, carry.times, carry.frames)


def plan_oracle(choose: Callable[[Key, World, Array], Target], stack: tuple[float, float]) -> Behaviour:
    """Follows plan after plan; ``choose`` (key, world, stack probability) gives each one's target."""

    def begin(key: Key, w: World, stacking: Array, noise: Array) -> Carry:
        target_key, plan_key = jax.random.split(key)
        frames, times = draw_plan(plan_key, w, choose(target_key, w, stacking))
        return Carry(frames, times, jnp.zeros(()), noise, stacking)

    def init(key: Key, state: State) -> Carry:
        stack_key, plan_key, noise_key = jax.random.split(key, 3)
        stacking = jax.random.uniform(stack_key, (), minval=stack[0], maxval=stack[1])
        return begin(plan_key, state.pipeline_state, stacking, jax.random.normal(noise_key, (2, 5)))

    def act(key: Key, state: State, carry: Carry) -> tuple[Array, Carry]:
        w: World = state.pipeline_state
        noise_key, plan_key = jax.random.split(key)
        done = carry.clock >= carry.times[-1]
        fresh = begin(plan_key, w, carry.stack, carry.noise)
        carry = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, carry)
        drawn = jnp.concatenate([carry.noise, jax.random.normal(noise_key, (1, 5))])
        wanted = read_plan(carry) + NOISE * UNIT * (SMOOTHING @ drawn)
        now = jnp.concatenate([w.gripper, jnp.stack([w.yaw, w.closing])])
        return jnp.clip((wanted - now) / UNIT, -1.0, 1.0), carry._replace(clock=carry.clock + 1, noise=drawn[1:])

    return Behaviour(init, act)


def free_cubes(w: World) -> Array:
    """1 for each cube [n] with none on top of it."""
    apart = jnp.abs(w.cubes[:, None] - w.cubes[None])  # [n, n, 3]
    on = (apart[..., 0] < CUBE) & (apart[..., 1] < CUBE) & (w.cubes[None, :, 2] > w.cubes[:, None, 2] + CUBE / 2)
    return 1.0 - jnp.max(on.astype(jnp.float32), axis=1)


def random_target(key: Key, w: World, stacking: Array) -> Target:
    """A random free cube to a random place, or onto another free cube with probability ``stacking``."""
    cube_key, place_key, yaw_key, on_key = jax.random.split(key, 4)
    n, free = len(w.cubes), free_cubes(w)
    # Gumbel-max: a uniform choice among the free ones, and another among the rest
    order = jnp.where(free > 0, jax.random.gumbel(cube_key, (n,)), -jnp.inf)
    cube = jnp.argmax(order)
    others = jnp.where(jnp.arange(n) == cube, -jnp.inf, order)
    below = jnp.argmax(others)
    xy = jax.random.uniform(place_key, (2,), minval=np.asarray(OBJECTS[0]), maxval=np.asarray(OBJECTS[1]))
    on = (jax.random.uniform(on_key) < stacking) & jnp.isfinite(others[below])
    place = jnp.where(on, w.cubes[below] + jnp.asarray([0, 0, CUBE]), jnp.append(xy, REST))
    return Target(cube, place, jax.random.uniform(yaw_key, (), maxval=2 * np.pi))


def play(env: Any) -> Behaviour:
    """Play data: random errands without end, no task label."""
    return plan_oracle(random_target, env.parts.stack)


def commanded(env: Any) -> Behaviour:
    """The same oracle, which carries the cubes to the task's goals in a workable order.

    Next goes the first cube that is off its goal, free, and finds its goal free and supported; where all goals are
    blocked, the first free cube, of those that are off if there is one, is laid aside.
    """
    goal = jnp.asarray(env.goal)

    def next_errand(key: Key, w: World, stacking: Array) -> Target:
        del key, stacking
        off = jnp.sum(jnp.square(w.cubes - goal), axis=-1) > (0.5 * CUBE) ** 2
        apart = jnp.abs(goal[:, None] - w.cubes[None])  # goal i, cube j
        other = ~np.eye(len(goal), dtype=bool)
        near = (apart[..., 0] < 1.2 * CUBE) & (apart[..., 1] < 1.2 * CUBE)
        blocked = jnp.any(near & (apart[..., 2] < CUBE / 2) & other, axis=1)
        grounded = (goal[:, 2] < REST + CUBE / 2) | jnp.any(
            near & (jnp.abs(goal[:, None, 2] - CUBE - w.cubes[None, :, 2]) < CUBE / 2) & other, axis=1
        )
        free = free_cubes(w)
        ready = off & ~blocked & grounded & (free > 0)
        cube = jnp.argmax(free * (1 + off + 2 * ready))  # the first of the highest rank
        aside = jnp.append(jnp.asarray(ASIDE), REST)
        return Target(cube, jnp.where(jnp.any(ready), goal[cube], aside), jnp.zeros(()))

    return plan_oracle(next_errand, (0.0, 0.0))


class MarkovCarry(NamedTuple):
    """What the Markov oracle keeps for an episode, and for an errand."""

    target: Target
    level: Array  # [] this episode's noise
    stack: Array  # []
    placed: Array  # [] 1 once the cube has been let go at its target
    clock: Array  # [] steps of this errand


def noisy(env: Any, p_random: float = 0.1, noise: float = NOISE, patience: int = 200) -> Behaviour:
    """A closed-loop oracle with per-episode noise U(0, 0.1), times (1, 1, 1, 3, 10), and 10 % uniform actions."""
    scale = np.asarray([1.0, 1.0, 1.0, 3.0, 10.0], np.float32)

    def begin(key: Key, w: World, level: Array, stacking: Array) -> MarkovCarry:
        return MarkovCarry(random_target(key, w, stacking), level, stacking, jnp.zeros(()), jnp.zeros(()))

    def init(key: Key, state: State) -> MarkovCarry:
        level_key, stack_key, target_key = jax.random.split(key, 3)
        stacking = jax.random.uniform(stack_key, (), minval=env.parts.stack[0], maxval=env.parts.stack[1])
        return begin(target_key, state.pipeline_state, jax.random.uniform(level_key, maxval=noise), stacking)

    def act(key: Key, state: State, carry: MarkovCarry) -> tuple[Array, MarkovCarry]:
        w: World = state.pipeline_state
        target_key, noise_key, coin_key, random_key = jax.random.split(key, 4)
        cube = w.cubes[carry.target.cube]
        there = jnp.sum(jnp.square(cube - carry.target.place)) < 0.02**2
        placed = jnp.maximum(carry.placed, (there & (jnp.sum(w.held) == 0)).astype(jnp.float32))
        done = ((placed > 0) & (w.gripper[2] > 0.12)) | (carry.clock > patience)
        fresh = begin(target_key, w, carry.level, carry.stack)
        carry = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, carry._replace(placed=placed))
        action = towards(w, carry) + carry.level * scale * jax.random.normal(noise_key, (5,))
        anything = jax.random.uniform(random_key, (5,), minval=-1.0, maxval=1.0)
        action = jnp.where(jax.random.uniform(coin_key) < p_random, anything, action)
        return jnp.clip(action, -1.0, 1.0), carry._replace(clock=carry.clock + 1)

    return Behaviour(init, act)


def towards(w: World, carry: MarkovCarry) -> Array:
    """The Markov oracle's action [5]: over the cube, down, close; up, over the goal, down, open, up."""
    cube, place = w.cubes[carry.target.cube], carry.target.place
    holds = w.held[carry.target.cube] > 0
    aim = jnp.where(holds, place, cube)
    yaw = nearest(jnp.where(holds, carry.target.yaw, w.turned[carry.target.cube]), w.yaw, np.pi / 2)
    off = jnp.max(jnp.abs(aim[:2] - w.gripper[:2]))
    level = jnp.abs(aim[2] - w.gripper[2]) < 0.012
    height = jnp.where(off < 0.015, aim[2], jnp.where(off < 0.05, aim[2] + 0.06, aim[2] + 0.14))
    closing = jnp.where(holds, jnp.where((off < 0.015) & level, -1.0, 1.0), jnp.where((off < 0.012) & level, 1.0, -1.0))
    wanted = jnp.concatenate([aim[:2], height[None]])
    leave = jnp.concatenate([w.gripper[:2], jnp.asarray([0.2])])
    wanted = jnp.where(carry.placed > 0, leave, wanted)
    move = jnp.clip((wanted - w.gripper) / MOVE, -1.0, 1.0)
    turn = jnp.clip((yaw - w.yaw) / TURN, -1.0, 1.0) * (carry.placed == 0)
    return jnp.concatenate([move, jnp.stack([turn, jnp.where(carry.placed > 0, -1.0, closing)])])
