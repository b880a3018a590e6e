"""What the intervals and verdicts of ``qchunk report`` cover, on simulated runs whose truth is known: the tables of docs/statistics.md.

``python experiments/interval_coverage.py [RUNS]``, 2,000 simulated comparisons a cell by default; minutes on a core.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats

from qchunk.reporting import stats
from qchunk.reporting.records import markdown
from qchunk.reporting.stats import ALIKE, SURE, Pair

EPISODES = 50
Draw = Callable[[np.random.Generator, int], np.ndarray]  # (generator, S) -> the true success rate of each seed


def alike(p: float) -> Draw:
    """Seeds that differ in nothing but their episodes."""
    return lambda rng, seeds: np.full(seeds, p)


def spread(mean: float, weight: float) -> Draw:
    """Seeds that differ smoothly: Beta(mean * weight, (1 - mean) * weight)."""
    return lambda rng, seeds: rng.beta(mean * weight, (1 - mean) * weight, seeds)


def finds(p: float) -> Draw:
    """Seeds that succeed always, with probability p, or never."""
    return lambda rng, seeds: (rng.random(seeds) < p).astype(float)


class Case(NamedTuple):
    """Seeds of a kind, and their mean."""

    name: str
    draw: Draw
    mean: float


CASES = (
    Case("alike, 99.5 %", alike(0.995), 0.995),
    Case("alike, 50 %", alike(0.5), 0.5),
    Case("spread around 50 % (deviation 22)", spread(0.5, 4), 0.5),
    Case("spread around 90 % (deviation 9)", spread(0.9, 10), 0.9),
    Case("find it or not, 50 %", finds(0.5), 0.5),
    Case("find it or not, 80 %", finds(0.8), 0.8),
)


def played(rng: np.random.Generator, rates: np.ndarray) -> np.ndarray:
    """Shares of episodes, from the seeds' true rates."""
    return rng.binomial(EPISODES, rates) / EPISODES


def covered(case: Case, seeds: int, runs: int) -> dict[str, float]:
    """How often each interval holds the mean."""
    rng = np.random.default_rng(0)
    found: dict[str, list[bool]] = {"t alone": [], "interval": [], "whatever the seeds": []}
    for _ in range(runs):
        x = played(rng, case.draw(rng, seeds))
        kinds = (
            stats.interval(x, bounds=(0, 1)),
            stats.interval(x, bounds=(0, 1), episodes=EPISODES),
            stats.interval_whatever_the_seeds(x),
        )
        for held, e in zip(found.values(), kinds, strict=True):
            held.append(not np.isfinite(e.low) or e.low <= case.mean <= e.high)
    return {k: float(np.mean(v)) for k, v in found.items()}


def false_verdicts(case: Case, seeds: int, runs: int) -> dict[str, float]:
    """How often a difference to a steady arm of the same mean is called real."""
    rng = np.random.default_rng(0)
    found: dict[str, list[bool]] = {"t alone": [], ALIKE: [], SURE: []}
    for _ in range(runs):
        a, b = (played(rng, rates) for rates in (case.draw(rng, seeds), np.full(seeds, case.mean)))
        (said,) = stats.verdicts([Pair(a, b, True, EPISODES)])
        found["t alone"].append(stats.excludes_zero(stats.paired_difference(a, b)))
        found[ALIKE].append(said.word in (ALIKE, SURE))
        found[SURE].append(said.word == SURE)
    return {k: float(np.mean(v)) for k, v in found.items()}


def false_pages(case: Case, seeds: int, runs: int, arms: int = 8) -> dict[str, float]:
    """How often a table of every two of so many equal arms calls any difference real."""
    rng = np.random.default_rng(0)
    found: dict[str, list[bool]] = {"t alone": [], ALIKE: [], SURE: []}
    for _ in range(runs):
        values = [played(rng, case.draw(rng, seeds)) for _ in range(arms)]
        pairs = [Pair(a, b, True, EPISODES) for a, b in itertools.combinations(values, 2)]
        said = [v.word for v in stats.verdicts(pairs)]
        found["t alone"].append(any(stats.excludes_zero(stats.paired_difference(p.a, p.b)) for p in pairs))
        found[ALIKE].append(bool({ALIKE, SURE} & set(said)))
        found[SURE].append(SURE in said)
    return {k: float(np.mean(v)) for k, v in found.items()}


