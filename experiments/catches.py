"""The catches that are told of other ways to think in sequences, each a figure: skills, a critic that zooms, movement primitives, planning in a model.

Both levels at once: OPAL on skills of a first stage, against skills that move below it (``opal_at_once.py``): how far seeds are apart. Precision: how near
to the right action of probe/fork a critic's bins come, by zooms, and a flow. Smoothness against reaction: cloned chunks of 16 as movement primitives, on
probe/pursuit, by how often they look; plans begin anew, or go on smoothly from the old one. Depth: ONE model, planned with to several depths among
chunks of the prior or random ones: success, milliseconds, and the model's error where these lead. ``--only opal``, ``fork``, ``pursuit`` or ``vpn`` takes a part; some three hours on 2 cores.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, decision, opened, publish, small_bc, small_qc, with_interval
from qc_paper import BUDGETS, sized

from qchunk import registry
from qchunk.actor_configs import FlowConfig, SkillConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.cqn_as import CQNAS
from qchunk.algorithms.opal import OPAL
from qchunk.algorithms.vpn import VPN
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig
from qchunk.critics.zooms import ZoomConfig
from qchunk.drivers.common import evaluate
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.play.on_device import rollout
from qchunk.reporting import executions, records
from qchunk.reporting.catches import roughness
from qchunk.runs.opened import vars_of
from qchunk.world_model import LatentConfig, latent_model

CUBE, FORK, PURSUIT = "tabletop/cube-single-task1", "probe/fork", "probe/pursuit"
CHUNKS, SKILLS, LONG = ChunkConfig(5), SkillConfig(SMALL), 16
OWN = f"{Path(__file__).with_name('opal_at_once.py')}:opal_at_once"
AT_ONCE, STAGES = "opal, both levels at once", "opal, in two stages"
LOOKS = (1, 2, 4, 8, LONG)
STATES, TOLERANCES = 2_000, (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
PLANS = {  # by label: how one run of vpn is played
    "0": {"n": 1, "depth": 1},
    **{str(d): {"depth": d} for d in (1, 2, 3)},
    **{f"{d}, random": {"depth": d, "proposals": "uniform"} for d in (1, 3)},
}


def settings(seeds: int, updates: int) -> OnlineSettings:
    """Offline."""
    return OnlineSettings(seeds=seeds, offline_steps=updates, eval_every=updates // 2, episodes=100)


def suite(scale: str) -> list[Run]:
    """The four parts."""
    cube, eight = Data("tabletop/cube-single", 200_000), settings(8, BUDGETS["cube-single"].offline)
    skills = Run("bc", CUBE, cube, sized(BC(CHUNKS, SKILLS)), eight, "opal's skills")
    found = [
        skills,
        Run("opal", CUBE, cube, sized(OPAL(SKILLS, CHUNKS)), eight, STAGES, skills.name),
        Run(OWN, CUBE, cube, sized(registry.builder(OWN)[1](SKILLS, CHUNKS)), eight, AT_ONCE),
        # values as distributions: as numbers vpn hardly succeeds from data alone, and depths could not be told apart
        Run("vpn", CUBE, cube, sized(VPN(CHUNKS, model=LatentConfig(), depth=2, unroll=3)), settings(4, 3_000), "vpn"),
    ]
    fork, few = Data(FORK, 20_000), settings(4, 3_000)
    for levels in (1, 2, 3):
        c = CQNAS(ChunkConfig(1, (1,)), ZoomConfig(SMALL[:2], levels, atoms=1), OPTIM)
        found.append(Run("cqn-as", FORK, fork, c, few, f"cqn-as, zooms {levels}"))
    found += [Run("qc", FORK, fork, dataclasses.replace(small_qc(1), n=n), few, f"qc, N = {n}") for n in (8, 32)]
    found.append(Run("bc", FORK, fork, small_bc(1), few, "bc, flow"))
    chunks = {"bc": ChunkConfig(LONG)} | {
        f"bc, prodmp {b}{', smooth' * (how == 'smooth')}": ChunkConfig(LONG, codec="prodmp", basis=b, replan=how)
        for b, how in ((4, "free"), (8, "free"), (4, "smooth"), (LONG, "smooth"))
    }
    return found + [
        Run("bc", PURSUIT, Data(PURSUIT, 200_000), BC(c, FlowConfig(SMALL, steps=5), OPTIM), settings(4, 5_000), label)
        for label, c in chunks.items()
    ]


def schemes(run: Run) -> Sequence[str]:
    """Long chunks are played at several lengths."""
    return [f"receding:{k}" for k in LOOKS] if run.env == PURSUIT else ()


def off_by(run: Run, root: Path) -> np.ndarray:
    """How far actions on probe/fork are from the nearer good one [S, STATES], read off the reward exp(-d^2 / 0.02)."""
    p, learner = opened(folder_of(run, root))
    scheme, env = p.program.scheme(p.inputs, "act"), wrap(p.program.env)
    reward = [
        rollout(env, scheme, vars_of(p, learner, seed), jax.random.key(seed), 1, None, STATES)[1].reward[0]
        for seed in range(p.settings.seeds)
    ]
    return np.sqrt(-0.02 * np.log(np.clip(np.stack(reward), 1e-30, 1.0)))


def astray(p: Any, learner: Any, decisions: int = 40, envs: int = 50) -> np.ndarray:
    """The model's mean absolute error of a chunk's return, where the policy of ``p`` leads, of each seed [S]."""
    c, env, found = p.inputs.c, wrap(p.program.env), []
    model, scheme = latent_model(c.model), p.program.scheme(p.inputs, "act")
    gamma = c.chunk.gamma ** np.arange(c.chunk.horizon)
    for seed in range(p.settings.seeds):
        vars = vars_of(p, learner, seed)
        s = rollout(env, scheme, vars, jax.random.key(seed), decisions, None, envs)[1]
        each = lambda x: jnp.moveaxis(x.reshape(decisions, c.chunk.horizon, *x.shape[1:]), 1, 2)  # noqa: E731
        guess = model.ahead(vars, model.encode(vars, each(s.obs)[:, :, 0]), each(s.action)).reward
        apart = jnp.abs(guess - each(s.reward * s.alive) @ gamma) * each(s.alive)[..., 0]
        found.append(float(apart.sum() / each(s.alive)[..., 0].sum()))
    return np.asarray(found)


def levels(ax: Any, runs: list[Run], root: Path) -> list[dict[str, str]]:
    """Success of each seed, on skills that stand and on skills that move."""
    rows = []
    for x, r in enumerate(runs):
        found = records.load([folder_of(r, root)])[0].final()
        ax.plot([x] * len(found), 100 * found, "o", color=f"C{x}", alpha=0.6)
        ax.plot([x - 0.2, x + 0.2], [100 * found.mean()] * 2, color=f"C{x}")
        told = {
            "success": with_interval(found, "success", 100),
            "spread of seeds, points": f"{100 * found.std(ddof=1):.1f}",
        }
        rows.append({"catch": "both levels at once", "method": r.label, **told})
    ax.set_xticks(range(len(runs)), [r.label.removeprefix("opal, ") for r in runs])
    ax.set(title="Skills (cube-single-task1)", ylabel="success (%)", xlim=(-0.6, len(runs) - 0.4), ylim=(-4, 104))
    return rows


def precision(ax: Any, runs: list[Run], root: Path) -> list[dict[str, str]]:
    """The share of actions that are near enough, against what near enough is."""
    rows = []
    for r in runs:
        d = off_by(r, root)
        share = np.stack([(d < t).mean(axis=1) for t in TOLERANCES], axis=1)
        ax.plot(TOLERANCES, 100 * share.mean(axis=0), "o-" if r.algorithm == "cqn-as" else "s--", label=r.label)
        told = {
            f"within {t:g}": with_interval(share[:, TOLERANCES.index(t)], "success", STATES) for t in (0.1, 0.02, 0.005)
        }
        rows.append({"catch": "precision", "method": r.label, **told})
    ax.set(title="Bins against a flow (fork)", xlabel="tolerance", ylabel="actions within it (%)", xscale="log")
    ax.legend(fontsize=8, frameon=False)
    return rows


def reaction(ax: Any, runs: list[Run], root: Path) -> list[dict[str, str]]:
    """Return against the change of actions, a line for each language of chunks, a point for how often it looks."""
    rows = []
    for r in runs:
        played = executions.read(folder_of(r, root))
        found = [played[f"receding:{k}"]["figures"] for k in LOOKS]
        rough = [np.mean(roughness(x)) for x in found]
        ax.plot(rough, [np.mean(x["return"]) for x in found], "o-", label=r.label)
        ax.annotate("1", (rough[0], np.mean(found[0]["return"])), textcoords="offset points", xytext=(4, 4), fontsize=8)
        for k, x in zip(LOOKS, found, strict=True):
            told = {"return": with_interval(x["return"], "return"), "change of actions": f"{np.mean(roughness(x)):.3f}"}
            rows.append({"catch": "smoothness", "method": f"{r.label}, a look in {k}", **told})
    ax.set(title="Primitives (pursuit; from 1 step a look on)", xlabel="change of actions, a step", ylabel="return")
    ax.legend(fontsize=8, frameon=False)
    return rows


def depth(axes: Sequence[Any], run: Run, root: Path) -> list[dict[str, str]]:
    """Success and the model's error against the milliseconds of a decision."""
    rows, (p, learner) = [], opened(folder_of(run, root))
    for label, changes in PLANS.items():
        q = p._replace(inputs=p.inputs._replace(c=dataclasses.replace(p.inputs.c, **changes)))
        success = np.asarray(evaluate(q.program, q.inputs, q.settings, learner)["success"])
        error, ms = astray(q, learner), decision(q, learner)["p50"]
        for ax, y in zip(axes, (100 * success, error), strict=True):
            ax.plot([ms] * len(y), y, ".", color="0.7")
            ax.plot(ms, y.mean(), "D" if "random" in label else "o", color="C1" if "random" in label else "C0")
            ax.annotate(label, (ms, y.mean()), textcoords="offset points", xytext=(5, 4), fontsize=8)
        told = {
            "success": with_interval(success, "success", 100),
            "decision, ms": f"{ms:.2f}",
            "error of the model": with_interval(error, "return"),
        }
        rows.append({"catch": "depth", "method": f"vpn, depth {label}", **told})
    axes[0].set(title="Planning (vpn, by depth)", xlabel="ms per decision", ylabel="success (%)", ylim=(-4, 104))
    axes[1].set(
        title="Its model, where that leads",
        xlabel="ms per decision",
        ylabel="error of a chunk's return",
        ylim=(0, None),
    )
    return rows


def pictures(root: Path, runs: list[Run]) -> None:
    """A panel a catch, of the runs that are there, and one table."""
    parts = {
        levels: [r for r in runs if r.label in (STAGES, AT_ONCE)],
        precision: [r for r in runs if r.env == FORK],
        reaction: [r for r in runs if r.env == PURSUIT],
    }
    planned = [r for r in runs if r.algorithm == "vpn"]
    count = sum(map(bool, parts.values())) + 2 * len(planned)
    wide = min(3, count)
    shape = math.ceil(count / wide), wide
    figure, axes = plt.subplots(*shape, figsize=(4.7 * wide, 4 * shape[0]), layout="constrained", squeeze=False)
    panels, rows = iter(axes.flat), []
    for part, found in parts.items():
        rows += part(next(panels), found, root) if found else []
    for r in planned:
        rows += depth([next(panels), next(panels)], r, root)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
        ax.set_visible(bool(ax.get_title()))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    publish(root, "catches", [{name: row.get(name, "") for name in columns} for row in rows], figure)


SUITE = Suite(suite, execute=schemes, after=pictures)
