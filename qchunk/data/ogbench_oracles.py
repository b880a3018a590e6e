"""A process that plays OGBench's own oracles into files: ``python -m qchunk.data.ogbench_oracles JSON``. No jax.

The pip package has the oracles but not the loop around them; this is that loop, from its published defaults (noise 0.1 smoothed
over 0.5 steps, minimum norm 0.4, episodes of 1001 steps): "play" follows plans, "noisy" is Markov with random actions. In mazes the package has
an oracle of the way, which a point can follow: from a random cell to one turn of the maze after the other ("navigate"), with the normal
noise of 0.5 on its actions that the published pointmaze data have, and episodes of 2001 steps in giant mazes.
Every draw of an episode comes from its own seed, so files do not depend on how many processes make them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.system import files, processes

LENGTH, GIANT = 1001, 2001  # rows of an episode, and in a giant maze; the last one is only its final observation
NOISE, SMOOTHING, MIN_NORM = 0.1, 0.5, 0.4
P_STACK = {
    "cube-single": (0.0, 0.0),
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
    "cube-octuple": (0.0, 0.35),
}  # others: always 0.5
WAY_NOISE = 0.5  # of the actions of what follows the oracle of a maze
SPREAD = np.asarray([1.0, 1.0, 1.0, 3.0, 10.0])  # of the Markov oracles' noise, per action dimension


def is_maze(scene: str) -> bool:
    """Whether something walks there."""
    return "maze" in scene


def length_of(scene: str) -> int:
    """Rows of one of its episodes, as published."""
    return GIANT if "giant" in scene else LENGTH


def make(scene: str) -> Any:
    """The environment in data-collection mode."""
    import gymnasium
    import ogbench  # noqa: F401 registers

    mode = {} if is_maze(scene) else {"mode": "data_collection"}
    env = gymnasium.make(f"{scene}-v0", terminate_at_goal=False, max_episode_steps=length_of(scene), **mode)
    processes.hush_mujoco()
    if is_maze(scene):
        return env
    env.reset(seed=0)
    for _ in range(40):  # making it has drawn, unseeded, targets of some kind; now every kind has a seeded one
        env.unwrapped.set_new_target(return_info=False)
    return env


def forget(env: Any) -> Callable[[], None]:
    """A function that gives the environment back the targets that it has now.

    A reset leaves those of the scene's other kinds of errand behind, and a Markov oracle reads them for one step.
    """
    inner = env.unwrapped
    kept = {n: copy.deepcopy(x) for n, x in vars(inner).items() if n.startswith("_target")}
    sites = inner.model.site_pos.copy()

    def restore() -> None:
        vars(inner).update(copy.deepcopy(kept))
        inner.model.site_pos[:] = sites

    return restore


def oracles(env: Any, scene: str, kind: str) -> dict[str, Any]:
    """The oracle of each kind of errand in the scene."""
    closed = {"gripper_always_closed": True} if scene.startswith("puzzle") else {}
    wanted = {"cube": ["cube"], "puzzle": ["button"]}.get(scene.split("-")[0], ["cube", "button", "drawer", "window"])
    made = {}
    for name in wanted:
        word = "plan" if kind == "play" else "markov"
        source = importlib.import_module(f"ogbench.manipspace.oracles.{word}.{name}_{word}")
        how: dict[str, Any] = (
            {"noise": NOISE, "noise_smoothing": SMOOTHING} if word == "plan" else {"min_norm": MIN_NORM}
        )
        if word == "markov" and (scene, name) == ("scene", "cube"):
            how["max_step"] = 100  # as published; the oracle's own reset makes it 200
        made[name] = getattr(source, f"{name.title()}{word.title()}Oracle")(
            env=env, **how, **(closed if name == "button" else {})
        )
    return made


def episode(
    env: Any, by_task: dict[str, Any], scene: str, kind: str, label: tuple[int, ...], length: int
) -> dict | None:
    """One episode's arrays, OGBench's names; None where the scene's rule rejects it (its cube left the table).

    Args:
        label: what its seed is made from.
        length: rows.
    """
    rng = np.random.default_rng(np.random.SeedSequence(label))
    np.random.seed(rng.integers(2**31))  # the oracles draw from the global generator
    obs, info = env.reset(seed=int(rng.integers(2**31)))
    p_stack = rng.uniform(*P_STACK.get(scene, (0.5, 0.5)))
    noise = rng.uniform(0, NOISE) if kind == "noisy" else 0.0
    p_random = 0.0 if kind == "play" else 0.2 if scene.startswith("puzzle") else 0.1
    names = {"qpos": "prev_qpos", "qvel": "prev_qvel", "button_states": "prev_button_states"}
    rows: dict[str, list] = {"observations": [], "actions": [], "terminals": []}
    oracle = by_task[info["privileged/target_task"]]
    oracle.reset(obs, info)
    for step in range(length):
        if rng.random() < p_random:
            action = rng.uniform(-1.0, 1.0, 5)
        else:
            action = np.asarray(oracle.select_action(obs, info))
            action = action + rng.normal(0.0, noise * SPREAD) if noise else action
        action = np.clip(action, -1.0, 1.0)
        after, _, _, _, info = env.step(action)
        for name, x in (("observations", obs), ("actions", action), ("terminals", step == length - 1)):
            rows[name].append(x)
        for name, source in names.items():
            if source in info:
                rows.setdefault(name, []).append(info[source])
        if oracle.done:
            fresh, target = env.unwrapped.set_new_target(p_stack=p_stack)
            oracle = by_task[target["privileged/target_task"]]
            oracle.reset(fresh, target)
        obs = after
    types = {"terminals": bool, "button_states": np.int64}
    made = {name: np.asarray(x).astype(types.get(name, np.float32)) for name, x in rows.items()}
    return None if scene == "scene" and left_the_table(made["qpos"]) else made


def way(env: Any, label: tuple[int, ...], length: int) -> dict[str, np.ndarray]:
    """One episode of a point that follows the oracle of its maze from goal to goal: arrays by OGBench's names, as in ``episode``."""
    rng = np.random.default_rng(np.random.SeedSequence(label))
    np.random.seed(rng.integers(2**31))  # the maze draws from the global generator
    inner = env.unwrapped
    free = [tuple(int(i) for i in cell) for cell in np.argwhere(inner.maze_map == 0)]
    ends = turns(inner.maze_map)
    begin, goal = free[rng.integers(len(free))], ends[rng.integers(len(ends))]
    obs, _ = env.reset(seed=int(rng.integers(2**31)), options={"task_info": {"init_ij": begin, "goal_ij": goal}})
    rows: dict[str, list] = {"observations": [], "actions": [], "terminals": [], "qpos": [], "qvel": []}
    for step in range(length):
        here = np.asarray(inner.get_xy())
        ahead = inner.get_oracle_subgoal(here, inner.cur_goal_xy)[0] - here
        action = ahead / (np.linalg.norm(ahead) + 1e-6) + rng.normal(0.0, WAY_NOISE, 2)
        action = np.clip(action, -1.0, 1.0)
        after, _, _, _, info = env.step(action)
        row = (obs, action, step == length - 1, info["prev_qpos"], info["prev_qvel"])
        for name, x in zip(rows, row, strict=True):
            rows[name].append(x)
        if info["success"]:
            inner.set_goal(goal_xy=inner.add_noise(inner.ij_to_xy(ends[rng.integers(len(ends))])))
        obs = after
    return {name: np.asarray(x).astype(bool if name == "terminals" else np.float32) for name, x in rows.items()}


