"""What several commands need: figures printed, an argument without a flag."""

from __future__ import annotations

import math

from qchunk.system import answers
from qchunk.system.errors import UserError


def print_figures(figures: dict[str, dict], json: bool, quiet: bool, closing: str) -> None:
    """Figures (``run_folder.figure``) by name to stdout: as JSON, or a line each and a ``closing`` line unless ``quiet``."""
    if json:
        answers.answer(figures)
    elif not quiet:
        for name, figure in figures.items():
            per_seed = ", ".join(map(shown, figure["per_seed"]))
            print(f"{name:20} {shown(figure['mean']):>10}" + (f"   per seed: {per_seed}" if "," in per_seed else ""))
        print(closing)


def shown(x: float) -> str:
    """Four digits."""
    return f"{x:.4g}" if math.isfinite(x) else "not finite"


def positional(command: str, argv: list[str], what: str) -> tuple[str, list[str]]:
    """(the first word, ``what`` a command is about, the words behind it). Raises UserError where there is none."""
    if {"-h", "--help"} & set(argv):
        return "", ["--help"]
    if not argv or argv[0].startswith("-"):
        raise UserError(f"{command} needs {what} first", f"qchunk {command} --help shows how")
    return argv[0], argv[1:]
