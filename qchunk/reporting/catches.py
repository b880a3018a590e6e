"""What each method's catch is: how far its seeds are apart, how smoothly and how near to the data it acts, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from qchunk.reporting import prices
from qchunk.reporting.records import Record, Rows, by_env
from qchunk.reporting.stats import scale_of

MANNER = ("jump", "change", "plans", "length")  # figures of an evaluation


class Drawback(NamedTuple):
    """One of them; less is better of all."""

    name: str
    of: Callable[[Record], Sequence[float | None]]  # of each seed, or one of all
    show: Callable[[float], str]
    log: bool = False  # its axis in the picture


def _cost(name: str, scale: float = 1.0) -> Callable[[Record], Sequence[float | None]]:
    def of(r: Record) -> Sequence[float | None]:
        value = prices.known(r).get(name)
        several = value if isinstance(value, list) else [value]
        return [None if x is None else x / scale for x in several]

    return of


def _spread(r: Record) -> Sequence[float | None]:
    """The standard deviation of the seeds' figures, of a success in points."""
    return [float(np.std(r.final(), ddof=1)) * scale_of(r.figure)] if len(r.seeds) > 1 else [None]


def _roughness(r: Record) -> Sequence[float | None]:
    """``roughness`` at the last evaluation."""
    found = r.evals[-1]["values"]
    if not all(isinstance(found.get(n), list) and len(found[n]) == len(r.seeds) for n in MANNER):
        return [None]
    return list(roughness(found))


def roughness(figures: Mapping[str, Any]) -> np.ndarray:
    """The mean change of an action's numbers from one step to the next [S], where plans begin and inside of them, from an evaluation's ``MANNER``."""
    jump, change, plans, length = (np.asarray(figures[n], float) for n in MANNER)
    return (jump * plans + change * (length - plans)) / np.maximum(length, 1)


def _two(x: float) -> str:
    return f"{x:.2g}" if abs(x) < 10 else f"{x:.1f}"


CATCHES = (
    Drawback("spread over seeds", _spread, "{:.1f}".format),
    Drawback("error of an action", _cost("error"), "{:.3f}".format),
    Drawback("distance from the data", _cost("energy_distance"), "{:.3f}".format),
    Drawback("change of actions", _roughness, "{:.3f}".format),
    Drawback("decision, ms", _cost("p50"), "{:.2f}".format, log=True),
    Drawback("its memory, kB", _cost("memory", 1e3), _two, log=True),
    Drawback("training, min", lambda r: [r.evals[-1]["seconds"] / 60], "{:.1f}".format, log=True),
)
HOW = (
    "Less is better, but of the figure itself. Spread: the standard deviation over seeds, of a success in points. Error: the mean absolute distance of a drawn "
    "chunk's actions from the data's at the same states, and distance: the energy distance of the drawn chunks from the data's (0: the same "
    "distribution), both at 256 windows of the data. Change: how much an action's numbers change from one step to the next, in evaluations. A decision is for one "
    "observation, and training is of all seeds, on the machine that trained."
)


def values(catch: Drawback, r: Record) -> np.ndarray:
    """The finite values of a catch: of each seed, or one of all, or none."""
    found = np.asarray([np.nan if x is None else x for x in catch.of(r)], float)
    return found[np.isfinite(found)]


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """By environment, two methods and more of which somebody has measured what acting costs; the best first."""
    measured = [[r for r in members if prices.known(r)] for _, members in by_env(records)]
    return [best_first(members) for members in measured if len(members) > 1]


def best_first(records: Sequence[Record]) -> list[Record]:
    """By the mean of their last figures; what is not a number comes last."""
    return sorted(records, key=lambda r: -np.nan_to_num(r.final().mean(), nan=-np.inf))


def rows(records: Sequence[Record], figure: Callable[[Record], str]) -> Rows:
    """A method a line: its figure, as ``figure`` tells it, and the mean of each catch."""
    return [
        {
            "environment": r.env,
            "method": r.label,
            r.figure: figure(r),
            **{c.name: c.show(float(x.mean())) if (x := values(c, r)).size else "" for c in CATCHES},
        }
        for group in groups(records)
        for r in group
    ]


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers for a logarithmic axis, two or more where its range has any: matplotlib's own run into each other over less than a decade."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{step}e{d}") for d in decades for step in steps if low <= float(f"{step}e{d}") <= high]
        if len(found) <= most:
            break
    if len(found) < 2:
        return [x for x in MaxNLocator(most - 1).tick_values(low, high) if low <= x <= high]
    return found[:: math.ceil(len(found) / most)]


def spell_ticks(ax: Any) -> None:
    """``log_ticks`` for what a logarithmic x axis shows by now, written out."""
    ax.set_xticks(found := log_ticks(*ax.get_xlim()), [f"{x:g}" for x in found])
    ax.minorticks_off()


def draw(axes: Any, members: Sequence[Record], colour: dict[str, str], told: Callable[[str], str]) -> None:
    """Panels [rows, columns] for the figure and for each catch, a row of dots for each method; small: each seed.

    Args:
        told: a label as matplotlib writes it.
    """
    scale = scale_of(members[0].figure)
    unit = "" if scale == 1.0 else " (%)"
    columns = [(f"{members[0].figure}{unit}", lambda r: scale * r.final(), False)]
    columns += [(c.name, lambda r, c=c: values(c, r), c.log) for c in CATCHES]  # type: ignore[misc]
    shown = [column for column in columns if any(column[1](r).size for r in members)]
    for ax in axes.flat[len(shown) :]:  # such as the spread over one seed
        ax.axis("off")
    for i, (ax, (name, of, log)) in enumerate(zip(axes.flat, shown, strict=False)):
        for y, r in enumerate(members):
            if (x := of(r)).size:
                ax.plot(x, [y] * x.size, "o", color=colour[r.label], markerfacecolor="none", markersize=3.5, alpha=0.6)
                ax.plot(x.mean(), y, "o", color=colour[r.label], markersize=6.5)
        first = i % axes.shape[1] == 0
        ax.set(ylim=(len(members) - 0.5, -0.5), xscale="log" if log else "linear")
        if name.startswith("success"):
            ax.set_xlim(-3, 103)
        ax.set_yticks(range(len(members)), [told(r.label) if first else "" for r in members])
        if log:
            spell_ticks(ax)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter("{x:g}")
        ax.set_title(name, fontsize=9)
        ax.tick_params(axis="both", labelsize=8)
        ax.grid(alpha=0.25)
