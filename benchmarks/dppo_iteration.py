"""DPPO's iteration of 80,000 environment steps of hopper on a GPU, over its environment steps and its products alone (see ``on_policy``).

A flow of K = 20 steps in the place of the paper's DDPM, which has as many products: 10 are tuned, chunks of 4, 3 x 512, 5 epochs. 1,000 environments
play 20 decisions; the paper's 40 play 500, in 16.6 s with what follows (2409.00588).
"""

from __future__ import annotations

import dataclasses

from _accelerator import SMOKE, needed
from _timing import tell
from on_policy import C, timed

from qchunk import envs
from qchunk.actor_configs import FlowConfig
from qchunk.config import ChunkConfig, RolloutConfig, ValueConfig

NAME, WIDTHS, K, ROLLOUT = (
    ("tabletop/cube-single-task1", (16,), 2, RolloutConfig(4, 2, 1, 2))
    if SMOKE
    else ("brax/hopper@spring", (512,) * 3, 20, RolloutConfig(1000, 20, 5, 4))
)


if __name__ == "__main__":
    needed()
    c = dataclasses.replace(
        C,
        tuned=FlowConfig(WIDTHS, steps=K),
        tuned_steps=K // 2,
        chunk=ChunkConfig(4, discount="decision"),
        critic=ValueConfig(WIDTHS),
        rollout=ROLLOUT,
    )
    t = timed(envs.make(NAME), c)
    tell(f"iteration {NAME}", ratio=t.pop("ratio"), better="lower", **t)
