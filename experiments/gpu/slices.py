"""A suite in short turns, such as those of a machine that is lent for 10 minutes: goes on from what is in a folder, and stops by itself in time.

``python experiments/gpu/slices.py OUT SECONDS [SUITE.py] [--scale paper] [--margin 60]``, by default qc_cube_double.py. It runs ``qchunk reproduce`` in OUT/suite and
asks it to stop MARGIN seconds before the end, as Ctrl-C would; what does not answer is killed, and the next turn goes on from the newest checkpoint. OUT/progress.json says
where every run is, with its curve, and the mean of all beside the published one; OUT/slices.log is what was said. Exit code 0 after a turn or when all is done, else that of the suite.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from qchunk.runs import run_folder
from qchunk.system.errors import UserError
from qchunk.system.files import make_folder, write_json

HERE = Path(__file__).resolve().parent
CURVE = HERE.parent / "published" / "qc_cube_double_curve.csv"
LAST = 2.0  # seconds for writing the progress


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("suite", type=Path, nargs="?", default=HERE / "qc_cube_double.py")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--margin", type=float, default=60.0)
    f = parser.parse_args()
    if not f.seconds > f.margin > LAST:
        raise UserError(f"{f.seconds:g} seconds with a margin of {f.margin:g} are no turn", "give more seconds than --margin, and a margin of some")  # fmt: skip
    make_folder(f.out)
    began = time.monotonic()
    with (f.out / "slices.log").open("a") as log:
        code, stopped = turn(f, began, log)
    known = progress(f.out / "suite", f.suite.resolve() == HERE / "qc_cube_double.py")
    known |= {"done": code == 0 and not stopped, "exit_code": code}
    known["turns"] = [*turns(f.out), {"seconds": round(time.monotonic() - began, 1), "stopped": stopped}]
    write_json(f.out / "progress.json", known)
    where = (
        ", ".join(f"{name} at {r['step']:,} of {r['of']:,}" for name, r in known["runs"].items()) or "no run has begun"
    )
    print(f"[slices] {'done' if known['done'] else 'the same command goes on'}: {where}; {f.out / 'progress.json'}")
    sys.exit(0 if stopped else code)


def turn(f: argparse.Namespace, began: float, log: Any) -> tuple[int, bool]:
    """(exit code, whether it was asked to stop) of the suite in this turn. A signal to this process ends the turn likewise."""
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.getenv("PYTHONPATH")])])
    flags = ["--scale", f.scale, "--out", str(f.out / "suite"), "--quiet"]
    child = subprocess.Popen(
        [sys.executable, "-m", "qchunk", "reproduce", str(f.suite), *flags],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": path},
    )
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    sent = False
    while child.poll() is None:
        used = time.monotonic() - began
        if not sent and (asked or used > f.seconds - f.margin):
            child.terminate()
            sent = True
        if used > f.seconds - LAST:
            child.kill()
        time.sleep(0.1)
    return child.returncode, sent and child.returncode != 0


def turns(out: Path) -> list[dict[str, Any]]:
    """Those before this one."""
    path = out / "progress.json"
    return json.loads(path.read_text())["turns"] if path.exists() else []


def progress(root: Path, published: bool) -> dict[str, Any]:
    """Where every run of a suite is: its step, of how many, and success against steps; their mean beside the published curve."""
    runs: dict[str, dict[str, Any]] = {}
    for config in sorted(root.glob(f"runs/**/{run_folder.CONFIG}")):
        settings = run_folder.read_config(config.parent)["config"]["settings"]
        lines = run_folder.judged(read(config.parent))
        evals = {x["step"]: x["values"]["success"] for x in lines if x["kind"] == "eval" and "success" in x["values"]}
        runs[str(config.parent.relative_to(root / "runs"))] = {
            "step": lines[-1]["step"] if lines else 0,
            "of": settings["offline_steps"] + settings.get("online_steps", 0),
            "success": [[step, math.fsum(seeds) / len(seeds)] for step, seeds in sorted(evals.items())],
        }
    return {"runs": runs, "curve": beside(runs) if published else []}


def read(folder: Path) -> list[dict]:
    """A run's metrics, which it may not have yet."""
    return run_folder.read_metrics(folder) if (folder / run_folder.METRICS).exists() else []


def beside(runs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """At each published step the published mean over five tasks and 4 seeds, and ours over the tasks that have got there."""
    ours = collections.defaultdict(list)
    for run in runs.values():
        for step, success in run["success"]:
            ours[round(step / 1e6, 1)].append(success)
    with CURVE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        known = ours.get(float(row["step_millions"]), [])
        mean = math.fsum(known) / len(known) if known else None
        found.append(
            {"steps": row["step_millions"] + "M", "published": float(row["mean"]), "ours": mean, "tasks": len(known)}
        )
    return found


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
