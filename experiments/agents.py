"""300 agents in one program: Q-chunking on probe/two-step over 15 learning rates and 20 seeds. Writes docs/img/agents.png.

``python experiments/agents.py``; success of each agent in 64 episodes after 200 updates on 500 random transitions.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import qchunk
from qchunk.algorithms.qc import QC, qc
from qchunk.data.formats import to_device
from qchunk.play import collecting
from qchunk.reporting.stats import interval

OUT = Path(__file__).resolve().parents[1] / "docs/img/agents.png"
RATES, SEEDS = np.logspace(-4, -0.5, 15), 20
C = QC(
    chunk=qchunk.ChunkConfig(2),
    actor=qchunk.FlowConfig((32,), steps=3),
    critic=qchunk.CriticConfig((32,)),
    n=4,
)
S = qchunk.OnlineSettings(offline_steps=200, batch=64, episodes=64)


def main() -> None:
    env = qchunk.make("probe/two-step")
    random = collecting.scheme_of(env, "random")
    data = to_device(collecting.collect(env, random, collecting.NO_VARS, jax.random.key(0), steps=500, envs=8))

    def success(lr, key):
        c = dataclasses.replace(C, optim=qchunk.OptimConfig(lr))
        return qchunk.agent(qc, c, key, env=env, data=data, settings=S)["success"]

    began = time.perf_counter()
    keys = jax.random.split(jax.random.key(1), SEEDS)
    table = np.asarray(jax.jit(jax.vmap(jax.vmap(success, (None, 0)), (0, None)))(jnp.asarray(RATES), keys))
    print(f"{table.size} agents in {time.perf_counter() - began:.0f} s, compiling included")
    found = [interval(row, bounds=(0.0, 1.0)) for row in table]
    fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    ax.plot(np.repeat(RATES, SEEDS), table.ravel(), ".", color="0.75", ms=4)
    ax.fill_between(RATES, [e.low for e in found], [e.high for e in found], alpha=0.25, lw=0)
    ax.plot(RATES, [e.mean for e in found])
    ax.set(xscale="log", xlabel="learning rate", ylabel="success", ylim=(-0.03, 1.03))
    fig.savefig(OUT, dpi=150)


if __name__ == "__main__":
    main()
