"""Other ways to think in sequences, beside Q-chunking: skills, a critic that zooms, models of chunks and planning in them, movement primitives.

Equal data, sizes, updates and environment steps: those of qc-paper at small scale. ``qchunk reproduce sequences [--only cube-single-task1]``.
Settings of the newcomers are their papers' where nothing is said here; they were not tuned.
"""

from __future__ import annotations

from collections.abc import Sequence

from _suite import OPTIM, SMALL
from qc_paper import BUDGETS, ROWS, online, sized, trained
from qc_paper import small as of_paper

from qchunk.actor_configs import FlowConfig, SkillConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.cqn_as import CQNAS
from qchunk.algorithms.mac import MAC
from qchunk.algorithms.muzero import MuZero
from qchunk.algorithms.opal import OPAL
from qchunk.algorithms.supe import SUPEGT
from qchunk.algorithms.vpn import VPN
from qchunk.comparison.suite import Data, Run, Suite
from qchunk.config import ChunkConfig
from qchunk.critics.zooms import ZoomConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.world_model import LatentConfig

TASKS = ("tabletop/cube-single-task1", "tabletop/cube-single-task4", "tabletop/cube-double-task1", "probe/switch-4")
CHUNKS = ChunkConfig(5)
SKILLS = SkillConfig(SMALL)
METHODS = {  # by label: the method, and its configuration before sizes are made equal
    "bc": ("bc", BC(CHUNKS, FlowConfig(ema=True))),
    "qc": ("qc", of_paper(ROWS["qc"])),
    "qc, prodmp": ("qc", of_paper(ROWS["qc"]._replace(chunk=ChunkConfig(5, codec="prodmp", basis=4)))),
    "qc-fql": ("qc-fql", of_paper(ROWS["qc-fql"])),
    "opal": ("opal", OPAL(SKILLS, CHUNKS)),
    "supe-gt": ("supe-gt", SUPEGT(SKILLS, CHUNKS)),
    "cqn-as": ("cqn-as", CQNAS(ChunkConfig(5, (1,)), ZoomConfig(atoms=21), OPTIM)),
    "mac": ("mac", MAC(CHUNKS)),
    "vpn": ("vpn", VPN(CHUNKS, depth=2, unroll=3)),
    "vpn, distributions": ("vpn", VPN(CHUNKS, model=LatentConfig(), depth=2, unroll=3)),
    "muzero": ("muzero", MuZero(CHUNKS, depth=2, unroll=3)),
}


def runs(env: str) -> list[Run]:
    """Every method on one task, and the skills that one of them stands on."""
    scene = env.rpartition("-")[0].removeprefix("tabletop/")
    budget = BUDGETS.get(scene, BUDGETS["cube-single"])
    data = Data(env if env.startswith("probe/") else f"tabletop/{scene}", budget.data)
    cloned = OnlineSettings(seeds=4, offline_steps=budget.offline, eval_every=budget.offline)
    skills = Run("bc", env, data, sized(BC(CHUNKS, SKILLS)), cloned, "skills")
    found = [skills]
    for label, (name, c) in METHODS.items():
        settings = trained(ROWS["qc"]._replace(algorithm=name), 4, budget.offline, online(budget))
        prior = skills.name if hasattr(c, "given") else ""
        found.append(Run(name, env, data, sized(c), settings, label, prior))
    return found


def suite(scale: str) -> list[Run]:
    """Four tasks; a task's methods stand together."""
    return [run for env in TASKS for run in runs(env)]


def differences(scale: str) -> Sequence[str]:
    """Of these runs from the papers'."""
    return [
        "networks of 3 x 128, learning rate 1e-3, target rate 0.01, chunks of 5 for every method; cqn-as has no prior, opal's decoder is cloned before",
        "vpn and muzero plan 2 chunks deep among 8, along 3 chunks of the data, vpn also with muzero's distributions; supe-gt makes its updates online alone",
        "opal learns by IQL over skills of 8 numbers, whose decoder is not trained further; as many updates as offline went into it before",
        "cqn-as has 21 atoms (51) and plays whole chunks (its paper looks at every step and averages), mac too (its paper plays 1 of 10)",
        "settings of opal, supe-gt, cqn-as, mac, vpn and muzero were not tuned; those of qc and qc-fql by five runs each on tabletop/cube-single-task2",
    ]


SUITE = Suite(suite, differences=differences)
