"""The policy of a run, ready to act in Python."""

from __future__ import annotations

from pathlib import Path

import jax

from qchunk.deploy import standalone
from qchunk.deploy.control import described, narrowed, programs_of
from qchunk.deploy.standalone import DeployedPolicy, Programs
from qchunk.envs.base import obs_like
from qchunk.play.execute import Scheme
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened, learner_of, rebuild, vars_of
from qchunk.system.errors import UserError
from qchunk.system.files import path_of
from qchunk.types import Vars


def load(
    folder: Path | str,
    seed: int = 0,
    checkpoint: str | int = "newest",
    execute: str = "",
    delay: int | None = None,
    background: bool = False,
) -> DeployedPolicy:
    """The acting policy of a run, or of a file that ``qchunk export`` has written. ::

        policy = qchunk.load("runs/qc")
        policy.reset()  # before every episode
        action = policy(obs)  # once per step of the control loop

    Args:
        seed: the place among the run's seeds.
        checkpoint: "newest", "best" (by the evaluation made with it) or a step.
        execute: a scheme of ``qchunk list schemes``; by default the run's own.
        delay: steps between the observation of a plan and its first action; by default the run's own.
        background: see ``DeployedPolicy``. Of an exported policy only this can be chosen.

    Raises:
        UserError: no run, no such checkpoint, no such seed, a scheme that does not fit, or a file that is damaged.
    """
    if path_of(folder, "the run's folder").is_file():
        return exported(Path(folder), background, (seed, checkpoint, execute, delay) == (0, "newest", "", None))
    p, scheme, vars, step = acting(folder, seed, checkpoint, execute, delay)
    if background and not scheme.delay:
        raise UserError("a plan without a delay cannot be made in the background", "give delay=1 or more")
    like = obs_like(p.program.env)
    made, weights = narrowed(programs_of(scheme, vars, like), vars, like)
    return DeployedPolicy(Programs(*map(jax.jit, made)), weights, {**described(p, scheme), "step": step}, background)


def exported(file: Path, background: bool, plain: bool) -> DeployedPolicy:
    """The policy of an exported file. ``plain``: nothing was chosen that the export has settled."""
    if not plain:
        raise UserError(f"{file} was exported with its seed, checkpoint, scheme and delay", "export it with others")
    try:
        return standalone.load(file, background)
    except ImportError as e:
        raise UserError(str(e), "pip install 'qchunk[deploy]'") from e
    except ValueError as e:
        raise UserError(str(e), "export it again, or choose another file") from e


def acting(
    folder: Path | str, seed: int, checkpoint: str | int, execute: str, delay: int | None
) -> tuple[Opened, Scheme, Vars, int]:
    """(the run, its scheme around the acting policy, what that reads, the checkpoint's step); see ``load``."""
    folder = path_of(folder, "the run's folder")
    if type(seed) is not int:
        raise UserError(f"seed is {seed!r}", "give a whole number")
    p = rebuild(run_folder.read_config(folder)["config"], folder)
    if not 0 <= seed < p.settings.seeds:
        raise UserError(f"the run {folder} has {p.settings.seeds} seeds", f"give 0 to {p.settings.seeds - 1}")
    p = p.played(execute, delay)
    learner, step = learner_of(folder, p, checkpoint)
    return p, p.program.scheme(p.inputs, "act"), vars_of(p, learner, seed), step
