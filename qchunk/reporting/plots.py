"""Pictures of records: png for files, svg for pages (text in the page's own colour, so that it reads on light and dark)."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from qchunk.reporting.records import AXES, BASELINE, Record
from qchunk.reporting.stats import performance_profile
from qchunk.system import files

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK = "#010203"  # stands for the page's own colour
# Okabe and Ito's colours for eight arms, readable on white and on black and by the colour-blind; then matplotlib's
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#B59F00")
MARKS = "osD^v<>P"


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for every label; the baseline's is grey."""
    order = sorted(set(labels), key=lambda name: (name != BASELINE, name))
    return {name: COLOURS[i] if i < len(COLOURS) else f"C{i % 10}" for i, name in enumerate(order)}


FIGURES = {
    "success": "success of episodes (%)",
    "return": "return of an episode",
    "explained": "explained variance of held-out actions (%)",
}


def lettered(label: str) -> str:
    """A label as matplotlib writes it letter by letter: "$" starts no formula, and a leading "_" hides nothing."""
    return f"{' ' * label.startswith('_')}{label}".replace("$", r"\$")


def draw_curves(ax: Any, members: Sequence[Record], axis: str, colour: dict[str, str]) -> None:
    """Success (or return) of one environment's runs against training: mean over seeds, every seed thin."""
    for r in members:
        x, scale = r.along(axis), _scale(r.figure)
        values = scale * r.values()
        mark = "o" if len(x) == 1 else ""  # a line through one point cannot be seen
        ax.plot(x, values, color=colour[r.label], alpha=0.25, linewidth=0.8, marker=mark)
        ax.plot(x, values.mean(axis=1), color=colour[r.label], linewidth=2, marker=mark, label=lettered(r.label))
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


def curves(records: Sequence[Record], path: Path, axis: str = "training") -> None:
    """One panel per environment, as a png. ``axis`` is one of ``records.AXES``."""
    groups = [(env, list(group)) for env, group in itertools.groupby(records, key=lambda r: r.env)]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.8 * rows), squeeze=False, layout="constrained", dpi=120
    )
    colour = colours([r.label for r in records])
    told = {"frameon": False, "fontsize": 9, "title": "mean; thin: each seed", "title_fontsize": 8}
    spare = list(axes.flat)[len(groups) :]
    once = bool(spare) and len({tuple(r.label for r in members) for _, members in groups}) == 1
    for ax, (env, members) in zip(axes.flat, groups, strict=False):
        draw_curves(ax, members, axis, colour)
        ax.set_title(lettered(env), fontsize=10)
        if not once:  # many names would hide the curves
            beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(members) > FEW else {}
            ax.legend(**told, **beside)
    for ax in spare:
        ax.axis("off")
    if once:  # the free panel has room for it
        spare[0].legend(*axes.flat[0].get_legend_handles_labels(), **told, loc="center left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    files.atomic_write(path, buffer.getvalue())


def draw_profile(ax: Any, scores: dict[str, np.ndarray], colour: dict[str, str]) -> None:
    """Share of runs [S, tasks] whose success is above a threshold (Agarwal et al., section 4.2)."""
    thresholds = np.linspace(0.0, 1.0, 201)
    for label, x in scores.items():
        ax.step(100 * thresholds, 100 * performance_profile(x, thresholds), where="post", color=colour[label], lw=2, label=lettered(label))  # fmt: skip
    ax.set(xlabel="success of a run (%)", ylabel="runs above it (%)", xlim=(0, 100), ylim=(-3, 103))
    ax.grid(alpha=0.25)


def draw_compute(ax: Any, members: Sequence[Record], colour: dict[str, str], cost: Callable, unit: str) -> None:
    """Final success (or return) against what an action costs; lines span the seeds."""
    for i, r in enumerate(members):
        if (x := cost(r)) is not None:
            _point(ax, x, r.final(), r.figure, MARKS[i % len(MARKS)], colour[r.label], label=lettered(r.label))
    _against(ax, unit, members[0].figure)


def draw_families(ax: Any, points: Sequence[tuple[str, float, np.ndarray]], unit: str, figure: str) -> None:
    """Success (or return) against ``unit`` of (NAME:NUMBERS, x, values [S]): a line for each NAME, at its points their numbers."""
    families: dict[str, list] = {}
    for name, x, values in points:
        families.setdefault(name.partition(":")[0], []).append((x, name.partition(":")[2], values))
    for i, (name, found) in enumerate(families.items()):
        color, found = COLOURS[i] if i < len(COLOURS) else f"C{i % 10}", sorted(found, key=lambda p: p[0])
        for k, (x, numbers, values) in enumerate(found):
            y = _point(ax, x, values, figure, MARKS[i % len(MARKS)], color, label="" if k else lettered(name))
            ax.annotate(numbers, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=color)
        ax.plot([x for x, *_ in found], [_scaled(v, figure).mean() for *_, v in found], color=color, alpha=0.5, lw=1)
    _against(ax, unit, figure)


def _scaled(values: Any, figure: str) -> np.ndarray:
    return _scale(figure) * np.asarray(values)


def _scale(figure: str) -> float:
    return 1.0 if figure == "return" else 100.0


def _point(ax: Any, x: float, values: Any, figure: str, mark: str, color: str, label: str) -> float:
    """The mean of the seeds, and a line that spans them; returns the mean."""
    y = _scaled(values, figure)
    ax.plot(x, y.mean(), mark, color=color, markersize=9, label=label)
    ax.vlines(x, y.min(), y.max(), color=color, alpha=0.5, lw=1.5)
    return y.mean()


def _against(ax: Any, unit: str, figure: str) -> None:
    ax.set(xscale="log", xlabel=unit)
    ax.set_ylabel(FIGURES[figure])
    ax.grid(alpha=0.25)


def svg(draw: Callable[[Any], None], title: str, beside: bool = False) -> str:
    """One panel as an inline svg element; ``title`` is its text for screen readers. ``beside``: its legend stands at the right."""
    ink: dict[Any, Any] = {
        n: INK for n in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    }
    with plt.rc_context(ink | {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure, ax = plt.subplots(figsize=(7.6 if beside else 5.4, 4.0), layout="constrained")
        draw(ax)
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}
        ax.legend(frameon=False, fontsize=9, **place)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\s(width|height)="[^"]*pt"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
