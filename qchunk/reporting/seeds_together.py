"""Runs of one method that were trained with other seeds, in several folders, as one run of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from qchunk import names
from qchunk.system.errors import UserError

SAME = ("algorithm", "driver", "objective", "config")  # of what a run keeps: with its settings and its data


def together(records: Sequence[Any]) -> list[Any]:
    """``records.Record`` in their order, those that differ by nothing but their seeds merged into the first of them.

    That is: the same environment, label, configuration and settings, the same data, evaluated at the same steps, and no seed twice.
    """
    found: list[list[Any]] = []
    for r in records:
        mine = next((group for group in found if all(_goes_with(r, other) for other in group)), None)
        if mine is None:
            found.append([r])
        else:
            mine.append(r)
    return [group[0] if len(group) == 1 else _one(sorted(group, key=lambda r: r.seeds)) for group in found]


def _goes_with(r: Any, other: Any) -> bool:
    if (r.env, r.label) != (other.env, other.label) or {*r.seeds} & {*other.seeds}:
        return False
    steps = [[line["step"] for line in x.evals] for x in (r, other)]
    figures = [{frozenset(line["values"]) for line in x.evals} for x in (r, other)]
    kept = [_kept(x) for x in (r, other)]
    same = kept[0] == kept[1] or _whole(kept[0]) == _whole(kept[1])
    return same and steps[0] == steps[1] and figures[0] == figures[1]


def _kept(r: Any) -> dict[str, Any]:
    c = r.about["config"]
    found = {name: c.get(name) for name in SAME}
    settings = c.get("settings") if isinstance(c.get("settings"), dict) else {}
    found["settings"] = {k: v for k, v in settings.items() if k not in ("seed", "seeds")}
    data = c.get("data") if isinstance(c.get("data"), dict) else {}
    return {**found, "data": data.get("fingerprint"), "prior": bool(c.get("prior"))}


def _whole(kept: dict[str, Any]) -> dict[str, Any]:
    """The same with what has become a setting since; as it is where the method or the driver is the user's own."""
    if kept["algorithm"] not in names.ALGORITHMS or kept["driver"] not in names.DRIVERS:
        return kept
    from qchunk import registry  # only here: what only reads reports needs no methods
    from qchunk.config import filled

    try:
        parts = {"config": registry.builder(kept["algorithm"])[1], "settings": registry.driver(kept["driver"]).settings}
        return kept | filled(parts, kept)
    except UserError:
        return kept


def _one(group: list[Any]) -> Any:
    """Figures of all seeds in the order of the seeds; the time of all programs; cost and episode are the first run's."""
    evals = []
    for lines in zip(*(r.evals for r in group), strict=True):
        values = {name: list(itertools.chain(*(line["values"][name] for line in lines))) for name in lines[0]["values"]}
        evals.append({**lines[0], "values": values, "seconds": sum(line["seconds"] for line in lines)})
    seeds = tuple(itertools.chain(*(r.seeds for r in group)))
    told = {r.diverged for r in group}
    diverged = told.pop() if len(told) == 1 else "; ".join(_lost(r) for r in group if r.diverged)
    unfinished = any(r.unfinished for r in group)
    more = {"others": tuple(r.about for r in group[1:])}
    return group[0]._replace(seeds=seeds, evals=evals, unfinished=unfinished, diverged=diverged, **more)


def _lost(r: Any) -> str:
    """What diverged, with its seeds also where they are all of its folder: others stand beside them now."""
    return r.diverged if "(seed " in r.diverged else f"{r.diverged} (seed {', '.join(map(str, r.seeds))})"
