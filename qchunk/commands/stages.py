"""``qchunk train A ... --then B ...``: runs that stand on each other, as one command with one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qchunk import names, registry
from qchunk.commands import flags
from qchunk.runs import run_folder
from qchunk.system import loading, schema, stopping
from qchunk.system.errors import UserError, typed
from qchunk.system.files import is_taken, make_folder, write_json

THEN, FILE = "--then", "stages.json"
OWN = ("out", "label", "prior", "prior-seed")  # what no stage takes over from the first


def grouped(argv: list[str]) -> dict[str, list[str]]:
    """Flags with their values, by name, written without dashes in front and with dashes inside; ``--no-FLAG`` is one of FLAG."""
    found: dict[str, list[str]] = {}
    for arg in argv:
        if arg.startswith("--"):
            found[name := arg[2:].split("=")[0].replace("_", "-").removeprefix("no-")] = [arg]
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
            "out": ["--out", str(Path(out) / f"{i}-{loading.stem(part[0])}")],
        }
        if "data" in groups:
            groups["data"] = ["--data", str(Path(groups["data"][-1].removeprefix("--data=")).resolve())]
        if "prior" in groups:
            groups["prior"] = ["--prior", str(Path(groups["prior"][-1].removeprefix("--prior=")).resolve())]
        if before:
            groups["prior"] = ["--prior", before]
        before = groups["out"][1]
        stages.append([part[0], *(word for words in groups.values() for word in words)])
    return Path(out), stages


def known_to(algorithm: str, shared: type) -> set[str]:
    """The flags besides its own configuration's that a stage of this algorithm takes."""
    driver = registry.driver_of(registry.builder(algorithm)[1])
    found = {n for cls in (shared, driver.settings) for n in flags.flag_names(cls)}
    return found - (set() if driver.takes_data else {"data"})


def run(argv: list[str], shared: type, train: Callable, check: Callable) -> None:
    """Runs a chain from its beginning.

    Args:
        train: the command, given arguments.
        check: (a stage's arguments, (algorithm, result of the stage before) or None) -> its result; every stage's, before the first is trained.
    """
    folder, stages = plan(argv, shared)
    if is_taken(folder):
        raise UserError(
            f"{folder} exists already", f"pass --out with a new folder, or qchunk train --resume {typed(folder)}"
        )
    before: tuple[str, Any] | None = None
    for words in stages:
        before = words[0], check(words, before)
    make_folder(folder)
    with stopping.undone(lambda: _discard(folder)):
        write_json(folder / FILE, stages)
        resume(folder, train)


def _discard(folder: Path) -> None:
    """Removes a chain of which no stage has begun."""
    if {p.name for p in folder.iterdir()} <= {FILE}:
        (folder / FILE).unlink(missing_ok=True)
        folder.rmdir()


def resume(folder: Path, train: Callable, data: Path | None = None) -> None:
    """Runs what is left of a chain: finished stages are skipped, an interrupted one goes on.

    Args:
        data: where the data set of the stages lies now, if it has moved.
    """
    from qchunk.reporting import publish  # matplotlib, which plain training does not need

    fix = "train the stages again with another --out"
    stages = schema.read(folder / FILE, list[list[str]], fix)
    odd = [i for i, words in enumerate(stages, 1) if not words or not flags.value_of(words, "--out")]
    if odd or not stages:
        why = f"stage {odd[0]} names no folder" if odd else "no stage"
        raise UserError(f"{folder / FILE} is damaged: {why}", fix)
    moved = ["--data", str(data)] if data else []
    outs: list[Path] = []
    with stopping.hint(f"go on with: qchunk train --resume {typed(folder)}"):
        for words in stages:
            out = folder / Path(flags.value_of(words, "--out")).name
            if not (out / run_folder.SUMMARY).exists():
                here = {"--out": out, **({"--prior": outs[-1]} if outs else {}), **({"--data": data} if data else {})}
                train(["--resume", str(out), *moved] if out.exists() else placed(words, here))
            outs.append(out)
        publish.write_report(outs, folder / "report")
    print(f"report: {folder / 'report' / 'report.html'}")


def placed(words: list[str], here: dict[str, Path]) -> list[str]:
    """A stage's arguments with the values of these flags, where it has them: a chain may have moved since it began."""
    return [str(here.get(before, word)) for before, word in zip(["", *words], words, strict=False)]
