"""Each method against each other: differences of one family (Holm), over seeds, or over the episodes of one seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qchunk.reporting import pooled
from qchunk.reporting import records as tables
from qchunk.reporting.records import Record
from qchunk.reporting.stats import (
    ALIKE,
    OPEN,
    SURE,
    Estimate,
    Pair,
    Verdict,
    excludes_zero,
    fisher,
    holm,
    pooled_difference,
    seeds_needed,
    verdicts,
)

POLICIES = "these policies differ"  # the verdict over one seed's episodes: of what was trained, not of methods
APART = (SURE, ALIKE, POLICIES)
STARS = {SURE: " *", ALIKE: " (*)"}
PAIR = f"row minus column (* {SURE}, (*) {ALIKE})"


class Contest(NamedTuple):
    """Methods and what may be said of every two of them; the differences are of a seed's mean over the environments."""

    figure: str  # success, return or explained
    values: dict[str, np.ndarray]  # by label [S]
    episodes: int  # behind a value; 0 where it is no share of episodes
    found: dict[tuple[str, str], Verdict]  # (late, early): late minus early, in the order of ``values``

    @property
    def seeds(self) -> int:
        """The fewest of any method."""
        return min(len(x) for x in self.values.values())

    def of(self, one: str, other: str) -> Verdict | None:
        """One minus the other; None where they are not comparable."""
        if (one, other) in self.found:
            return self.found[one, other]
        v = self.found.get((other, one))
        return Verdict(Estimate(-v.difference.mean, -v.difference.high, -v.difference.low), v.word) if v else None

    def needed(self, one: str, other: str) -> int | None:
        """Seeds that would tell two apart among all these differences, at the spread seen; None: more than we count, or unknown."""
        level = 1 - 0.05 / max(len(self.found), 1)
        return seeds_needed(self.values[one], self.values[other], self.episodes, level)


def contest(records: Sequence[Record]) -> Contest | None:
    """The comparison of methods that have the same seeds on every environment; None of fewer than two."""
    found = pooled.scores(records) if records else {}
    if len(found) < 2:
        return None
    means = {label: x.mean(axis=1) for label, x in found.items()}
    tasks, known = next(iter(found.values())).shape[1], pooled.episodes_of(records)
    episodes = tasks * min(known[label] for label in means)
    couples = [(late, early) for early, late in itertools.combinations(means, 2)]
    couples = [(a, b) for a, b in couples if len(means[a]) == len(means[b])]
    if min(len(x) for x in means.values()) > 1:
        shares = records[0].figure == "success"
        pairs = [Pair(means[a], means[b], shares, tasks * min(known[a], known[b])) for a, b in couples]
        said = verdicts(pairs)
    else:
        said = over_episodes([(means[a][0], means[b][0]) for a, b in couples], episodes)
        couples = couples if said else []
    return Contest(records[0].figure, means, episodes, dict(zip(couples, said, strict=True)))


def over_episodes(shares: Sequence[tuple[float, float]], episodes: int, level: float = 0.95) -> list[Verdict]:
    """What the episodes of one seed say of its policies; nothing where they are not known."""
    if not episodes:
        return []
    found = [pooled_difference(a, b, episodes, level) for a, b in shares]
    p = holm([fisher(a, b, episodes) for a, b in shares])
    apart = [excludes_zero(e) and p[i] <= 1 - level for i, e in enumerate(found)]
    return [Verdict(e, POLICIES if a else OPEN) for e, a in zip(found, apart, strict=True)]


def pairs(records: Sequence[Record]) -> list[dict[str, str]]:
    """Paired differences of every two labels as a table, in points of success or in return; nothing over one seed or of two labels."""
    found = contest(records)
    if not found or len(found.values) < 3 or found.seeds < 2 or not found.found:
        return []  # two stand beside each other in the figures
    rows = [
        {PAIR: one, **{other: _starred(found.of(one, other), found) if one != other else "" for other in found.values}}
        for one in found.values
    ]
    return [{k: v for k, v in row.items() if k != list(found.values)[-1]} for row in rows[1:]]


def _starred(v: Verdict | None, c: Contest) -> str:
    if not v:
        return ""
    mean, spread = told(v.difference, c.figure)
    return f"{mean} {spread}{STARS.get(v.word, '')}"


def told(e: Estimate, figure: str) -> tuple[str, str]:
    """A difference and its interval as text, without a unit."""
    mean, spread = tables.show(e, "return" if figure == "return" else "points")
    return mean.removesuffix(" points"), spread


class Square(NamedTuple):
    """One cell of the matrix."""

    mean: str
    spread: str
    word: str
    apart: bool
    share: int  # percent of the largest difference, with its sign


class Matrix(NamedTuple):
    """The coloured matrix: row minus column, the best first."""

    labels: list[str]
    rows: list[tuple[str, list[Square | None]]]
    over: str  # what its intervals are over
    unit: str


def matrix(found: Contest | None) -> Matrix | None:
    """What the page shows of a contest; None where no two have a difference with an interval."""
    if not found or not any(np.isfinite(v.difference.low) for v in found.found.values()):
        return None
    labels = sorted(found.values, key=lambda n: -found.values[n].mean())
    most = max(abs(v.difference.mean) for v in found.found.values()) or 1.0

    def square(one: str, other: str) -> Square | None:
        if one == other or not (v := found.of(one, other)):
            return None
        mean, spread = told(v.difference, found.figure)
        sign = "+" if v.difference.mean > 0 else ""
        return Square(f"{sign}{mean}", spread, v.word, v.word in APART, round(100 * v.difference.mean / most))

    over = "seeds" if found.seeds > 1 else f"the {found.episodes:,} episodes of one seed"
    unit = "return" if found.figure == "return" else "points (of 100)"
    return Matrix(labels, [(one, [square(one, other) for other in labels]) for one in labels], over, unit)
