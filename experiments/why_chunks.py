"""Why chunks: four claims about them, each a figure.

Copying: on probe/pause an exact policy of one step repeats its last move for ever, a chunk of 8 does not. Compounding: how far from the experts' states on
probe/drift a clone is, by how often it looks, and by whether its data show what to do beside their course. Reaction: what looking less often costs on
probe/catch and probe/pursuit. In between: success against the length of chunks on probe/switch-N (Q-chunking; one step, n-step, chunks) and on
probe/pole. ``--only pause``, ``drift``, ``pole``, ``catch``, ``pursuit`` or ``switch-4`` takes a part.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, opened, small_qc
from matplotlib.ticker import StrMethodFormatter

from qchunk.actor_configs import FlowConfig, RegressionConfig
from qchunk.algorithms.bc import BC
from qchunk.comparison.suite import Data, Run, Suite, file_of, folder_of
from qchunk.config import ChunkConfig
from qchunk.data import formats
from qchunk.drivers.online import OnlineSettings
from qchunk.envs.base import wrap
from qchunk.play.on_device import rollout
from qchunk.reporting import executions
from qchunk.runs import run_folder
from qchunk.runs.opened import vars_of

SEEDS, EPISODES, FLOW = 5, 100, FlowConfig(SMALL, steps=5)
LOOKS = (1, 2, 4, 8)
WAYS = (*(f"receding:{k}" for k in LOOKS), "open-loop")
REACTING = {
    "probe/pursuit-0": "0",
    "probe/pursuit": "0.02",
    "probe/pursuit-0.1": "0.1",
}  # lambda, of a new goal each step


def settings(updates: int) -> OnlineSettings:
    """Offline."""
    return OnlineSettings(seeds=SEEDS, offline_steps=updates, eval_every=updates // 2, episodes=EPISODES)


def cloned(env: str, h: int, updates: int, actor: Any = FLOW, expert: str = "") -> Run:
    """Behaviour cloning with chunks of h, of the environment's first behaviour or of another one."""
    data = Data(env, 200_000, (expert,) if expert else ())
    label = f"bc, h = {h}" + (f", {expert}" if expert else "")
    return Run("bc", env, data, BC(ChunkConfig(h), actor, OPTIM), settings(updates), label)


def valued(env: str, h: int, backup: tuple[int, ...] = ()) -> Run:
    """Q-chunking with chunks of h, or of one step with n-step returns."""
    label = f"qc, h = {h}" + (f", n = {backup[0]}" if backup else "")
    return Run("qc", env, Data(env, 200_000), small_qc(h, backup, steps=5), settings(10_000), label)


def suite(scale: str) -> list[Run]:
    """Runs of 5 seeds; about an hour and a half on 2 cores."""
    return [
        *(cloned("probe/pause", h, 3_000, RegressionConfig(SMALL)) for h in (1, 2, 4, 8, 16)),
        *(cloned("probe/drift", h, 3_000, RegressionConfig(SMALL), e) for e in ("", "shaken") for h in (1, 4, 16)),
        *(cloned("probe/pole", h, 10_000) for h in (1, 4, 8, 16, 32)),
        *(cloned(env, 16, 10_000) for env in ("probe/catch", *REACTING)),
        *(valued(f"probe/switch-{n}", *x) for n in (2, 4, 6, 8) for x in ((1,), (1, (5,)), (5,))),
        *(valued("probe/switch-4", h) for h in (2, 10, 20)),
    ]


def schemes(run: Run) -> Sequence[str]:
    """Chunks of 16 are played at several lengths."""
    return WAYS if run.algorithm == "bc" and run.config.chunk.horizon == 16 and run.env != "probe/pause" else ()


def final(run: Run, root: Path, name: str, kind: str = "eval") -> np.ndarray:
    """The last value [S] of a figure of a run."""
    lines = [x for x in run_folder.read_metrics(folder_of(run, root)) if x["kind"] == kind and name in x["values"]]
    return np.asarray(lines[-1]["values"][name], float)


@functools.partial(jax.jit, static_argnums=2)
def nearest(at: jax.Array, known: jax.Array, block: int = 512) -> jax.Array:
    """The distance from each of the states [n, O] to the nearest known one [m, O]."""
    return jax.lax.map(lambda x: jnp.sqrt(jnp.min(jnp.sum((x - known) ** 2, axis=-1))), at, batch_size=block)


