"""One run played by several schemes, as it was measured: rows and points for the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from qchunk.reporting.prices import rounded
from qchunk.reporting.records import Record, Rows, difference_text, show
from qchunk.reporting.stats import Pair, Verdict, bounds_of, interval, verdicts
from qchunk.runs import run_folder
from qchunk.system import schema
from qchunk.system.errors import UserError

EXECUTIONS = "executions.json"  # in a run's folder


NOT_PLAYED: dict[str, Any] = {"figures": {}, "multiplications": 0.0, "p50": 0.0, "why": ""}


class _Execution(TypedDict):
    """One scheme; lists are of the seeds."""

    step: int  # of the checkpoint
    episodes: int
    figures: dict[str, list[float | None]]  # None: not finite
    multiplications: float  # of one decision
    p50: float
    why: str  # it was not played; "" where it was


def read(folder: Path) -> dict[str, Any]:
    """By scheme, what was measured; {} where nobody did. Raises UserError where the file is damaged."""
    path = folder / EXECUTIONS
    if not path.is_file():
        return {}
    return schema.read(path, dict[str, _Execution], "remove it; qchunk compare measures it again")


def known(folder: Path, name: str, step: int, episodes: int) -> dict[str, Any] | None:
    """What was measured of a scheme from this checkpoint in so many episodes; None where it has to be, also in place of a damaged file."""
    try:
        found = read(folder).get(name)
    except UserError:
        return None
    return found if found and not found["why"] and (found["step"], found["episodes"]) == (step, episodes) else None


def measured(records: Sequence[Record]) -> list[tuple[Record, str, dict[str, Any]]]:
    """(run, scheme, what was measured) run by run; of a damaged file only why it is left out."""
    found = []
    for r in records:
        try:
            found += [(r, name, x) for name, x in read(r.folder).items()]
        except UserError as e:
            found.append((r, "", {**NOT_PLAYED, "why": f"damaged: {e.problem}"}))
    return found


def played(records: Sequence[Record]) -> list[tuple[Record, str, dict[str, Any]]]:
    """Those of ``measured`` that have figures."""
    return [(r, name, x) for r, name, x in measured(records) if not x["why"]]


def rows(records: Sequence[Record]) -> Rows:
    """One row per run and scheme; differences are to the first scheme of the same run, one family over the page (Holm)."""
    shown = played(records)
    first = {r.folder: x for r, _, x in reversed(shown)}
    others = [(r, name, x) for r, name, x in shown if x is not first[r.folder]]
    pairs = [
        Pair(values(r, x), values(r, first[r.folder]), r.figure == "success", shares_of(r, x)) for r, _, x in others
    ]
    said = {(r.folder, name): v for (r, name, _), v in zip(others, verdicts(pairs), strict=True)}
    found = [_row(r, name, x, said.get((r.folder, name))) for r, name, x in shown]
    blank = dict.fromkeys(found[0] if found else ("environment", "method", "execution", "mean"), "")
    left_out = [(r, name, x["why"]) for r, name, x in measured(records) if x["why"]]
    return [
        *found,
        *(
            {**blank, "environment": r.env, "method": r.label, "execution": n, "mean": f"not played: {why}"}
            for r, n, why in left_out
        ),
    ]


def values(r: Record, x: dict[str, Any]) -> np.ndarray:
    """The figure of a run [S], played by a scheme, judged as the run itself is: NaN of a seed that has diverged."""
    (told,) = run_folder.judged([{"kind": "eval", "values": x["figures"]}], r.figure == "success")
    found, final = np.asarray(told["values"][r.figure], float), r.final()
    lost = [i < len(final) and not np.isfinite(final[i]) for i in range(len(found))]
    return np.where(lost, np.nan, found)


def shares_of(r: Record, x: dict[str, Any]) -> int:
    """Episodes behind a seed's figure; 0 where that is no share of episodes."""
    return x["episodes"] if r.figure == "success" else 0


def _row(r: Record, name: str, x: dict[str, Any], verdict: Verdict | None) -> dict[str, str]:
    mean = {n: float(np.mean(np.asarray(v, float))) for n, v in x["figures"].items()}
    bounds = bounds_of(r.figure)
    estimate = interval(values(r, x), bounds=bounds, episodes=shares_of(r, x))
    return {
        "environment": r.env,
        "method": r.label,
        "execution": name,
        "mean": show(estimate, r.figure)[0],
        "95 % interval": show(estimate, r.figure)[1],
        "difference to the first": difference_text(verdict, r.figure) if verdict else "(the first)",
        "return": f"{mean['return']:.2f}",
        "looks per episode": f"{mean['looks']:.1f}",
        "steps per plan": f"{mean['length'] / max(mean['plans'], 1e-9):.1f}",
        "multiplications per step": rounded(x["multiplications"] * looks_per_step(x)),
        "ms per look": f"{x['p50']:.2f}",
        "jump where a plan begins": f"{mean['jump']:.3f}",
        "change inside": f"{mean['change']:.3f}",
    }


def looks_per_step(x: dict[str, Any]) -> float:
    """How often the policy was called per environment step."""
    return float(np.mean(x["figures"]["looks"]) / max(np.mean(x["figures"]["length"]), 1e-9))
