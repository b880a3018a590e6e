"""The table of Q-chunking (2507.07969) on OGBench: QC and its configurations without chunks, offline and then online.

At paper scale: 25 tasks, 1M transitions, 4 x 512, the paper's N of every arm and scene, 1M updates and 1M environment steps, 4 seeds: a
GPU and days. At small scale one task of each of the three easier scenes, offline, in hours of 2 cores. ``--only cube-double`` takes a part.

Needs ``pip install -c constraints.txt -e '.[ogbench]'``.
"""

from __future__ import annotations

from pathlib import Path

from _suite import OPTIM, SMALL, TAU

from qchunk.algorithms.qc import QC
from qchunk.comparison.suite import Data, Published, Run, Suite
from qchunk.config import ChunkConfig, CriticConfig, FlowConfig
from qchunk.drivers.online import OnlineSettings

ARMS = {  # label: chunks, and the paper's name
    "qc": (ChunkConfig(5), "QC"),
    "h = 1": (ChunkConfig(1), "BFN"),
    "n-step (5)": (ChunkConfig(1, (5,)), "BFN-n"),
}
CANDIDATES = {"QC": 32, "BFN": 4, "BFN-n": 4}  # the paper's N, by its name of the arm ...
SCENE_CANDIDATES = {("QC", "puzzle-3x3"): 64}  # ... and of an arm on one scene
SMALL_CANDIDATES = {"QC": 8, "BFN": 4, "BFN-n": 4}
SCENES = ("puzzle-3x3", "scene", "cube-double", "cube-triple", "cube-quadruple")
REWARD = {"scene": "@sparse", "puzzle-3x3": "@sparse"}  # the paper trains these two on -1 until success


def environment(scene: str, task: int) -> str:
    """OGBench's name of a task, with the paper's reward."""
    return f"ogbench/{scene}-play-singletask-task{task}-v0{REWARD.get(scene, '')}"


def candidates(method: str, scene: str, scale: str) -> int:
    """N of an arm, by its name in the paper."""
    if scale != "paper":
        return SMALL_CANDIDATES[method]
    return SCENE_CANDIDATES.get((method, scene), CANDIDATES[method])


def suite(scale: str) -> list[Run]:
    """All tasks as the paper trains them, or three tasks as 2 cores can."""
    if scale == "paper":
        tasks = [(scene, task) for scene in SCENES for task in range(1, 6)]
        settings = OnlineSettings(seeds=4, offline_steps=1_000_000, eval_every=100_000, online_steps=1_000_000)
        nets, sizes = QC(), {"cube-triple": 3_000_000}
    else:
        tasks = [("cube-double", 1), ("scene", 1), ("puzzle-3x3", 1)]
        settings = OnlineSettings(seeds=3, offline_steps=30_000, eval_every=5_000)
        nets, sizes = QC(actor=FlowConfig(SMALL, steps=5), critic=CriticConfig(SMALL, tau=TAU), optim=OPTIM), {}
    plain = 1_000_000 if scale == "paper" else 200_000
    return [
        Run(
            "qc",
            environment(*task),
            Data(f"ogbench/{task[0]}-play-v0", sizes.get(task[0], plain)),
            QC(chunk, nets.actor, nets.critic, nets.optim, candidates(method, task[0], scale)),
            settings,
            label,
        )
        for task in tasks
        for label, (chunk, method) in ARMS.items()
    ]


def differences(scale: str) -> list[str]:
    """Of our runs from the paper's."""
    smoke = [
        "a smoke run: networks of 16, N = 2, 3 flow steps, batches of 64, 40 updates on at most 10,000 transitions, 2 seeds, 4 episodes; "
        "its figures say nothing beside the published ones, which are of 1M updates (and 1M environment steps)",
        "learning rate 1e-3 and target rate 0.01 in place of 3e-4 and 0.005; no online part",
    ]
    small = [
        "3 x 128 and 5 flow steps, learning rate 1e-3, target rate 0.01 in place of 4 x 512, 10 steps, 3e-4, 0.005",
        "N = 8 of QC in place of 32 (64 on puzzle-3x3); BFN and BFN-n have the paper's 4",
        "30,000 updates in place of 1M, and no online part: the published figures are of 1M updates (and 1M environment steps)",
        "200k transitions in place of 1M; 3 seeds in place of 4",
    ]
    return [
        *{"smoke": smoke, "small": small, "paper": []}[scale],
        "data are played here by OGBench's own oracles (ogbench 1.2, mujoco 4), not the published files",
        "ogbench 1.2 judges success before the action, the paper's 1.1.2 after it: episodes are one step longer",
        *(["cube-quadruple on 1M transitions; the paper takes 100M"] if scale == "paper" else []),
        "losses are means over what counts; the published code divides by all windows and steps, also by those that an episode's end cuts",
        "intervals of ours are Student's t and of the pooled episodes over seeds, the published ones a stratified bootstrap",
        "an evaluation's start states are the same at every evaluation and for every arm; the published code draws others each time",
    ]


SUITE = Suite(
    suite,
    ("small", "paper"),
    Published(
        Path(__file__).parent / "published" / "qc_final.csv",
        "Q-chunking, 2507.07969, figures released with its code; 4 seeds, 95 % bootstrap",
        {label: name for label, (_, name) in ARMS.items()},
        lambda env: env.removeprefix("ogbench/").replace("-singletask", "").removesuffix("@sparse").removesuffix("-v0"),
    ),
    differences,
)
