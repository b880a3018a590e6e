"""Real-time chunking's own benchmark (2506.07339, section 4.1): Kinetix's levels with noise on every action, delays of 0 to 4 steps.

``qchunk reproduce kinetix --only l/h17_unicycle``, or another of the eight levels of the paper's twelve that its package holds; how to install that is in
docs/environments.md. PPO makes an expert of each level, which plays the data; a flow with chunks of 8 clones it, and is played by every way to deal with a delay d, a
new chunk every max(1, d) steps. ``report/delays`` is the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _suite import publish, with_interval
from matplotlib import pyplot as plt

from qchunk.actor_configs import FlowConfig, GaussianConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.dppo import PPO
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, OptimConfig, RolloutConfig, ValueConfig
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import executions

LEVELS = (
    "grasp_easy",
    "hard_lunar_lander",
    "mjc_half_cheetah",
    "mjc_swimmer",
    "mjc_walker",
    "h17_unicycle",
    "chain_lander",
    "car_launch",
)
H, SEEDS, EPISODES = 8, 3, 128
DELAYS = range(5)
SCHEMES = {
    "async": "async:{d},{s}",
    "hard-mask": "hard-mask:{d},{s}",
    "rtc": "rtc:{d},{s}",
    "coherent (BID)": "coherent:16,{s}@{d}",
}
WIDE = (256, 256, 256, 256)


def ways() -> dict[tuple[str, int], str]:
    """By the name of a way and the delay: its scheme."""
    return {(name, d): scheme.format(d=d, s=max(1, d)) for name, scheme in SCHEMES.items() for d in DELAYS}


def of_level(level: str, scale: str) -> list[Run]:
    """The expert, and its clone."""
    env, paper = f"kinetix/l/{level}@noisy", scale == "paper"
    expert = PPO(
        GaussianConfig(WIDE[:2]),
        ChunkConfig(1, gamma=0.995),
        ValueConfig(WIDE[:2]),
        RolloutConfig(256, 256, 4, 8),
        optim=OptimConfig(3e-4),
        clip=0.2,
        explore_std=0.3,
    )
    learned = OnPolicySettings(
        seeds=1, online_steps=65_000_000 if paper else 3_000_000, episodes=EPISODES, normalise_obs="standard"
    )
    data = Data(env, 1_000_000 if paper else 200_000, (f"{env}/expert",))
    clone = BC(ChunkConfig(H), FlowConfig(WIDE, steps=5), OptimConfig(3e-4))
    updates = 62_000 if paper else 8_000  # 32 epochs of a million at 512 a batch
    cloned = OnlineSettings(
        seeds=SEEDS, offline_steps=updates, eval_every=updates, batch=512 if paper else 256, episodes=EPISODES
    )
    return [Run("ppo", env, None, expert, learned, "expert"), Run("bc", env, data, clone, cloned, "bc")]


def suite(scale: str) -> list[Run]:
    """Two runs for each level."""
    return [run for level in LEVELS for run in of_level(level, scale)]


def schemes(run: Run) -> Sequence[str]:
    """How a run is played: the expert as it is."""
    return list(ways().values()) if run.label == "bc" else ()


def look(root: Path, runs: list[Run]) -> None:
    """Success against delay, the mean of the levels that were run."""
    folders = [folder_of(r, root) for r in runs if r.label == "bc"]
    if not folders:
        return
    played = [{name: x for name, x in executions.read(folder).items() if not x["why"]} for folder in folders]
    figure, axis = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    rows = []
    for name in SCHEMES:
        known = [d for d in DELAYS if all(ways()[name, d] in p for p in played)]
        found = {d: np.mean([p[ways()[name, d]]["figures"]["success"] for p in played], axis=0) for d in known}
        axis.plot(known, [100 * x.mean() for x in found.values()], "o-", label=name)
        shown = {d: with_interval(x, episodes=EPISODES * len(folders)) for d, x in found.items()}
        rows.append({"way": name, **{f"delay {d}": shown.get(d, "not played") for d in DELAYS}})
    axis.set(
        xlabel="delay (environment steps)", ylabel="success (%)", ylim=(-3, 103), title=f"{len(folders)} of 12 levels"
    )
    axis.set_xticks(list(DELAYS))
    axis.legend(frameon=False)
    publish(root, "delays", rows, figure)


def differences(scale: str) -> Sequence[str]:
    """What is not as in the paper."""
    return [
        "eight of twelve levels are in the package; of these those that were run",
        "one expert a level and not up to eight; it sees one observation, the paper's four and its last action; rewarded by Kinetix's own shaping",
        "the clone is an MLP of 4 x 256; the paper's mixes tokens",
        *(
            ["an expert learns from 3M steps and not 65M, a clone from 200k transitions and 8,000 updates of 256"]
            if scale == "small"
            else []
        ),
        f"{SEEDS} clones of {EPISODES} episodes; the paper has one of 2,048",
    ]


SUITE = Suite(suite, scales=("small", "paper"), differences=differences, execute=schemes, after=look)
