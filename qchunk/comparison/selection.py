"""Which setting of a sweep is best, and what mattered: scores by setting and seed from the folders of its runs.

What is not a number is never good: a setting of which a seed has diverged, or whose run failed, has no score and is never chosen.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from qchunk.comparison.sweeping import Setting
from qchunk.reporting.records import Rows, show
from qchunk.reporting.stats import Estimate, bounds_of, interval
from qchunk.runs import run_folder
from qchunk.system.errors import UserError


class Scores(NamedTuple):
    """Last evaluations of a sweep's settings in one environment."""

    env: str
    figure: str  # success, return or explained; "" where no run has an evaluation
    values: np.ndarray  # [settings, S]; NaN where there is none that is good for anything
    episodes: int  # behind each value, where it is a share of them; else 0
    why: tuple[str, ...] = ()  # of each setting, why it has no score; "" where it has one
    returns: np.ndarray | None = None  # [settings, S] what decides between equal scores, where there is more to tell


def lanes(folder: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(figure, last evaluation of each lane, which lanes have diverged, returns of each) of a finished run.

    Raises:
        UserError: it has no evaluation.
    """
    lines = run_folder.judged(run_folder.read_metrics(folder))
    evals = [line["values"] for line in lines if line["kind"] == "eval"]
    if not evals:
        raise UserError(f"{folder} has no evaluation", "give --episodes, and let it end")
    figure = run_folder.compared(evals[-1])
    last = {name: np.asarray([math.nan if x is None else x for x in found], float) for name, found in evals[-1].items()}
    values, returns = last[figure], last.get("return", last[figure])
    lost = run_folder.diverged(lines).get("diverged", np.zeros(len(values)))
    return figure, values, np.asarray(lost, bool), returns


def scores(env: str, seeds: int, episodes: int, runs: Sequence[tuple[tuple[int, ...], Path | str]]) -> Scores:
    """The scores of all settings in an environment.

    Args:
        runs: (places of its settings in the list of all, folder, or why the run has none), of every run.
    """
    count = sum(len(places) for places, _ in runs)
    values, returns, why = np.full((count, seeds), np.nan), np.full((count, seeds), np.nan), [""] * count
    ended = [(places, *lanes(folder)) for places, folder in runs if not isinstance(folder, str)]
    figures = {figure for _, figure, *_ in ended}
    if figures == {
        "success",
        "return",
    }:  # where it is told only if it is reached, a program without it has not reached it
        ended = [(p, "success", y if f == "success" else 0 * y, lost, returned) for p, f, y, lost, returned in ended]
        figures = {"success"}
    if len(figures) > 1:
        raise UserError(
            f"the runs in {env} speak of {' and '.join(sorted(figures))}", "sweep fields that leave it the same"
        )
    for places, folder in runs:
        if isinstance(folder, str):
            for i in places:
                why[i] = f"failed: {folder}"
    for places, _, found, lost, returned in ended:
        for k, i in enumerate(places):
            mine = slice(k * seeds, (k + 1) * seeds)
            values[i] = np.where(lost[mine] | ~np.isfinite(found[mine]), np.nan, found[mine])
            returns[i] = returned[mine]
            bad = int(np.isnan(values[i]).sum())
            why[i] = f"{bad} of {seeds} seeds diverged or are not finite" if bad else ""
    figure = next(iter(figures), "")
    return Scores(env, figure, values, episodes if figure == "success" else 0, tuple(why), returns)


def combined(found: Sequence[Scores]) -> Scores:
    """One score for each setting and seed over several environments: the mean of shares of success; of anything else each
    environment's values are first put between the means of its worst setting, 0, and its best, 1."""
    if len(found) == 1:
        return found[0]
    shares = all(s.figure == "success" for s in found)
    values = np.mean([s.values if shares else scaled(s.values) for s in found], axis=0)
    why = tuple("; ".join(f"{s.env}: {s.why[i]}" for s in found if s.why[i]) for i in range(len(values)))
    episodes = min(s.episodes for s in found) * len(found)
    known = [scaled(s.returns) for s in found if s.returns is not None]
    returns = np.mean(known, axis=0) if len(known) == len(found) else None
    return Scores("all", "success" if shares else "score", values, episodes, why, returns)


def scaled(values: np.ndarray) -> np.ndarray:
    """Values [settings, S] by the means of the worst and the best setting that have one."""
    means = values.mean(axis=1)
    if not np.isfinite(means).any():
        return values
    low, high = np.nanmin(means), np.nanmax(means)
    return (values - low) / (high - low) if high > low else values - low


def equals(found: Scores) -> np.ndarray:
    """Which settings have the highest mean, bool [settings]; none where none has a score. Equal counts of successes come as shares in
    float32, whose means differ in their last bits."""
    means = found.values.mean(axis=1)
    return np.isfinite(means) & (means >= np.max(means, where=np.isfinite(means), initial=-np.inf) - 1e-6)


def by_return(found: Scores) -> bool:
    """Whether it is returns that decide which setting is best."""
    if found.figure != "success" or found.returns is None:
        return False
    means = found.returns[equals(found)].mean(axis=1)
    return len(set(means[np.isfinite(means)])) > 1


def best(found: Scores) -> int | None:
    """The setting with the highest mean, of equals the one with the highest return, then the first; None where none has a score."""
    first = equals(found)
    if found.returns is not None:
        mean = found.returns.mean(axis=1)
        known = first & np.isfinite(mean)
        first = known & (mean == np.max(mean, where=known, initial=-np.inf)) if known.any() else first
    return int(np.argmax(first)) if first.any() else None


def estimate(found: Scores, values: np.ndarray) -> Estimate:
    """Mean and interval over seeds of values [S]; all NaN where one of them is no number."""
    bounds = bounds_of(found.figure)
    return interval(values, bounds=bounds, episodes=found.episodes)


def shown(found: Scores, e: Estimate) -> tuple[str, str]:
    """Mean and interval as text."""
    return show(e, "return" if found.figure in ("score", "") else found.figure)


def table(settings: Sequence[Setting], each: Sequence[Scores], over: Scores, chosen: int | None) -> Rows:
    """A row for each setting, the best first, those without a score last."""
    rows = []
    means = over.values.mean(axis=1)
    level = equals(over)

    def order(i: int) -> tuple:  # of equals the chosen one first
        return not np.isfinite(means[i]), not level[i], i != chosen if level[i] else -np.nan_to_num(means[i]), i

    for i in sorted(range(len(settings)), key=order):
        mean, spread = shown(over, estimate(over, over.values[i]))
        by_env = {s.env: shown(s, estimate(s, s.values[i]))[0] for s in each} if len(each) > 1 else {}
        why = "chosen" + ", of equals by its return" * by_return(over)
        note = "; ".join(x for x in (why * (i == chosen), over.why[i]) if x)
        row = {"setting": str(i), **settings[i], **by_env, over.figure or "score": mean, "95 % interval": spread}
        rows.append({**row, "note": note})
    return rows


def numbers(settings: Sequence[Setting], each: Sequence[Scores], over: Scores, chosen: int | None) -> list[dict]:
    """The same for programs, in the settings' own order: values of every seed, null where there is none."""
    plain = lambda values: [float(x) if np.isfinite(x) else None for x in values]  # noqa: E731
    rows = []
    for i, setting in enumerate(settings):
        e = estimate(over, over.values[i])
        figures = dict(zip(("mean", "low", "high"), plain(e), strict=True))
        seeds = {s.env: plain(s.values[i]) for s in each}
        rows.append({"setting": setting, "figure": over.figure, **figures, "per_seed": seeds, "chosen": i == chosen, "why": over.why[i]})  # fmt: skip
    return rows


def as_csv(settings: Sequence[Setting], over: Scores, chosen: int | None) -> str:
    """The settings as csv, in their own order: whole precision, empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("setting", *settings[0], "figure", "mean", "low", "high", "chosen", "why"))
    for i, setting in enumerate(settings):
        figures = ["" if np.isnan(x) else repr(float(x)) for x in estimate(over, over.values[i])]
        writer.writerow((i, *setting.values(), over.figure, *figures, int(i == chosen), over.why[i]))
    return text.getvalue()


class Level(NamedTuple):
    """What the settings with one value of a field reached."""

    value: str
    settings: tuple[int, ...]
    estimate: Estimate  # over seeds, of the mean of these settings; all NaN where one of them has no score


def levels(settings: Sequence[Setting], over: Scores, flag: str) -> list[Level]:
    """The values of a field, numbers in their order, with what was reached with each of them."""
    places: dict[str, list[int]] = {}
    for i, setting in enumerate(settings):
        places.setdefault(setting[flag], []).append(i)
    order = sorted(places, key=as_number) if all(np.isfinite(as_number(v)) for v in places) else list(places)
    return [Level(v, tuple(places[v]), _pooled(over, places[v])) for v in order]


def _pooled(over: Scores, settings: list[int]) -> Estimate:
    more = over._replace(episodes=over.episodes * len(settings))
    return estimate(more, over.values[settings].mean(axis=0))


def as_number(text: str) -> float:
    """The number that a value spells; NaN for a word."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def mattered(settings: Sequence[Setting], over: Scores) -> Rows:
    """What each swept field did: its best value, how far its values lie apart, and whether more of it was better.

    Differences between the values of one field are those of the means over all settings with them, whatever the other fields were.
    """
    rows, scored = [], np.isfinite(over.values.mean(axis=1))
    for flag in settings[0]:
        found = levels(settings, over, flag)
        means = np.asarray([x.estimate.mean for x in found])
        finite = np.isfinite(means)
        apart = Estimate(float(np.ptp(means[finite])), math.nan, math.nan) if finite.sum() > 1 else None
        unit = "points" if over.figure in ("success", "explained") else "return"
        numbers = np.asarray([as_number(s[flag]) for s in settings])
        use = scored & np.isfinite(numbers)
        rows.append(
            {
                "field": flag,
                "values": str(len(found)),
                "best value": _best_value(found, means),
                "best to worst": show(apart, unit)[0] if apart else "-",
                "rank correlation": _rank(numbers[use], over.values.mean(axis=1)[use]),
                "settings without a score": str(int((~scored).sum())),
            }
        )
    return rows


def _best_value(found: Sequence[Level], means: np.ndarray) -> str:
    finite = means[np.isfinite(means)]
    if not len(finite):
        return "none has a score"
    return "-" if np.ptp(finite) == 0 and len(finite) > 1 else found[int(np.nanargmax(means))].value


def _rank(x: np.ndarray, y: np.ndarray) -> str:
    """Spearman's, of numbers that differ."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return "-"
    return f"{scipy_stats.spearmanr(x, y).statistic:+.2f}"
