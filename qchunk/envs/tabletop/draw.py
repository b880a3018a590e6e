"""Pictures of worlds: from above and from the side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.envs.tabletop.physics import World
from qchunk.envs.tabletop.tasks import CUBE, SCENES, WORKSPACE

COLOURS = ("#d9434e", "#3f7fd1", "#e8a317", "#2f9e58")  # red, blue, orange, green: in the order of the cubes


def square(ax: Any, x: float, y: float, turned: float, **style: Any) -> None:
    """A cube's outline, turned by radians around its centre."""
    corners = CUBE / 2 * np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    c, s = np.cos(turned), np.sin(turned)
    from matplotlib.patches import Polygon  # drawing is the only thing here that wants matplotlib

    ax.add_patch(Polygon(corners @ [[c, s], [-s, c]] + [x, y], **style))


def draw_world(above: Any, side: Any, world: World, goal: np.ndarray | None = None) -> None:
    """Draws cubes (filled), goals (outlined) and the gripper (grey) onto two matplotlib axes: y over x, z over y."""
    cubes, turned = np.asarray(world.cubes), np.asarray(world.turned)
    for i in np.argsort(cubes[:, 2]):
        style = {"facecolor": COLOURS[i], "alpha": 0.85}
        square(above, -cubes[i, 1], cubes[i, 0], -turned[i], **style)
        square(side, -cubes[i, 1], cubes[i, 2], 0.0, **style)
    for i, g in enumerate(() if goal is None else np.asarray(goal)):
        style = {"fill": False, "edgecolor": COLOURS[i], "linewidth": 2, "linestyle": (0, (2, 1))}
        square(above, -g[1], g[0], 0.0, **style)
        square(side, -g[1], g[2], 0.0, **style)
    x, y, z = np.asarray(world.gripper)
    jaw = 0.03 * np.asarray([np.cos(float(world.yaw)), np.sin(float(world.yaw))])
    for sign in (-1, 1):
        above.plot(-y + sign * jaw[1], x + sign * jaw[0], "s", color="0.35", markersize=4)
    above.plot([-y - jaw[1], -y + jaw[1]], [x - jaw[0], x + jaw[0]], color="0.35", linewidth=1.5)
    side.plot([-y, -y], [z, z + 0.06], color="0.35", linewidth=1.5)
    side.plot(-y, z, "v", color="0.35", markersize=6)
    (x0, y0, _), (x1, y1, z1) = WORKSPACE
    above.set(xlim=(-y1, -y0), ylim=(x0 - 0.02, x1), aspect="equal")
    side.set(xlim=(-y1, -y0), ylim=(0, z1 + 0.07), aspect="equal")


def draw_tasks(scene: str, path: Path) -> None:
    """A picture of a scene's five tasks: one start (filled, gripper grey) and the goals (dashed)."""
    import jax
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from qchunk.envs.tabletop.env import make

    figure, axes = plt.subplots(
        2, 5, figsize=(16, 4.7), layout="constrained", sharex=True, sharey="row", height_ratios=(0.37, 0.42), dpi=110
    )
    for task in range(1, 6):
        env = make(f"{scene}-task{task}")
        above, side = axes[:, task - 1]
        draw_world(above, side, env.reset(jax.random.key(task)).pipeline_state, env.goal)
        above.set_title(f"{scene}-task{task}", fontsize=11)
        side.set_xlabel("to the right, -y (m)")
    axes[0, 0].set_ylabel("from above: forward, x (m)")
    axes[1, 0].set_ylabel("from the side: up, z (m)")
    figure.suptitle("Start (filled; the gripper is grey) and goal (dashed) of each task", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":  # python -m qchunk.envs.tabletop.draw FOLDER
    for name in SCENES:
        draw_tasks(name, Path(sys.argv[1]) / f"tabletop_{name}.png")
