"""Kills training at random moments, goes on each time, and compares the end with an undisturbed one, bit by bit.

``python experiments/kills.py [KILLS] [REGIME] [ENV] [SIGNAL]``: 20 kills by default, at random steps of an offline part, the switch and
the online part. REGIME is one of ``REGIMES`` below; ENV may be a host environment, whose open episodes are then replayed. SIGNAL may be
INT, TERM or HUP in place of KILL.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qchunk.runs import checkpoint, run_folder

CHUNKS = "--chunk.horizon 2 --critic.hidden 16 --episodes 4 --seeds 2 --quiet"
ACTOR = "--actor.hidden 16 --actor.steps 2 --n 2 --batch 32 --offline-steps 40 --eval-every 10 --log-every 5"
PLAY = "--envs 4 --start-training 16 --update-ratio 0.25 --online-eval-every 32 --online-steps 160"
ROLLOUT = "--tuned.hidden 16 --rollout.envs 8 --rollout.decisions 4 --rollout.minibatches 2 --online-steps 1280"
ARMS = "--algos bc qc dppo --hidden 16 --horizon 2 --n 2 --steps 2 --seeds 2 --episodes 4 --evaluations 2 --no-look --quiet"
REGIMES = {  # the words of a command; {env}, {data} and {out} are filled in
    "online": f"train qc --env {{env}} --data {{data}} --out {{out}} {CHUNKS} {ACTOR} {PLAY} --normalise-obs standard",
    "offline": f"train qc --env {{env}} --data {{data}} --out {{out}} {CHUNKS} {ACTOR}",
    "from-scratch": f"train rlpd --env {{env}} --data {{data}} --out {{out}} {CHUNKS} --actor.hidden 16 --batch 32 {PLAY}",
    "on-policy": f"train ppo --env {{env}} --out {{out}} {CHUNKS} {ROLLOUT}",
    "compare": f"compare --env {{env}} --data {{data}} --out {{out}} {ARMS} --offline-steps 40 --online-steps 102400 --online-updates 40",
}


def qchunk(*argv: object) -> subprocess.Popen:
    """The command, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "qchunk", *map(str, argv)], stderr=subprocess.DEVNULL)


def runs(folder: Path) -> list[Path]:
    """The folders of runs in a folder, which may be one itself."""
    found = []
    for place, below, files in os.walk(folder):  # which passes over what is removed meanwhile
        found += [Path(place)] if run_folder.CONFIG in files else []
        below[:] = [] if run_folder.CONFIG in files else [name for name in below if not name.startswith(".")]
    return sorted(found)


def lines(run: Path) -> list[dict]:
    """The whole lines of the run's metrics."""
    try:
        return run_folder.read_metrics(run) if (run / run_folder.METRICS).exists() else []
    except FileNotFoundError:
        return []


def progress(folder: Path) -> int:
    """The newest steps in the metrics of its runs, summed."""
    return sum(found[-1]["step"] if (found := lines(run)) else 0 for run in runs(folder))


def newest(run: Path) -> dict[str, bytes]:
    """Every array of the newest checkpoint, by its path; and the figures of training and of evaluation but for speeds."""
    folder = run / "checkpoints"
    step = checkpoint.steps(folder)[-1]
    manifest = checkpoint.verify(folder / str(step))
    names = [f"{i:05d}" for i, e in enumerate(manifest["leaves"]) if "shape" in e and 0 not in e["shape"]]
    arrays = checkpoint._read_arrays(folder / str(step), names)
    paths = [manifest["leaves"][int(n)]["path"] for n in names]
    told = [
        (line["kind"], line["step"], {n: v for n, v in line["values"].items() if "per_second" not in n})
        for line in lines(run)
        if line["kind"] in ("train", "eval")
    ]
    return {"step": str(step).encode(), "told": json.dumps(told).encode()} | {
        p: np.asarray(arrays[n]).tobytes() for p, n in zip(paths, names, strict=True)
    }


def end(folder: Path) -> dict[str, dict[str, bytes]]:
    """What a finished folder holds, run by run."""
    assert all((run / run_folder.SUMMARY).exists() for run in runs(folder)), "a run has no summary"
    return {str(run.relative_to(folder)): newest(run) for run in runs(folder)}


def main() -> None:
    """Prints where each kill struck, and fails where the ends differ."""
    given = dict(enumerate(sys.argv[1:]))
    kills, regime, env = int(given.get(0, 20)), given.get(1, "online"), given.get(2, "probe/two-step")
    number = signal.Signals[f"SIG{given.get(3, 'KILL')}"]
    root, chance = Path(tempfile.mkdtemp()), random.Random(0)
    data, whole, killed = root / "data.npz", root / "whole", root / "killed"
    qchunk("collect", env, "--out", data, "--steps", 400, "--episode-length", 100, "--quiet").wait()

    def started(out: Path) -> subprocess.Popen:
        if (out / run_folder.CONFIG).exists():
            return qchunk("train", "--resume", out, "--quiet")
        return qchunk(*(word.format(env=env, data=data, out=out) for word in REGIMES[regime].split()))

    assert started(whole).wait() == 0
    wanted, total, struck, ends = end(whole), progress(whole), 0, 0
    while struck < kills:
        process = started(killed)
        at, loading = chance.randint(progress(killed), int(1.1 * total)), chance.random() < 0.1
        until = time.monotonic() + chance.uniform(0.0, 4.0)  # one in ten strikes while it is imported or compiled
        while process.poll() is None and (time.monotonic() < until if loading else progress(killed) < at):
            time.sleep(0.02)
        try:
            process.wait(chance.uniform(0.0, 0.5))  # within an update, a save, an evaluation, or a compilation
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait()
            struck += 1
            found = [step for run in runs(killed) for step in checkpoint.steps(run / "checkpoints")[-1:]]
            print(
                f"{number.name} {struck:2}: step {progress(killed)}, newest checkpoints {found or 'none'}", flush=True
            )
            continue
        assert process.returncode in (0, 2), (
            f"exit code {process.returncode}"
        )  # 2: it had ended before, and only its process was left
        assert end(killed) == wanted, "the ends differ"
        ends += 1
        print("the end, bitwise equal; begun again", flush=True)
        shutil.rmtree(killed)
    if killed.exists():
        assert started(killed).wait() in (0, 2)
        assert end(killed) == wanted, "the ends differ"
        ends += 1
    print(f"{kills} times {number.name} in {regime} on {env}: {ends} ends, all bitwise equal")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
