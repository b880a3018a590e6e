"""What it costs that environments look at different times: plans that end by chance, over plans that all end together, for as many looks."""

from __future__ import annotations

import jax
import numpy as np
from _timing import medians, tell

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import ChunkConfig, CriticConfig
from qchunk.envs.base import wrap
from qchunk.play.execute import parse
from qchunk.play.on_device import begin, rollout
from qchunk.types import PLAN_STEP, Spec, view

E, H, K, STEPS, HIDDEN = 4096, 16, 8, 48, (128,) * 3


def compared(name: str, envs_at_once: int = E, steps: int = STEPS, hidden: tuple[int, ...] = HIDDEN) -> None:
    """Best of 4 flow chunks of 16: ``random-k`` (8.5 steps a plan) over ``receding:8``."""
    env = envs.make(name)
    wrapped = wrap(env)
    c = QC(ChunkConfig(H), FlowConfig(hidden, steps=5), CriticConfig(hidden), n=4)
    state = jax.jit(lambda: qc(c).init(jax.random.key(0), Spec(env.observation_size, env.action_size, H), {}))()
    vars = view(state, {})

    def of(way: str):
        scheme = parse(way, H).scheme(qc(c).act)
        start = lambda vars, keys: begin(wrapped, scheme, vars, keys, envs_at_once)  # noqa: E731
        loop = jax.jit(start)(vars, jax.random.split(jax.random.key(3)))

        @jax.jit
        def run(vars, key, loop):
            played = rollout(wrapped, scheme, vars, key, steps // scheme.steps, loop)[1]
            return played.reward.sum(), (played.extras[PLAN_STEP] == 0).sum()

        return lambda: run(vars, jax.random.key(2), loop)

    fixed, chance = of(f"receding:{K}"), of("random-k")
    looks, all_looks = int(fixed()[1]), int(chance()[1])
    t = medians(7, fixed=fixed, chance=chance)
    tell(
        f"looks at different times {name} E={envs_at_once}",
        fixed_ms=1e3 * t["fixed"],
        chance_ms=1e3 * t["chance"],
        looks=all_looks / looks,
        ratio=float(np.divide(t["chance"] / all_looks, t["fixed"] / looks)),
        better="lower",
        asked=1.25,
    )


if __name__ == "__main__":
    compared("probe/fog-gust")
    compared("tabletop/cube-single-task1")
