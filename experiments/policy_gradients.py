"""Policy gradients on one cloned flow: through its noisy steps, by learned noise, by its own losses; PPO on a Gaussian and one that may replay beside them.

``qchunk reproduce policy-gradients [--only cube-single | halfcheetah]``; 4 seeds. The priors and the sizes of iterations are those of
``dppo``; ``dppo`` and ``ppo`` have the bound of the ratio that trials chose there, the others their papers'. ``ogpo`` has the prior's data and replay, at a 50th of the environment steps.
Some are evaluated with noise and some without, as their papers do: so every finished run is played once more from noise 0, and
``report/judged_alike.md`` and ``.png`` set those returns side by side, and ``report/over_training.md`` has the evaluations along training.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU, publish, tell, with_interval
from dppo import CHEETAH, CHUNK, DATA, FLOW, SINGLE, VALUE, priors, scratch
from dppo import arms as by_steps

from qchunk.algorithms.fpo import FPO
from qchunk.algorithms.ogpo import OGPO
from qchunk.algorithms.reinflow import ReinFlow
from qchunk.comparison.suite import Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig, RolloutConfig
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.reporting import executions, plots, records
from qchunk.reporting.stats import paired_difference

ALIKE, BASELINE = "zero-noise", "dppo"


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


def returns(r: records.Record) -> dict[str, np.ndarray]:
    """Returns [S] of a finished run: as its method is evaluated, and from noise 0."""
    alike = executions.read(r.folder)[ALIKE]["figures"]["return"]
    found = {"as evaluated": r.evals[-1]["values"]["return"], "without noise": alike}
    return {name: np.asarray(values, float) for name, values in found.items()}


def over_training(r: records.Record, baseline: records.Record | None) -> dict[str, str]:
    """What a run's own evaluations say: after a fifth, two fifths and all of them, their mean, and what training took."""
    values, many = r.values(), len(r.evals)
    row = {"environment": r.env, "method": r.label}
    for part in (0.2, 0.4, 1.0):
        at = max(1, round(part * many)) - 1
        row[f"after {part:.0%} of its steps"] = with_interval(values[at], r.figure, episodes=r.episodes)
    mean = values.mean(axis=0)
    row["mean of evaluations"] = with_interval(mean, r.figure)
    row[f"less {BASELINE}'s"] = ""
    if baseline is not None and r.label != BASELINE and r.online_steps == baseline.online_steps:
        apart = paired_difference(mean, baseline.values().mean(axis=0))
        row[f"less {BASELINE}'s"] = " ".join(records.show(apart, "points" if r.figure == "success" else r.figure))
    row["environment steps"] = f"{r.online_steps:,}"
    row["minutes, all seeds"] = f"{r.along('minutes')[-1]:.1f}"
    return row


def look(root: Path, todo: list[Run]) -> None:
    """Curves over steps and over time, for which each method is evaluated in its own way; and the returns at the end, for which all are judged alike.

    Minutes say what a method costs only where nothing else ran meanwhile.
    """
    groups = records.by_env(records.load([folder_of(r, root) for r in todo if r.settings.seeds > 1]))
    colour = plots.colours([r.label for _, members in groups for r in members])
    figure, axes = plt.subplots(len(groups), 3, figsize=(16, 4.2 * len(groups)), squeeze=False, layout="constrained")
    rows, along = [], []
    for (steps, minutes, ends), (env, members) in zip(axes, groups, strict=True):
        played = [r for r in members if r.online_steps]
        for axes_of, axis in ((steps, "env_steps"), (minutes, "minutes")):
            plots.draw_curves(axes_of, played, axis, colour)
            axes_of.set_title(f"{env}, as evaluated", fontsize=10)
        base = next((r for r in played if r.label == BASELINE), None)
        along += [over_training(r, base) for r in played]
        found = {r.label: returns(r) for r in members}
        for place, (label, ways) in enumerate(found.items()):
            for mark, values in zip("o|", ways.values(), strict=True):
                ends.plot(values, [-place] * len(values), mark, color=colour[label], markersize=9, fillstyle="none")
            row = {"environment": env, "method": label, **{n: with_interval(x, "return") for n, x in ways.items()}}
            others = found.get(BASELINE) if label != BASELINE else None
            apart = paired_difference(ways["without noise"], others["without noise"]) if others else None
            row[f"less {BASELINE}'s"] = " ".join(records.show(apart, "return")) if apart else ""
            rows.append(row)
        ends.set(yticks=[-i for i in range(len(found))], yticklabels=list(found), xlabel="return at the end, each seed")
        ends.set_title("o as evaluated, | without noise", fontsize=10)
        ends.grid(alpha=0.25)
    publish(root, "judged_alike", rows, figure)
    tell(root, "over_training", along)


SUITE = Suite(suite, execute=lambda run: (ALIKE,) if run.settings.seeds > 1 else (), after=look)
