"""Run folders -> a table (markdown and csv), curves (png), and one self-contained page (html)."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qchunk import files, runs
from qchunk.errors import UserError
from qchunk.stats import Estimate, excludes_zero, interval, paired_difference

COLUMNS = (
    "environment",
    "method",
    "seeds",
    "updates",
    "figure",
    "mean",
    "95 % interval",
    "difference to baseline",
    "note",
)
NUMBERS = ("mean", "low", "high", "difference", "difference_low", "difference_high")  # of table.csv, not rounded
BASELINE = "bc"  # differences are to it, or to the first run where it is absent


class Record(NamedTuple):
    """What a report needs of a run."""

    label: str
    env: str
    seeds: tuple[int, ...]
    evals: list[dict]  # lines of metrics.jsonl with kind "eval", by step
    unfinished: bool

    @property
    def figure(self) -> str:
        """What is compared: success where the environment knows it, else return."""
        return "success" if "success" in self.evals[-1]["values"] else "return"

    @property
    def training(self) -> str:
        """How far it was trained: updates, and environment steps where it went online."""
        online, step = self.online_steps, self.evals[-1]["step"]
        return f"{step - online:,} + {online:,} env steps" if online else f"{step:,}"

    @property
    def online_steps(self) -> int:
        """Environment steps at the last evaluation."""
        return int(self.evals[-1]["values"].get("env_steps", [0])[0])

    def final(self) -> np.ndarray:
        """Last evaluation [S]."""
        return np.asarray(self.evals[-1]["values"][self.figure], float)


def load(folders: Sequence[Path]) -> list[Record]:
    """Reads runs.

    Raises:
        UserError: a folder that is no run, or one without an evaluation yet.

    Returns:
        By environment, the baseline first. Runs that share environment and label get their folder's last two names too.
    """
    records = []
    folders = list({Path(f).resolve(): Path(f) for f in folders}.values())  # one named twice is read once
    for folder in folders:
        c = runs.read_config(folder)["config"]
        evals = [line for line in runs.read_metrics(folder) if line["kind"] == "eval"] if _has_metrics(folder) else []
        if not evals:
            raise UserError(f"{folder} has no evaluation yet", f"go on with qchunk train --resume {folder}")
        seeds = tuple(range(c["seed"], c["seed"] + c["seeds"]))
        label = c.get("label") or c["algorithm"]
        records.append(Record(label, c["env"], seeds, evals, not (folder / runs.SUMMARY).exists()))
    shared = Counter((r.env, r.label) for r in records)
    pairs = sorted(zip(records, folders, strict=True), key=lambda pair: (pair[0].env, pair[0].label != BASELINE))
    return [
        r._replace(label=f"{r.label} ({'/'.join(f.resolve().parts[-2:])})") if shared[r.env, r.label] > 1 else r
        for r, f in pairs
    ]


def _has_metrics(folder: Path) -> bool:
    return (folder / runs.METRICS).is_file()


def show(e: Estimate, unit: str) -> tuple[str, str]:
    """Mean and interval as text: percent for a success, percentage points for a difference of two, plain for a return."""
    scale, digits = (1.0, 2) if unit == "return" else (100.0, 1)
    if np.isnan(e.mean):
        return "not finite", "not finite"
    mean = f"{scale * e.mean:.{digits}f}" + {"success": " %", "points": " points"}.get(unit, "")
    if not np.isfinite(e.low):
        return mean, "one seed: none"
    return mean, f"[{scale * e.low:.{digits}f}, {scale * e.high:.{digits}f}]"


def table(records: Sequence[Record]) -> list[dict[str, str]]:
    """One row per run, grouped by environment as ``load`` orders them.

    The paired difference is there where seeds and updates are the baseline's; otherwise its cell says what differs.
    """
    rows = []
    for env, group in itertools.groupby(records, key=lambda r: r.env):
        members = list(group)
        base = members[0]
        for r in members:
            mean, spread = show(_estimate(r), r.figure)
            rows.append(
                {
                    "environment": env,
                    "method": r.label,
                    "seeds": str(len(r.seeds)),
                    "updates": r.training,
                    "figure": r.figure,
                    "mean": mean,
                    "95 % interval": spread,
                    "difference to baseline": _difference(r, base),
                    "note": "unfinished: last evaluation" if r.unfinished else "",
                }
            )
    return rows


def _estimate(r: Record) -> Estimate:
    return interval(r.final(), bounds=(0.0, 1.0) if r.figure == "success" else None)


def _unpaired(r: Record, base: Record) -> str:
    """What forbids the difference of two runs; empty where nothing does."""
    if r.seeds != base.seeds:
        return "other seeds"
    if r.figure != base.figure:
        return "another figure"
    # more training is not a better method
    return "other updates" if r.evals[-1]["step"] != base.evals[-1]["step"] else ""


def _difference(r: Record, base: Record) -> str:
    if r is base:
        return f"(baseline: {base.label})"
    if why := _unpaired(r, base):
        return f"not paired: {why}"
    e = paired_difference(r.final(), base.final())
    mean, spread = show(e, "points" if r.figure == "success" else r.figure)
    if np.isnan(e.mean):
        return mean
    verdict = "" if not np.isfinite(e.low) else (" excludes 0" if excludes_zero(e) else " includes 0")
    return f"{'+' if e.mean >= 0 else ''}{mean} {spread}{verdict}"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table as markdown; a bar in a label does not end its cell."""
    cells = [[row[c].replace("|", "\\|") for c in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *cells]) + "\n"


