"""How many steps OGBench's own plan oracle (default noise) needs for each task of our scenes.

Needs ``pip install -c constraints.txt 'qchunk[ogbench]'``. The oracle (noise 0.1, smoothed over 0.5 steps) is told, one errand
after the other, to carry the cubes to the task's goals in the order of our ``oracles.commanded``. Steps are counted until every
cube is within 4 cm of its goal after the action. Published in experiments/published/ogbench_oracle_lengths.csv:

    python experiments/ogbench_oracle_lengths.py
"""

from __future__ import annotations

import csv
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import ogbench  # noqa: F401  (registers the environments)
from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle

from qchunk.envs.tabletop.oracles import ASIDE
from qchunk.envs.tabletop.tasks import CUBE, REST, SCENES, SUCCESS

EPISODES = {"cube-single": 6, "cube-double": 4, "cube-triple": 6, "cube-quadruple": 6}
OUT = Path(__file__).parent / "published" / "ogbench_oracle_lengths.csv"


def positions(info: dict, n: int) -> np.ndarray:
    """Cube positions [n, 3] in metres."""
    return np.stack([info[f"privileged/block_{i}_pos"] for i in range(n)])


def errand(cubes: np.ndarray, goal: np.ndarray) -> tuple[int, np.ndarray]:
    """The next cube and its place: the first uncovered one that is off its goal and finds it free; else one goes aside.

    Cubes [n, 3] and goals [n, 3] in metres. A goal on top of another cube waits for that one to be there.
    """
    off = np.linalg.norm(cubes - goal, axis=1) > 0.5 * CUBE
    over = (np.abs(cubes[:, None, :2] - cubes[None, :, :2]) < CUBE).all(axis=2)
    covered = (over & (cubes[None, :, 2] > cubes[:, None, 2] + CUBE / 2)).any(axis=1)
    for i in np.flatnonzero(off & ~covered):
        others = np.delete(cubes, i, axis=0)
        near = (np.abs(others[:, :2] - goal[i, :2]) < 1.2 * CUBE).all(axis=1)
        free = not (near & (np.abs(others[:, 2] - goal[i, 2]) < CUBE / 2)).any()
        grounded = goal[i, 2] < REST + CUBE / 2 or (near & (np.abs(others[:, 2] - goal[i, 2] + CUBE) < CUBE / 2)).any()
        if free and grounded:
            return int(i), goal[i]
    return int(np.argmax((1 + off) * ~covered)), np.asarray([*ASIDE, REST])


def steps_of_one_episode(env, oracle, goal: np.ndarray, limit: int = 1000) -> int | None:
    """Steps to success, or None if it never comes."""
    ob, info = env.reset()
    n, done = len(goal), True
    for step in range(1, limit + 1):
        if done:
            cube, place = errand(positions(info, n), goal)
            target = {"target_block": cube, "target_block_pos": place, "target_block_yaw": np.zeros(1)}
            oracle.reset(ob, {**info, **{f"privileged/{k}": v for k, v in target.items()}})
        ob, _, _, _, info = env.step(np.clip(oracle.select_action(ob, info), -1, 1))
        done = oracle.done
        if (np.linalg.norm(positions(info, n) - goal, axis=1) <= SUCCESS).all():
            return step
    return None


def main() -> None:
    np.random.seed(0)  # the oracles draw from numpy's global generator
    rows = []
    for scene, count in EPISODES.items():
        for task in range(1, 6):
            env = gymnasium.make(f"{scene}-singletask-task{task}-v0", max_episode_steps=1001, terminate_at_goal=False)
            env.reset(seed=task)
            goal = np.asarray(SCENES[scene].tasks[task - 1].goal)
            steps = [steps_of_one_episode(env, CubePlanOracle(env=env), goal) for _ in range(count)]
            good = [s for s in steps if s is not None]
            rows.append(
                {
                    "task": f"{scene}-task{task}",
                    "mean_steps": round(float(np.mean(good)), 1) if good else float("nan"),
                    "episodes": count,
                    "succeeded": len(good),
                    "steps": " ".join("-" if s is None else str(s) for s in steps),  # of each episode; - for none
                    "ogbench": version("ogbench"),
                    "mujoco": version("mujoco"),
                    "command": "python experiments/ogbench_oracle_lengths.py",
                }
            )
            print(rows[-1], flush=True)
    with OUT.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
