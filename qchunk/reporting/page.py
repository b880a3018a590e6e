"""Records -> one self-contained html page, and the same as markdown, both from templates. Nothing is fetched and no script runs."""

from __future__ import annotations

import base64
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qchunk.reporting import against, catches, executions, headline, origins, plots, pooled, prices, templating
from qchunk.reporting import records as tables
from qchunk.reporting.plots import Drawing
from qchunk.reporting.records import Record, Rows
from qchunk.reporting.stats import ALIKE, ALONE, OPEN, SURE

EPISODE, STILL = "episode.gif", "episode.png"  # what qchunk compare and render leave in a run's folder
FOLDED = ("every setting", "Tuning", "Offline part, ")  # tables that are there for who asks


Groups = Sequence[tuple[str, list[Record]]]  # (title, the records that are told of together)
Returns = dict[str, list[Record]]  # by the title of a group, what is ``headline.beside`` it


class Grid(NamedTuple):
    """A table of the page: without columns that say nothing, and of those that say one thing only that."""

    columns: list[str]
    rows: list[list[str]]
    same: list[tuple[str, str]]


class Figure(NamedTuple):
    """An episode: data addresses of what moves and of its last frame."""

    title: str
    moving: str
    still: str


class Section(NamedTuple):
    """A part of the page; of every kind of content none or some."""

    title: str
    text: str = ""
    grid: Grid | None = None
    lines: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    figures: Sequence[Figure] = ()
    boards: Sequence[headline.Board] = ()
    matrix: against.Matrix | None = None
    folded: bool = False
    wide: bool = False  # its drawings are
    whole: bool = False  # each takes the whole width, and can be moved sideways where that is narrow

    @property
    def id(self) -> str:
        """Of its heading."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def html_page(records: Sequence[Record], rows: Rows, more: dict[str, Rows]) -> str:
    """The page; sections without anything to show are left out."""
    colour = plots.colours([row["method"] for row in rows] + [r.label for r in records])
    groups = headline.groups(records)
    returns = by_return(groups)
    boards = [headline.board(title, members, returns[title]) for title, members in groups]
    spans, told = _spans(groups[0]), told_groups(groups, returns)
    return templating.html(
        "page.html.j2",
        title=_title(records),
        facts=_head(records),
        told=[headline.sentences(title, members) for title, members in told],
        unlike=origins.sentence(records),
        boards=boards[:1] if spans else boards,
        broken=[(row["method"], row["environment"], row["note"]) for row in rows if not row["mean"]],
        episodes=episodes(records),
        undrawn=_undrawn(records),
        colour=colour,
        sections=[s for s in _sections(records, rows, more, colour, boards[1:] * spans, told, returns) if _is_full(s)],
    )


def by_return(groups: Groups) -> Returns:
    """What is beside each group, found once for all that the page says of it."""
    return {title: headline.beside(members) for title, members in groups}


def told_groups(groups: Groups, returns: Returns) -> Groups:
    """Of which the page says something: of all environments together, or of each where they have no mean, and by return where success leaves much open."""
    if _spans(groups[0]):
        return groups[:1]
    found = ([(env, members), (f"{env}, by return", returns[env])] for env, members in groups)
    return [(title, members) for both in found for title, members in both if members]


def _spans(group: tuple[str, list[Record]]) -> bool:
    return len({r.env for r in group[1]}) > 1


def _title(records: Sequence[Record]) -> str:
    envs = list(dict.fromkeys(r.env for r in records))
    return f"qchunk report: {', '.join(envs[:3])}{' ...' if len(envs) > 3 else ''}"


def _head(records: Sequence[Record]) -> list[str]:
    """What a reader must know before the figures, where it is the same of all runs."""
    methods, counts = dict.fromkeys(r.label for r in records), {len(r.seeds) for r in records}
    found = [f"{len(methods)} method{'s' * (len(methods) != 1)}"]
    found.append(f"{_span(counts)} seed{'s' * (counts != {1})} each")
    if episodes := {r.episodes for r in records} - {0}:
        found.append(f"{_span(episodes)} episodes per seed")
    return found


def _span(numbers: set[int]) -> str:
    return f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def _is_full(s: Section) -> bool:
    return bool(s.grid or s.lines or s.drawings or s.boards or s.matrix)


KEPT = (
    "method",
    "arm",
    "what",
    "how",
    "number",
    "setting",
    "field",
    "execution",
    "which",
)  # columns that name a row or are its text


def grid(rows: Rows) -> Grid | None:
    """Rows for the page; None where there are none."""
    if not rows:
        return None
    values = {c: {row[c] for row in rows} for c in rows[0]}
    full = [c for c in rows[0] if c in KEPT or values[c] != {""}]
    same = [c for c in full if c not in KEPT and len(rows) > 1 and len(values[c]) == 1]
    columns = [c for c in full if c not in same]

    def told(row: dict[str, str], column: str) -> str:
        return row[column].removesuffix(" too few seeds")  # a mean without an interval says so itself

    return Grid(columns, [[told(row, c) for c in columns] for row in rows], [(c, told(rows[0], c)) for c in same])


HOW = (
    "Means over seeds. The 95 % interval is Student's t over seeds, and for a success never narrower than that of the pooled episodes "
    "(Clopper and Pearson); differences are paired by seed and interval. It holds where seeds are alike. Where an arm's seeds find "
    'the goal or not, a few can all fall on one side by luck: "whatever the seeds" is the interval that holds then, too, and a '
    f'difference "{SURE}" where that is so whatever the seeds do, "{ALIKE}" where only Student\'s t says so (of a return always). '
    f'Both hold for all differences of a table together (Holm); "{ALONE}" does not. What each of them covers: docs/statistics.md. '
    "Runs with the same seeds were evaluated from the same start states."
)
POOLED = (
    "Over all seeds and environments (Agarwal et al. 2021): the interquartile mean and the probability that a run of the method "
    "beats one of the baseline, each with a stratified percentile bootstrap from ten seeds on (below it is too narrow); performance "
    "profiles. The mean's interval is of these environments; \"tasks like these\" is t over the environments' means, too."
)
ACTING = "One decision for one observation, first seed, on the machine that trained; its chunk is played open loop."
SCHEMES = (
    "Nothing is trained again: each scheme plays the same weights from the same start states. A look is a call of the policy; a jump is "
    "the mean change of an action's numbers from one step to the next where a plan begins."
)


CALIBRATION = (
    "Values of held-out windows against the discounted returns that their episodes went on to earn, each seed's: Pearson's correlation, Spearman's of "
    "their ranks, and the mean difference. Returns are those of whoever recorded the data, values those of the policy that was learned."
)


def _sections(
    records: Sequence[Record],
    rows: Rows,
    more: dict[str, Rows],
    colour: dict[str, str],
    boards: Sequence[headline.Board],
    told: Groups,
    returns: Returns,
) -> Iterator[Section]:
    yield Section("Each environment", boards=boards)
    yield Section(
        "Curves",
        "Thick: mean over seeds; thin: each seed.",
        drawings=_curves(records, colour, returns),
        wide=_many(records),
    )
    yield catch_of_each(records, colour)
    yield costs(records, colour)
    yield from _each(told)
    found = pooled.aggregate(records)
    found = [] if all(row["runs"] in ("1", "") for row in found) else found  # one run of each: there is nothing to pool
    profile = [_profile(records, colour)] if found and records[0].figure == "success" else []
    yield Section("Over all runs", POOLED if found else "", grid(found), drawings=profile, wide=_many(records))
    yield schemes(records)
    yield Section("What critics know of held-out data", CALIBRATION, grid(calibration(records)))
    whole = [row for row in rows if row["mean"]]  # the others stand on the first screen, with the reason
    yield Section("Figures", HOW, grid(whole), verdicts(rows))
    for title, given in more.items():
        yield Section(title, grid=grid(given), folded=any(part in title for part in FOLDED))
    yield from settings(records)


def _each(groups: Groups) -> Iterator[Section]:
    """Matrices of what the page says something of."""
    for title, members in groups:
        name = "Each against each" + (f": {title}" if len(groups) > 1 else "")
        yield Section(name, matrix=against.matrix(against.contest(members)))


def verdicts(rows: Rows) -> list[str]:
    """What the intervals of the paired differences allow one to say, an environment a line."""
    found = []
    for env, group in itertools.groupby(rows, key=lambda r: r["environment"]):
        members = list(group)
        base, said = members[0]["method"], []
        for verdict, condition in ((SURE, ""), (ALIKE, ", if seeds are alike"), (ALONE, ", by itself only")):
            for word, mark in (("better", "+"), ("worse", "-")):
                shown = [r for r in members if _says(r, verdict) and r["difference to baseline"].startswith(mark)]
                said += [f"{word} than {base}{condition}: {', '.join(r['method'] for r in shown)}"] if shown else []
        open_ = ", ".join(r["method"] for r in members if _says(r, OPEN))
        said += [f"not told apart from {base}: {open_}"] if open_ else []
        if said:
            found.append(f"{env}: {'; '.join(said)}.")
    return found


def _says(row: dict[str, str], verdict: str) -> bool:
    return row["difference to baseline"].endswith(f" {verdict}")


def _curves(records: Sequence[Record], colour: dict[str, str], returns: Returns) -> list[Drawing]:
    found, axes = [], ("env_steps", "updates", "minutes")[not any(r.online_steps for r in records) :]
    for env, group in tables.by_env(records):
        shown = [(group, axis) for axis in axes]
        if returns[env]:
            shown.append((returns[env], axes[0]))
        for members, axis in shown:
            draw = functools.partial(plots.draw_curves, members=members, axis=axis, colour=colour)
            title = f"{env}: {members[0].figure} against {tables.AXES[axis]}"
            found.append(plots.drawing(draw, title, beside=_many(records)))
    return found


def _many(records: Sequence[Record]) -> bool:
    """Whether their names would hide the curves."""
    return len({r.label for r in records}) > plots.FEW


def _profile(records: Sequence[Record], colour: dict[str, str]) -> Drawing:
    draw = functools.partial(plots.draw_profile, scores=pooled.scores(records), colour=colour)
    return plots.drawing(draw, "Performance profiles", beside=_many(records))


def catch_of_each(records: Sequence[Record], colour: dict[str, str]) -> Section:
    """What each method is paid for with, in one picture and one table for each environment."""
    found = [
        plots.drawing_of_catches(members, colour, f"{members[0].env}: large dots are means, small ones seeds")
        for members in catches.groups(records)
    ]
    return Section("The catch of each", catches.HOW, grid(catch_rows(records)), drawings=found, whole=True)


def catch_rows(records: Sequence[Record]) -> Rows:
    """``catches.rows`` with the figures as the table of figures has them."""
    return catches.rows(records, lambda r: tables.in_words(tables.estimate(r), r.figure))


PRICES = (("multiplications", "million multiplications per action", 1e6), ("p50", "ms per decision", 1.0))


def costs(records: Sequence[Record], colour: dict[str, str]) -> Section:
    """What acting costs, where anybody measured it."""
    found = []
    for env, members in tables.by_env(records):
        if not any(map(prices.known, members)):
            continue
        for name, unit, scale in PRICES:
            cost = lambda r: price[name] / scale if (price := prices.known(r)) else None  # noqa: E731
            draw = functools.partial(plots.draw_compute, members=members, colour=colour, cost=cost, unit=unit)
            title = f"{env}: {members[0].figure} against {unit}; lines span the seeds"
            found.append(plots.drawing(draw, title, beside=_many(records)))
    return Section("Cost of acting", ACTING, grid(prices.cost_rows(records)), drawings=found, wide=_many(records))


def schemes(records: Sequence[Record]) -> Section:
    """What schemes make of the same runs, and a picture of each run: its figure against how often it looks."""
    found = []
    for r, group in itertools.groupby(executions.played(records), key=lambda x: x[0]):
        points = [(name, executions.looks_per_step(x), executions.values(r, x)) for _, name, x in group]
        draw = functools.partial(plots.draw_families, points=points, unit="looks per environment step", figure=r.figure)
        found.append(plots.drawing(draw, f"{r.label} on {r.env}; lines span the seeds", beside=True))
    rows = executions.rows(records)
    return Section("One run, several executions", SCHEMES, grid(rows), drawings=found, wide=True)


def calibration(records: Sequence[Record]) -> Rows:
    """The values of critics against returns to go, where there was no simulator: each seed's at the last evaluation."""
    names = {"q_correlation": "correlation", "q_rank": "rank correlation", "q_bias": "bias"}
    found = []
    for r in records:
        values = {title: r.evals[-1]["values"].get(name) for name, title in names.items()}
        told = {
            title: ", ".join("not finite" if x is None else f"{x:.2f}" for x in v) if v else ""
            for title, v in values.items()
        }
        found += [{"method": r.label, "environment": r.env, **told}] if any(told.values()) else []
    return found


