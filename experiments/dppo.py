"""Fine-tuning a prior by policy gradients: DPPO through the denoising steps of a flow, PPO with a Gaussian, and the prior.

``qchunk reproduce dppo [--only cube-single | cube-double | halfcheetah]``; 4 seeds, 3 on halfcheetah.

Tabletop stands in for robomimic, and Brax's halfcheetah for MuJoCo's with D4RL's data: none of this is a figure of the paper.
"""

from __future__ import annotations

from typing import Any

from _suite import OPTIM, SMALL

from qchunk.actor_configs import FlowConfig, GaussianConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.dppo import DPPO, PPO
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings

FLOW = FlowConfig(SMALL, ema=True)
PRIORS = {"flow": FLOW, "gaussian": GaussianConfig(SMALL, ema=True)}
CHUNK, VALUE = ChunkConfig(5, discount="decision"), ValueConfig(SMALL)


def arms(env: str, steps: int, seeds: int, envs: int = 512, critic_updates: int = 0, **more: Any) -> list[Run]:
    """DPPO from the flow prior, and PPO from the Gaussian prior: the same decisions, environments and epochs."""
    settings = OnPolicySettings(seeds=seeds, online_steps=steps, episodes=100, **more)
    # the bound that trials of each on cube-single-task2 chose among the same values (comparison/arms.py)
    both: dict[str, Any] = {"rollout": RolloutConfig(envs), "critic_updates": critic_updates, "clip": 0.03}
    d = DPPO(PRIORS["flow"], CHUNK, VALUE, tuned_steps=5, clip_base=0.03, **both)
    p = PPO(PRIORS["gaussian"], CHUNK, VALUE, **both)
    return [
        Run("dppo", env, None, d, settings, "dppo", prior=f"{env}/prior (flow)"),
        Run("ppo", env, None, p, settings, "ppo", prior=f"{env}/prior (gaussian)"),
    ]


def priors(env: str, seeds: int, **more: Any) -> list[Run]:
    """Both actors, cloned: one for each seed that goes on from it."""
    settings = OnlineSettings(seeds=seeds, offline_steps=10_000, eval_every=10_000, episodes=100, **more)
    return [
        Run("bc", env, DATA[env], BC(ChunkConfig(5), c, OPTIM), settings, f"prior ({kind})")
        for kind, c in PRIORS.items()
    ]


SINGLE, DOUBLE, CHEETAH = "tabletop/cube-single-task1", "tabletop/cube-double-task1", "brax/halfcheetah@spring"
DATA = {
    SINGLE: Data("tabletop/cube-single", 200_000),
    DOUBLE: Data("tabletop/cube-double", 1_000_000),
    CHEETAH: Data(CHEETAH, 200_000, (f"{CHEETAH}/ppo, medium",)),
}


def scratch(env: str, label: str, steps: int, seeds: int) -> Run:
    """PPO as it is used without a prior: one action a decision, gamma per step."""
    c = PPO(
        GaussianConfig(SMALL),
        ChunkConfig(1),
        VALUE,
        RolloutConfig(128, 64, 8, 16),
        optim=OptimConfig(3e-4),
        clip=0.2,
        explore_std=0.3,
    )
    settings = OnPolicySettings(seeds=seeds, online_steps=steps, episodes=32, normalise_obs="standard")
    return Run("ppo", env, None, c, settings, label)


def suite(scale: str) -> list[Run]:
    """Priors and what is made of them; on halfcheetah the behaviour comes first, and PPO from scratch stands beside."""
    medium = scratch(CHEETAH, "ppo, medium", 1_000_000, 1)
    units = {"normalise_obs": "standard"}
    # A prior that succeeds in 2 to 5 of 1,000 episodes: what a random value says of its actions, or a small iteration, unlearns that
    # before it is found. 1,024 environments and a critic that learns first were chosen with seeds 0 to 3; these are others.
    rare = {"seed": 4, "envs": 1024, "critic_updates": 100}
    return [
        *(*priors(SINGLE, 4), *arms(SINGLE, 5_000_000, 4)),
        *(*priors(DOUBLE, 4, seed=4), *arms(DOUBLE, 8_000_000, 4, **rare)),
        *(medium, *priors(CHEETAH, 3, **units), *arms(CHEETAH, 2_000_000, 3, **units)),
        scratch(CHEETAH, "ppo, from scratch", 2_000_000, 3),
    ]


SUITE = Suite(suite)