def numbers(records: Sequence[Record]) -> str:
    """The table as csv for programs: shares in [0, 1], whole precision, empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("environment", "method", "seeds", "updates", "figure", *NUMBERS, "baseline", "unfinished"))
    for env, group in itertools.groupby(records, key=lambda r: r.env):
        members = list(group)
        base = members[0]
        for r in members:
            paired = r is not base and not _unpaired(r, base)
            figures = [*_estimate(r), *(paired_difference(r.final(), base.final()) if paired else [np.nan] * 3)]
            shown = ["" if np.isnan(x) else repr(float(x)) for x in figures]
            head = (env, r.label, len(r.seeds), r.evals[-1]["step"], r.figure)
            writer.writerow((*head, *shown, base.label if paired else "", int(r.unfinished)))
    return text.getvalue()


def curves(records: Sequence[Record], path: Path, clock: bool = False) -> None:
    """Success (or return) against training, one panel per environment: mean over seeds, every seed thin.

    Training is updates, then environment steps (a dotted line marks the switch); with ``clock`` minutes of the program
    that trained all seeds, evaluation and saving included.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = [(env, list(group)) for env, group in itertools.groupby(records, key=lambda r: r.env)]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.8 * rows), squeeze=False, layout="constrained", dpi=120
    )
    labels = sorted({r.label for r in records}, key=lambda name: (name != BASELINE, name))
    colour = {name: f"C{i}" for i, name in enumerate(labels)}
    for ax, (env, members) in zip(axes.flat, groups, strict=False):
        for r in members:
            steps = [line["seconds"] / 60 if clock else line["step"] for line in r.evals]
            scale = 100.0 if r.figure == "success" else 1.0
            values = scale * np.asarray([line["values"][r.figure] for line in r.evals], float)  # [steps, S]
            ax.plot(steps, values, color=colour[r.label], alpha=0.25, linewidth=0.8)
            ax.plot(steps, values.mean(axis=1), color=colour[r.label], linewidth=2, label=r.label)
        ax.set_title(env, fontsize=10)
        online = [r for r in members if r.online_steps]
        for at in {r.evals[-1]["step"] - r.online_steps for r in online} if not clock else ():
            ax.axvline(at, color="0.5", linestyle=":", linewidth=1)
        ax.set_xlabel("minutes" if clock else "updates, then environment steps" if online else "updates")
        ax.set_ylabel("success of episodes (%)" if members[0].figure == "success" else "return of an episode")
        if members[0].figure == "success":
            ax.set_ylim(-3, 103)
        ax.ticklabel_format(axis="x", style="plain")
        ax.xaxis.set_major_locator(plt.MaxNLocator(5))
        ax.grid(alpha=0.25)
        ax.legend(frameon=False, fontsize=9, title="mean; thin: each seed", title_fontsize=8)
    for ax in list(axes.flat)[len(groups) :]:
        ax.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    files.atomic_write(path, buffer.getvalue())


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>qchunk report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><style>
:root {{ color-scheme: light dark }} body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .9rem }}
td, th {{ border-bottom: 1px solid #8886; padding: .3rem .7rem; text-align: left; white-space: nowrap }}
img {{ max-width: 100%; background: #fff }}</style></head><body><h1>qchunk report</h1>
<p>Means over seeds; intervals are Student's t over seeds, differences are paired by seed. Runs with the same seeds were evaluated
from the same start states.</p><div class="wide">{table}</div>
<h2>Curves</h2><img alt="Success or return against training, one panel per environment" src="data:image/png;base64,{png}">
<h2>Curves against time</h2><img alt="Success or return against minutes, one panel per environment" src="data:image/png;base64,{clock}">
</body></html>
"""


def write_report(folders: Sequence[Path], out: Path) -> list[dict[str, str]]:
    """Writes table.md, table.csv, curves.png, clock.png and report.html into ``out`` and returns the table's rows."""
    records = load(folders)
    rows = table(records)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise files.explain_oserror(err, out) from err
    files.atomic_write(out / "table.csv", numbers(records))
    files.atomic_write(out / "table.md", markdown(rows))
    curves(records, out / "curves.png")
    curves(records, out / "clock.png", clock=True)
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(row[c])}</td>' for c in COLUMNS)}</tr>" for row in rows)
    head = "".join(f"<th>{c}</th>" for c in COLUMNS)
    png, clock = (base64.b64encode((out / name).read_bytes()).decode() for name in ("curves.png", "clock.png"))
    page = PAGE.format(table=f"<table><tr>{head}</tr>{cells}</table>", png=png, clock=clock)
    files.atomic_write(out / "report.html", page)
    return rows
