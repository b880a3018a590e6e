"""Figures over seeds: intervals, paired differences, and the statistics of Agarwal et al. (2021), "Deep RL at the Edge of
the Statistical Precipice". numpy and scipy only; every resampling has a generator of its own and is reproducible.

A success rate has two sources of chance: which seeds one trained, and which episodes each of them played. Student's t over
seeds knows the first, Clopper and Pearson's interval of the pooled episodes the second; intervals here are as wide as both.
Neither knows of seeds that find the goal or not: ``whatever_the_seeds`` does. docs/statistics.md shows what each of them covers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, special, stats


class Estimate(NamedTuple):
    """A figure and its confidence interval; ``low`` and ``high`` are NaN where the values are too few for one."""

    mean: float
    low: float
    high: float


Method = Literal["t", "bootstrap"]


def bounds_of(figure: str) -> tuple[float, float] | None:
    """What the mean of a figure can be at all; None: anything."""
    return (0.0, 1.0) if figure == "success" else None


def scale_of(figure: str) -> float:
    """What a figure is multiplied by where it is shown: a return by nothing, all else in percent."""
    return 1.0 if figure == "return" else 100.0


def interval(
    values: np.ndarray | list[float],
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    method: Method = "t",
    resamples: int = 10_000,
    seed: int = 0,
    episodes: int = 0,
) -> Estimate:
    """The mean of independent values [S] and its confidence interval, Student's t by default.

    With the four or five seeds that this field can afford, a percentile bootstrap covers far less than it promises (four
    values have 35 distinct resamples); the t interval covers what it promises for anything near normal.

    Args:
        bounds: what the mean can be at all, such as (0, 1) for a share; the interval is cut there.
        method: "t", or "bootstrap" for the percentile bootstrap, which wants ten values or more.
        resamples, seed: of the bootstrap; equal ones give equal intervals.
        episodes: behind each value, where the values are shares of them: the interval is then never narrower than that of
            the pooled episodes. 0: unknown, or no shares.

    Returns:
        NaN bounds for one value, and for two that agree exactly: shares of a few episodes do so by chance, and an interval
        without width would call the smallest difference real. All NaN where a value is not finite: an interval of the
        others would be of other seeds.

    Raises:
        ValueError: ``values`` is empty or not one-dimensional, or the method is unknown.
    """
    x = np.asarray(values, float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"interval needs values [S] with S at least 1, got shape {x.shape}; pass one value per seed")
    if method not in ("t", "bootstrap"):
        raise ValueError(f'interval knows the methods "t" and "bootstrap", got {method!r}')
    if not np.isfinite(x).all():
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(x.mean())
    if len(x) < 2 or (len(x) == 2 and np.isclose(x[0], x[1], rtol=1e-6)):
        return Estimate(mean, np.nan, np.nan)
    low, high = _student(x, level) if method == "t" else _percentile(x, level, resamples, seed)
    if episodes:
        least, most = clopper_pearson(mean, episodes * len(x), level)
        low, high = min(low, least), max(high, most)
    if bounds is not None:
        low, high = max(float(bounds[0]), low), min(float(bounds[1]), high)
    return Estimate(mean, low, high)


def _student(x: np.ndarray, level: float) -> tuple[float, float]:
    half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def _percentile(x: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    found = stats.bootstrap(
        (x,), np.mean, confidence_level=level, n_resamples=resamples, method="percentile", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def clopper_pearson(share: float, episodes: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a probability, of which ``share`` of so many episodes came true (Clopper and Pearson, 1934)."""
    count, tail = round(share * episodes), (1 - level) / 2
    low = stats.beta.ppf(tail, count, episodes - count + 1) if count else 0.0
    high = stats.beta.isf(tail, count + 1, episodes - count) if count < episodes else 1.0
    return float(low), float(high)


