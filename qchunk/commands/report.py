"""``qchunk report``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk import flags
from qchunk.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """A report to write."""

    out: Path = Path("report")
    """Folder for table.md, table.csv, curves.png, clock.png and report.html."""


def report(argv: list[str]) -> None:
    """``qchunk report RUN... --out DIR``."""
    from qchunk import report as reporting

    folders = []
    for arg in argv:
        if arg.startswith("-"):
            break
        folders.append(arg)
    (f,) = flags.parse("report", argv[len(folders) :], ReportFlags)
    if not folders:
        raise UserError("report needs at least one run folder", "qchunk report RUN... --out DIR")
    reporting.write_report([Path(p) for p in folders], f.out)
    print((f.out / "table.md").read_text())
    print(f"report: {f.out / 'report.html'}")
