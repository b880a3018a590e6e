"""A kinematic model of a free-flying gripper and cubes: no forces, no contact dynamics, no randomness.

What it models: a gripper that closes around a cube at a fitting yaw attaches it; the cube then moves with the gripper
until it opens; a cube that is not held falls to what supports it; a held cube is never pushed into another one, it is
lifted onto it. What it does not: pushing, slipping, toppling, an arm.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from qchunk.envs.tabletop.tasks import CUBE, REST, WORKSPACE
from qchunk.types import Array

MOVE, TURN = 0.05, 0.3  # metres and radians per unit of action
CLOSED = 0.5  # an opening from here on grips
REACH_XY, REACH_Z, REACH_YAW = 0.025, 0.03, 0.35  # how far off a cube may be when the gripper closes around it
FALL = 0.05  # metres per step
LOW, HIGH = (np.asarray(w, np.float32) for w in WORKSPACE)


class World(NamedTuple):
    """One scene; n cubes."""

    gripper: Array  # [3] metres
    yaw: Array  # [] radians
    closing: Array  # [] 0 open ... 1 closed
    cubes: Array  # [n, 3]
    turned: Array  # [n] yaw of each cube
    held: Array  # [n] one-hot, or zeros


def fold(angle: Array, period: float) -> Array:
    """The angle's representative in [-period / 2, period / 2)."""
    return jnp.mod(angle + period / 2, period) - period / 2


def advance(w: World, action: Array) -> World:
    """One step. ``action`` [5] in [-1, 1]: dx, dy, dz, dyaw, dclosing."""
    action = jnp.clip(action, -1.0, 1.0)
    gripper = jnp.clip(w.gripper + MOVE * action[:3], LOW, HIGH)
    yaw = w.yaw + TURN * action[3]
    closing = jnp.clip(w.closing + action[4], 0.0, 1.0)
    grips = closing >= CLOSED
    held = w.held * grips
    moved = w.cubes + held[:, None] * (gripper - w.gripper)
    floor = supports(moved, held, moved[:, 2] - CUBE, lifting=True)  # a held cube climbs onto what is in its way
    lift = jnp.max(held * jnp.maximum(floor - moved[:, 2], 0.0))
    gripper = gripper.at[2].add(lift)
    moved = moved.at[:, 2].add(held * lift)
    grasped = grips & (w.closing < CLOSED) & (jnp.sum(held) == 0)
    caught = grasped * graspable(gripper, yaw, moved, w.turned)
    aligned = w.turned + fold(yaw - w.turned, np.pi / 2)  # the jaws turn a cube to their own yaw, modulo 90 degrees
    turned = jnp.where(caught > 0, aligned, w.turned + held * TURN * action[3])
    held = held + caught
    return World(gripper, yaw, closing, settle(moved, held), turned, held)


def graspable(gripper: Array, yaw: Array, cubes: Array, turned: Array) -> Array:
    """One-hot [n] of the nearest cube if it lies between the fingers, their yaw fits (a cube looks alike every 90
    degrees) and no other cube lies on it, else zeros."""
    off = jnp.abs(cubes - gripper)
    near = (off[:, 0] < REACH_XY) & (off[:, 1] < REACH_XY) & (off[:, 2] < REACH_Z)
    fits = jnp.abs(fold(yaw - turned, np.pi / 2)) < REACH_YAW
    higher = cubes[None, :, 2] - cubes[:, None, 2]  # [n, n], of the second cube than the first
    covered = jnp.any(overlapping(cubes, CUBE) & (higher > CUBE / 2) & (higher < 1.5 * CUBE), axis=1)
    distance = jnp.where(near & fits & ~covered, jnp.sum(off, axis=-1), jnp.inf)
    nearest = distance == jnp.min(distance)
    return (nearest & jnp.isfinite(distance)).astype(jnp.float32)


def overlapping(cubes: Array, reach: float) -> Array:
    """[n, n] whether two cubes' centres are less than ``reach`` metres apart in x and in y; no cube is its own pair."""
    apart = jnp.abs(cubes[:, None, :2] - cubes[None, :, :2])
    return (apart[..., 0] < reach) & (apart[..., 1] < reach) & ~np.eye(len(cubes), dtype=bool)


def supports(cubes: Array, held: Array, below: Array, lifting: bool = False) -> Array:
    """Height [n] that each cube's centre rests at: on the table, or on the highest free cube under it.

    Args:
        below: [n] a cube can stand on those whose centre is no higher than this; ``lifting`` admits those at its own
            height too.
    """
    reach = CUBE if lifting else 0.75 * CUBE  # a cube whose centre is off by more slides off
    over = overlapping(cubes, reach)
    reachable = True if lifting else cubes[None, :, 2] <= below[:, None] + CUBE / 2
    blocking = cubes[None, :, 2] > cubes[:, None, 2] - CUBE if lifting else True
    stands = over & reachable & blocking & (held[None] == 0)
    return jnp.max(jnp.where(stands, cubes[None, :, 2] + CUBE, REST), axis=1)


def settle(cubes: Array, held: Array) -> Array:
    """Free cubes fall, at most FALL per step, until something supports them; none sinks below the table."""
    height = jnp.maximum(supports(cubes, held, cubes[:, 2] - CUBE), cubes[:, 2] - FALL)
    free = jnp.where(cubes[:, 2] > REST, jnp.minimum(height, cubes[:, 2]), REST)
    return cubes.at[:, 2].set(jnp.where(held > 0, jnp.maximum(cubes[:, 2], REST), free))
