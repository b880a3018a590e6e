"""What acting with each run costs, as it was measured: rows for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from qchunk.reporting.records import Record
from qchunk.system import schema
from qchunk.system.errors import UserError

COST = "cost.json"  # in a run's folder


def measured(r: Record) -> tuple[dict[str, Any], str]:
    """(what acting with a run costs, as ``qchunk compare`` measured it, what is wrong with that file); {} and "" where nobody did."""
    path = r.folder / COST
    if not path.is_file():
        return {}, ""
    try:
        return schema.read(path, _Cost, "remove it; qchunk compare measures it again"), ""
    except UserError as e:
        return {}, e.problem


def known(r: Record) -> dict[str, Any]:
    """What acting with a run costs; {} where nobody measured it, or of a damaged file."""
    return measured(r)[0]


def rounded(x: float) -> str:
    """Three digits: 12300 is 12.3k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"


class _Cost(TypedDict):
    multiplications: float
    p50: float
    p99: float
    memory: float
    parameters: int
    offline_rewards: str
    error: NotRequired[list[float | None]]  # of each seed: see play.on_data.from_data
    energy_distance: NotRequired[list[float | None]]


COST_COLUMNS = (
    *("environment", "method", "multiplications per action", "decision, ms (p50)", "(p99)", "parameters read"),
    *("memory of a decision, bytes", "offline rewards"),
)


def cost_rows(records: Sequence[Record]) -> list[dict[str, str]]:
    """One row per run that was measured."""
    rows = []
    for r in records:
        c, why = measured(r)
        if why:
            head = {"environment": r.env, "method": r.label}
            rows.append({**dict.fromkeys(COST_COLUMNS, ""), **head, "offline rewards": f"damaged: {why}"})
        elif c:
            rows.append(
                {
                    "environment": r.env,
                    "method": r.label,
                    "multiplications per action": rounded(c["multiplications"]),
                    "decision, ms (p50)": f"{c['p50']:.2f}",
                    "(p99)": f"{c['p99']:.2f}",
                    "parameters read": f"{c['parameters']:,}",
                    "memory of a decision, bytes": rounded(c["memory"]),
                    "offline rewards": c["offline_rewards"],
                }
            )
    return rows
