"""The data facts of tabletop, measured: what the oracle can do, how often play data succeed, whether yaw matters.

``python experiments/tabletop_facts.py`` writes docs/tabletop_facts.json, the table in docs/tabletop.md and the pictures.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jax
import numpy as np

from qchunk import collect, envs
from qchunk.data.formats import relabelled
from qchunk.envs.base import Behaviour, wrap
from qchunk.envs.tabletop import oracles
from qchunk.envs.tabletop.draw import draw_tasks
from qchunk.envs.tabletop.tasks import SCENES
from qchunk.evaluate import episodes
from qchunk.execute import scripted

ROOT = Path(__file__).resolve().parent.parent
EPISODES, PLAY = 200, 1_000_000


def without_yaw(behaviour: Behaviour) -> Behaviour:
    """The same oracle with its yaw action at 0."""

    def act(key, state, carry):
        action, carry = behaviour.act(key, state, carry)
        return action.at[3].set(0.0), carry

    return behaviour._replace(act=act)


def outcome(env, behaviour: Behaviour) -> tuple[float, float]:
    """Success and mean length of the successful episodes."""
    run = jax.jit(lambda k: episodes(wrap(env), scripted(behaviour), collect.NO_VARS, k, EPISODES))
    e = jax.tree.map(np.asarray, run(jax.random.key(0)))
    return float(e.success.mean()), float(e.length[e.success > 0].mean()) if e.success.any() else float("nan")


def ogbench_lengths() -> dict[str, float]:
    """Mean steps of OGBench's own oracle by task, as measured by experiments/ogbench_oracle_lengths.py."""
    path = ROOT / "experiments" / "published" / "ogbench_oracle_lengths.csv"
    if not path.exists():
        return {}
    with path.open() as f:
        return {row["task"]: float(row["mean_steps"]) for row in csv.DictReader(f)}


def measure() -> list[dict]:
    """One row per task."""
    rows = []
    for scene in SCENES:
        bare = envs.make(f"tabletop/{scene}")
        play = collect.collect(
            bare,
            collect.scheme_of(bare, "play"),
            collect.NO_VARS,
            jax.random.key(0),
            steps=PLAY,
            envs=1000,
            episode_length=1000,
        )
        for task in range(1, 6):
            name = f"{scene}-task{task}"
            env = envs.make(f"tabletop/{name}")
            success, length = outcome(env, oracles.commanded(env))
            no_yaw, _ = outcome(env, without_yaw(oracles.commanded(env)))
            share = float(relabelled(play, env).terminal.mean())
            rows.append(
                {
                    "task": name,
                    "oracle_success": success,
                    "oracle_steps": length,
                    "oracle_success_without_yaw": no_yaw,
                    "play_success_states": share,
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """The rows, beside OGBench's own oracle, as markdown."""
    theirs = ogbench_lengths()
    head = [
        "task",
        "oracle succeeds",
        "steps",
        "OGBench's oracle",
        "ratio",
        "without yaw",
        "success states in play data",
    ]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        other = theirs.get(r["task"], float("nan"))
        lines.append(
            [
                r["task"],
                f"{r['oracle_success']:.1%}",
                f"{r['oracle_steps']:.0f}",
                f"{other:.0f}",
                f"{r['oracle_steps'] / other:.2f}",
                f"{r['oracle_success_without_yaw']:.1%}",
                f"{r['play_success_states']:.3%}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


PAGE = """# Tabletop

A family of manipulation tasks on the device, for the question that the Q-chunking paper asks: long horizon, sparse reward,
multi-modal play data. **It is a kinematic model**: for development, for thousands of parallel environments, and for statistics
over many seeds. The papers' figures come from OGBench itself, which simulates contacts, an arm and its controller.

## What is modelled

A free-flying gripper and cubes of 4 cm. The action is (dx, dy, dz, dyaw, closing) in [-1, 1]: 5 cm per step along each axis,
0.3 rad, and the whole way from open to closed. Closing around a cube (within 2.5 cm in x and y, 3 cm in z, 0.35 rad of yaw modulo
90 degrees) attaches it and turns it to the jaws; opening lets it go; it falls 5 cm a step until the table or a cube supports it.
A held cube is lifted onto what is in its way. Not modelled: pushing, slipping, toppling, the arm, gravity on the gripper.

The observation holds positions (centred, times 10), 4 times the gripper's yaw as cosine and sine, its closing, whether it holds
something, and per cube its position and 4 times its yaw relative to the gripper's. Start and goal poses, bounds and limits (200
steps with one cube, 500 with two) are OGBench's. Reward: minus the number of cubes farther than 4 cm from their goals, judged
**after** the action; the episode ends at success. (OGBench 1.2's single-task environments judge the state before it.)

![cube-single](img/tabletop_cube-single.png)
![cube-double](img/tabletop_cube-double.png)

## Data

`play`: random cube to random place (stacked with the probabilities of OGBench), without end and without a task label, by a plan
oracle with OGBench's keyframes, durations and noise. `noisy`: a closed-loop oracle with per-episode noise and 10 % uniform
actions. One data set serves all five tasks of a scene; rewards are relabelled when it is loaded.

## Data facts

`python experiments/tabletop_facts.py`: {episodes} episodes of the oracle told the task's goals, with and without its yaw action;
success states in {play:,} play transitions. OGBench's own oracle: `experiments/ogbench_oracle_lengths.py`.

{table}
The band that the design sets for success states, 0.1 to 3 %, holds for cube-single and for cube-double-task5. On tasks 1 to 4 of
cube-double they are rarer than that: two cubes that lie anywhere are both within 4 cm of their goals with probability
(pi 0.04^2 / (0.25 * 0.6))^2 = 0.11 %, less what the borders and the time in the gripper take. We did not bend the play
distribution towards the tasks to reach the band.
"""


def main() -> None:
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    rows = measure()
    (docs / "tabletop_facts.json").write_text(json.dumps(rows, indent=1) + "\n")
    (docs / "tabletop.md").write_text(PAGE.format(table=table(rows), episodes=EPISODES, play=PLAY))
    for scene in SCENES:
        draw_tasks(scene, docs / "img" / f"tabletop_{scene}.png")
    print(table(rows))


if __name__ == "__main__":
    main()