def same_twice(case: Case, seeds: int, runs: int, arms: int = 2) -> dict[str, float]:
    """How often a page says of the same method trained so many times that one is better: in its first sentence, or anywhere.

    Among two arms these are the same; the first sentence compares the first of all with each.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[bool]] = {"t alone": [], "first sentence": [], "anywhere": [], SURE: []}
    for _ in range(runs):
        values = [played(rng, case.draw(rng, seeds)) for _ in range(arms)]
        best = max(range(arms), key=lambda i: values[i].mean())
        couples = list(itertools.combinations(range(arms), 2))
        pairs = [Pair(values[i], values[j], True, EPISODES) for i, j in couples]
        said = dict(zip(couples, (v.word for v in stats.verdicts(pairs)), strict=True))
        apart = {couple for couple, word in said.items() if word in (ALIKE, SURE)}
        found["t alone"].append(any(stats.excludes_zero(stats.paired_difference(p.a, p.b)) for p in pairs))
        found["first sentence"].append(any(best in couple for couple in apart))
        found["anywhere"].append(bool(apart))
        found[SURE].append(SURE in said.values())
    return {k: float(np.mean(v)) for k, v in found.items()}


def rate_of_t(seeds: int, runs: int = 40_000) -> float:
    """How often the paired t test alone tells a method from itself, whose seeds spread around 50 %: exactly enough to see its own rate."""
    rng = np.random.default_rng(1)
    a, b = (rng.binomial(EPISODES, spread(0.5, 4)(rng, runs * seeds)).reshape(runs, seeds) / EPISODES for _ in "ab")
    return float(np.mean(scipy.stats.ttest_rel(a, b, axis=1).pvalue <= 0.05))


def over_tasks(seeds: int, runs: int, tasks: int = 5) -> dict[str, float]:
    """How often an interval holds its mean: of these tasks, and of all tasks like these.

    A task's rate is Beta(2, 2); of its seeds, Beta around that with a deviation of 15 points in the middle.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[bool]] = {
        "these tasks, over seeds": [],
        "tasks like these, over seeds": [],
        "tasks like these": [],
    }
    for _ in range(runs):
        rate = rng.beta(2, 2, tasks)
        x = rng.binomial(EPISODES, rng.beta(10 * rate, 10 * (1 - rate), (seeds, tasks))) / EPISODES
        e = stats.interval(x.mean(axis=1), bounds=(0, 1), episodes=tasks * EPISODES)
        both = stats.interval_over_tasks(x, bounds=(0, 1))
        held = (e.low <= rate.mean() <= e.high, e.low <= 0.5 <= e.high, both.low <= 0.5 <= both.high)
        for kept, h, one in zip(found.values(), held, (e, e, both), strict=True):
            kept.append(bool(h) or not np.isfinite(one.low))
    return {k: float(np.mean(v)) for k, v in found.items()}


def bootstrapped(seeds: int, runs: int) -> float:
    """How often the bootstrap's interval of the interquartile mean holds it, for normal scores of one task."""
    rng = np.random.default_rng(0)
    found = [stats.stratified_bootstrap(rng.normal(0.5, 0.1, (seeds, 1)), resamples=500) for _ in range(runs)]
    return float(np.mean([e.low <= 0.5 <= e.high for e in found]))


def table(measure: Callable[[Case, int, int], dict[str, float]], seeds: tuple[int, ...], runs: int) -> str:
    """A measure of every case, in percent."""
    rows = []
    for case, n in itertools.product(CASES, seeds):
        figures = {k: f"{100 * x:.1f}" for k, x in measure(case, n, runs).items()}
        rows.append({"seeds of an arm": case.name, "S": str(n), **figures})
    return markdown(rows, tuple(rows[0]))


def main(runs: int) -> None:
    """Prints the tables."""
    print(f"The mean is within the interval, percent of {runs:,}\n\n{table(covered, (2, 3, 4, 10), runs)}")
    print(f"Equal means called different, percent of {runs:,}\n\n{table(false_verdicts, (3, 4, 10), runs)}")
    pages = max(1, runs // 20)
    print(
        f"A page of 8 equal arms calls any two different, percent of {pages:,}\n\n{table(false_pages, (4, 6), pages)}"
    )
    twice = max(1, runs // 5)
    for arms in (2, 6):
        found = table(functools.partial(same_twice, arms=arms), (2, 3, 4, 6, 10), twice)
        print(f"The same method {arms} times is told apart, percent of {twice:,} comparisons\n\n{found}")
    own = "; ".join(f"S = {n}: {100 * rate_of_t(n):.1f} %" for n in (2, 3, 4, 6, 10))
    print(f"t's own rate where seeds spread around 50 %: {own}\n")
    rows = [
        {"S": str(n), **{k: f"{100 * x:.1f}" for k, x in over_tasks(n, runs).items()}} for n in (2, 3, 4, 5, 6, 8, 10)
    ]
    print(f"The mean over 5 tasks is within the interval, percent of {runs:,}\n\n{markdown(rows, tuple(rows[0]))}")
    shares = "; ".join(f"S = {n}: {100 * bootstrapped(n, runs // 4):.1f} %" for n in (2, 4, 10, 20))
    print(f"The bootstrap's interval holds the interquartile mean of normal scores: {shares}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
