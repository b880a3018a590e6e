"""The picture of a sweep: for each swept field the score against its value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qchunk.reporting import plots
from qchunk.reporting.plots import COLOURS, FIGURES, lettered
from qchunk.reporting.stats import Estimate, scale_of

POINT, MEAN, LOST = COLOURS[0], COLOURS[6], COLOURS[4]


class Panel(NamedTuple):
    """One field: its values in order, what was reached with each, and every setting's own mean."""

    flag: str
    values: Sequence[str]
    numbers: Sequence[float]  # the values as numbers; NaN for words
    estimates: Sequence[Estimate]
    settings: Sequence[Sequence[float]]  # of each value, the means of its settings; NaN for those without a score


def picture(panels: Sequence[Panel], figure: str, path: Path) -> None:
    """A panel for each field, as a png: means with their intervals over seeds, a light point for each setting, and a cross at
    the bottom for those without a score. A value with one of these has no mean."""
    drawn, axes, _ = plots.panels(len(panels), 4.6, 3.6)
    scale = 1.0 if figure == "score" else scale_of(figure)
    for ax, panel in zip(axes, panels, strict=True):
        draw(ax, panel, scale)
        ax.set_xlabel(lettered(panel.flag))
        ax.set_ylabel(FIGURES.get(figure, "score, 0 to 1 in each environment"))
    plots.keep(drawn, path, ("png",))


def draw(ax: Any, panel: Panel, scale: float) -> None:
    """One field."""
    numeric = bool(np.isfinite(panel.numbers).all())
    x = np.asarray(panel.numbers if numeric else range(len(panel.values)), float)
    for at, means in zip(x, panel.settings, strict=True):
        y = scale * np.asarray(means, float)
        ax.plot(np.full(len(y), at), y, "o", color=POINT, markersize=4, alpha=0.6)
        if lost := int(np.isnan(y).sum()):
            ax.plot(at, 0.03, "x", color=LOST, transform=ax.get_xaxis_transform())
            ax.annotate(f"{lost} without a score", (at, 0.06), xycoords=ax.get_xaxis_transform(), fontsize=6, rotation=90, ha="center")  # fmt: skip
    mean, low, high = (scale * np.asarray([getattr(e, n) for e in panel.estimates]) for n in ("mean", "low", "high"))
    whole = np.isfinite(low)
    ax.vlines(x[whole], low[whole], high[whole], color=MEAN, linewidth=1.5)
    ax.plot(x, mean, "o-" if numeric and max(map(len, panel.settings)) > 1 else "o", color=MEAN, markersize=6)
    if numeric and len(x) > 1 and x.min() > 0 and x.max() >= 10 * x.min():
        ax.set_xscale("log")
    if not numeric or len(x) <= 6:
        ax.set_xticks(x, [lettered(v) for v in panel.values], fontsize=8)
        ax.minorticks_off()
    if scale > 1:
        ax.set_ylim(min(-3.0, float(np.nanmin(mean, initial=0.0))), 103)
    ax.grid(alpha=0.25)
