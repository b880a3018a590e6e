"""``qchunk bench``."""

from __future__ import annotations

import sys
from pathlib import Path

from qchunk.errors import UserError, unknown


def bench(argv: list[str]) -> None:
    """``qchunk bench [NAME...]``: runs the files of benchmarks/, which lie in the repository, not in the wheel."""
    import runpy

    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    found = {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}
    if {"-h", "--help"} & set(argv):
        print(f"usage: qchunk bench [{'|'.join(found) or 'NAME'}] ...")
        return
    if not found:
        raise UserError(
            "qchunk bench needs the repository: this install has no benchmarks/", "clone it and run make bench"
        )
    for name in argv:
        if name not in found:
            raise unknown("benchmark", name, found)
    sys.path.insert(0, str(folder))  # what they share
    for name in argv or found:
        sys.argv = [str(found[name])]
        runpy.run_path(str(found[name]), run_name="__main__")
