"""One frozen flow prior and one frozen diffusion prior for each seed, and what value does with them: guidance, re-ranking, best of N.

Tabletop cube-single, tasks 1 to 5, and cube-double task 1; 4 seeds. ``report/compute.md`` and ``compute.png`` set success
against what an action costs; ``report/steps.md`` the number of denoising steps against success and latency.

``qchunk reproduce guidance [--only cube-single-task1 ...]``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _suite import OPTIM, SMALL, TAU

from qchunk import cost, runs, train
from qchunk.algorithms.bc import BC
from qchunk.algorithms.qc_frozen import FrozenQC
from qchunk.algorithms.v_gps import VGPS
from qchunk.algorithms.value_guided import ValueGuided
from qchunk.commands.shared import Parts, learner_of, one_seed, rebuild
from qchunk.commands.suite import Data, Run, Suite, folder_of
from qchunk.config import ChunkConfig, CriticConfig, DiffusionConfig, FlowConfig
from qchunk.sampling import count_steps
from qchunk.train import Settings
from qchunk.types import Learner

TASKS = [*(f"cube-single-task{t}" for t in range(1, 6)), "cube-double-task1"]
DATA = {"cube-single": Data("tabletop/cube-single", 200_000), "cube-double": Data("tabletop/cube-double", 1_000_000)}
PRIORS = {"flow": FlowConfig(SMALL, steps=5, ema=True), "diffusion": DiffusionConfig(SMALL, ddim=5, ema=True)}
# The best of three runs each with one seed (9) and the flow on cube-single-task2, success in % after 3,000 updates, held for both priors
# and every task: log-expectation 0.3, 1, 3: 19, 60, 0; mean 0.1, 0.3, 1: 8, 77, 99; clean 0.03, 0.1, 0.3: 64, 94, 82; diffuser 1, 3,
# 10: 8, 66, 54; v-gps with expectile 0.7 and 0.9: 1, 75.
WEIGHTS = {"log-expectation": 1.0, "mean": 1.0, "clean": 0.1, "diffuser": 3.0}
CHUNK, Q, V = ChunkConfig(5), CriticConfig(SMALL, tau=TAU), CriticConfig(SMALL, members=1, tau=TAU)


def arms(env: str, data: Data, kind: str, prior: str) -> list[Run]:
    """What stands on one prior: itself, four guidances, re-ranking, best of N."""
    settings = Settings(seeds=4, offline_steps=3_000, eval_every=1_500, episodes=100)
    none = dataclasses.replace(settings, offline_steps=1)
    c = PRIORS[kind]
    made = [("v-gps", VGPS(c, CHUNK, Q, OPTIM, n=1), none, "prior")]  # one candidate is the prior, bit for bit
    for target, weight in WEIGHTS.items():
        guided = ValueGuided(c, CHUNK, Q, V, OPTIM, target, weight)  # type: ignore[arg-type]
        made.append(("value-guided", guided, settings, f"guided, {target}"))
    made.append(("v-gps", VGPS(c, CHUNK, Q, OPTIM, n=10, expectile=0.9), settings, "v-gps"))
    made.append(("qc-frozen", FrozenQC(c, CHUNK, Q, OPTIM, n=8), settings, "qc-frozen"))
    return [Run(name, env, data, c, s, f"{kind}: {label}", prior=prior) for name, c, s, label in made]


def suite(scale: str) -> list[Run]:
    """The priors of the scenes, cloned once per seed, and their arms on every task."""
    found: list[Run] = []
    for task in TASKS:
        scene, env = task.rsplit("-", 1)[0], f"tabletop/{task}"
        first = f"tabletop/{scene}-task1"  # cloning never sees a reward: any task names the scene
        for kind, c in PRIORS.items():
            settings = Settings(seeds=4, offline_steps=10_000, eval_every=10_000, episodes=100)
            prior = Run("bc", first, DATA[scene], BC(CHUNK, c, OPTIM), settings, f"bc ({kind})")
            found += [] if prior in found else [prior]
            found += arms(env, DATA[scene], kind, prior.name)
    return found


def opened(folder: Path) -> tuple[Parts, Learner]:
    """A finished run."""
    p = rebuild(runs.read_config(folder)["config"], folder)
    return p, learner_of(folder, p, None)[0]


def milliseconds(p: Parts, learner: Learner) -> float:
    """Of one decision for one observation: the median."""
    algorithm, vars = one_seed(p, learner)
    return cost.of_policy(algorithm.act, vars, p.env.observation_size)["p50"]


def evaluations(c: object) -> int:
    """Network evaluations of one decision; a gradient counts as two more than its value, an ensemble once a member."""
    from qchunk.actors import actor

    steps, n = count_steps(actor(c.given)), getattr(c, "n", 1)  # type: ignore[attr-defined]
    if isinstance(c, ValueGuided):
        members = c.critic.members if c.guidance == "clean" else c.value.members
        return steps * (1 + 3 * members * (2 if c.guidance == "diffuser" else 1))
    return n * steps + (n * c.critic.members if n > 1 else 0)  # type: ignore[attr-defined]


def compute(root: Path, env: str, arms: list[Run], out: Path) -> None:
    """Success against compute per action."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    lines = ["| method | success % | network evaluations | ms |", "| --- | --- | --- | --- |"]
    marks = dict(zip(("prior", *(f"guided, {t}" for t in WEIGHTS), "v-gps", "qc-frozen"), "o^v<>sD", strict=True))
    for run in arms:
        p, learner = opened(folder_of(run, root))
        success = [line for line in runs.read_metrics(folder_of(run, root)) if line["kind"] == "eval"][-1]["values"]
        mean, ms = 100 * float(np.mean(success["success"])), milliseconds(p, learner)
        lines.append(f"| {run.label} | {mean:.1f} | {evaluations(p.c)} | {ms:.2f} |")
        kind, label = run.label.split(": ")
        for axis, x in zip(axes, (evaluations(p.c), ms), strict=True):
            axis.plot(x, mean, marks[label], color="C0" if kind == "flow" else "C1", label=run.label)
    for axis, name in zip(axes, ("network evaluations per decision", "ms per decision"), strict=True):
        axis.set(xscale="log", xlabel=name, ylabel="success, %", ylim=(-3, 103))
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, ncols=2)
    figure.suptitle(env)
    figure.savefig(out / f"compute_{env.split('/')[1]}.png", dpi=110)
    (out / f"compute_{env.split('/')[1]}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def steps(root: Path, env: str, arms: list[Run], out: Path) -> None:
    """qc-frozen, trained with the prior's own steps, acting with K = 1, 2, 4, 10, 20."""
    lines = ["| prior | K | success % | ms |", "| --- | --- | --- | --- |"]
    for run in (run for run in arms if run.algorithm == "qc-frozen"):
        p, learner = opened(folder_of(run, root))
        flow = run.label.startswith("flow")
        for k in (k for k in (1, 2, 4, 10, 20) if flow or k <= p.c.given.steps):  # DDIM takes some of its levels
            change = {"steps": k} if flow else {"ddim": k}
            q = p._replace(c=dataclasses.replace(p.c, given=dataclasses.replace(p.c.given, **change)))
            values = train.evaluate(q.build, q.env, q.settings, learner, q.c, q.given)
            name = run.label.split(":")[0] + (" (DDIM)" if "ddim" in change else "")
            lines.append(f"| {name} | {k} | {100 * values['success'].mean():.1f} | {milliseconds(q, learner):.2f} |")
    (out / f"steps_{env.split('/')[1]}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def look(root: Path, todo: list[Run]) -> None:
    """Both tables of every task that was asked for."""
    todo = [run for run in todo if run.algorithm != "bc"]
    for env in dict.fromkeys(run.env for run in todo):
        mine = [run for run in todo if run.env == env]
        compute(root, env, mine, root / "report")
        steps(root, env, mine, root / "report")


SUITE = Suite(suite, after=look)
