"""A run, opened from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from qchunk import envs, names, normalise, registry, seeds
from qchunk.config import from_dict, validate
from qchunk.drivers.common import Driver, assemble, execution, learner_like
from qchunk.play.execute import with_delay
from qchunk.play.program import Inputs, Program, reads
from qchunk.play.schemes import WEAKER
from qchunk.runs import checkpoint, run_folder, scores, sources
from qchunk.system import compiled, memory
from qchunk.system.errors import UserError, typed
from qchunk.types import Algorithm, Learner, Vars
from qchunk.varied import Swept, lane_names

GIVEN = "given"  # the folder within a run's that holds the frozen modules it stands on
SWEPT = "swept"  # of config.json: the settings that a run holds beside each other
SEED = 1000  # what finished runs are played with, start states and noise; training evaluates on others


class Opened(NamedTuple):
    """What a run is made of, besides its data."""

    driver: Driver
    settings: Any
    program: Program
    inputs: Inputs
    swept: Swept = ()  # settings beside each other in one program (varied.py); its seeds are then their lanes

    @property
    def config(self) -> Any:
        """The method's configuration."""
        return self.inputs.c

    @property
    def lanes(self) -> list[str]:
        """What each of its seeds is called."""
        return lane_names(self.swept, self.settings.seed, self.settings.seeds)

    @property
    def algorithm(self) -> Algorithm:
        """The method, in its units."""
        return self.program.algorithm(self.config)

    def played(self, execute: str, delay: int | None) -> Opened:
        """The same run, played by another scheme, which may name its delay (``with_delay``), or with another delay; "" and None
        leave the run's own.

        Raises:
            UserError: two delays, or a scheme that does not fit.
        """
        name, named = with_delay(execute)
        if None not in (delay, named) and delay != named:
            raise UserError(f"--execute {execute} names a delay of {named}, and --delay is {delay}", "give one of them")
        execute, delay = name, next((d for d in (delay, named) if d is not None), self.settings.delay)
        own = {"execute": execute or self.settings.execute, "delay": delay}
        scheme = execution(replace(self.settings, **own), self.config)
        return self._replace(inputs=self.inputs._replace(execution=scheme))


def bytes_of(run: Opened) -> tuple[int, int]:
    """What a run keeps, by shapes alone: bytes of its learner, and of its environments and replay, 0 where it plays nowhere."""
    learner = learner_like(run.program, run.inputs)
    playing = run.settings.online_steps
    state = run.driver.state_like(run.program, run.inputs, run.settings, learner) if playing else None
    return memory.of_arrays(jax.tree.leaves(learner)), memory.of_arrays(jax.tree.leaves(state))


NEEDED = ("algorithm", "label", "driver", "env", "seed", "seeds", "data", "config", "settings")


def rebuild(kept: dict, folder: Path, joint: bool = False) -> Opened:
    """What a run was made of, from its configuration and its folder, which holds the files of the user's own.

    Args:
        joint: whether it may be several settings of a sweep, of which none is the run's own.

    Raises:
        UserError: a part is missing or impossible: config.json was edited or is damaged, or names what is gone.
    """
    compiled.make_room()
    if missing := [n for n in NEEDED if n not in kept]:
        raise UserError(f"{folder / run_folder.CONFIG} lacks {', '.join(missing)}", "put it back as it was")
    if (swept := kept.get(SWEPT) or ()) and not joint:
        fix = "train one of them by itself, with the flags that qchunk sweep has written"
        raise UserError(f"{folder} holds {len(swept)} settings of a sweep", fix)
    kept = sources.own(kept, folder)
    build, config_class = registry.builder(kept["algorithm"])
    driver = registry.driver(kept["driver"])
    try:
        c = from_dict(config_class, kept["config"])
        settings = from_dict(driver.settings, kept["settings"])
        for part in (c, settings):
            validate(part)
    except UserError as e:
        raise UserError(f"{folder / run_folder.CONFIG}: {e.problem}", f"put it back as it was, or {e.fix}") from e
    if (settings.seed, settings.seeds) != (kept["seed"], kept["seeds"]):
        raise UserError(f"{folder / run_folder.CONFIG} names two different seeds", "put it back as it was")
    if kept.get("prior") and not (folder / GIVEN).is_dir():
        raise UserError(
            f"{folder} stands on a prior, and {folder / GIVEN} is not there", "put it back, or train the run again"
        )
    env = envs.make(kept["env"], c.chunk.history, kept.get("objective"), kept=kept.get("env_python") or "")
    return Opened(driver, settings, *assemble(build, c, env, settings, read_given(folder), None, swept), swept)


def save_given(given: dict, run: Path) -> None:
    """Copies the frozen modules that a run stands on, [S, ...], into its folder; nothing where it stands on none."""
    if not given:
        return
    flat = {"/".join(k): v for k, v in flatten_dict(given).items()}
    shapes = {k: [str(v.dtype), list(v.shape)] for k, v in flat.items()}
    checkpoint.save(run / GIVEN, 0, given, {"shapes": shapes})


