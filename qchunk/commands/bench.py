"""``qchunk bench``: every benchmark in a process of its own; one JSON, one picture, and a check against a baseline.

A result is what a benchmark's ``tell`` printed, with ``file``, the benchmark's name. Seconds depend on the machine;
``ratio`` is against something measured in the same process, and alone is checked.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from qchunk.system.errors import UserError, unknown
from qchunk.system.files import atomic_write, make_folder, write_json
from qchunk.system.processes import cores

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"  # in the repository, not in the wheel
BASELINE = "baseline.json"
TOLERANCE = 0.25
"""How much worse a ratio may be than the baseline's: up to 1.25 times it, or 1 / 1.25 of it where higher is better."""
USAGE = "usage: qchunk bench [NAME...] [--json] [--out DIR] [--check [BASELINE]]"
FLAGS = {
    "--json": "one JSON object per line of figures, in place of text",
    "--out DIR": "folder for bench.json and bench.png; runs/bench by default",
    "--check [BASELINE]": f"compare the ratios with a stored bench.json, benchmarks/{BASELINE} by default; exit code 1 "
    f"if one is more than {TOLERANCE:.0%} worse, or missing in this run, or if of a NAME nothing is stored",
}
BETTER = ("lower", "higher")
NOT_FIGURES = ("file", "benchmark", "better", "asked", "device")
USERS_MISTAKE = 2  # with this code a benchmark says that something is not installed here
Result = dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message, "qchunk bench --help shows every flag")


def bench(argv: list[str]) -> None:
    """``qchunk bench [NAME...] [--json] [--out DIR] [--check [BASELINE]]``.

    Exits with 1 where a benchmark crashed or the check failed.

    Raises:
        UserError: no benchmarks here, an unknown name or flag, a baseline that cannot be read.
    """
    found = {p.stem: p for p in sorted(FOLDER.glob("*.py")) if not p.stem.startswith("_")}
    if {"-h", "--help"} & set(argv):
        print(usage(found))
        return
    if not found:
        raise UserError(
            "qchunk bench needs the repository: this install has no benchmarks/", "clone it and run make bench"
        )
    f = parse(argv, found)
    baseline = read(f.check) if f.check else None
    make_folder(f.out)
    results: list[Result] = []
    failures: list[str] = []
    for name in f.names:
        try:
            run(name, found[name], results, lambda r: print(json.dumps(r) if f.json else line(r), flush=True))
        except subprocess.CalledProcessError as e:
            what = "left out" if e.returncode == USERS_MISTAKE else f"crashed (exit code {e.returncode})"
            print(f"{name}: {what}: {e.stderr}", file=sys.stderr)
            if e.returncode != USERS_MISTAKE:
                failures.append(f"{name}: {what}")
        write_json(f.out / "bench.json", {"machine": machine(), "results": results})  # after each: Ctrl-C loses one
    if baseline is not None:
        ours = [r for r in baseline["results"] if f.whole or r["file"] in f.names]
        failures += compare(results, ours)
        asked = () if f.whole else f.names
        failures += [
            f"{name}: nothing of it is in {f.check}" for name in asked if name not in {r["file"] for r in ours}
        ]
        for text in notes(machine(), results, baseline["machine"], ours):
            print(f"note: {text}", file=sys.stderr)
    picture(results, f.out / "bench.png", baseline["results"] if baseline else ())
    print(f"[bench] {f.out / 'bench.json'}, {f.out / 'bench.png'}", file=sys.stderr)
    for text in failures:
        print(f"failed: {text}", file=sys.stderr if f.json else sys.stdout)
    if failures:
        sys.exit(1)
    if baseline is not None:
        print(f"[bench] no ratio is more than {TOLERANCE:.0%} worse than in {f.check}", file=sys.stderr)


def usage(found: dict[str, Path]) -> str:
    """What ``qchunk bench --help`` prints: flags, and every benchmark with the first sentence of its docstring."""
    rows = [f"  {flag:20} {text}" for flag, text in FLAGS.items()]
    for name, path in found.items():
        text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
        rows.append(f"  {name:20} {text.split('. ')[0].rstrip('.')}")
    rows.insert(len(FLAGS), "" if found else "\nThe benchmarks lie in the repository: this install has none.")
    return "\n".join([USAGE, "", *rows])


