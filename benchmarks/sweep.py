"""Eight learning rates of four seeds in one program over 32 runs of one seed in processes of their own: ``qc``, 3 x 128, N = 8.

Start-up and compiling are in both, from an empty cache of programs each: the 32 runs may share what the first of them compiled.
No other work may be on the machine, for the two cannot alternate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _timing import tell

RATES = tuple(1e-4 * 2**i for i in range(8))
SEEDS, UPDATES, ENV = 4, 400, "tabletop/cube-single-task1"
WIDTHS = ("128",) * 3
METHOD = (
    *("--actor.hidden", *WIDTHS, "--critic.hidden", *WIDTHS, "--n", "8", "--offline-steps", str(UPDATES)),
    *("--eval-every", str(UPDATES), "--episodes", "20", "--quiet"),
)


def qchunk(words: list[str], cache: Path) -> None:
    """One command in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "qchunk", *words],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise SystemExit(said.stderr)


def beside(data: Path, out: Path) -> float:
    """Seconds of the sweep, without a report."""
    rates = [str(rate) for rate in RATES]
    words = ["sweep", "qc", "--env", ENV, "--data", str(data), "--seeds", str(SEEDS), "--report-seeds", "0", *METHOD]
    began = time.perf_counter()
    qchunk([*words, "--optim.lr", *rates, "--out", str(out)], out.with_name("cache-of-one"))
    return time.perf_counter() - began


def apart(data: Path, out: Path) -> list[float]:
    """Seconds of each run."""
    seconds = []
    for rate in RATES:
        for seed in range(SEEDS):
            words = ["train", "qc", "--env", ENV, "--data", str(data), "--seed", str(seed), "--optim.lr", str(rate)]
            began = time.perf_counter()
            qchunk([*words, *METHOD, "--out", str(out / f"{rate}-{seed}")], out.with_name("cache-of-many"))
            seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        qchunk(["collect", ENV, "--out", str(root / "d.npz"), "--steps", "20000", "--quiet"], root / "cache")
        one, each = beside(root / "d.npz", root / "sweep"), apart(root / "d.npz", root / "apart")
    tell(
        f"sweep qc 3x128-N8 {len(RATES)} settings x {SEEDS} seeds, {UPDATES} updates",
        seconds=one,
        apart_seconds=sum(each),
        first_run_seconds=each[0],
        ratio=one / sum(each),
        better="lower",
    )