def read_given(run: Path) -> dict:
    """What ``save_given`` wrote; {} for a run that stands on nothing. Every byte is checked.

    Raises:
        UserError: it is damaged.
    """
    if not (run / GIVEN).is_dir():
        return {}
    try:
        shapes = checkpoint.about(run / GIVEN)["shapes"]
        like = {tuple(k.split("/")): jax.ShapeDtypeStruct(s, np.dtype(d)) for k, (d, s) in shapes.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise UserError(
            f"{run / GIVEN} is damaged: its shapes cannot be read", "put it back, or train the run again"
        ) from e
    tree = checkpoint.restore(run / GIVEN, unflatten_dict(like))[0]
    return jax.tree.map(jax.numpy.asarray, tree)


def restore(folder: Path, run: Opened, step: int | None) -> tuple[tuple[Learner | None, Any], int]:
    """(learner, what else the driver goes on from or None) of a checkpoint, and its step; None and 0 where none was saved.

    Raises:
        UserError: it is damaged or of another run; the line names the newest good one.
    """
    where = folder / run_folder.CHECKPOINTS
    if step is None and not checkpoint.steps(where):
        return (None, None), 0
    learner = learner_like(run.program, run.inputs)

    def like(about: dict) -> dict[str, Any]:
        if not about.get("state"):
            return {"learner": learner}
        return {"learner": learner, "state": run.driver.state_like(run.program, run.inputs, run.settings, learner)}

    tree, about = checkpoint.restore(where, like, step)
    tree = jax.tree.map(jax.numpy.asarray, tree)
    normalise.check(tree["learner"], *run.program.units)
    return (tree["learner"], tree.get("state")), int(about["step"])


def learner_of(folder: Path, run: Opened, wanted: str | int = "newest") -> tuple[Learner, int]:
    """The learner of a checkpoint that must be there, and its step.

    Args:
        wanted: "newest", "best" (by the evaluation made with it) or a step.
    """
    while True:
        there = checkpoint.steps(folder / run_folder.CHECKPOINTS)
        try:
            (learner, _), at = restore(folder, run, step_of(folder, wanted))
            break
        except UserError:
            if checkpoint.steps(folder / run_folder.CHECKPOINTS) == there:
                raise
            # a process that trains it has put newer ones in the place of this one meanwhile
    if learner is None:
        raise UserError(f"{folder} has no checkpoint yet", f"go on with qchunk train --resume {typed(folder)}")
    return learner, at


def step_of(folder: Path, wanted: str | int) -> int | None:
    """The step of a checkpoint by its name; None is the newest.

    Raises:
        UserError: no such name, or no checkpoint that was evaluated.
    """
    if wanted == "newest":
        return None
    if wanted == "best":
        first = scores.best(scores.scored(folder / run_folder.CHECKPOINTS))
        if first is None:
            raise UserError(f"no checkpoint of {folder} was made with an evaluation", "take newest, or a step")
        return first.step
    if isinstance(wanted, bool) or not str(wanted).isdecimal():
        raise UserError(f"{wanted!r} is no checkpoint", "give newest, best or a step")
    return int(wanted)


def vars_of(run: Opened, learner: Learner, seed: int = 0) -> Vars:
    """What the policies of the seed at this place of a run's seeds read."""
    learner, given = seeds.one((learner, run.inputs.given), seed)
    return reads(learner, run.inputs._replace(given=given))


def beside_weaker(run: Opened, folder: Path | None) -> Opened:
    """The run with all that another one's policy reads as a weaker policy beside its own, for ``schemes.contrast``; as it is without a folder.

    Raises:
        UserError: the other has another method or other sizes, or fewer seeds, or the scheme would not look at it.
    """
    if folder is None:
        return run
    name = run.inputs.execution.name.partition(":")[0]
    if name in names.SCHEMES and name != "contrast":
        raise UserError(f"--execute {name} asks no weaker run", "leave it out, or give --execute contrast:N")
    other = rebuild(run_folder.read_config(folder)["config"], folder)
    learner = learner_of(folder, other)[0]
    vars = reads(learner, other.inputs)
    like = jax.tree.map(np.shape, reads(learner_like(run.program, run.inputs), run.inputs))
    if jax.tree.map(np.shape, vars) != like:
        raise UserError(
            f"{folder} has another method, other sizes or other seeds",
            "give a run of the same kind that was trained less",
        )
    return run._replace(inputs=run.inputs._replace(given={**run.inputs.given, WEAKER: vars}))


def first_seed(run: Opened, learner: Learner, key: Any) -> tuple[Learner, Inputs]:
    """The learner and the inputs of a run's first seed alone, leaves [1, ...], with another key."""
    learner, given = seeds.one((learner, run.inputs.given), 0, keep=True)
    return learner, run.inputs._replace(given=given, keys=key[None])
