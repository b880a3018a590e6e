"""Pictures of records: png, pdf and svg for files, svg for pages (text in the page's own colour, so that it reads on light and dark)."""

from __future__ import annotations

import io
import re
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.colors import rgb_to_hsv, to_rgb

from qchunk.reporting.catches import CATCHES, best_first, spell_ticks
from qchunk.reporting.catches import draw as draw_catches
from qchunk.reporting.exports import NO_FIGURE
from qchunk.reporting.records import AXES, Record, by_env
from qchunk.reporting.stats import performance_profile, scale_of
from qchunk.system import files

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK = "#010203"  # stands for the page's own colour
# Okabe and Ito's colours for the eight arms of the default comparison, readable on white and on black and by the colour-blind
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#B59F00")
OWN = ("bc", "dppo", "dppo@diffusion", "ppo", "qc", "qc-frozen", "v-gps", "value-guided")  # whose they are
MORE = (  # of every other name one by its letters
    *("#8C6BB1", "#E7298A", "#66A61E", "#A6761D", "#C44E52", "#1FA2B8", "#7A8B2A", "#DA70D6"),
    *("#B0724C", "#5C7CFA", "#2E8B57", "#E8645A", "#9A7B4F", "#4D9078", "#B5485D", "#6C8EBF"),
)
MARKS = "osD^v<>P"
STROKES = ("-", "--", ":", "-.")  # of names that have one colour, in the order of the alphabet
NAMES, COLUMN = 18, 1.5  # lines of a legend beside a panel, and inches of one more column of it


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for every label, the same on every page: by its name alone. Where two of a page have one, the later takes the next that is free, or that the fewest have."""
    labels, used = set(labels), Counter[str]()
    found = {name: COLOURS[OWN.index(name)] for name in sorted(labels) if name in OWN}
    for name in sorted(labels - set(OWN)):
        first = zlib.crc32(name.encode()) % len(MORE)
        found[name] = min(MORE[first:] + MORE[:first], key=lambda c: used[c])
        used[found[name]] += 1
    return found


def strokes(colour: dict[str, str]) -> dict[str, str]:
    """A line style for every label: names of one colour differ in it, and of many names those of nearly one hue do."""
    found, used = dict[str, str](), Counter[Any]()
    for label in sorted(colour):
        mine = colour[label]
        kinds = (mine, _hue(mine)) if len(colour) > len(OWN) else (mine,)
        found[label] = min(STROKES, key=lambda s: [used[kind, s] for kind in kinds])
        used.update((kind, found[label]) for kind in kinds)
    return found


def _hue(colour: str) -> int:
    """Which twelfth of the circle of hues a colour is in."""
    return round(12 * rgb_to_hsv(to_rgb(colour))[0]) % 12


FIGURES = {
    "success": "success of episodes (%)",
    "return": "return of an episode",
    "explained": "explained variance of held-out actions (%)",
}


def lettered(label: str) -> str:
    """A label as matplotlib writes it letter by letter: "$" starts no formula, and a leading "_" hides nothing."""
    return f"{' ' * label.startswith('_')}{label}".replace("$", r"\$")


def in_lines(label: str) -> str:
    """``lettered``, broken at spaces and behind ":" where it is long: an arm's settings in one line would leave its picture no room."""
    filled = textwrap.fill(lettered(label).replace(":", ": "), 28, break_long_words=False, break_on_hyphens=False)
    return filled.replace(": ", ":")


def draw_curves(ax: Any, members: Sequence[Record], axis: str, colour: dict[str, str]) -> None:
    """Success (or return) of one environment's runs against training: mean over seeds, every seed thin."""
    stroke, faint = strokes(colour), 0.25 if len(members) <= len(OWN) else 0.12
    for r in best_first(members):  # so are their names
        x, scale = r.along(axis), scale_of(r.figure)
        values = scale * r.values()
        mark = "o" if len(x) == 1 else ""  # a line through one point cannot be seen
        ax.plot(x, values, color=colour[r.label], alpha=faint, linewidth=0.8, marker=mark)
        how = {"color": colour[r.label], "linestyle": stroke[r.label], "linewidth": 2}
        ax.plot(x, values.mean(axis=1), marker=mark, label=in_lines(r.label), **how)
    mixed = [r for r in members if 0 < r.online_steps < r.evals[-1]["step"]]
    for at in {r.evals[-1]["step"] - r.online_steps for r in mixed} if axis == "training" else ():
        ax.axvline(at, color="0.5", linestyle=":", linewidth=1)  # the switch
    plain = axis == "training" and not any(r.online_steps for r in members)
    ax.set_xlabel("updates" if plain else AXES[axis])
    ax.set_ylabel(FIGURES[members[0].figure])
    if members[0].figure == "success":
        ax.set_ylim(-3, 103)
    ax.ticklabel_format(axis="x", style="plain")
    ax.xaxis.set_major_locator(plt.MaxNLocator(5))
    ax.xaxis.set_major_formatter(
        lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e4 else f"{x:g}"
    )
    ax.grid(alpha=0.25)


