"""When to look again: one training, many ways to play it, on probes whose answers are known and on tabletop.

fog-gust wants commitment, then reaction; pursuit and catch punish plans that are older than what changed; with a delay of 0 to 4 steps real-time chunking
(2506.07339) stands beside its two naive baselines. ``--only fog-gust``, ``pursuit``, ``catch`` or ``delays`` takes a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from _suite import OPTIM, SMALL, opened, publish, small_qc, with_interval
from matplotlib import pyplot as plt

from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.bc import BC
from qchunk.algorithms.qc_prefix import PrefixQC
from qchunk.comparison.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig
from qchunk.critics.prefix import PrefixConfig
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.play.on_device import rollout
from qchunk.reporting import executions, records
from qchunk.reporting.stats import paired_difference
from qchunk.runs.opened import vars_of
from qchunk.types import PLAN_STEP

H, SEEDS, EPISODES = 16, 5, 256
FIXED = ("receding:1", "receding:2", "receding:4", "receding:8", "open-loop")
SAMPLED = ("coherent:16", "coherent:16,4", "coherent:16,8", "supported:16,0.5,1", "supported:16,0.5,2", "supported:16,0.5,4", "supported:16,0.7,1", "supported:16,0.7,2", "supported:16,0.7,4", "dispersion:0.3", "dispersion:0.7", "rtc:0,1", "random-k")  # fmt: skip
BY_CRITIC = ("longest-safe:0.1", "longest-safe:0.3", "longest-safe:1.0", "argmax-k", "sampled-k", "advantage-k")
MARKERS = "x+*sdv^<>pPXD"  # one for each of either
DELAYS = tuple(f"{name}:{d},4" for name in ("rtc", "hard-mask", "async") for d in range(5))
PREFIX = PrefixConfig(SMALL, network="masked", aggregate="mean", tau=0.01)


def cloned(env: str, h: int, updates: int, label: str, hidden=SMALL, steps=5) -> Run:
    """A flow, cloned."""
    c = BC(ChunkConfig(h), FlowConfig(hidden, steps=steps), OPTIM)
    return Run("bc", env, Data(env, 200_000), c, settings(updates), label)


def with_critic(env: str) -> Run:
    """The flow with a critic of prefixes, of which each update samples N chunks at each of the backup points: a fifth of the windows."""
    c = PrefixQC(ChunkConfig(H, (1, 2, 4, 8, 16)), FlowConfig(SMALL, steps=5), PREFIX, OPTIM)
    few = OnlineSettings(seeds=4, offline_steps=3_000, eval_every=1_500, batch=128, episodes=EPISODES)
    return Run("qc-prefix", env, Data(env, 200_000), c, few, "qc-prefix")


def settings(updates: int, seeds: int = SEEDS) -> OnlineSettings:
    """Offline, evaluated twice on the way."""
    return OnlineSettings(seeds=seeds, offline_steps=updates, eval_every=updates // 2, episodes=EPISODES)


def suite(scale: str) -> list[Run]:
    """Runs of 5 seeds (those with a critic and on cube-single: 4); about two hours of one core."""
    probes = ("pursuit-0", "pursuit", "pursuit-0.1", "catch")
    cube, qc = "tabletop/cube-single-task1", small_qc(horizon=8, steps=5)
    return [
        cloned("probe/fog-gust", H, 40_000, "bc", (256, 256, 256), 10),
        *(cloned(f"probe/{name}", H, 10_000, "bc") for name in probes),
        cloned("probe/pursuit", 8, 10_000, "delays, bc"),
        Run("qc", cube, Data("tabletop/cube-single", 200_000), qc, settings(6_000, 4), "delays, qc"),
        *(with_critic(f"probe/{name}") for name in ("fog-gust", *probes)),
    ]


def schemes(run: Run) -> Sequence[str]:
    """How a run is played."""
    if run.label.startswith("delays"):
        return DELAYS
    return (*FIXED, *(BY_CRITIC if run.algorithm == "qc-prefix" else SAMPLED))


def lengths(folder: Path, name: str, steps: int = 80, envs: int = 256) -> np.ndarray:
    """How long the plans are that begin at each step of an episode, means [steps] of the first seed; NaN where none does."""
    p, learner = opened(folder)
    p = p.played(name, None)
    vars, scheme = vars_of(p, learner), p.program.scheme(p.inputs, "act")
    play = jax.jit(lambda key: rollout(wrap(p.program.env), scheme, vars, key, steps // scheme.steps, None, envs)[1])
    found = play(jax.random.key(1000))
    at = np.asarray(found.extras.get(PLAN_STEP, np.zeros_like(found.reward)))
    begins = np.vstack([(at == 0) & (np.asarray(found.alive) > 0), np.ones((1, envs), bool)])
    after = len(at) - np.maximum.accumulate(np.where(begins, len(at) - np.arange(len(at) + 1)[:, None], 0)[::-1])[::-1]
    length = np.where(begins[:-1], after[1:] - np.arange(len(at))[:, None], np.nan)
    with np.errstate(invalid="ignore"):
        return np.nansum(length, axis=1) / np.sum(begins[:-1], axis=1)


def pictures(root: Path, runs: list[Run]) -> None:
    """The length of plans over an episode of fog-gust: long in the fog, short in the gusts?"""
    shown = [r for r in runs if r.env == "probe/fog-gust"]
    if not shown:
        return
    figure, axes = plt.subplots(
        1, len(shown), figsize=(6 * len(shown), 3.6), squeeze=False, layout="constrained", dpi=120
    )
    for ax, run in zip(axes.flat, shown, strict=True):
        own = (
            ("longest-safe:0.3", "argmax-k")
            if run.algorithm == "qc-prefix"
            else ("supported:16,0.5,1", "dispersion:0.7")
        )
        for name in own:
            ax.plot(lengths(folder_of(run, root), name), ".", label=name)
        ax.axvline(40, color="0.5", linestyle=":")
        ax.set(
            title=f"{run.label} on {run.env}",
            xlabel="environment step (gusts from 40 on)",
            ylabel="steps of the plan that begins there",
        )
        ax.legend(frameon=False, fontsize=9)
    figure.savefig(root / "report" / "lengths.png")
    plt.close(figure)


def at_equal_looks(root: Path, runs: list[Run]) -> None:
    """Is a boundary that a policy sets itself better than the best fixed one? Returns against those of fixed lengths at as many looks.

    Between two fixed lengths returns are interpolated over the logarithm of looks, seed by seed; beyond the longest and the shortest their ends count.
    """
    shown, rows = [r for r in runs if not r.label.startswith("delays")], []
    if not shown:
        return
    methods = [[r for r in shown if r.label == label] for label in dict.fromkeys(r.label for r in shown)]
    shape = len(methods), max(map(len, methods))
    figure, axes = plt.subplots(
        *shape, figsize=(3.4 * shape[1] + 1.6, 3.2 * shape[0]), squeeze=False, layout="constrained", dpi=110
    )
    for ax in axes.flat:
        ax.axis("off")
    places = [(ax, run) for row, runs in zip(axes, methods, strict=True) for ax, run in zip(row, runs, strict=False)]
    for ax, run in places:
        ax.axis("on")
        played = {name: x["figures"] for name, x in executions.read(folder_of(run, root)).items() if not x["why"]}
        of = lambda name, figure, played=played: np.asarray(played[name][figure], float)  # noqa: E731
        fixed = sorted((n for n in FIXED if n in played), key=lambda n: of(n, "looks").mean())
        log_looks, returns = (np.stack([of(n, f) for n in fixed]) for f in ("looks", "return"))
        ax.plot(log_looks.mean(axis=1), returns.mean(axis=1), "o-", color="0.4", label="fixed")
        for i, name in enumerate(n for n in played if n not in FIXED):
            looks, value = of(name, "looks"), of(name, "return")
            seeds = zip(np.log(looks), np.log(log_looks).T, returns.T, strict=True)
            rival = np.array([np.interp(at, x, y) for at, x, y in seeds])
            ax.plot(looks.mean(), value.mean(), MARKERS[i], color=f"C{i % 10}", label=name)
            rows.append(
                {
                    "environment": run.env,
                    "method": run.label,
                    "scheme": name,
                    "looks per episode": f"{looks.mean():.1f}",
                    "return": with_interval(value, "return"),
                    "less fixed lengths at equal looks": " ".join(
                        records.show(paired_difference(value, rival), "return")
                    ),
                }
            )
        ax.set(
            title=f"{run.label} on {run.env.split('/')[1]}", xscale="log", xlabel="looks per episode", ylabel="return"
        )
        ax.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        ax.minorticks_off()
        if run in [runs[-1] for runs in methods]:  # a method's runs are played by the same schemes
            ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    publish(root, "equal_looks", rows, figure)


def look(root: Path, runs: list[Run]) -> None:
    """Both, of what was trained."""
    pictures(root, runs)
    at_equal_looks(root, runs)


SUITE = Suite(suite, execute=schemes, after=look)
