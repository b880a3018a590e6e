"""Figures over all runs of a page: what a method reaches over seeds and environments together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qchunk.reporting import records as tables
from qchunk.reporting.records import Record
from qchunk.reporting.stats import (
    Estimate,
    bounds_of,
    interquartile_mean,
    interval,
    interval_over_tasks,
    probability_of_improvement,
    stratified_bootstrap,
)

FEWEST = 10  # seeds that a bootstrap needs: with two it covers 45 % in place of 95


def scores(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Final figures [S, tasks] of every label that has the same seeds on every environment, where all figures are alike."""
    envs = list(dict.fromkeys(r.env for r in records))
    if len({r.figure for r in records}) > 1 or (records[0].figure != "success" and len(envs) > 1):
        return {}  # returns of several environments have no common scale
    found, base = {}, {env: _reference([r for r in records if r.env == env]) for env in envs}
    for label in dict.fromkeys(r.label for r in records):
        mine = {r.env: r for r in records if r.label == label and not tables.unpaired(r, base[r.env])}
        if set(mine) == set(envs) and len({r.seeds for r in mine.values()}) == 1:
            found[label] = np.stack([mine[env].final() for env in envs], axis=1)
    return {k: v for k, v in found.items() if np.isfinite(v).all()}


def _reference(records: Sequence[Record]) -> Record:
    """Of one environment, the run whose seeds and training the others must have: the first, or where none does, the one that most go with.

    So a baseline that has been given more seeds before the others leaves these comparable.
    """
    partners = lambda r: sum(not tables.unpaired(other, r) for other in records)  # noqa: E731  (itself is one)
    return records[0] if partners(records[0]) > 1 else max(records, key=partners)


def aggregate(records: Sequence[Record]) -> list[dict[str, str]]:
    """Interquartile mean and probability of improvement over the baseline, with stratified bootstrap intervals."""
    found = scores(records)
    base = next(iter(found), "")
    unit, episodes = records[0].figure, episodes_of(records)
    returns = _returns([r for r in records if r.label in found])
    rows = []
    for label, x in found.items():
        tasks, both = x.shape[1], np.concatenate([x, found[base]], axis=1) if len(x) == len(found[base]) else None
        better = ""
        if label != base and both is not None and len(x) > 1:
            split = lambda b: probability_of_improvement(b[..., :tasks], b[..., tasks:])  # noqa: E731
            e = _bootstrapped(both, split)
            better = f"{e.mean:.2f}" + (f" [{e.low:.2f}, {e.high:.2f}]" if np.isfinite(e.low) else "")
        bounds = bounds_of(unit)
        mean = interval(x.mean(axis=1), bounds=bounds, episodes=tasks * episodes[label])
        iqm, like = _bootstrapped(x), interval_over_tasks(x, bounds=bounds)
        shown = {"mean": tables.in_words(mean, unit), "interquartile mean": tables.in_words(iqm, unit)}
        shown |= {"95 % interval, tasks like these": tables.show(like, unit)[1]} if tasks > 1 else {}
        shown |= {"return, interquartile mean": tables.in_words(returns[label], "return")} if label in returns else {}
        rows.append({"method": label, "runs": str(x.size), **shown, f"P(better than {base})": better})
    if len(rows) < 2:
        return []
    absent = [label for label in dict.fromkeys(r.label for r in records) if label not in found]
    return rows + [{**dict.fromkeys(rows[0], ""), "method": n, "mean": why_absent(n, records)} for n in absent]


def why_absent(label: str, records: Sequence[Record]) -> str:
    """Why a method has no mean over the environments."""
    mine = [r for r in records if r.label == label]
    lost = [f"{r.diverged or 'not finite'} on {r.env}" for r in mine if r.diverged or not np.isfinite(r.final()).all()]
    return f"none: {'; '.join(lost) or 'other seeds, or not every environment'}"


def _bootstrapped(x: np.ndarray, statistic: Any = interquartile_mean) -> Estimate:
    """A statistic of scores [S, tasks], with an interval from ``FEWEST`` seeds on."""
    return stratified_bootstrap(x, statistic) if len(x) >= FEWEST else Estimate(float(statistic(x)), np.nan, np.nan)


def episodes_of(records: Sequence[Record]) -> dict[str, int]:
    """By label, the fewest episodes behind a seed's success on an environment; 0 where they are unknown."""
    found: dict[str, int] = {}
    for r in records:
        found[r.label] = min(r.episodes, found.get(r.label, r.episodes))
    return found


def _returns(records: Sequence[Record]) -> dict[str, Estimate]:
    """Interquartile mean of the return by label, where it stands beside a success; of one environment, for several have no common scale."""
    if len({r.env for r in records}) > 1 or any(r.figure == "return" for r in records):
        return {}
    found = {r.label: np.asarray(r.evals[-1]["values"].get("return", [np.nan]), float)[:, None] for r in records}
    whole = all(len(x) > 1 and np.isfinite(x).all() for x in found.values())
    return {k: _bootstrapped(x) for k, x in found.items()} if whole else {}
