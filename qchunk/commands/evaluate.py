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
from qchunk.envs.held_out import HeldOut
from qchunk.play import evaluation
from qchunk.reporting import cost, executions
from qchunk.runs import resuming, run_folder
from qchunk.runs.opened import Opened, beside_weaker, learner_of, rebuild, vars_of
from qchunk.runs.training import closed
from qchunk.system import tracebacks
from qchunk.system.files import atomic_write
from qchunk.types import Learner


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
    checkpoint: str = "newest"
    """newest, best (by the evaluation made with it) or a step."""
    json: bool = False
    """Print the figures as JSON to stdout."""
    quiet: bool = False
    """Print nothing but --json."""
    weaker: Path | None = None
    """Another run of the same kind, trained less, for --execute contrast."""


def evaluate(argv: list[str]) -> None:
    """``qchunk eval RUN --episodes 100``."""
    folder, rest = positional("eval", argv, "a run folder")
    (f,) = flags.parse("eval", rest, EvalFlags, text="qchunk eval RUN [flags]: RUN is the folder of a run.")
    seeds.check(f.seed)
    kept = run_folder.read_config(Path(folder))["config"]
    p = beside_weaker(rebuild(kept, Path(folder)).played(f.execute, f.delay), f.weaker)
    if isinstance(p.program.env, HeldOut):
        resuming.same_data(Path(folder), kept, p, None)  # whose last episodes judge
    shown = dataclasses.replace(p.settings, episodes=f.episodes)
    evaluation.check(p.program, f.episodes)
    learner, step = learner_of(Path(folder), p, f.checkpoint)
    mine = learner, p.inputs.given
    learner, given = seeds.spread(shown.seeds, mine, p.inputs.share)  # once, and not at every decision on a host
    with closed(p.program):
        values = measure(p.program, p.inputs._replace(given=given), shown, learner, seed=f.seed)
    print_figures({k: run_folder.figure(v) for k, v in values.items()}, f, f"checkpoint: step {step} of {folder}")


def by_schemes(folder: Path, names: Sequence[str], episodes: int) -> None:
    """Plays a run by each scheme and keeps what comes of it in RUN/executions.json, scheme by scheme; what is there from the same
    checkpoint stays.

    A scheme that the run cannot be played by, or that fails, is kept with the reason and costs no other.
    """
    p = rebuild(run_folder.read_config(folder)["config"], folder)
    learner, step = learner_of(folder, p)
    found: dict[str, dict] = {}
    for name in names:
        one = executions.known(folder, name, step, episodes)
        if one is None:
            one = {"step": step, "episodes": episodes, **executions.NOT_PLAYED}
            try:
                one |= _by_scheme(p.played(name, None), learner, episodes)
            except Exception as e:  # code of the user's may be in it
                one |= {"why": tracebacks.line_of(e)}
        found[name] = one
        later = {n: x for n in names if n not in found and (x := executions.known(folder, n, step, episodes))}
        atomic_write(folder / executions.EXECUTIONS, json.dumps({**found, **later}, indent=1) + "\n")


def _by_scheme(p: Opened, learner: Learner, episodes: int) -> dict:
    scheme = p.program.scheme(p.inputs, "act")
    shown = dataclasses.replace(p.settings, episodes=episodes)
    spread, given = seeds.spread(shown.seeds, (learner, p.inputs.given), p.inputs.share)
    with closed(p.program):
        values = measure(p.program, p.inputs._replace(given=given), shown, spread, seed=EvalFlags.seed)
    price = cost.of_scheme(scheme, vars_of(p, learner), obs_spec(p.program.env))
    figures = {n: [x if np.isfinite(x) else None for x in np.asarray(v, float).tolist()] for n, v in values.items()}
    return {"figures": figures, "multiplications": price["multiplications"], "p50": price["p50"]}
