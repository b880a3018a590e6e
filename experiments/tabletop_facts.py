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
    rows, theirs = [], ogbench_lengths()
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
                    "ogbench_steps": theirs.get(name, float("nan")),
                    "ratio": length / theirs.get(name, float("nan")),
                    "oracle_success_without_yaw": no_yaw,
                    "play_success_states": share,
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as markdown."""
    head = [
        "task",
        "oracle succeeds",
        "its steps",
        "OGBench's oracle",
        "ratio",
        "without yaw",
        "success states in play data",
    ]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        lines.append(
            [r["task"], f"{r['oracle_success']:.1%}", f"{r['oracle_steps']:.0f}", f"{r['ogbench_steps']:.0f}"]
            + [f"{r['ratio']:.2f}", f"{r['oracle_success_without_yaw']:.1%}", f"{r['play_success_states']:.3%}"]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    rows = measure()
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "tabletop_facts.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
