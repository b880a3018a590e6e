"""``qchunk eval``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qchunk import seeds
from qchunk.commands import flags
from qchunk.commands.shared import positional, print_figures
from qchunk.config import NonNegativeInt, PositiveInt
from qchunk.drivers.common import evaluate as measure
from qchunk.envs.base import obs_spec
from qchunk.play import evaluation
from qchunk.reporting import cost, executions
from qchunk.runs import run_folder
from qchunk.runs.opened import learner_of, rebuild, vars_of
from qchunk.runs.training import closed
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Evaluation of a run."""

    episodes: PositiveInt = 100
    """Episodes per seed."""
    execute: str = ""
    """open-loop, receding:STEPS, another of qchunk list schemes or a function of yours; by default as the run was evaluated."""
    delay: NonNegativeInt | None = None
    """Steps between the observation that a plan is made from and its first action that is played; by default the run's."""
    seed: NonNegativeInt = 1000
    """Seed of the start states; training evaluates on others."""
    step: int | None = None
    """The checkpoint; by default the newest."""
    json: bool = False
    """Print the figures as JSON to stdout."""
    quiet: bool = False
    """Print nothing but --json."""


def evaluate(argv: list[str]) -> None:
    """``qchunk eval RUN --episodes 100``."""
    folder, rest = positional("eval", argv, "a run folder")
    (f,) = flags.parse("eval", rest, EvalFlags, text="qchunk eval RUN [flags]: RUN is the folder of a run.")
    seeds.check(f.seed)
    p = rebuild(run_folder.read_config(Path(folder))["config"], Path(folder)).played(f.execute, f.delay)
    shown = dataclasses.replace(p.settings, episodes=f.episodes)
    evaluation.check(p.program, f.episodes)
    learner, step = learner_of(Path(folder), p, f.step)
    learner, given = seeds.spread(shown.seeds, (learner, p.inputs.given))  # once, and not at every decision on a host
    with closed(p.program):
        values = measure(p.program, p.inputs._replace(given=given), shown, learner, seed=f.seed)
    print_figures({k: run_folder.figure(v) for k, v in values.items()}, f, f"checkpoint: step {step} of {folder}")


def by_schemes(folder: Path, names: Sequence[str], episodes: int, seed: int = EvalFlags.seed) -> None:
    """Plays a run by each scheme and keeps what comes of it in RUN/executions.json; what is there from the same checkpoint stays.

    A scheme that the run cannot be played by is kept with the reason.
    """
    kept = run_folder.read_config(folder)["config"]
    learner, step = learner_of(folder, opened := rebuild(kept, folder), None)
    known = {n: x for n, x in executions.read(folder).items() if (x["step"], x["episodes"]) == (step, episodes)}
    found = {n: known.get(n) or _by_scheme(opened, learner, n, step, episodes, seed) for n in names}
    atomic_write(folder / executions.EXECUTIONS, json.dumps(found, indent=1) + "\n")


def _by_scheme(opened, learner, name: str, step: int, episodes: int, seed: int) -> dict:
    found = {"step": step, "episodes": episodes, "figures": {}, "multiplications": 0.0, "p50": 0.0, "why": ""}
    try:
        p = opened.played(name, None)
        scheme = p.program.scheme(p.inputs, "act")
    except UserError as e:
        return {**found, "why": e.problem}
    shown = dataclasses.replace(p.settings, episodes=episodes)
    spread, given = seeds.spread(shown.seeds, (learner, p.inputs.given))
    with closed(p.program):
        values = measure(p.program, p.inputs._replace(given=given), shown, spread, seed=seed, manner=True)
    price = cost.of_scheme(scheme, vars_of(p, learner), obs_spec(p.program.env))
    figures = {n: np.asarray(v, float).tolist() for n, v in values.items()}
    return {**found, "figures": figures, "multiplications": price["multiplications"], "p50": price["p50"]}
