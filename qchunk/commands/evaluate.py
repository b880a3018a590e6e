"""``qchunk eval``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk.commands import flags
from qchunk.commands.shared import positional, print_figures
from qchunk.drivers import offline as training
from qchunk.play.execute import parse
from qchunk.runs import run_folder
from qchunk.runs.opened import learner_of, rebuild
from qchunk.seeds import spread
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Evaluation of a run."""

    episodes: int = 100
    """Episodes per seed."""
    execute: str = ""
    """open-loop or receding:STEPS; by default as the run was evaluated."""
    seed: int = 1000
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
    (f,) = flags.parse("eval", rest, EvalFlags)
    if f.episodes < 1:
        raise UserError(f"--episodes {f.episodes} is below 1", "give a positive whole number")
    p = rebuild(run_folder.read_config(Path(folder))["config"], Path(folder))
    shown = dataclasses.replace(p.settings, episodes=f.episodes, execute=f.execute or p.settings.execute)
    parse(shown.execute, p.c.chunk.horizon)
    learner, step = learner_of(Path(folder), p, f.step)
    learner, given = spread(shown.seeds, (learner, p.given))  # once, and not at every decision in a host environment
    values = training.evaluate(p.build, p.env, shown, learner, p.c, given, base=f.seed)
    print_figures({k: run_folder.figure(v) for k, v in values.items()}, f, f"checkpoint: step {step} of {folder}")
