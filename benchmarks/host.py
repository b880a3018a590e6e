"""Evaluating OGBench episodes: parallel workers and one actor call per chunk, over the published way, which is one
environment at a time with an actor call at every step (also where the queue of actions is still full)."""

from __future__ import annotations

import sys

import jax
import numpy as np
from _timing import medians, tell

from qchunk import envs, sampling
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import CriticConfig
from qchunk.drivers.common import assemble, evaluate, init
from qchunk.drivers.online import OnlineSettings
from qchunk.seeds import one as first
from qchunk.system.errors import UserError
from qchunk.types import view

NAME = "ogbench/cube-single-play-singletask-task1-v0"
OURS, THEIRS = 50, 2  # episodes per repeat; an untrained policy plays each to its limit


def compare(label: str, c: QC, asked: float) -> None:
    """Environment steps per second both ways."""
    env = envs.make(NAME)
    s = OnlineSettings(episodes=OURS)
    program, x = assemble(qc, c, env, s)
    learner = init(program, x)
    one, policy, vars = env.instance(), qc(c).act, view(first(learner, 0), {})

    @jax.jit
    def actor(vars, key, obs):
        return sampling.act(policy, vars, key, obs).action

    steps = {"parallel": 0.0, "published": 0}

    def parallel():
        steps["parallel"] = float(evaluate(program, x, s, learner)["length"].sum()) * OURS

    def published():
        steps["published"] = 0
        for episode in range(THEIRS):
            row, done, queue, key = one.reset(episode), False, [], jax.random.key(episode)
            while not done:
                key, now = jax.random.split(key)
                chunk = np.asarray(actor(vars, now, row[None, :-4].astype(np.float32)))
                queue = queue or list(chunk.reshape(-1, env.action_size))
                row = one.step(queue.pop(0))
                done = bool(row[-3] or row[-2])
                steps["published"] += 1

    t = medians(3, parallel=parallel, published=published)
    rate = {name: steps[name] / t[name] for name in steps}
    one.close()
    env.close()
    tell(
        f"evaluation ogbench/cube-single {label}",
        steps_per_second=rate["parallel"],
        published_steps_per_second=rate["published"],
        ratio=rate["parallel"] / rate["published"],
        better="higher",
        asked=asked,
    )


if __name__ == "__main__":
    try:
        compare("4x512-N32", QC(), asked=5.0)
        compare("3x128-N8", QC(actor=FlowConfig((128,) * 3), critic=CriticConfig((128,) * 3), n=8), asked=2.5)
    except UserError as e:  # OGBench is an extra
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
