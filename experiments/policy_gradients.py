"""Policy gradients on one cloned flow: through its noisy steps, by learned noise, by its own losses; PPO on a Gaussian and one that may replay beside them.

``qchunk reproduce policy-gradients [--only cube-single | halfcheetah]``; 4 seeds. The priors and the sizes of iterations are those of
``dppo``; ``dppo`` and ``ppo`` have the bound of the ratio that trials chose there, the others their papers'. ``ogpo`` has the prior's data and replay, at a 50th of the environment steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from _suite import OPTIM, SMALL, TAU
from dppo import CHEETAH, CHUNK, DATA, FLOW, SINGLE, VALUE, priors, scratch
from dppo import arms as by_steps

from qchunk.algorithms.fpo import FPO
from qchunk.algorithms.ogpo import OGPO
from qchunk.algorithms.reinflow import ReinFlow
from qchunk.comparison.suite import Run, Suite
from qchunk.config import ChunkConfig, CriticConfig, RolloutConfig
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings


def arms(env: str, steps: int, seeds: int, **more: Any) -> list[Run]:
    """DPPO and PPO, ReinFlow and both of FPO from the same decisions, environments and epochs; OGPO from replay."""
    settings = OnPolicySettings(seeds=seeds, online_steps=steps, episodes=100, **more)
    same: dict[str, Any] = {"chunk": CHUNK, "critic": VALUE, "rollout": RolloutConfig(512)}
    configs = {
        "reinflow": ReinFlow(dataclasses.replace(FLOW, steps=4), **same),
        "fpo": FPO(FLOW, **same),
        "fpo++": FPO(FLOW, **same),
    }
    prior = f"{env}/prior (flow)"
    tuned = [Run(name, env, None, c, settings, name, prior=prior) for name, c in configs.items()]
    q = OGPO(ChunkConfig(5), FLOW, CriticConfig(SMALL, tau=TAU), OPTIM, OPTIM, group=4, n=8)
    replayed = OnlineSettings(
        seeds=seeds, offline_steps=0, online_steps=steps // 50, envs=256, start_training=6_400, update_ratio=0.0625, mix="share:0.5",
        online_eval_every=steps // 200, episodes=100, **more
    )  # fmt: skip
    return [*by_steps(env, steps, seeds, **more), *tuned, Run("ogpo", env, DATA[env], q, replayed, "ogpo", prior=prior)]


def suite(scale: str) -> list[Run]:
    """Priors and what is made of them."""
    units = {"normalise_obs": "standard"}
    medium = scratch(CHEETAH, "ppo, medium", 1_000_000, 1)
    return [
        *(*priors(SINGLE, 4), *arms(SINGLE, 5_000_000, 4)),
        *(medium, *priors(CHEETAH, 4, **units), *arms(CHEETAH, 1_000_000, 4, **units)),
    ]


SUITE = Suite(suite)
