"""``qchunk train``: makes a run folder, or goes on with one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from qchunk import names, registry
from qchunk.commands import flags, stages
from qchunk.commands.shared import print_figures
from qchunk.config import Stands, from_dict, stands_on
from qchunk.runs import prior, run_folder, sources, training
from qchunk.runs.opened import Opened
from qchunk.runs.resuming import MORE, Going
from qchunk.runs.training import TrainFlags, Wanted
from qchunk.system import hosts
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """Which run goes on; how is ``Going``."""

    resume: Path
    """The run folder."""
    json: bool = False
    """Print the final figures as JSON to stdout."""


HELP = (
    "qchunk train ALGO --env ENV --data DATA [fields]; qchunk train ALGO [fields] --then ALGO [fields] trains stages that "
    "stand on each other; qchunk train --resume RUN [--step N] goes on with the folder of a run, or of such stages."
)


def train(argv: list[str]) -> None:
    """``qchunk train ALGO --env ENV --data DATA [any field] [--then ALGO [fields]]`` and ``qchunk train --resume RUN``."""
    if any(a.split("=")[0] == "--resume" for a in argv):
        r, how, h = flags.parse("train", argv, ResumeFlags, Going, hosts.HostFlags)
        if (r.resume / stages.FILE).is_file():
            if odd := [n for n in ("step", *MORE) if getattr(how, n) is not None]:
                fix = "give it with the folder of one stage"
                raise UserError(f"--{odd[0].replace('_', '-')} is of one run, and {r.resume} is a chain", fix)
            if h.coordinator:
                raise UserError("--coordinator is of one run", f"give it with the folder of one stage of {r.resume}")
            return stages.resume(r.resume, train, how.data)
        with hosts.together(h) as aside:
            if aside:
                r = dataclasses.replace(r, resume=hosts.mirrored(r.resume, aside), json=False)
                how = dataclasses.replace(how, quiet=True)
            figures = training.resume(r.resume, how)
        return print_figures(figures, r.json, how.quiet, f"run folder: {r.resume}")
    if stages.THEN in argv:
        return stages.run(argv, TrainFlags, train, check)
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & set(argv):
            print(f"usage: {HELP}\nqchunk train ALGO --help shows the fields of ALGO")
            print(f"algorithms: {', '.join(names.ALGORITHMS)}, or yours as my_file.py:my_function")
            return None
        raise UserError("train needs an algorithm first", "qchunk train ALGO --env ENV --data DATA; see qchunk list")
    build, config_class = registry.builder(argv[0])
    f, c, settings, h = parse(argv, config_class)
    with hosts.together(h) as aside:
        if aside:
            f = dataclasses.replace(f, out=aside / "run", log_to=(), quiet=True, json=False)
        out, figures = training.run(Wanted(argv[0], f, c, settings, build))
    return print_figures(figures, f.json, f.quiet, f"run folder: {out}")


def check(argv: list[str], before: tuple[str, Opened] | None) -> Opened:
    """What a stage of a chain will be made of, checked before the stages before it are trained.

    Args:
        before: the algorithm of the stage that it will stand on, and what that is made of.

    Raises:
        UserError: whatever cannot run.
    """
    build, config_class = registry.builder(argv[0])
    earlier = prior.to_be(*before) if before else None
    f, c, settings, h = parse(argv, config_class, earlier)
    if h.coordinator:
        fix = "train the stages one after the other, by --prior"
        raise UserError("--coordinator is of one run, and these are a chain", fix)
    if earlier is None and f.prior:
        earlier = prior.load(f.prior, settings.seeds, f.prior_seed)
    elif earlier:
        prior.places_of(f.prior, earlier.settings.seeds, settings.seeds, f.prior_seed)
    return training.ready(training.sized(Wanted(argv[0], f, c, settings, build)), earlier)[0]


def parse(argv: list[str], config_class: type, earlier: prior.Prior | None = None) -> list[Any]:
    """The flags of a run: where it reads and writes, its configuration, its driver's settings and the processes that train it."""
    parts = TrainFlags, *defaults(argv, config_class, earlier), hosts.HostFlags
    return flags.parse(f"train {argv[0]}", argv[1:], *parts, text=HELP)


def defaults(argv: list[str], config_class: type, earlier: prior.Prior | None = None) -> tuple[Any, Any]:
    """A configuration and its driver's settings before flags; what a prior (by default that of --prior) has settled, its actor, its
    chunks, its units, is the default."""
    c, settings = config_class(), registry.driver_of(config_class).settings()
    folder, stands = flags.value_of(argv, "--prior"), stands_on(config_class)
    if folder and stands:
        if earlier:
            before, was = earlier.config, earlier.settings
        else:
            kept = sources.own(run_folder.read_config(Path(folder))["config"], Path(folder))
            before = from_dict(registry.builder(kept["algorithm"])[1], kept["config"])
            was = from_dict(registry.driver(kept["driver"]).settings, kept["settings"])
        unread = registry.driver_of(config_class).unread_by(config_class)
        own = {name: getattr(c.chunk, name) for name in unread}  # which the prior may have read
        frozen = dataclasses.replace(before.chunk, **own)
        chunk = frozen if stands[1] is Stands.FROZEN else prior.sizes(c.chunk, before.chunk)
        c = dataclasses.replace(c, chunk=chunk, **{stands[0]: prior.actor_of(before, folder)})
        settings = dataclasses.replace(settings, **{n: getattr(was, n) for n in ("normalise_obs", "normalise_action")})
    return c, settings