def paired_difference(
    a: np.ndarray | list[float],
    b: np.ndarray | list[float],
    level: float = 0.95,
    method: Method = "t",
    episodes: int = 0,
) -> Estimate:
    """Mean of a - b over seeds that were paired (same data, same start states), with its interval.

    The default is Student's t for the reason given at ``interval``: a percentile bootstrap of four differences promises
    95 % and covers about 77 % (normal data), so it would call differences real that are not.

    Args:
        episodes: behind each value, where both are shares of them: the interval is then never narrower than that of the pooled episodes (Zou and Donner, 2008, from those of ``clopper_pearson``). 0: unknown, or no shares.

    Raises:
        ValueError: the two have different numbers of seeds.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired values need equal shapes, got {a.shape} and {b.shape}")
    e = interval(a - b, level, method=method)
    if not episodes or not np.isfinite(e.low):
        return e
    pooled = pooled_difference(a.mean(), b.mean(), episodes * len(a), level)
    return Estimate(e.mean, min(e.low, pooled.low), max(e.high, pooled.high))


def pooled_difference(one: float, other: float, episodes: int, level: float = 0.95) -> Estimate:
    """The difference of two shares of as many episodes each, from the intervals of ``clopper_pearson`` (Zou and Donner, 2008)."""
    (least_a, most_a), (least_b, most_b) = (clopper_pearson(x, episodes, level) for x in (one, other))
    low = one - other - np.hypot(one - least_a, most_b - other)
    high = one - other + np.hypot(most_a - one, other - least_b)
    return Estimate(float(one - other), float(low), float(high))


def fisher(one: float, other: float, episodes: int) -> float:
    """P value of equal shares of as many episodes each, two-sided (Fisher's exact test)."""
    counts = [[k, episodes - k] for k in (round(x * episodes) for x in (one, other))]
    return float(stats.fisher_exact(counts).pvalue)


def excludes_zero(e: Estimate) -> bool:
    """Whether the interval says "better" or "worse"."""
    return bool(e.low > 0 or e.high < 0)


def p_value(a: np.ndarray | list[float], b: np.ndarray | list[float], episodes: int = 0) -> float:
    """Of equal means, two-sided: the larger one of the paired t test's and, of shares, Fisher's of the pooled episodes.

    NaN where ``paired_difference`` has no interval.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    e = interval(a - b)
    if not np.isfinite(e.low):
        return float("nan")
    error = (a - b).std(ddof=1) / np.sqrt(len(a))
    p = 2 * stats.t.sf(abs(e.mean) / error, len(a) - 1) if error else float(e.mean == 0)
    if episodes:
        p = max(p, fisher(a.mean(), b.mean(), episodes * len(a)))
    return float(p)


def whatever_the_seeds(a: np.ndarray | list[float], b: np.ndarray | list[float]) -> float:
    """A bound on the p value, two-sided, of equal means of shares [S], however seeds are distributed.

    For independent values in [0, 1] with equal means, the mean of a - b is at least d with a probability of at most
    (cosh(u) exp(-u d))^(2 S) for any u > 0 (Hoeffding, 1963: exp is convex, and the worst mean is 1/2); the best u gives
    exp(-2 S kl((1 + d) / 2, 1 / 2)). Four seeds at 0 against four at 1 have 2 / 256. NaN where a value is not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if not np.isfinite([*a, *b]).all():
        return float("nan")
    q = (1 + min(1.0, abs(float(a.mean() - b.mean())))) / 2
    kl = np.log(2) + q * np.log(q) + ((1 - q) * np.log(1 - q) if q < 1 else 0.0)
    return float(min(1.0, 2 * np.exp(-(len(a) + len(b)) * kl)))


def interval_whatever_the_seeds(values: np.ndarray | list[float], level: float = 0.95) -> Estimate:
    """The mean of shares [S] with an interval that holds however seeds are distributed, by the bound of ``whatever_the_seeds``.

    It holds every m with S kl(mean, m) <= log(2 / (1 - level)): four seeds at 1 say no more than that the mean is above 0.398.
    """
    x = np.asarray(values, float)
    if not len(x) or not np.isfinite(x).all():
        return Estimate(np.nan, np.nan, np.nan)
    mean = min(1.0, max(0.0, float(x.mean())))

    def excess(m: float) -> float:
        return len(x) * float(special.rel_entr(mean, m) + special.rel_entr(1 - mean, 1 - m)) - np.log(2 / (1 - level))

    least, most = 1e-12, 1 - 1e-12  # a bound that is not reached before these is 0, or 1
    low = optimize.brentq(excess, least, mean) if mean > least and excess(least) > 0 else 0.0
    high = optimize.brentq(excess, mean, most) if mean < most and excess(most) > 0 else 1.0
    return Estimate(mean, float(low), float(high))


class Pair(NamedTuple):
    """Two arms' values [S], seed by seed."""

    a: np.ndarray
    b: np.ndarray
    shares: bool  # whether they are shares of episodes
    episodes: int  # behind each share; 0: unknown


class Verdict(NamedTuple):
    """A paired difference, and what one may say of it among the others of its table."""

    difference: Estimate
    word: str  # one of the four below; "" where there is no interval


SURE, ALIKE = "excludes 0", "excludes 0 if seeds are alike"
ALONE, OPEN = "excludes 0 by itself only", "includes 0"


def verdicts(pairs: Sequence[Pair], level: float = 0.95) -> list[Verdict]:
    """What may be said of several paired differences in one table.

    An interval that excludes 0 says so among the others only where ``p_value`` does after ``holm``; and plainly only where
    ``whatever_the_seeds`` does, too, otherwise under the condition that seeds are alike, of returns always. With four seeds
    that bound is 2 / 256 at best, so among seven differences none of them is plain.
    """
    found = [paired_difference(p.a, p.b, level, episodes=p.episodes) for p in pairs]
    alike = holm([p_value(p.a, p.b, p.episodes) for p in pairs])
    whatever = holm([whatever_the_seeds(p.a, p.b) if p.shares else np.nan for p in pairs])

    def word(i: int, e: Estimate) -> str:
        if not np.isfinite(e.low):
            return ""
        if not excludes_zero(e):
            return OPEN
        if alike[i] > 1 - level:
            return ALONE
        return SURE if whatever[i] <= 1 - level else ALIKE

    def possible(p: Pair, e: Estimate) -> Estimate:
        return Estimate(e.mean, *np.clip(e[1:], -1.0, 1.0).tolist()) if p.shares else e

    return [Verdict(possible(p, e), word(i, e)) for i, (p, e) in enumerate(zip(pairs, found, strict=True))]


def holm(p: np.ndarray | list[float]) -> np.ndarray:
    """P values [M] of several comparisons, so adjusted that any false one among them is at most as likely as said (Holm, 1979).

    NaN stays and does not count.
    """
    p = np.asarray(p, float)
    order = np.argsort(p)  # NaN last
    count = np.isfinite(p).sum()
    steps = np.maximum.accumulate(np.minimum(1.0, p[order] * np.maximum(count - np.arange(len(p)), 1)))
    found = np.empty_like(p)
    found[order] = steps
    return np.where(np.isfinite(p), found, np.nan)


def find_or_not(values: np.ndarray | list[float], gap: float = 0.5) -> int | None:
    """How many of the seeds' shares [S] lie above a gap of more than ``gap``; None where there is none between any two."""
    x = np.sort(np.asarray(values, float))
    steps = np.diff(x)
    return int(len(x) - 1 - steps.argmax()) if len(x) > 1 and np.isfinite(x).all() and steps.max() > gap else None


MOST_SEEDS = 10_000  # that ``seeds_needed`` answers


def seeds_needed(
    a: np.ndarray | list[float], b: np.ndarray | list[float], episodes: int = 0, level: float = 0.95, power: float = 0.8
) -> int | None:
    """Seeds that would tell two arms apart, if the difference and the spread of their paired values [S] are the true ones.

    As many as give the paired t test this power and, of shares, the test of the pooled episodes (two proportions, normal
    approximation), too. Of a few seeds the spread is a guess itself, and so is this.

    Args:
        episodes: behind each value, where they are shares of them. With one seed they alone decide, as if all seeds were alike.
        level: of one difference among m, 1 - 0.05 / m keeps the page's 95 %.

    Returns:
        At least 2; None where no number up to ``MOST_SEEDS`` does, or the values say nothing.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    gap, tail = abs(float(np.mean(a - b))), (1 - level) / 2
    if not np.isfinite(gap) or gap < 1e-9 or (len(a) < 2 and not episodes):
        return None
    spread = float((a - b).std(ddof=1)) if len(a) > 1 else 0.0
    effect = min(gap / max(spread, 1e-9), 50.0)  # beyond it two or three seeds do, and the noncentral t overflows
    n, most = 2, MOST_SEEDS + 1
    while n < most:  # the first n of enough power
        middle = (n + most) // 2
        n, most = (n, middle) if _power(effect, middle, tail) >= power else (middle + 1, most)
    if episodes:
        p, q = np.clip([a.mean(), b.mean()], 0.0, 1.0)
        z = stats.norm.isf(tail) + stats.norm.ppf(power)
        n = max(n, int(np.ceil(z**2 * (p * (1 - p) + q * (1 - q)) / gap**2 / episodes)))
    return n if n <= MOST_SEEDS else None


def _power(effect: float, seeds: int, tail: float) -> float:
    """Of a paired t test to find a mean of ``effect`` standard deviations."""
    limit, shift = stats.t.isf(tail, seeds - 1), effect * np.sqrt(seeds)
    found = stats.nct.sf(limit, seeds - 1, shift)
    return float(found) if np.isfinite(found) else float(shift > limit)


def interval_over_tasks(scores: np.ndarray, level: float = 0.95, bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean of scores [S, T] for tasks like these T: Student's t over the tasks' means, and never narrower than over the seeds'.

    What ``interval`` says of the seeds' means is of these very tasks.
    """
    x = np.asarray(scores, float)
    over = [interval(x.mean(axis=axis), level, bounds) for axis in (0, 1) if x.shape[1 - axis] > 1]
    found = [e for e in over if np.isfinite(e.low)]
    if x.shape[1] < 2 or len(found) < len(over):
        return Estimate(float(x.mean()), np.nan, np.nan)
    return Estimate(float(x.mean()), min(e.low for e in found), max(e.high for e in found))


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all scores [*B, S, tasks] (Agarwal et al., section 4.3): [*B]."""
    x = np.asarray(scores, float)
    return stats.trim_mean(x.reshape(*x.shape[:-2], -1), 0.25, axis=-1)


def stratified_bootstrap(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Estimate:
    """A statistic of scores [S, tasks] and its percentile interval, seeds resampled within each task (section 4.1).

    Args:
        statistic: [*B, S, tasks] -> [*B].
    """
    x = np.asarray(scores, float)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(x), (resamples, *x.shape))
    found = statistic(np.take_along_axis(x[None], draws, axis=1))
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(float(statistic(x)), float(low), float(high))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of all scores above each threshold (section 4.2)."""
    return np.mean(np.asarray(scores, float).ravel()[:, None] > np.asarray(thresholds, float), axis=0)


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(A > B) of scores [*B, S, tasks], ties counting half, averaged over tasks (section 4.3): [*B]."""
    a, b = np.asarray(a, float)[..., :, None, :], np.asarray(b, float)[..., None, :, :]
    return np.mean((a > b) + 0.5 * (a == b), axis=(-3, -2, -1))
