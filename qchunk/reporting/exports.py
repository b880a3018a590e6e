"""The figures of a page for programs and papers: csv and json with numbers, LaTeX with booktabs. Shares are in [0, 1]."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from qchunk.reporting import against, prices, templating
from qchunk.reporting.records import (
    ONE_SEED,
    Record,
    difference_text,
    differences,
    estimate,
    estimate_of_return,
    notes,
    show,
    whatever_the_seeds,
    with_baselines,
)
from qchunk.reporting.stats import Estimate
from qchunk.system.answers import finite

Numbers = list[dict[str, Any]]
UNKNOWN = Estimate(np.nan, np.nan, np.nan)
NO_FIGURE = "no figure"  # in place of one, of who failed
FIGURES = ("success", "return", "explained", "length")  # of an evaluation, where it has them


def rows(records: Sequence[Record], failed: Sequence[tuple[str, str, str]] = ()) -> Numbers:
    """A row for each run, whole precision: text, numbers and booleans; None where there is no figure.

    Args:
        failed: (environment, method, why) of runs without one.
    """
    found, made = differences(records), []
    for r, base in with_baselines(records):
        paired, e = found.get(r.folder), estimate(r)
        gap = paired.difference if paired else [np.nan] * 3
        row = {"environment": r.env, "method": r.label, "family": r.family, "seeds": len(r.seeds)}
        row |= {"updates": r.updates, "env_steps": r.online_steps, "minutes": r.evals[-1]["seconds"] / 60}
        row |= {"figure": r.figure, "mean": e.mean, "low": e.low, "high": e.high}
        row |= {"interval_over": "episodes" if len(r.seeds) == 1 and np.isfinite(e.low) else "seeds"}
        row |= dict(zip(("difference", "difference_low", "difference_high"), map(float, gap), strict=True))
        row |= {"verdict": paired.word if paired else "", "baseline": base.label if paired else ""}
        held, earned = whatever_the_seeds(r) or UNKNOWN, estimate_of_return(r) or UNKNOWN
        row |= {"whatever_the_seeds_low": held.low, "whatever_the_seeds_high": held.high}
        row |= {"return": earned.mean, "return_low": earned.low, "return_high": earned.high}
        row |= {"milliseconds": _cost(r, "p50"), "multiplications": _cost(r, "multiplications")}
        row |= {"unfinished": int(r.unfinished), "failed": "", "note": "; ".join(notes(r)), "diverged": r.diverged}
        made.append(finite(row))
    blank = dict.fromkeys(made[0] if made else ("environment", "method", "failed"))
    return made + [{**blank, "environment": env, "method": label, "failed": why} for env, label, why in failed]


def _cost(r: Record, name: str) -> float:
    return float(prices.known(r).get(name, np.nan))


def seed_rows(records: Sequence[Record]) -> Numbers:
    """A row for each seed of each run: its last figures."""
    found = []
    for r in records:
        last = r.evals[-1]["values"]
        for i, seed in enumerate(r.seeds):
            row = {"environment": r.env, "method": r.label, "seed": seed}
            row |= {"updates": r.updates, "env_steps": r.online_steps, "episodes": r.episodes or None}
            row |= {name: _of_seed(last.get(name), i) for name in FIGURES}
            found.append(row)
    return [{k: v for k, v in row.items() if any(x[k] is not None for x in found)} for row in found]


def _of_seed(values: Any, i: int) -> float | None:
    return values[i] if isinstance(values, list) and len(values) > i else None


def difference_rows(records: Sequence[Record]) -> Numbers:
    """A row for every two methods that are compared over all runs: one minus the other."""
    found = against.contest(records)
    if not found:
        return []
    over = {"over": "seeds" if found.seeds > 1 else "episodes", "seeds": found.seeds}
    made = []
    for (late, early), v in found.found.items():
        row = {"method": late, "minus": early, "difference": v.difference.mean, "low": v.difference.low}
        row |= {"high": v.difference.high, "verdict": v.word, **over, "seeds_needed": found.needed(late, early)}
        made.append(finite(row))
    return made


def as_csv(made: Numbers) -> str:
    """Whole precision; empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(made[0] if made else ())
    for row in made:
        writer.writerow(["" if x is None else repr(x) if isinstance(x, float) else x for x in row.values()])
    return text.getvalue()


def as_json(records: Sequence[Record], failed: Sequence[tuple[str, str, str]] = ()) -> str:
    """The runs, their seeds and their differences in one object."""
    tables = {"runs": rows(records, failed), "seeds": seed_rows(records), "differences": difference_rows(records)}
    return json.dumps(finite(tables), indent=1, allow_nan=False) + "\n"


def as_latex(records: Sequence[Record], failed: Sequence[tuple[str, str, str]] = ()) -> str:
    """The table of figures for a paper: ``\\usepackage{booktabs}`` is all that it needs. Who ``failed`` is there, without a figure."""
    found = differences(records)
    lines: list[tuple] = []
    for r, _ in with_baselines(records):
        paired = found.get(r.folder)
        mean, spread = show(estimate(r), r.figure)
        gap = difference_text(paired._replace(word=""), r.figure) if paired else "--"
        lines.append((r.env, r.label, len(r.seeds), mean, spread.removesuffix(ONE_SEED), gap))
    lines += [(env, label, "--", NO_FIGURE, "--", "--") for env, label, _ in failed]
    envs = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: envs.index(line[0]))
    return templating.latex(
        "table.tex.j2", lines=lines, envs=envs, figure="/".join(dict.fromkeys(r.figure for r in records))
    )
