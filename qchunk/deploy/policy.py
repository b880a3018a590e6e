"""The policy of a run, ready to act in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from qchunk.data.adapting import SCALE
from qchunk.deploy import standalone
from qchunk.deploy.control import described, narrowed, programs_of
from qchunk.deploy.standalone import DeployedPolicy, Programs
from qchunk.envs.base import obs_like
from qchunk.play.execute import Scheme, with_delay
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened, beside_weaker, learner_of, rebuild, vars_of
from qchunk.system.errors import UserError
from qchunk.system.files import path_of
from qchunk.types import Vars


def load(
    folder: Path | str,
    seed: int = 0,
    checkpoint: str | int = "newest",
    execute: str = "",
    delay: int | None = None,
    recorded: bool = False,
    background: bool = False,
    weaker: Path | str | None = None,
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
        recorded: actions in the units that the data were recorded in (``qchunk data convert --scale-actions``), not in [-1, 1].
        background: see ``DeployedPolicy``. Of an exported policy only this can be chosen.
        weaker: the folder of a run of the same kind, trained less, for the scheme ``contrast``.

    Raises:
        UserError: no run, no such checkpoint, no such seed, a scheme that does not fit, or a file that is damaged.
    """
    if path_of(folder, "the run's folder").is_file():
        chosen = (seed, checkpoint, execute, delay, recorded, weaker)
        return exported(Path(folder), background, chosen == (0, "newest", "", None, False, None))
    p, scheme, vars, about = acting(folder, seed, checkpoint, execute, delay, recorded, weaker)
    if background and not scheme.delay:
        raise UserError("a plan without a delay cannot be made in the background", "give delay=1 or more")
    like = obs_like(p.program.env)
    made, weights = narrowed(programs_of(scheme, vars, like), vars, like)
    return DeployedPolicy(Programs(*map(jax.jit, made)), weights, about, background)


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
    folder: Path | str,
    seed: int,
    checkpoint: str | int,
    execute: str,
    delay: int | None,
    recorded: bool,
    weaker: Path | str | None = None,
) -> tuple[Opened, Scheme, Vars, dict[str, Any]]:
    """(the run, its scheme around the acting policy, what that reads, what is known of it); see ``load``."""
    folder = path_of(folder, "the run's folder")
    if type(seed) is not int:
        raise UserError(f"seed is {seed!r}", "give a whole number")
    kept = run_folder.read_config(folder)["config"]
    p = rebuild(kept, folder)
    if not 0 <= seed < p.settings.seeds:
        raise UserError(f"the run {folder} has {p.settings.seeds} seeds", f"give 0 to {p.settings.seeds - 1}")
    p = beside_weaker(p.played(execute, delay), weaker and path_of(weaker, "the weaker run's folder"))
    learner, step = learner_of(folder, p, checkpoint)
    bounds = (kept["data"] or {}).get(SCALE) if recorded else None
    if recorded and bounds is None:
        raise UserError(
            f"{folder} keeps no other units of its data than [-1, 1]",
            "convert them with --scale-actions, and train on that",
        )
    scheme = p.program.scheme(p.inputs, "act")
    played = with_delay(execute)[0] or p.settings.execute
    told = {"scheme": played, "algorithm": kept["algorithm"], "environment": kept["env"], "seed": seed, "step": step}
    return p, scheme, vars_of(p, learner, seed), {**described(p, scheme, bounds), **told}
