"""``qchunk reproduce``: a table of ours or of a paper, from a file that lists its runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from qchunk import names
from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.comparison.list_flags import PageFlags
from qchunk.system import loading
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReproduceFlags:
    """How much of a suite, and where."""

    scale: Literal["smoke", "small", "paper"] = "small"
    """smoke: seconds a run, shows that all works; small: 2 cores and hours; paper: the paper's sizes, wants a GPU."""
    only: tuple[str, ...] = ()
    """Runs whose ENV/LABEL contains one of these, and what they stand on; by default all."""
    out: Path | None = None
    """Folder for data, runs and report; by default runs/NAME-SCALE. The same command goes on with it."""
    look: bool = False
    """Also measure what acting costs and how far chunks are from the data, and draw an episode, of every run, as qchunk compare does."""


def reproduce(argv: list[str]) -> None:
    """``qchunk reproduce NAME|FILE.py [--scale smoke|small|paper] [--only TEXT ...]``."""
    f, how, found, target, name = asked_for(argv)
    from qchunk.comparison import afterwards, handed, literature
    from qchunk.comparison import suite as suites
    from qchunk.reporting import publish, records

    todo, root = runs_of(found, f, target), place_of(f, name)
    handed.check_flags(how)
    suites.claim(root, "suite", {"suite": name, "scale": f.scale}, dry=how.dry or how.so_far)
    suites.check(todo, root)
    say(found, todo, f.scale, how.dry, root, name)
    if how.dry:
        return
    shown = suites.shown(todo)
    trained = handed.as_asked(how, ["reproduce", *argv], handed.Listed(name, todo, root, how.log_to), shown)
    if f.look and not how.so_far:
        afterwards.look_at_each(trained.of(shown), name)
    for run in todo if not how.so_far else ():
        if (ways := found.execute(run)) and run.name in trained.folders:
            afterwards.by_schemes(trained.folders[run.name], ways, run.settings.episodes)
    folders, more = trained.of(shown), {}
    if found.published and folders:
        more["Beside the published figures"] = literature.beside(
            records.table(records.load_whole(folders)[0]), found.published
        )
    more["What differs"] = [{"number": str(i), "difference": d} for i, d in enumerate(found.differences(f.scale), 1)]
    more["Not trained yet"] = handed.not_yet(trained, shown) if how.so_far else []
    publish.publish(folders, root / "report", more, how.json, trained.rows(shown))
    for title, rows in more.items():
        if rows and not how.json:
            print(f"\n{title}:\n{records.markdown(rows, tuple(rows[0]))}", end="")
    if found.after and not how.so_far and not trained.failed:
        found.after(root, todo)
    trained.leave()


def asked_for(argv: list[str]) -> tuple:
    """(what of a suite, how it is trained, the Suite, its file, its name) of a command line.

    Raises:
        UserError: no such suite, or a file that holds none.
    """
    name, rest = positional("reproduce", argv, "a suite or a file")
    text = "qchunk reproduce SUITE [flags]: SUITE is one of qchunk list suites, or a file of yours."
    f, how = flags.parse("reproduce", rest, ReproduceFlags, PageFlags, text=text)
    target = names.suite(name)
    if target != name:
        target = f"{loading.beside('experiments') / target}"
    sys.path.insert(0, str(Path(target).parent))  # what suites share
    found, name = loading.function(f"{target}:SUITE"), Path(target).stem
    from qchunk.comparison import suite as suites

    if not isinstance(found, suites.Suite):
        raise UserError(f"SUITE in {target} is no Suite", "make it by qchunk.comparison.suite.Suite(runs)")
    return f, how, found, target, name


def place_of(f: ReproduceFlags, name: str) -> Path:
    """The folder of a suite."""
    return f.out or Path("runs") / f"{name}-{f.scale}"


def listed(argv: list[str]):
    """The runs of a command line (``handed.Listed``), for a worker."""
    from qchunk.comparison import handed

    f, how, found, target, name = asked_for(argv)
    return handed.Listed(name, runs_of(found, f, target), place_of(f, name), how.log_to)


def runs_of(found, f: ReproduceFlags, target: str) -> list:
    """The runs of a scale, or those of them that ``only`` names.

    Raises:
        UserError: a scale that the suite does not have, or nothing that ``only`` names.
    """
    from qchunk.comparison import suite as suites

    if f.scale not in ("smoke", *found.scales):
        known = " or ".join(("smoke", *found.scales))
        raise UserError(f"{target} has no scale {f.scale}", f"give --scale {known}")
    listed = [suites.smoke(r) for r in found.runs("small")] if f.scale == "smoke" else found.runs(f.scale)
    if not listed:
        raise UserError(f"SUITE in {target} lists no runs", "let its function return some")
    todo = suites.chosen(listed, f.only)
    if not todo:
        offers = ", ".join(dict.fromkeys(r.name for r in listed[:6]))
        raise UserError(f"--only {' '.join(f.only)} names no run of {target}", f"give a part of one of: {offers} ...")
    return todo


def say(found, todo: list, scale: str, dry: bool, root: Path, name: str) -> None:
    """What will be run, and what it will cost, to stderr."""
    from qchunk.comparison import estimate

    lines = [f"{name} at scale {scale} in {root}", *estimate.told(todo, root)]
    if dry:
        lines += [f"  {r.name}: {r.algorithm}, {r.settings.seeds} seeds, {r.amount.updates:,} updates" for r in todo]  # fmt: skip
        lines += [f"differs: {d}" for d in found.differences(scale)]
    print("\n".join(lines), file=sys.stderr, flush=True)
