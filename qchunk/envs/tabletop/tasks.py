"""The scenes' numbers: start and goal poses, limits and bounds, as in OGBench 1.2's cube environments.

Metres, with x forward, y left, z up; a cube's z is that of its centre. Source, facts only: the task tables and limits of the
package ogbench 1.2.2 (ogbench.manipspace, cube single to quadruple); the ranges of the stacking probability are those of OGBench's
script for collecting cube data.
"""

from __future__ import annotations

from typing import NamedTuple

CUBE = 0.04  # edge length
REST = CUBE / 2  # height of a cube's centre on the table
SUCCESS = 0.04  # distance to the goal that satisfies it
WORKSPACE = ((0.25, -0.35, 0.02), (0.6, 0.35, 0.35))
ARM_START = ((0.25, -0.35, 0.20), (0.6, 0.35, 0.35))
OBJECTS = ((0.3, -0.3), (0.55, 0.3))  # where cubes are put in data collection, and its targets
CENTRE, SCALE, GRIPPER_SCALE = (0.425, 0.0, 0.0), 10.0, 3.0  # of observations
START_NOISE = 0.01  # of a task's start positions, uniform in x and y

XYZ = tuple[float, float, float]


class Task(NamedTuple):
    """Where each cube starts and where it shall be."""

    start: tuple[XYZ, ...]
    goal: tuple[XYZ, ...]


class Scene(NamedTuple):
    """A number of cubes, and the five tasks with them."""

    cubes: int
    episode_length: int  # environment steps
    stack: tuple[float, float]  # range of the probability that play data stack, drawn per episode
    tasks: tuple[Task, ...]


def _at(*xy: tuple[float, float]) -> tuple[XYZ, ...]:
    """Cubes on the table."""
    return tuple((x, y, REST) for x, y in xy)


def _tower(x: float, y: float, cubes: int) -> tuple[XYZ, ...]:
    """Cubes one on the other, the first at the bottom."""
    return tuple((x, y, REST + i * CUBE) for i in range(cubes))


SCENES = {
    "cube-single": Scene(
        1,
        200,
        (0.0, 0.0),
        (
            Task(_at((0.425, 0.1)), _at((0.425, -0.1))),
            Task(_at((0.35, 0.0)), _at((0.50, 0.0))),
            Task(_at((0.50, 0.0)), _at((0.35, 0.0))),
            Task(_at((0.35, -0.2)), _at((0.50, 0.2))),
            Task(_at((0.35, 0.2)), _at((0.50, -0.2))),
        ),
    ),
    "cube-double": Scene(
        2,
        500,
        (0.0, 0.25),
        (
            Task(_at((0.425, 0.0), (0.425, -0.1)), _at((0.425, 0.0), (0.425, 0.1))),
            Task(_at((0.35, -0.1), (0.50, -0.1)), _at((0.35, 0.1), (0.50, 0.1))),
            Task(_at((0.35, 0.0), (0.50, 0.0)), _at((0.425, -0.2), (0.425, 0.2))),
            Task(_at((0.425, -0.1), (0.425, 0.1)), _at((0.425, 0.1), (0.425, -0.1))),
            Task(_at((0.425, -0.2), (0.425, 0.2)), _tower(0.425, 0.0, 2)),
        ),
    ),
    "cube-triple": Scene(
        3,
        1000,
        (0.05, 0.35),
        (
            Task(_at((0.35, -0.1), (0.35, 0.1), (0.50, -0.1)), _at((0.35, -0.1), (0.35, 0.1), (0.50, 0.1))),
            Task(_at((0.35, -0.2), (0.35, 0.0), (0.35, 0.2)), _at((0.50, 0.0), (0.50, 0.2), (0.50, -0.2))),
            Task(_tower(0.425, 0.2, 3), _at((0.35, -0.1), (0.50, -0.2), (0.50, 0.0))),
            Task(_at((0.35, 0.0), (0.50, -0.1), (0.50, 0.1)), _at((0.50, -0.1), (0.50, 0.1), (0.35, 0.0))),
            Task(_at((0.35, -0.1), (0.50, -0.2), (0.50, 0.0)), _tower(0.425, 0.2, 3)),
        ),
    ),
    "cube-quadruple": Scene(
        4,
        1000,
        (0.1, 0.5),
        (
            Task(
                _at((0.35, -0.1), (0.35, 0.1), (0.50, -0.1), (0.50, 0.1)),
                _at((0.35, -0.25), (0.35, 0.1), (0.50, -0.1), (0.50, 0.25)),
            ),
            Task(
                _at((0.325, -0.2), (0.325, 0.2), (0.525, -0.2), (0.525, 0.2)),
                _at((0.375, 0.1), (0.475, 0.1), (0.375, -0.1), (0.475, -0.1)),
            ),
            Task(  # two beside each other, and two on top of them
                (*_at((0.425, -0.02), (0.425, 0.02)), (0.425, -0.02, REST + CUBE), (0.425, 0.02, REST + CUBE)),
                _at((0.525, -0.2), (0.325, 0.2), (0.325, -0.2), (0.525, 0.2)),
            ),
            Task(
                _at((0.525, -0.1), (0.525, 0.1), (0.325, 0.1), (0.325, -0.1)),
                _at((0.525, 0.1), (0.325, 0.1), (0.325, -0.1), (0.525, -0.1)),
            ),
            Task(_at((0.50, -0.05), (0.50, -0.2), (0.35, -0.2), (0.35, -0.05)), _tower(0.425, 0.2, 4)),
        ),
    ),
}
