"""A data set in figures, in lines and as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qchunk import trees
from qchunk.data.adapting import SCALE
from qchunk.data.doubts import bounds_of
from qchunk.data.faults import usable
from qchunk.data.formats import Rows, fingerprint
from qchunk.system.schema import as_json

BARS = "▁▂▃▄▅▆▇█"
BINS = 24
OF_A_ROBOT = {  # what a file may say of what its numbers mean, in words
    "env": "environments",
    "recorded_in": "robots",
    "frequency": "frequencies",
    "observations": "parts of observations",
    "action_names": "names of actions",
    SCALE: "units of actions",
}
KEPT = ("reader", "env", "recorded_in", "frequency", "source")  # of what a file says of itself


def meaning(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set says of what its numbers mean, for runs to keep."""
    return {name: about[name] for name in OF_A_ROBOT if name in about}


def apart(kept: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """In what two data sets that say so mean others by the same numbers, in words; recorded units that one alone has are others."""
    said = [n for n in OF_A_ROBOT if n == SCALE or (n in kept and n in about)]
    return [OF_A_ROBOT[n] for n in said if as_json(kept.get(n)) != as_json(about.get(n))]


def described(rows: Rows, about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a data set, ready for JSON.

    Args:
        rows: whose arrays fit (``faults.misshapen``); values may be anything.
    """
    inside = ~rows.end
    starts, ends = bounds_of(rows)
    episode = (np.cumsum(rows.end) - rows.end)[inside]
    returns = np.bincount(episode, rows.reward[inside].astype(np.float64), minlength=len(ends))
    ended = int(rows.terminal[np.maximum(ends - 1, 0)][ends > starts].sum())
    arrays = {**trees.named(rows.obs), "action": rows.action[inside], "reward": rows.reward[inside]}
    success = about["successes"] / max(1, len(ends)) if "successes" in about else None
    names = about.get("action_names", ())
    columns = rows.action[inside].T.astype(np.float64)
    return {
        **{n: about[n] for n in KEPT if n in about},
        "fingerprint": about.get("fingerprint") or fingerprint(rows),
        "episodes": len(ends),
        "transitions": int(inside.sum()),
        "length": spread(ends - starts),
        "return": spread(returns),
        "reward": spread(rows.reward[inside]),
        "ends": {"terminal": ended, "cut": len(ends) - ended},
        "success": success,
        "observations": {n: {"size": x.shape[1], **spread(x)} for n, x in trees.named(rows.obs).items()},
        "actions": [
            {"name": names[i] if i < len(names) else str(i), **spread(x), "counts": binned(x)[0].tolist()}
            for i, x in enumerate(columns)
        ],
        "units": dict(about[SCALE]) if SCALE in about else None,
        "not_finite": {n: int((~usable(x)).sum()) for n, x in arrays.items() if not usable(x).all()},
    }


def spread(x: np.ndarray) -> dict[str, float]:
    """Lowest, mean and highest of the finite numbers."""
    known = np.asarray(x, np.float64)[np.isfinite(np.asarray(x, np.float64))]
    if not known.size:
        return {"min": float("nan"), "mean": float("nan"), "max": float("nan")}
    return {"min": float(known.min()), "mean": float(known.mean()), "max": float(known.max())}


def binned(x: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """How many of the numbers that are ``usable`` lie in each of equal parts from the lowest to the highest, and the parts' ends."""
    known = x[usable(x)].astype(np.float64)
    most = np.abs(known).max(initial=0.0) or 1.0
    # parts of numbers that are all but equal, however large, would have no width
    found, ends = np.histogram(np.round(known / most, 12), bins)
    return found, most * ends


def bars(numbers: list[int]) -> str:
    """One character for each count; a space for 0."""
    most = max(numbers, default=0)
    return "".join(BARS[min(len(BARS) - 1, n * len(BARS) // most)] if n else " " for n in numbers) if most else ""


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures for a reader."""
    row = lambda name, text: f"{name:14} {text}"  # noqa: E731
    for name in KEPT:
        if name in found:
            yield row(name.replace("_", " "), found[name])
    yield row("fingerprint", found["fingerprint"])
    yield row("episodes", f"{found['episodes']}, {found['transitions']} transitions")
    for name in ("length", "return", "reward"):
        yield row(name, _spread(found[name]))
    yield row("ends", f"{found['ends']['terminal']} at a terminal, {found['ends']['cut']} cut by time")
    success = found["success"]
    yield row("success", "not recorded" if success is None else f"{success:.1%} of the episodes")
    for name, x in found["observations"].items():
        yield row(name, f"{x['size']} numbers, {_spread(x)}")
    for x in found["actions"]:
        yield row(f"action {x['name']}", f"{_spread(x)}  |{bars(x['counts'])}|")
    if found["units"]:
        low, high = (" ".join(f"{v:.4g}" for v in found["units"][n]) for n in ("low", "high"))
        yield row("action units", f"-1 was {low}; 1 was {high}")
    bad = ", ".join(f"{n} on {k} rows" for n, k in found["not_finite"].items())
    yield row("not finite", bad or "nothing")
    for title, key in (("note", "notes"), ("defect", "defects")):
        yield from (row(title, text) for text in found.get(key, ()))


def _spread(x: Mapping[str, float]) -> str:
    return f"{x['min']:.4g} to {x['max']:.4g}, mean {x['mean']:.4g}"


def picture(rows: Rows, found: Mapping[str, Any]) -> bytes:
    """A histogram of each action, as a PNG."""
    from matplotlib.figure import Figure

    count = rows.action.shape[1]
    across = min(4, count)
    down = -(-count // across)
    figure = Figure(figsize=(2.6 * across, 2.0 * down), layout="constrained")
    for i, x in enumerate(rows.action[~rows.end].T):
        axes = figure.add_subplot(down, across, i + 1)
        axes.stairs(*binned(x, 41), fill=True, color="#4c72b0")
        axes.set_title(f"action {found['actions'][i]['name']}", fontsize=9)
        axes.tick_params(labelsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
