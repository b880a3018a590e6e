"""``qchunk eval``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk import seeds
from qchunk.commands import flags
from qchunk.commands.shared import positional, print_figures
from qchunk.config import NonNegativeInt, PositiveInt
from qchunk.drivers.common import evaluate as measure
from qchunk.play import evaluation
from qchunk.runs import run_folder
from qchunk.runs.opened import learner_of, rebuild
from qchunk.runs.training import closed


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
