"""``qchunk train A ... --then B ...``: runs that stand on each other, as one command with one report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from qchunk import names, registry
from qchunk.commands import flags
from qchunk.runs import run_folder
from qchunk.system import schema
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write

THEN, FILE = "--then", "stages.json"
OWN = ("out", "label", "prior", "prior-seed")  # what no stage takes over from the first


def grouped(argv: list[str]) -> dict[str, list[str]]:
    """Flags with their values, by name, written without dashes in front and with dashes inside."""
    found: dict[str, list[str]] = {}
    for arg in argv:
        if arg.startswith("--"):
            found[name := arg[2:].split("=")[0].replace("_", "-")] = [arg]
        elif found:
            found[name].append(arg)
    return found


def plan(argv: list[str], shared: type) -> tuple[Path, list[list[str]]]:
    """(folder, the arguments of each stage's own ``qchunk train``) of a chain.

    What the first stage says of environment, data, seeds and drivers (``shared``, its settings) holds for the
    later ones, unless they say otherwise or have no such flag. Stage i lies in FOLDER/i-ALGORITHM and stands on the one before.

    Raises:
        UserError: a stage without an algorithm, with its own --out or --prior, or a chain without --out.
    """
    parts: list[list[str]] = [[]]
    for arg in argv:
        parts = [*parts, []] if arg == THEN else [*parts[:-1], [*parts[-1], arg]]
    out = flags.value_of(parts[0], "--out")
    if not out:
        raise UserError("stages need a folder to lie in", "give the first one --out FOLDER")
    first, before, stages = grouped(parts[0][1:]), "", list[list[str]]()
    for i, part in enumerate(parts, 1):
        if not part or part[0].startswith("-"):
            raise UserError(f"stage {i} names no algorithm", f"write {THEN} ALGO [flags]")
        names.algorithm(part[0])
        own, common = grouped(part[1:]), known_to(part[0], shared)
        if i > 1 and (odd := {"out", "prior"} & set(own)):
            raise UserError(f"stage {i} has a --{min(odd)} of its own", "leave it out: it stands on the stage before")
        kept = {n: words for n, words in first.items() if i > 1 and n in common - set(OWN)}
        groups = {
            **kept,
            **own,
            "out": ["--out", str(Path(out).resolve() / f"{i}-{Path(part[0]).stem.replace(':', '-')}")],
        }
        if "data" in groups:
            groups["data"] = ["--data", str(Path(groups["data"][-1].removeprefix("--data=")).resolve())]
        if before:
            groups["prior"] = ["--prior", before]
        before = groups["out"][1]
        stages.append([part[0], *(word for words in groups.values() for word in words)])
    return Path(out), stages


def known_to(algorithm: str, shared: type) -> set[str]:
    """The flags besides its own configuration's that a stage of this algorithm takes."""
    driver = registry.driver_of(registry.builder(algorithm)[1])
    found = {n for cls in (shared, driver.settings) for n in flags.flag_names(cls)}
    return found - (set() if driver.needs_data else {"data"})


def run(argv: list[str], shared: type, train: Callable) -> None:
    """Runs a chain from its beginning; ``train`` is the command, given arguments."""
    folder, stages = plan(argv, shared)
    if folder.exists():
        raise UserError(f"{folder} exists already", f"pass --out with a new folder, or qchunk train --resume {folder}")
    folder.mkdir(parents=True)
    atomic_write(folder / FILE, json.dumps(stages, indent=1) + "\n")
    resume(folder, train)


def resume(folder: Path, train: Callable) -> None:
    """Runs what is left of a chain: finished stages are skipped, an interrupted one goes on."""
    from qchunk.reporting import publish  # matplotlib, which plain training does not need

    fix = "train the stages again with another --out"
    stages = schema.read(folder / FILE, list[list[str]], fix)
    odd = [i for i, words in enumerate(stages, 1) if not words or not flags.value_of(words, "--out")]
    if odd or not stages:
        raise UserError(f"{folder / FILE} is damaged: {f'stage {odd[0]} names no folder' if odd else 'no stage'}", fix)
    outs = [Path(flags.value_of(words, "--out")) for words in stages]
    for out, words in zip(outs, stages, strict=True):
        if not (out / run_folder.SUMMARY).exists():
            train(["--resume", str(out)] if out.exists() else words)
    publish.write_report(outs, folder / "report")
    print(f"report: {folder / 'report' / 'report.html'}")