def parse(argv: list[str], found: dict[str, Path]) -> argparse.Namespace:
    """``names`` (all by default), ``whole`` (whether it is all), ``json``, ``out``, ``check`` (a Path, or None).

    Raises:
        UserError: an unknown name or flag.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--check", nargs="?", const=str(FOLDER / BASELINE))
    f, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        raise unknown("flag", rest[0], [flag.split()[0] for flag in FLAGS], "qchunk bench --help shows all")
    if f.check in found:  # `--check update` names a benchmark, not a file
        f.names, f.check = [*f.names, f.check], str(FOLDER / BASELINE)
    for name in f.names:
        if name not in found:
            raise unknown("benchmark", name, found)
    f.whole, f.names = not f.names, list(dict.fromkeys(f.names)) or list(found)
    f.check = f.check and Path(f.check)
    return f


def run(
    name: str,
    path: Path,
    results: list[Result],
    each: Callable[[Result], None],
    flags: Sequence[str] = (),
    limit: float | None = None,
) -> None:
    """Runs a benchmark in a fresh interpreter; appends its results as they come, and hands each to ``each``.

    Args:
        flags: more of its command line.
        limit: seconds after which it is killed.

    Raises:
        subprocess.CalledProcessError: it ended with another code than 0; ``stderr`` is the last line it wrote there.
    """
    path_of = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.getenv("PYTHONPATH")])])
    command = [sys.executable, str(path), "--json", *flags]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env={**os.environ, "PYTHONPATH": path_of}
        ) as process:
            assert process.stdout
            clock = threading.Timer(threading.TIMEOUT_MAX if limit is None else limit, process.kill)
            clock.daemon = True
            clock.start()
            try:
                for text in process.stdout:
                    if text.startswith("{"):  # libraries may print, too
                        results.append({"file": name, **json.loads(text)})
                        each(results[-1])
            except BaseException:
                process.kill()
                raise
            finally:
                clock.cancel()
        if process.returncode:
            said.seek(0)
            lines = said.read().strip().splitlines() or ["(it said nothing)"]
            raise subprocess.CalledProcessError(process.returncode, command, stderr=lines[-1])


def line(r: Result) -> str:
    """A result as text."""
    figures = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in r.items() if k not in NOT_FIGURES]
    asked = [f"({bound(r)})"] if "asked" in r else []
    return f"{r['benchmark']:48} " + "  ".join([*figures, *asked])


def bound(r: Result) -> str:
    """The bound that a result is to keep."""
    return f"bound: {'at most' if r['better'] == 'lower' else 'at least'} {r['asked']:g}"


def machine() -> dict[str, Any]:
    """Where and when figures were measured."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib")}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"platform": platform.platform(), "machine": platform.machine(), "cores": cores()}
    return {**about, "python": platform.python_version(), **versions, "date": date}


def read(path: Path) -> dict[str, Any]:
    """A stored bench.json: ``machine`` and ``results``.

    Raises:
        UserError: there is none, or it is something else.
    """
    fix = (
        f"make one on a quiet machine with qchunk bench --out DIR, and copy DIR/bench.json to {FOLDER.name}/{BASELINE}"
    )
    try:
        kept = json.loads(path.read_text())
    except OSError as e:
        raise UserError(f"cannot read the baseline {path}: {e.strerror}", fix) from e
    except ValueError as e:
        raise UserError(f"{path} is no baseline: {e}", fix) from e
    if not (isinstance(kept, dict) and isinstance(kept.get("machine"), dict) and isinstance(kept.get("results"), list)):
        raise UserError(f"{path} is no baseline: it lacks machine or results", fix)
    for r in kept["results"]:
        whole = isinstance(r, dict) and {"file", "benchmark"} <= set(r)
        if not whole or ("ratio" in r and not (isinstance(r["ratio"], (int, float)) and r.get("better") in BETTER)):
            raise UserError(f"{path} is no baseline: {json.dumps(r)} is no result", fix)
    return kept


def compare(current: Iterable[Result], baseline: Iterable[Result], tolerance: float = TOLERANCE) -> list[str]:
    """One line for every result of ``baseline`` that is missing in ``current``, or whose ratio is worse there.

    Worse is more than (1 + tolerance) times the baseline's where lower is better, less than 1 / (1 + tolerance) of it
    where higher is. A ratio that is not a number fails. Results that only ``current`` has do not; nor do other figures.
    """
    now = {(r["file"], r["benchmark"]): r for r in current}
    failures = []
    for old in baseline:
        new, title = now.get((old["file"], old["benchmark"])), f"{old['file']}: {old['benchmark']}"
        if new is None:
            failures.append(f"{title}: in the baseline, missing in this run")
        elif "ratio" in old:
            ratio, lower = new.get("ratio", float("nan")), old["better"] == "lower"
            limit = old["ratio"] * (1 + tolerance) if lower else old["ratio"] / (1 + tolerance)
            if new.get("better") != old["better"]:
                failures.append(f"{title}: {old['better']} was better in the baseline, store a new one")
            elif not (ratio <= limit if lower else ratio >= limit):
                kept = f"{'at most' if lower else 'at least'} {limit:.4g}"
                failures.append(f"{title}: ratio {ratio:.4g}, {kept} allowed (baseline {old['ratio']:.4g})")
    return failures


