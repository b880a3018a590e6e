"""``qchunk report``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk.commands import flags
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """A report to write."""

    out: Path = Path("report")
    """Folder for report.html, tables (md, csv, json, tex) and pictures (png, pdf, svg)."""
    json: bool = False
    """Print the table as JSON with numbers to stdout, and nothing else there."""
    baseline: str = ""
    """The method that differences are to; by default bc, or what trained nothing, or the run named first."""


def report(argv: list[str]) -> None:
    """``qchunk report RUN... --out DIR``."""
    from qchunk.reporting import publish as reporting

    folders: list[str] = []
    rest: list[str] = []
    for before, arg in zip(["", *argv], argv, strict=False):
        (rest if arg.startswith("-") or before in ("--out", "--baseline") else folders).append(arg)
    (f,) = flags.parse(
        "report", rest, ReportFlags, text="qchunk report RUN... [flags]: each RUN is the folder of a run."
    )
    if not folders:
        raise UserError("report needs at least one run folder", "qchunk report RUN... --out DIR")
    reporting.refuse_owned(f.out)
    reporting.publish([Path(p) for p in folders], f.out, as_json=f.json, baseline=f.baseline)