FEW = 6  # curves whose names find room among them
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


def curves(records: Sequence[Record], path: Path, axis: str = "training") -> None:
    """One panel per environment, as a png, and beside it as pdf and svg. ``axis`` is one of ``records.AXES``."""
    groups = by_env(records)
    figure, axes, spare = panels(len(groups), 5.2, 3.8)
    colour = colours([r.label for r in records])
    told = {"title": "mean; thin: each seed", "title_fontsize": 8}
    once = bool(spare) and len({tuple(r.label for r in members) for _, members in groups}) == 1
    for ax, (env, members) in zip(axes, groups, strict=True):
        draw_curves(ax, members, axis, colour)
        ax.set_title(lettered(env), fontsize=10)
    if once:  # the free panel has room for it
        legend(spare[0], axes[0], {"loc": "center left"}, **told)
    else:  # many names would hide the curves
        columns = [
            legend(ax, ax, BESIDE if len(m) > FEW else {}, **told) for ax, (_, m) in zip(axes, groups, strict=True)
        ]
        figure.set_figwidth(figure.get_figwidth() + min(3, len(axes)) * COLUMN * (max(columns) - 1))
    keep(figure, path, ("png", "pdf", "svg"))


def legend(ax: Any, shown: Any, place: dict[str, Any], **how: Any) -> int:
    """The names of what ``shown`` draws, in ``ax``: in how many columns, more than one where they are many.

    Args:
        place: where in ``ax``, as matplotlib says it; {}: where the fewest curves are hidden.
    """
    handles, labels = shown.get_legend_handles_labels()
    columns = -(-sum(text.count("\n") + 1 for text in labels) // NAMES) if place else 1
    ax.legend(handles, labels, frameon=False, fontsize=9, ncols=columns, **place, **how)
    return columns


def panels(count: int, width: float, height: float) -> tuple[Any, list[Any], list[Any]]:
    """(figure, ``count`` panels of this size in inches, at most three beside each other, the empty ones behind them)."""
    columns = min(3, count)
    rows = -(-count // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", dpi=120)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, list(axes.flat[:count]), list(axes.flat[count:])


def keep(figure: Any, path: Path, kinds: Sequence[str]) -> None:
    """Writes a figure with each of these endings, without dates, and closes it."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "pdf.fonttype": 42}):
        for kind in kinds:
            buffer = io.BytesIO()
            dateless: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
            figure.savefig(buffer, format=kind, metadata=dateless)
            files.atomic_write(path.with_suffix(f".{kind}"), buffer.getvalue())
    plt.close(figure)


def headline(board: Any, colour: dict[str, str], path: Path) -> None:
    """The rows of dots of a ``headline.Board`` as png, pdf and svg; a second panel where it has one beside it."""
    labels, shown = [row.label for row in board.rows], [b for b in (board, board.beside) if b]
    names = [in_lines(label) for label in labels]
    tall = max([0.32, *(0.18 * len(name.splitlines()) for name in names)])  # inches of a row
    size = (6.4 + 3.2 * (len(shown) - 1), 0.9 + tall * len(labels))
    figure, axes = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False, layout="constrained", dpi=120)
    for ax, own in zip(axes[0], shown, strict=True):
        draw_dots(ax, own, labels, colour)
    axes[0, 0].set_yticks(range(len(labels)), names)
    first, last = 0, axes[0, -1]
    for family, members in board.families if len(board.families) > 1 else ():
        for ax in axes[0]:
            ax.axhline(first - 0.5, color="0.8", linewidth=0.8)
        about = {"transform": last.get_yaxis_transform(), "fontsize": 8, "fontstyle": "italic", "color": "0.4"}
        last.text(1.01, first, family, va="center", **about)
        first += len(members)
    figure.supxlabel(textwrap.fill(f"95 % interval {board.over}", 76), fontsize=10)
    figure.suptitle(lettered(board.title), fontsize=10)
    keep(figure, path, ("png", "pdf", "svg"))


def draw_dots(ax: Any, board: Any, labels: Sequence[str], colour: dict[str, str]) -> None:
    """The dots of a board's rows, in the order of ``labels``; where it has none of a label there is none."""
    for y, row in enumerate(map(board.named.get, labels)):
        if row is None:
            continue
        if row.at is None:  # a row without a dot would look like one that was left out
            ax.text(2, y, NO_FIGURE, va="center", fontsize=8, fontstyle="italic", color="0.4")
            continue
        color = colour[row.label]
        ax.plot(row.seeds, [y] * len(row.seeds), "o", color=color, markerfacecolor="none", markersize=4, alpha=0.6)
        if row.low is not None:
            ax.plot([row.low, row.high], [y, y], color=color, linewidth=2.5)
        ax.plot(row.at, y, "o", color=color, markersize=8)
    ax.set_xticks([at for at, _ in board.ticks], [text for _, text in board.ticks])
    ax.set(xlabel=board.unit, xlim=(0, 100), ylim=(len(labels) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.25)


def catches(members: Sequence[Record], colour: dict[str, str], path: Path) -> None:
    """The catch of each of one environment's methods as png, pdf and svg."""
    keep(_figure_of_catches(members, colour), path, ("png", "pdf", "svg"))


def _figure_of_catches(members: Sequence[Record], colour: dict[str, str]) -> Any:
    columns = -(-(1 + len(CATCHES)) // 2)
    size = (2.6 * columns, 2 * (0.7 + 0.2 * len(members)))
    figure, axes = plt.subplots(2, columns, figsize=size, layout="constrained", dpi=120)
    draw_catches(axes, members, colour, lettered)
    return figure


def draw_profile(ax: Any, scores: dict[str, np.ndarray], colour: dict[str, str]) -> None:
    """Share of runs [S, tasks] whose success is above a threshold (Agarwal et al., section 4.2)."""
    thresholds, stroke = np.linspace(0.0, 1.0, 201), strokes(colour)
    for label, x in scores.items():
        how = {"color": colour[label], "linestyle": stroke[label], "lw": 2, "label": in_lines(label)}
        ax.step(100 * thresholds, 100 * performance_profile(x, thresholds), where="post", **how)
    ax.set(xlabel="success of a run (%)", ylabel="runs above it (%)", xlim=(0, 100), ylim=(-3, 103))
    ax.grid(alpha=0.25)


def draw_compute(ax: Any, members: Sequence[Record], colour: dict[str, str], cost: Callable, unit: str) -> None:
    """Final success (or return) against what an action costs; lines span the seeds."""
    for i, r in enumerate(members):
        if (x := cost(r)) is not None:
            _point(ax, x, r.final(), r.figure, MARKS[i % len(MARKS)], colour[r.label], label=in_lines(r.label))
    _against(ax, unit, members[0].figure)


def draw_families(ax: Any, points: Sequence[tuple[str, float, np.ndarray]], unit: str, figure: str) -> None:
    """Success (or return) against ``unit`` of (NAME:NUMBERS, x, values [S]): a line for each NAME, at its points their numbers."""
    families: dict[str, list] = {}
    for name, x, values in points:
        families.setdefault(name.partition(":")[0], []).append((x, name.partition(":")[2], values))
    for i, (name, found) in enumerate(families.items()):
        color, found = COLOURS[i] if i < len(COLOURS) else f"C{i % 10}", sorted(found, key=lambda p: p[0])
        for k, (x, numbers, values) in enumerate(found):
            y = _point(ax, x, values, figure, MARKS[i % len(MARKS)], color, label="" if k else in_lines(name))
            ax.annotate(numbers, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=color)
        ax.plot([x for x, *_ in found], [_scaled(v, figure).mean() for *_, v in found], color=color, alpha=0.5, lw=1)
    _against(ax, unit, figure)


def _scaled(values: Any, figure: str) -> np.ndarray:
    return scale_of(figure) * np.asarray(values)


def _point(ax: Any, x: float, values: Any, figure: str, mark: str, color: str, label: str) -> float:
    """The mean of the seeds, and a line that spans them; returns the mean."""
    y = _scaled(values, figure)
    ax.plot(x, y.mean(), mark, color=color, markersize=9, label=label)
    ax.vlines(x, y.min(), y.max(), color=color, alpha=0.5, lw=1.5)
    return y.mean()


def _against(ax: Any, unit: str, figure: str) -> None:
    ax.set(xscale="log", xlabel=unit)
    spell_ticks(ax)
    ax.set_ylabel(FIGURES[figure])
    if figure == "success":
        ax.set_ylim(-3, 103)
    ax.grid(alpha=0.25)


class Drawing(NamedTuple):
    """One panel for a page: what stands inside its svg element, and that one's box."""

    title: str
    box: str
    inside: Markup


def drawing(draw: Callable[[Any], None], title: str, beside: bool = False) -> Drawing:
    """One panel to stand inside a page; its title is for its caption and for screen readers. ``beside``: its legend stands at the right."""

    def drawn() -> Any:
        figure, ax = plt.subplots(figsize=(7.6 if beside else 5.4, 4.0), layout="constrained")
        draw(ax)
        columns = legend(ax, ax, BESIDE if beside else {})
        figure.set_figwidth(figure.get_figwidth() + COLUMN * (columns - 1))
        return figure

    return _inside(drawn, title)


def drawing_of_catches(members: Sequence[Record], colour: dict[str, str], title: str) -> Drawing:
    """``catches`` to stand inside a page."""
    return _inside(lambda: _figure_of_catches(members, colour), title)


def _inside(drawn: Callable[[], Any], title: str) -> Drawing:
    """A figure as an element of a page, in the page's own colours."""
    ink: dict[Any, Any] = {
        n: INK for n in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    }
    with plt.rc_context(ink | {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure = drawn()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.S).replace(INK, "currentColor")
    head = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', text)
    assert head, "matplotlib writes an svg element with a box"
    return Drawing(title, head[1], Markup(text[head.end() : text.rindex("</svg>")]))  # matplotlib escapes