def notes(
    here: dict[str, Any], current: Sequence[Result], there: dict[str, Any], baseline: Sequence[Result]
) -> list[str]:
    """What is no failure, but to be known when reading a check: another machine, results that the baseline lacks."""
    told = [
        f"{fact} is {here.get(fact)} here and was {there.get(fact)} for the baseline"
        for fact in ("machine", "cores", "jax")
        if here.get(fact) != there.get(fact)
    ]
    devices = [{r["device"] for r in results if "device" in r} for results in (current, baseline)]
    if all(devices) and devices[0] != devices[1]:
        told.append(
            f"the device is {', '.join(sorted(devices[0]))} here, {', '.join(sorted(devices[1]))} in the baseline"
        )
    known = {(r["file"], r["benchmark"]) for r in baseline}
    told += [
        f"{r['file']}: {r['benchmark']}: not in the baseline"
        for r in current
        if (r["file"], r["benchmark"]) not in known
    ]
    return told


def picture(results: Sequence[Result], path: Path, baseline: Sequence[Result] = ()) -> None:
    """All ratios as a dot plot, a panel per benchmark; bounds and the baseline's ratios beside them.

    Raises:
        UserError: the disk refuses.
    """
    files = {
        name: [r for r in results if r["file"] == name and math.isfinite(r.get("ratio", math.nan))]
        for name in {r["file"]: 0 for r in results}
    }
    files = {name: rows for name, rows in files.items() if rows}
    if not files:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    before = {(r["file"], r["benchmark"]): r["ratio"] for r in baseline if "ratio" in r}
    columns = split(files)
    heights = [[len(files[name]) + 3 for name in column] for column in columns]
    tallest = max(map(sum, heights))
    figure = plt.figure(figsize=(8 * len(columns), 0.19 * tallest + 0.6), layout="constrained", dpi=110)
    figure.suptitle("ratios: filled dot, measured; hollow, baseline; bar, bound (red: not kept)", fontsize=10)
    sides = figure.subfigures(1, len(columns), squeeze=False)[0]
    for side, column, rows in zip(sides, columns, heights, strict=True):
        rest = [tallest - sum(rows)] if sum(rows) < tallest else []  # so that a row is as high in both columns
        axes = side.subplots(len(rows + rest), 1, squeeze=False, height_ratios=rows + rest)[:, 0]
        for ax, name in zip(axes, column, strict=False):
            _panel(ax, name, files[name], before)
        for ax in axes[len(column) :]:
            ax.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    atomic_write(path, buffer.getvalue())


def split(files: dict[str, list[Result]]) -> list[list[str]]:
    """The panels' names in two columns of about equal height, in one where there is but one."""
    columns: list[list[str]] = [[], []]
    heights = [0, 0]
    for name in sorted(files, key=lambda name: -len(files[name])):
        shorter = heights.index(min(heights))
        columns[shorter].append(name)
        heights[shorter] += len(files[name]) + 3
    return [column for column in columns if column]


def _panel(ax: Any, name: str, rows: Sequence[Result], before: dict[tuple[str, str], float]) -> None:
    """One benchmark's ratios, the first on top."""
    for y, r in enumerate(rows):
        kept = "asked" not in r or (r["ratio"] <= r["asked"] if r["better"] == "lower" else r["ratio"] >= r["asked"])
        colour = "#0072B2" if kept else "#D55E00"
        ax.plot(r["ratio"], y, "o", color=colour, markersize=5)
        ax.text(1.01, y, f"{r['ratio']:.3g}", transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=colour)
        if "asked" in r:
            ax.plot(r["asked"], y, "|", color="black", markersize=11, markeredgewidth=1.5)
        if (old := before.get((r["file"], r["benchmark"]))) is not None:
            ax.plot(old, y, "o", markerfacecolor="none", color="0.5", markersize=8)
    ax.set_yticks(range(len(rows)), [r["benchmark"] for r in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=7)
    low, high = ax.dataLim.intervalx
    slack = max(0.05 * (high - low), 0.1 * high)  # a hundredth apart is not to look like a world apart
    ax.set_xlim(low - slack, high + slack)
    ax.grid(alpha=0.3)
    better = {r["better"] for r in rows}
    ax.set_title(f"{name}: {' or '.join(sorted(better))} is better", fontsize=9, loc="left")
