"""Ten tasks of Meta-World from its own scripted experts' data: cloning by a flow and by a diffusion, and Q-chunking, 3 seeds.

``qchunk env setup metaworld`` first: the simulator runs in an interpreter of its own. Half of the 20,000 steps of each task are the experts', half the same
with noise. ``qchunk reproduce metaworld [--only push-v3 ...]``.
"""

from _suite import OPTIM, SMALL, small_bc, small_qc

from qchunk.actor_configs import DiffusionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig
from qchunk.drivers.online import OnlineSettings

TASKS = (
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-close-v3"),
    *("button-press-v3", "peg-insert-side-v3", "window-open-v3", "sweep-v3", "basketball-v3"),
)


def suite(scale: str) -> list[Run]:
    """Three runs a task; observations and actions are scaled, as their units differ."""
    settings = OnlineSettings(
        seeds=3,
        offline_steps=3_000,
        eval_every=1_500,
        episodes=20,
        normalise_obs="standard",
        normalise_action="min-max",
    )
    arms = {
        "bc (flow)": ("bc", small_bc(steps=5)),
        "bc (diffusion)": ("bc", BC(ChunkConfig(5), DiffusionConfig(SMALL, steps=10), OPTIM)),
        "qc": ("qc", small_qc(steps=5)),
    }
    data = {task: Data(f"metaworld/{task}", 20_000, ("expert", "noisy"), 500) for task in TASKS}
    return [
        Run(algorithm, f"metaworld/{task}", data[task], c, settings, label)
        for task in TASKS
        for label, (algorithm, c) in arms.items()
    ]


SUITE = Suite(suite)