def turns(maze: np.ndarray) -> list[tuple[int, int]]:
    """The free cells of a maze [rows, columns] (1: wall, also all around) that are goals: all but those along a corridor."""
    found = []
    for i, j in np.argwhere(maze == 0).tolist():
        walls = (int(maze[i, [j - 1, j + 1]].sum()), int(maze[[i - 1, i + 1], j].sum()))  # beside it, before and behind
        if sorted(walls) != [0, 2]:
            found.append((i, j))
    return found


def left_the_table(qpos: np.ndarray) -> bool:
    """The published rule for scene, from the cube's y and z [R] in metres."""
    y, z = qpos[:, 15], qpos[:, 16]
    return bool((y >= 0.29).any() or ((y <= -0.3) & ((z < 0.06) | (z > 0.08))).any())


def part(folder: Path, number: int) -> Path:
    """The file of an episode."""
    return folder / f"episode-{number:06d}.npz"


def play(folder: Path, scene: str, kind: str, seed: int, length: int, numbers: list[int]) -> None:
    """Writes the episodes with these numbers, those that are not there yet."""
    env = make(scene)
    parent = os.getppid()
    by_task, restore = ({}, None) if is_maze(scene) else (oracles(env, scene, kind), forget(env))
    for number in numbers:
        if part(folder, number).exists():
            continue
        attempt, made = 0, None
        while made is None:
            if os.getppid() != parent:
                return  # it was killed: nobody waits, and a restarted one plays these episodes itself
            label = (seed, number, attempt)
            if restore is None:
                made = way(env, label, length)
            else:
                restore()
                made = episode(env, by_task, scene, kind, label, length)
            attempt += 1
        buffer = io.BytesIO()
        np.savez(buffer, **made)
        files.atomic_write(part(folder, number), buffer.getvalue())


def main() -> None:
    """Ctrl-C is the parent's business: it ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):
        play(Path(job["folder"]), job["scene"], job["kind"], job["seed"], job["length"], job["numbers"])


if __name__ == "__main__":
    main()
