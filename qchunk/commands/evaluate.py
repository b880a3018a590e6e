"""``qchunk eval``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk import seeds
from qchunk.commands import flags
from qchunk.commands.shared import positional, print_figures
from qchunk.config import refuse_unread
from qchunk.drivers.common import evaluate as measure
from qchunk.envs.held_out import HeldOut
from qchunk.play import evaluation
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.runs import resuming, run_folder
from qchunk.runs.opened import SEED, beside_weaker, learner_of, rebuild
from qchunk.runs.play_flags import CheckpointFlags, PlayFlags
from qchunk.runs.training import closed


@dataclasses.dataclass(frozen=True)
class EvalFlags(PlayFlags, CheckpointFlags):
    """Evaluation of a run."""

    episodes: PositiveInt = 100
    """Episodes per seed."""
    seed: NonNegativeInt = SEED
    """Seed of the start states; training evaluates on others."""
    json: bool = False
    """Print the figures as JSON to stdout."""
    quiet: bool = False
    """Print nothing but what --json asks for."""
    weaker: Path | None = None
    """Another run of the same kind, trained less, for --execute contrast."""


def evaluate(argv: list[str]) -> None:
    """``qchunk eval RUN --episodes 100``."""
    folder, rest = positional("eval", argv, "a run folder")
    (f,) = flags.parse("eval", rest, EvalFlags, text="qchunk eval RUN [flags]: RUN is the folder of a run.")
    kept = run_folder.read_config(Path(folder))["config"]
    p = beside_weaker(rebuild(kept, Path(folder)).played(f.execute, f.delay), f.weaker)
    if f.execute or f.delay is not None:
        evaluation.check_playing(p.program)
    if isinstance(p.program.env, HeldOut):
        refuse_unread(f, EvalFlags, ("episodes",), "", "all held-out episodes judge", "leave it out")
        resuming.same_data(Path(folder), kept, p, None)  # whose last episodes judge
    shown = dataclasses.replace(p.settings, episodes=f.episodes)
    evaluation.check(p.program, f.episodes, p.config.chunk)
    learner, step = learner_of(Path(folder), p, f.checkpoint)
    mine = learner, p.inputs.given
    learner, given = seeds.spread(shown.seeds, mine, p.inputs.share)  # once, and not at every decision on a host
    with closed(p.program):
        values = measure(p.program, p.inputs._replace(given=given), shown, learner, seed=f.seed)
    print_figures(
        {k: run_folder.figure(v) for k, v in values.items()}, f.json, f.quiet, f"checkpoint: step {step} of {folder}"
    )
