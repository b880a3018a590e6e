"""Pictures of the simulated environments: docs/img/{brax,ogbench}.png, drawn by MuJoCo, and the sizes in docs/environments.md.

Needs the ``ogbench`` extra and an OpenGL that draws without a screen (``MUJOCO_GL=egl`` or ``osmesa``).
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib
import mujoco
import numpy as np

from qchunk import env_names, envs
from qchunk.envs.tabletop.tasks import SCENES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
SIZE = 320  # pixels
PAGE = """# Environments

`python experiments/environment_pictures.py` writes this page. Sizes are (observation, action); limits are steps of an episode.

## On the device

`tabletop/` is described in [tabletop.md](tabletop.md), with pictures of its scenes. Brax runs on the backends generalized, positional,
spring and mjx (`brax/ant@spring`); swimmer runs on none with these versions. gymnax's continuous environments run as they are; those
with discrete actions are refused.

`playground/NAME` is MuJoCo Playground's (`pip install -c constraints.txt -e '.[playground]'`), by MJX in JAX: the 25 tasks of its control suite, such as
`playground/CheetahRun`, and its 29 robots, such as `playground/Go1JoystickFlatTerrain`, once their models are fetched (the message says how). Episodes have 1,000 steps there; nothing speaks of success.

`kinetix/l/h17_unicycle` and 73 more are the levels of [Kinetix](https://arxiv.org/abs/2410.23208) (sizes `s`, `m`, `l`; observations 679 numbers in `l`, actions 6, 256 steps): motors and thrusters must bring a green shape to a blue one, which is
a success. `@noisy` adds noise of 0.1 to every action, as real-time chunking's benchmark does (`qchunk reproduce kinetix`). The package asks for an older jax than ours and for what its trainer imports, neither of which its levels need: `pip install --no-deps kinetix-env==3.0.2 jax2d==1.0.2 jaxgl==1.0.1 imageio safetensors`.

{device}
![Brax](img/brax.png)

## Goals

`tabletop/cube-double-goal` and `ogbench/cube-double-play-oraclerep-v0`, and so for every scene, show {"state", "goal"}: each episode has
one of the scene's five tasks as its goal (where each cube shall be; with buttons their states, too). Evaluations take the five in turn, at
equal shares, and report `success_goal1` to `success_goal5` beside `success`. Data of the scene serve them, with goals or without: an
episode of states alone gets the goal that it ends in. Methods that learn for goals (`dqc`) replace goals by states of the data.

## Probes

Small environments on the device whose answers are known: exact values for tests of critics, and one reason each for chunks, or against
them. Their classes say the dynamics, the experts and the best that can be reached; `tests/test_probes.py` holds that. `qchunk collect
probe/pause --out pause.npz` records an expert, in `probe/switch-4` play without a task.

{probes}
## On the host, in worker processes

OGBench's manipulation tasks (`ogbench/cube-double-play-singletask-task1-v0`, five tasks for each scene and kind of data), and any
gymnasium environment with continuous actions (`gymnasium/Pendulum-v1`, `gymnasium/my_module:Mine-v0`,
`gymnasium/HalfCheetah-v5?ctrl_cost_weight=0.5`). Meta-World, robosuite, the Franka kitchen and whatever wants other versions than jax's run in
[an interpreter of their own](simulators.md).

Success of an episode is whether any of its steps reported it: `info["success"]`, or where that is absent `info["is_success"]`, one
number or boolean, above 0. Steps may leave it out; where an environment reports it only when it is reached, the other episodes failed.
Where no step ever reports it, success is unknown and returns are compared. A reward is one number; an array of one will do. While
experience is kept (training online, `qchunk collect`), an observation or a reward that is not finite in float32 ends the run with one
line that names the environment and the step; in an evaluation it makes the return NaN, shown as "not finite". A policy's action
that is not finite never reaches a simulator: it becomes a step of zeros whose reward is NaN, and the episode is no success.

{host}
![OGBench](img/ogbench.png)
"""


def brax(name: str) -> np.ndarray:
    """A start state of a stock environment [SIZE, SIZE, 3]."""
    env: Any = envs.make(f"brax/{name}@generalized")
    state = jax.jit(env.reset)(jax.random.key(0))
    model = env.sys.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = np.asarray(state.pipeline_state.q)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = data.xpos[1:].mean(axis=0)
    camera.distance, camera.azimuth, camera.elevation = (
        max(1.2, 1.2 * float(np.ptp(data.geom_xpos[1:], axis=0).max())) + 1,
        90,
        -20,
    )
    with mujoco.Renderer(model, SIZE, SIZE) as renderer:
        renderer.update_scene(data, camera)
        return renderer.render()


def ogbench(scene: str) -> np.ndarray:
    """Task 1's start state [SIZE, SIZE, 3]."""
    import gymnasium
    import ogbench  # noqa: F401 registers

    env = gymnasium.make(f"{scene}-singletask-task1-v0", render_mode="rgb_array", width=SIZE, height=SIZE)
    env.reset(seed=0)
    picture = np.asarray(env.render())
    env.close()
    return picture


def grid(file: str, drawn: list[str], draw: Callable[[str], np.ndarray]) -> None:
    """One picture of all."""
    rows = math.ceil(len(drawn) / 5)
    figure, axes = plt.subplots(rows, 5, figsize=(10, 2.2 * rows), layout="constrained")
    for ax, name in zip(axes.ravel(), drawn, strict=False):
        ax.imshow(draw(name))
        ax.set_title(name, fontsize=9)
    for ax in axes.ravel():
        ax.axis("off")
    figure.savefig(DOCS / "img" / file, dpi=90)


def table(rows: list[tuple[str, str]]) -> str:
    """Names to make an environment of, and what they stand for, as markdown."""
    lines = ["| environment | sizes | limit |", "|---|---|---|"]
    for shown, name in rows:
        env = envs.make(name)
        lines.append(f"| `{shown}` | ({env.observation_size}, {env.action_size}) | {env.episode_length} |")
    return "\n".join(lines) + "\n"


def probes() -> str:
    """Every probe, and what it is about, as markdown."""
    lines = ["| environment | what it is about | sizes | limit |", "|---|---|---|---|"]
    for name, what in env_names.PROBES.items():
        env = envs.make(f"probe/{name}")
        lines.append(
            f"| `probe/{name}` | {what} | ({env.observation_size}, {env.action_size}) | {env.episode_length} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page and its pictures."""
    grid("brax.png", list(env_names.BRAX), brax)
    grid("ogbench.png", list(env_names.OGBENCH), ogbench)
    device = [(f"tabletop/{s}-task1 ... 5", f"tabletop/{s}-task1") for s in SCENES]
    device += [
        (f"{family}/{n}", f"{family}/{n}") for family in ("brax", "gymnax") for n in getattr(env_names, family.upper())
    ]
    host = [
        (f"ogbench/{s}-play-singletask-task1-v0 ... 5", f"ogbench/{s}-play-singletask-task1-v0")
        for s in env_names.OGBENCH
    ]
    (DOCS / "environments.md").write_text(PAGE.format(device=table(device), host=table(host), probes=probes()))


if __name__ == "__main__":
    main()
