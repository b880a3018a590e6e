"""Pictures of worlds: from above and from the side.

Seen from behind the robot: right is -y, up is x (from above) or z (from the side). Angles keep their sense of rotation.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.envs.tabletop.physics import World
from qchunk.envs.tabletop.tasks import CUBE, SCENES, WORKSPACE

COLOURS = ("#d9434e", "#3f7fd1", "#e8a317", "#2f9e58")  # red, blue, orange, green: in the order of the cubes
GRIPPER = "0.3"
JAW = 0.03  # metres from the gripper's centre to a finger
PAD = 0.04  # metres around the workspace, for fingers at its border


def square(ax: Any, across: float, up: float, turned: float, **style: Any) -> None:
    """A cube's outline at a place of the picture, turned anticlockwise by radians."""
    from matplotlib.patches import Polygon  # drawing is the only thing here that wants matplotlib

    corners = CUBE / 2 * np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    c, s = np.cos(turned), np.sin(turned)
    ax.add_patch(Polygon(corners @ [[c, s], [-s, c]] + [across, up], **style))


def fingers(world: World) -> np.ndarray:
    """The two fingers seen from above [2, 2]: across (-y) and up (x), in metres."""
    x, y, _ = np.asarray(world.gripper)
    jaw = JAW * np.asarray([-np.sin(float(world.yaw)), np.cos(float(world.yaw))])
    return np.stack([jaw, -jaw]) + np.asarray([-y, x])


def draw_world(above: Any, side: Any, world: World, goal: np.ndarray | None = None) -> None:
    """Draws cubes (filled), goals [n, 3] (dashed) and the gripper (grey) onto two matplotlib axes, in metres."""
    cubes, turned = np.asarray(world.cubes), np.asarray(world.turned)
    for i in np.argsort(cubes[:, 2]):
        style = {"facecolor": COLOURS[i], "alpha": 0.75, "edgecolor": "none", "zorder": 2}
        square(above, -cubes[i, 1], cubes[i, 0], turned[i], **style)
        square(side, -cubes[i, 1], cubes[i, 2], 0.0, **style)
    for i, g in enumerate(() if goal is None else np.asarray(goal)):
        dashes = (1.5 * i, (1.5, 1.5))  # shifted, so that two goals in one place show both colours
        style = {"fill": False, "edgecolor": COLOURS[i], "linewidth": 2, "linestyle": dashes, "zorder": 3}
        square(above, -g[1], g[0], 0.0, **style)
        square(side, -g[1], g[2], 0.0, **style)
    _, y, z = np.asarray(world.gripper)
    above.plot(*fingers(world).T, "s-", color=GRIPPER, markersize=4, linewidth=1.5, zorder=4)
    side.plot([-y, -y], [z, z + 0.06], color=GRIPPER, linewidth=1.5, zorder=4)
    side.plot(-y, z, "v", color=GRIPPER, markersize=6, zorder=4)
    (x0, y0, _), (x1, y1, z1) = WORKSPACE
    above.set(xlim=(-y1 - PAD, -y0 + PAD), ylim=(x0 - PAD, x1 + PAD), aspect="equal")
    side.set(xlim=(-y1 - PAD, -y0 + PAD), ylim=(-0.012, z1 + 0.07), aspect="equal")
    side.axhspan(-0.012, 0.0, color="0.85", zorder=1)  # the table


def legend(figure: Any, cubes: int) -> None:
    """Under the panels: what is filled, dashed and grey."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    several = [f" {i + 1}" for i in range(cubes)] if cubes > 1 else [""]
    starts = [Patch(facecolor=COLOURS[i], alpha=0.75, label=f"cube{n}: start") for i, n in enumerate(several)]
    goals = [
        Patch(fill=False, edgecolor=COLOURS[i], linewidth=2, linestyle=(0, (1.5, 1.5)), label=f"cube{n}: goal")
        for i, n in enumerate(several)
    ]
    gripper = Line2D([], [], color=GRIPPER, marker="s", markersize=4, label="gripper: one of its random starts")
    figure.legend(handles=[*starts, *goals, gripper], loc="outside lower center", ncols=2 * cubes + 1, frameon=False)


def draw_tasks(scene: str, path: Path) -> None:
    """A picture of a scene's five tasks: one start (the gripper's and the yaws are drawn again each episode), the goals."""
    import jax
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from qchunk.envs.tabletop.env import make

    figure, axes = plt.subplots(
        2, 5, figsize=(16, 4.9), layout="constrained", sharex=True, sharey="row", height_ratios=(0.43, 0.432), dpi=110
    )
    for task in range(1, 6):
        env = make(f"{scene}-task{task}")
        above, side = axes[:, task - 1]
        draw_world(above, side, env.reset(jax.random.key(task)).pipeline_state, env.goal)
        above.set_title(f"{scene}-task{task}", fontsize=11)
        side.set_xlabel("to the right, -y (m)")
    axes[0, 0].set_ylabel("from above: forward, x (m)")
    axes[1, 0].set_ylabel("from the side: up, z (m)")
    legend(figure, SCENES[scene].cubes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":  # python -m qchunk.envs.tabletop.draw FOLDER
    for name in SCENES:
        draw_tasks(name, Path(sys.argv[1]) / f"tabletop_{name}.png")
