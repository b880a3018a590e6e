"""Run folders -> tables (markdown, csv, json, LaTeX), pictures (png, pdf, svg), and one self-contained page (html)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from qchunk.reporting import catches, exports, headline, page, plots, records
from qchunk.reporting.records import Damaged, Record, Rows
from qchunk.system import answers, files
from qchunk.system.errors import UserError

Failed = Sequence[tuple[str, str, str]]  # (environment, label, why)
MARK = "img-src data:; style-src 'unsafe-inline'"  # of our pages' heads
DRAWN = tuple(f"{name}.{kind}" for name in ("headline", "curves", "clock", "catches") for kind in ("png", "pdf", "svg"))
# what lies beside a page that a command keeps, by what it is of
OWNERS = {**{kind: f"{kind}.json" for kind in ("comparison", "suite", "sweep")}, "chain": "stages.json"}
FILES = ("report.html", "report.md", "table.md", "table.csv", "table.json", "table.tex", "seeds.csv", *DRAWN)


def refuse_others(out: Path) -> None:
    """Refuses a folder that holds files of a report's names and is none.

    Raises:
        UserError: names one of them.
    """
    theirs = [name for name in FILES if (out / name).exists()]
    if theirs and not is_report(out):
        raise UserError(f"{out / theirs[0]} is no file of a report", "pass --out with another folder")


def refuse_owned(out: Path) -> None:
    """Refuses the page of a comparison, a suite, a sweep or a chain, which may say more than the folders of its runs.

    Raises:
        UserError: what made those runs keeps its page there.
    """
    root = out.absolute().parent
    owner = next((kind for kind, name in OWNERS.items() if (root / name).is_file()), None)
    if owner and is_report(out):
        problem = f"{out} is the page of the {owner} in {root}, which the command that made it writes anew"
        raise UserError(problem, "pass --out with another folder")


def is_report(out: Path) -> bool:
    """Whether a folder holds a report's page."""
    try:
        return MARK in (out / "report.html").read_text(errors="replace")[:1000]
    except OSError:
        return False


def write_report(
    folders: Sequence[Path],
    out: Path,
    more: dict[str, Rows] | None = None,
    failed: Failed = (),
    baseline: str = "",
) -> list[dict[str, str]]:
    """Writes ``FILES`` into ``out`` and returns the rows of the table as the page shows them.

    Args:
        more: further tables of the page, by title, such as what was held equal.
        baseline: the label of the run that differences are to; by default bc, or what trained nothing, or the first.
        failed: runs without a figure, which have a row that says why. A run that cannot be read has one, too.

    Raises:
        UserError: there is no run to report on, or none that can be read.
    """
    refuse_others(out)
    if not folders:
        why = "; ".join(f"{label} on {env}: {why}" for env, label, why in failed)
        raise UserError(
            f"every run failed: {why}" if failed else "there is no run to report on",
            "repair that; the same command goes on",
        )
    return written(*records.load_whole(folders, baseline), out, more or {}, failed)


def written(
    found: list[Record], damaged: list[Damaged], out: Path, more: dict[str, Rows], failed: Failed
) -> list[dict[str, str]]:
    """``write_report`` of runs that are read."""
    rows = [*records.table(found), *records.failed_rows(failed), *records.damaged_rows(damaged)]
    lost = without_figures(failed, damaged)
    files.make_folder(out)
    files.atomic_write(out / "report.html", page.html_page(found, rows, more))  # first: it marks the folder
    files.atomic_write(out / "table.csv", exports.as_csv(exports.rows(found, lost)))
    files.atomic_write(out / "seeds.csv", exports.as_csv(exports.seed_rows(found)))
    files.atomic_write(out / "table.json", exports.as_json(found, lost))
    files.atomic_write(out / "table.tex", exports.as_latex(found, failed))
    files.atomic_write(out / "table.md", records.markdown(rows))
    plots.headline(
        headline.board(*headline.groups(found)[0]), plots.colours(r.label for r in found), out / "headline.png"
    )
    plots.curves(found, out / "curves.png")
    plots.curves(found, out / "clock.png", "minutes")
    for members in catches.groups(found)[:1]:
        plots.catches(members, plots.colours(r.label for r in found), out / "catches.png")
    files.atomic_write(out / "report.md", page.markdown_page(found, rows, more))
    return rows


def without_figures(failed: Failed, damaged: Sequence[Damaged]) -> Failed:
    """The runs that failed and those that cannot be read, for tables of numbers; of the latter no environment is known."""
    return [*failed, *(("", records.plain(d.folder.name), records.plain(d.why)) for d in damaged)]


def publish(
    folders: Sequence[Path],
    out: Path,
    more: dict[str, Rows] | None = None,
    as_json: bool = False,
    failed: Failed = (),
    baseline: str = "",
) -> None:
    """``write_report``, and its table to stdout: for a reader, or as JSON, which has numbers (``exports.rows``)."""
    rows = write_report(folders, out, more, failed, baseline)
    if as_json:
        found, damaged = records.load_whole(folders, baseline)
        answers.answer(exports.rows(found, without_figures(failed, damaged)))
    else:
        print(records.markdown(rows))
    print(f"report: {out / 'report.html'}", file=sys.stderr if as_json else sys.stdout)