def away(run: Run, root: Path, way: str, steps: int = 96, envs: int = 64) -> np.ndarray:
    """How far a policy's states are at each step from those of the experts of the first behaviour, means [S, steps] over the episodes that go on."""
    folder, found = folder_of(run, root), []
    data, _ = formats.load(file_of(Data(run.env, 200_000), root))
    known = jnp.asarray(data.obs[:: max(1, len(data.obs) // 20_000)])
    p, learner = opened(folder)
    p = p.played(way, None)
    scheme = p.program.scheme(p.inputs, "act")
    for seed in range(p.settings.seeds):
        vars = vars_of(p, learner, seed)
        s = rollout(wrap(p.program.env), scheme, vars, jax.random.key(seed), steps // scheme.steps, None, envs)[1]
        done = np.maximum(s.terminal, s.truncation) * np.asarray(s.alive)
        first = (np.cumsum(done, axis=0) - done == 0) & (np.asarray(s.alive) > 0)
        apart = np.asarray(nearest(s.obs.reshape(-1, s.obs.shape[-1]), known)).reshape(first.shape)
        found.append((apart * first).sum(axis=1) / np.maximum(first.sum(axis=1), 1))
    return np.stack(found)


def line(ax: Any, x: Sequence[float], values: Sequence[np.ndarray], label: str, **style: Any) -> None:
    """Means over seeds, and every seed."""
    values = np.stack(values)
    (drawn,) = ax.plot(x, values.mean(axis=1), "o-", label=label, **style)
    ax.plot(np.repeat(x, values.shape[1]), values.reshape(-1), ".", color=drawn.get_color(), alpha=0.4)


def success(run: Run, root: Path, way: str = "") -> np.ndarray:
    """Success in percent, or the return where there is none [S]."""
    if not way:
        return 100 * final(run, root, "success")
    figures = executions.read(folder_of(run, root))[way]["figures"]
    return 100 * np.asarray(figures["success"]) if "success" in figures else np.asarray(figures["return"])


def pictures(root: Path, runs: list[Run]) -> None:
    """One panel a claim, of the runs that are there."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained", dpi=110)
    of = lambda env: [r for r in runs if r.env == env]  # noqa: E731
    horizon = lambda r: r.config.chunk.horizon  # noqa: E731
    if pause := of("probe/pause"):
        line(axes[0, 0], [horizon(r) for r in pause], [success(r, root) for r in pause], "success (%)")
        loss = axes[0, 0].twinx()
        line(loss, [horizon(r) for r in pause], [final(r, root, "bc/loss", "train") for r in pause], "loss", color="C1")
        axes[0, 0].set(title="Copying (pause)", xlabel="chunk h", ylabel="success (%)", xscale="log")
        loss.set_ylabel("cloning loss", color="C1")
    for r in of("probe/drift"):  # dashed: of experts that are shaken
        shaken = r.label.endswith("shaken")
        for way in ("receding:1",) if shaken else {1: ("receding:1",), 16: WAYS}.get(horizon(r), ()):
            label = f"{r.label.removeprefix('bc, ')}, {way}"
            axes[0, 1].plot(away(r, root, way).mean(axis=0), "--" if shaken else "-", label=label)
    axes[0, 1].set(title="Compounding (drift)", xlabel="environment step", ylabel="distance to the experts' states")
    axes[0, 1].set_yscale("log")
    ks = [*LOOKS, 16]
    for r in of("probe/catch"):
        line(axes[0, 2], ks, [success(r, root, way) for way in WAYS], r.env)
    axes[0, 2].set(title="Reaction (catch)", xlabel="steps between looks", ylabel="success (%)", xscale="log")
    for env, rate in REACTING.items():
        for r in of(env):
            line(axes[1, 0], ks, [success(r, root, way) for way in WAYS], f"new goal: {rate} a step")
    axes[1, 0].set(title="Reaction (pursuit)", xlabel="steps between looks", ylabel="return", xscale="log")
    for kind in ("qc, h = 1", "qc, h = 1, n = 5", "qc, h = 5"):
        if found := [r for r in runs if r.label == kind]:
            line(axes[1, 1], [int(r.env[-1]) for r in found], [success(r, root) for r in found], kind)
    axes[1, 1].set(title="Where chunking begins to pay (switch-n)", xlabel="lamps n", ylabel="success (%)")
    lengths = [r for r in of("probe/switch-4") if r.label.startswith("qc") and not r.config.chunk.backup]
    for env, found in (("probe/switch-4", sorted(lengths, key=horizon)), ("probe/pole", of("probe/pole"))):
        if found:
            line(axes[1, 2], [horizon(r) for r in found], [success(r, root) for r in found], env)
    axes[1, 2].set(title="Neither too short nor too long", xlabel="chunk h", ylabel="success (%)", xscale="log")
    for ax in axes.flat:
        if ax.get_ylabel() == "success (%)":
            ax.set_ylim(-5, 105)
        if ax.get_xscale() == "log":
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=9)
        else:  # none of its runs is there
            ax.set_visible(False)
    figure.savefig(root / "report" / "why_chunks.png", bbox_inches="tight")  # of a part of the runs, its panels alone
    plt.close(figure)


SUITE = Suite(suite, execute=schemes, after=pictures)
