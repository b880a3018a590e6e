"""Learning online on the device: environment steps per second with one update per 5 steps, over what the updates alone
would allow (the same updates, offline, in the same process)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _timing import medians, tell

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import CriticConfig
from qchunk.data import formats
from qchunk.drivers import offline, online
from qchunk.drivers.common import assemble, init
from qchunk.drivers.online import OnlineSettings
from qchunk.play.collecting import NO_VARS, collect, scheme_of

E, DECISIONS, RATIO = 256, 2, 0.2
C = QC(actor=FlowConfig((128,) * 3), critic=CriticConfig((128,) * 3), n=8)


def main() -> None:
    env: Any = envs.make("tabletop/cube-double-task1")
    rows = collect(env.scene, scheme_of(env, "play"), NO_VARS, jax.random.key(0), steps=100_000, envs=100)
    data = formats.to_device(formats.relabelled(rows, env))
    s = OnlineSettings(log_every=10**9, online_steps=1_000_000, envs=E, start_training=0, update_ratio=RATIO)
    program, x = assemble(qc, C, env, s, data=data)
    plan = online.schedule(C.chunk.horizon, s)._replace(dispatch=DECISIONS)
    learner = init(program, x)
    state = online.begin(program, x, plan, learner)
    updates = round(plan.steps * RATIO)
    due = np.full(DECISIONS, updates, np.int32)
    loop = {"learner": jax.tree.map(jnp.copy, learner), "online": state}

    def with_environment():
        loop["learner"], loop["online"], total = online.device_block(
            program, plan, loop["learner"], loop["online"], x, DECISIONS, due
        )
        return total

    def updates_alone():
        return offline.updates(program, s.batch, jax.tree.map(jnp.copy, learner), x, DECISIONS * updates)

    t = medians(7, online=with_environment, updates=updates_alone)
    steps = DECISIONS * plan.steps
    tell(
        f"online tabletop/cube-double 3x128-N8 E={E}",
        env_steps_per_second=steps / t["online"],
        updates_alone_allow=steps / t["updates"],
        ratio=t["updates"] / t["online"],
        better="higher",
        asked=0.9,
    )


if __name__ == "__main__":
    main()