def is_there(path: Path) -> bool:
    """Whether a file of the run's folder is there, itself: a link would put a file from anywhere into the page."""
    return path.is_file() and not path.is_symlink()


def _uri(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" if is_there(path) else ""


def episodes(records: Sequence[Record]) -> list[Figure]:
    """Animations; whoever asked for less motion sees a still."""
    several = len({r.env for r in records}) > 1
    return [
        Figure(
            f"{r.label} on {r.env}" if several else r.label,
            _uri(r.folder / EPISODE, "gif"),
            _uri(r.folder / STILL, "png"),
        )
        for r in records
        if is_there(r.folder / EPISODE)
    ]


def _undrawn(records: Sequence[Record]) -> str:
    several = len({r.env for r in records}) > 1
    lost = [r for r in records if not is_there(r.folder / EPISODE)]
    return headline.few([f"{r.label} on {r.env}" if several else r.label for r in lost])


def settings(records: Sequence[Record]) -> Iterator[Section]:
    """Every field of every run's configuration, and the versions."""
    labels = list(dict.fromkeys(r.label for r in records))
    one = {label: next(r for r in records if r.label == label).about["config"] for label in labels}
    groups = {k: {n: tables.flat(c.get(k) or {}) for n, c in one.items()} for k in ("config", "settings")}
    rows = []
    for group in groups.values():
        for name in dict.fromkeys(n for fields in group.values() for n in fields):
            # of the first of a method's runs; where seeds were added the page's head has them all
            if name not in ("seed", "seeds"):
                rows.append({"field": name, **{label: group[label].get(name, "") for label in labels}})
    yield Section("Every hyper-parameter", grid=_whole(rows), folded=True)
    yield Section("Versions and data", grid=_whole(origins.rows(records)), folded=True)


def _whole(rows: Rows) -> Grid | None:
    """Every column: those of settings are methods."""
    return Grid(list(rows[0]), [list(row.values()) for row in rows], []) if rows else None


def markdown_page(records: Sequence[Record], rows: Rows, more: dict[str, Rows]) -> str:
    """The tables of the page, with the pictures that lie beside it."""
    groups = headline.groups(records)
    returns = by_return(groups)
    found = {
        "Over all runs": pooled.aggregate(records),
        "Each against each": against.pairs(records),
        "Each against each, by return": against.pairs(returns[groups[0][0]] if len(groups) == 1 else []),
        **more,
        "The catch of each": catch_rows(records),
        "Cost of acting": prices.cost_rows(records),
        "One run, several executions": executions.rows(records),
        "What critics know of held-out data": calibration(records),
    }
    given: dict[str, Any] = {
        "title": _title(records),
        "told": [headline.sentences(title, members) for title, members in told_groups(groups, returns)],
        "unlike": origins.sentence(records),
        "how": HOW,
        "figures": tables.markdown(rows),
        "lines": verdicts(rows),
        "parts": {title: tables.markdown(t, tuple(t[0])) for title, t in found.items() if t},
    }
    return templating.plain("report.md.j2", **given)
