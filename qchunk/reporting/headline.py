"""What stands first on a page: a row of dots for each method, and what the intervals allow one to say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from qchunk.reporting import against, pooled, prices
from qchunk.reporting import records as tables
from qchunk.reporting.against import Contest
from qchunk.reporting.records import Record
from qchunk.reporting.stats import ALIKE, MOST_SEEDS, SURE, Estimate, bounds_of, excludes_zero, interval, scale_of

NAMED = 4  # methods that a sentence names


class Row(NamedTuple):
    """A method in the picture; positions are percent of its width, None where there is nothing to draw."""

    label: str
    at: float | None
    low: float | None
    high: float | None
    seeds: list[float]
    mean: str
    spread: str
    minutes: str
    milliseconds: str
    note: str


class Board(NamedTuple):
    """The picture of one environment, or of all together."""

    title: str
    unit: str
    over: str  # what the intervals are over
    families: list[tuple[str, list[Row]]]
    ticks: list[tuple[float, str]]  # (position, text)
    beside: Board | None = None  # the same methods by their return, where that says more

    @property
    def rows(self) -> list[Row]:
        """All of them, from top to bottom."""
        return [row for _, members in self.families for row in members]

    @property
    def named(self) -> dict[str, Row]:
        """By label."""
        return {row.label: row for row in self.rows}


class Told(NamedTuple):
    """Two sentences about one environment, or about all together."""

    title: str
    may: str
    open: str


UNITS = {"success": "success (%)", "return": "return", "explained": "explained variance (%)"}


def groups(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """(environment, its records); one that holds them all first, where they have a mean over several environments."""
    found = tables.by_env(records)
    whole = len(found) > 1 and len(pooled.scores(records)) > 1
    return [(f"mean over {len(found)} environments", list(records))] * whole + found


def beside(records: Sequence[Record]) -> list[Record]:
    """One environment's records compared by return, where their success leaves open which method is best; else none.

    None, too, where no method succeeds, all have one seed, or their returns are all alike or not known.
    """
    if records[0].figure != "success" or len({r.env for r in records}) > 1:
        return []
    returns = [r.by_return() for r in records if "return" in r.evals[-1]["values"]]
    earned = [x.mean() for x in pooled.scores(returns).values()] if returns else []
    if len(earned) < 2 or np.allclose(earned, earned[0]):
        return []
    found = against.contest(records)
    if not found or found.seeds < 2 or not found.values[best := _best(found)].any():
        return []
    apart = all(_says(found, best, n, *against.APART) for n in found.values if n != best)
    return [] if apart else returns


def board(title: str, records: Sequence[Record], returns: Sequence[Record] | None = None) -> Board:
    """The picture of these records, families and methods sorted by their means, equal ones by their returns.

    Args:
        returns: what is ``beside`` them, where that is known by now.
    """
    figure = records[0].figure
    values = _values(records)
    estimates = {label: _estimate(label, x, records) for label, x in values.items()}
    ticks, place = _axis(figure, [*estimates.values()], [*values.values()])
    rows = {r.label: _row(r, records, values, estimates, place) for r in reversed(records)}
    others = beside(records) if returns is None else returns
    earning = board(title, others, ()) if others else None
    earned = {row.label: row.at or 0.0 for row in earning.rows} if earning else {}
    best = lambda n: (estimates[n].mean if n in estimates else -np.inf, earned.get(n, 0.0))  # noqa: E731
    families: dict[str, list[str]] = {}
    for label in sorted(dict.fromkeys(r.label for r in records), key=best, reverse=True):
        family = next(r.family for r in records if r.label == label)
        families.setdefault(family, []).append(label)
    seeds = {len(x) for x in values.values()}
    over = "over seeds" if seeds != {1} else "over the episodes of one seed: another seed may fall anywhere"
    if all(np.isnan(e.low) for e in estimates.values()):
        over = "none: too few seeds"
    shown = [(family, [rows[label] for label in labels]) for family, labels in families.items()]
    return Board(title, UNITS[figure], over, shown, ticks, earning)


def _values(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """By label, the figure of each seed, over several environments their mean; without what is not finite."""
    if len({r.env for r in records}) > 1:
        return {label: x.mean(axis=1) for label, x in pooled.scores(records).items()}
    return {r.label: r.final() for r in records if r.figure == records[0].figure and np.isfinite(r.final()).all()}


def _estimate(label: str, x: np.ndarray, records: Sequence[Record]) -> Estimate:
    mine = [r for r in records if r.label == label]
    if len(mine) == 1:
        return tables.estimate(mine[0])
    known = pooled.episodes_of(records)[label] * len(mine)
    return interval(x, bounds=bounds_of(mine[0].figure), episodes=known)


def _axis(
    figure: str, estimates: Sequence[Estimate], values: Sequence[np.ndarray]
) -> tuple[list[tuple[float, str]], Callable[[float], float]]:
    """(ticks, value -> percent of the width)."""
    scale = scale_of(figure)
    low, high = 0.0, 1.0
    if figure != "success":
        found = np.concatenate([np.ravel(np.asarray(x, float)) for x in (*values, *estimates)] or [np.zeros(1)])
        found = found[np.isfinite(found)]
        low, high = float(found.min()), float(found.max())
        margin = 0.04 * (high - low) or max(abs(low), 1.0) * 0.1
        low, high = low - margin, high + margin
    at = lambda x: round(2 + 96 * (min(max(float(x), low), high) - low) / (high - low), 2)  # noqa: E731
    ticks = [t for t in MaxNLocator(5).tick_values(scale * low, scale * high) if scale * low <= t <= scale * high]
    return [(at(t / scale), f"{t:g}") for t in ticks], at


def _row(
    r: Record,
    records: Sequence[Record],
    values: dict[str, np.ndarray],
    estimates: dict[str, Estimate],
    place: Callable[[float], float],
) -> Row:
    mine = [x for x in records if x.label == r.label]
    minutes = f"{sum(x.evals[-1]['seconds'] for x in mine) / 60:.1f}"
    costs = [found["p50"] for x in mine if (found := prices.known(x))]
    price = (minutes, f"{np.mean(costs):.2f}" if costs else "")
    note = "; ".join(dict.fromkeys(n for x in mine for n in tables.notes(x)))
    if r.label not in values:
        whole = len({x.env for x in records}) == 1
        note = note or "it has no finite figure for every seed" if whole else pooled.why_absent(r.label, mine)
        return Row(r.label, None, None, None, [], "none", "", *price, note)
    e, x = estimates[r.label], values[r.label]
    mean, spread = tables.show(e, r.figure)
    low, high = (place(e.low), place(e.high)) if np.isfinite(e.low) else (None, None)
    seeds = [place(v) for v in x] if len(x) > 1 else []
    return Row(r.label, place(e.mean), low, high, seeds, mean, spread if np.isfinite(e.low) else "", *price, note)


def sentences(title: str, records: Sequence[Record]) -> Told:
    """What may be concluded of these records, and what not: from the differences of every two methods, as one family (Holm)."""
    found = against.contest(records)
    if not found:
        return Told(title, _alone(records), _rising(records, None))
    best = _best(found)
    absent = [n for n in dict.fromkeys(r.label for r in records) if n not in found.values]
    apart = (
        f"Not compared with these (other seeds, training or environments, or no figure): {few(absent)}."
        if absent
        else ""
    )
    said = (_open(best, found), apart, _rising(records, best))
    return Told(title, _may(best, found, records), " ".join(filter(None, said)))


def _best(found: Contest) -> str:
    return max(found.values, key=lambda n: found.values[n].mean())


def _alone(records: Sequence[Record]) -> str:
    told = [f"{r.label} {tables.in_words(tables.estimate(r), r.figure)}" for r in records[:NAMED]]
    lost = (tables.unpaired(r, records[0]) if np.isfinite(r.final()).all() else "no finite figure" for r in records)
    reasons = listed([*dict.fromkeys(filter(None, lost))])
    apart = f"These runs cannot be compared as they stand: {reasons}."
    why = apart if len({r.label for r in records}) > 1 else "One method, and nothing to compare it with."
    return f"{why} {'; '.join(told)}{' ...' if len(records) > NAMED else ''}."


def _may(best: str, found: Contest, records: Sequence[Record]) -> str:
    unit = "return" if found.figure == "return" else found.figure
    level = _level(best, found)
    e = _estimate(best, found.values[best], [r for r in records if r.label == best])
    mean, spread = tables.show(e, found.figure)
    sure = f" {spread}" if np.isfinite(e.low) else ""
    where = f" of the {found.episodes:,} episodes of one seed" if found.seeds == 1 and found.episodes else ""
    if found.figure == "success" and not e.mean:
        return f"Nothing succeeded: {few([best, *level])} are all at {mean}{where}. Which is best may not be concluded."
    first = f"{listed([best, *level])} {'are' if level else 'is'} first: {unit} {mean}{sure}{where}."
    said = []
    for word, condition in ((SURE, "whatever the seeds do"), (ALIKE, "if seeds are alike"), (against.POLICIES, "")):
        if lower := [n for n in found.values if _says(found, best, n, word)]:
            nearest = max(lower, key=lambda n: found.values[n].mean())
            more = " or more" if len(lower) > 1 else ""
            said.append(f"{', '.join(filter(None, (few(lower), _gap(found, best, nearest) + more, condition)))}")
    if not said:
        return (
            f"{first} {best if level else 'It'} is told apart from no other method: which is best may not be concluded."
        )
    one = f"As a policy (of methods one seed says nothing) {best if level else 'it'}"
    who = one if found.seeds == 1 else best if level else "It"
    return f"{first} {who} is better than {'; and than '.join(said)}."


def _level(best: str, found: Contest) -> list[str]:
    """Who has the same figure as the best."""
    return [n for n in found.values if n != best and np.isclose(found.values[n].mean(), found.values[best].mean())]


def _says(found: Contest, best: str, other: str, *words: str) -> bool:
    v = found.of(best, other) if other != best else None
    return bool(v and v.word in words)


def few(names: Sequence[str], most: int = 8) -> str:
    """All names, or of many the first and how many more."""
    more = len(names) - most
    return listed([*names[:most], f"{more} more"] if more > 0 else names)


def _gap(found: Contest, one: str, other: str) -> str:
    v = found.of(one, other)
    assert v, "what is said was compared"
    mean, spread = against.told(v.difference, found.figure)
    return f"by {mean}{'' if found.figure == 'return' else ' points'} {spread}"


def _open(best: str, found: Contest) -> str:
    """Which methods are not told apart from the best, and how many seeds that would take."""
    level = _level(best, found)
    left = [n for n in found.values if n not in (best, *level) and not _says(found, best, n, *against.APART)]
    left = sorted(left, key=lambda n: -found.values[n].mean())
    if not found.found:
        return "One seed, whose episodes nobody counted, tells nothing apart: train four or more."
    more = f", and {len(left) - NAMED} more" if len(left) > NAMED else ""
    told = f"{listed([f'{n} ({_seeds(best, n, found)})' for n in left[:NAMED]])}{more}" if left else ""
    if found.seeds == 1:
        alike = f"Not told apart even so, with the seeds that would tell if all were alike: {told}. " if left else ""
        return f"{alike}Another seed may fall anywhere: train four or more."
    if level and not left and not found.values[best].any() and found.figure == "success":
        return "More training, other data or an easier task have to come before seeds can tell anything."
    if level and not left:
        return f"No number of seeds tells figures apart that are equal: {listed([best, *level])}."
    if not left:
        return "That is of these data and tasks and of this much training; what others would give it does not say."
    return f"Not told apart from {best if level else 'it'}, with the seeds that would tell at the spread seen: {told}."


def _seeds(best: str, other: str, found: Contest) -> str:
    """How many seeds would tell them apart."""
    needed = found.needed(best, other)
    if needed is None:
        return f"more than {MOST_SEEDS:,}"
    return f"about {float(f'{max(needed, found.seeds + 1):.2g}'):,.0f}"


def _rising(records: Sequence[Record], best: str | None) -> str:
    """Which methods still rose between their last two evaluations, and by how much; one environment only."""
    if len({r.env for r in records}) > 1:
        return ""
    rises = {r.label: x for r in records if (x := rise(r))}
    if not rises:
        return ""
    axis = "environment steps" if any(r.online_steps for r in records) else "updates"
    found = sorted(rises, key=lambda n: -rises[n][0])
    gains = [tables.show(Estimate(rises[n][0], np.nan, np.nan), records[0].figure)[0].removesuffix(" %") for n in found]
    told = listed([f"{n} (+{gain})" for n, gain in zip(found[:NAMED], gains, strict=False)])
    told += f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    span = max(span for _, span in rises.values())
    lead = next((r for r in records if r.label == best), None)
    later = [(more, r.label) for r in records if r.label in rises and lead and (more := _until_level(r, lead, rises))]
    level = ""
    if later:
        more, who = min(later)
        level = f"; at that pace {who} would be level with {best} after about {float(f'{more:.2g}'):,.0f} more"
    return f"Still rising in the last {span:,.0f} {axis}: {told}{level}."


def _until_level(r: Record, lead: Record, rises: dict[str, tuple[float, float]]) -> float | None:
    """How much more training would bring it level with the leader, if both went on as they did last."""
    gap = float(lead.final().mean() - r.final().mean()) if r.figure == lead.figure else 0.0
    pace = rises[r.label][0] / rises[r.label][1]
    pace -= rises[lead.label][0] / rises[lead.label][1] if lead.label in rises else 0.0
    return gap / pace if gap > 0 and pace > 0 else None


def rise(r: Record) -> tuple[float, float] | None:
    """(gain, over how much training) between the last two evaluations, where the seeds' gains exclude 0 together."""
    axis = "env_steps" if r.online_steps else "updates"
    if len(r.evals) < 2 or len(r.seeds) < 2:
        return None
    before, after = r.along(axis)[-2:]
    gains = r.values()[-1] - r.values()[-2]
    e = interval(gains)
    return (e.mean, after - before) if excludes_zero(e) and e.mean > 0 and after > before else None


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))
