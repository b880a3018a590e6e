"""What several commands need: figures printed, an argument without a flag."""

from __future__ import annotations

from typing import Any

from qchunk.system import answers
from qchunk.system.errors import UserError


def print_figures(figures: dict[str, dict], f: Any, closing: str) -> None:
    if f.json:
        answers.answer(figures)
    elif not f.quiet:
        for name, figure in figures.items():
            per_seed = ", ".join(f"{x:.4g}" for x in figure["per_seed"])
            print(f"{name:20} {figure['mean']:10.4g}" + (f"   per seed: {per_seed}" if "," in per_seed else ""))
        print(closing)


def positional(command: str, argv: list[str], what: str) -> tuple[str, list[str]]:
    if {"-h", "--help"} & set(argv):
        return "", ["--help"]
    if not argv or argv[0].startswith("-"):
        raise UserError(f"{command} needs {what} first", f"qchunk {command} --help shows how")
    return argv[0], argv[1:]
