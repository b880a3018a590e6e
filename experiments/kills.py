"""Kills a training run at random moments, resumes it each time, and compares the end with an undisturbed run's, bit by bit.

``python experiments/kills.py [KILLS] [ENV]``: 20 kills by default, at random steps of the offline part, the switch and the online
part. ENV may be a host environment, whose open episodes are then replayed.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qchunk.runs import checkpoint

SMALL = "--chunk.horizon 2 --actor.hidden 16 --actor.steps 2 --critic.hidden 16 --n 2 --batch 32 --episodes 4 --seeds 2"
STEPS = "--offline-steps 40 --eval-every 10 --log-every 5 --online-steps 160 --envs 4 --start-training 16"
MORE = "--update-ratio 0.25 --online-eval-every 32 --normalise-obs standard"


def qchunk(*argv: object) -> subprocess.Popen:
    """The command, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "qchunk", *map(str, argv)], stderr=subprocess.DEVNULL)


def last_step(run: Path) -> int:
    """The newest step in the run's metrics; 0 where there are none."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (FileNotFoundError, IndexError, ValueError):  # not yet, or half a line
        return 0


def newest(run: Path) -> dict[str, bytes]:
    """Every array of the newest checkpoint, by its path."""
    folder = run / "checkpoints"
    step = checkpoint.steps(folder)[-1]
    manifest = checkpoint.verify(folder / str(step))
    names = [f"{i:05d}" for i, e in enumerate(manifest["leaves"]) if "shape" in e and 0 not in e["shape"]]
    arrays = checkpoint._read_arrays(folder / str(step), names)
    paths = [manifest["leaves"][int(n)]["path"] for n in names]
    return {"step": str(step).encode()} | {
        p: np.asarray(arrays[n]).tobytes() for p, n in zip(paths, names, strict=True)
    }


def main() -> None:
    """Prints where each kill struck, and fails where the ends differ."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    env = sys.argv[2] if len(sys.argv) > 2 else "probe/two-step"
    root, chance = Path(tempfile.mkdtemp()), random.Random(0)
    data, whole, killed = root / "data.npz", root / "whole", root / "killed"
    qchunk("collect", env, "--out", data, "--steps", 400, "--episode-length", 100, "--quiet").wait()
    train = ["train", "qc", "--env", env, "--data", data, *f"{SMALL} {STEPS} {MORE}".split(), "--quiet"]
    assert qchunk(*train, "--out", whole).wait() == 0
    total = last_step(whole)
    struck, ends = 0, 0
    while struck < kills:
        command = (
            ["train", "--resume", killed, "--quiet"] if (killed / "config.json").exists() else [*train, "--out", killed]
        )
        process = qchunk(*command)
        at = chance.randint(last_step(killed), int(1.1 * total))
        while process.poll() is None and last_step(killed) < at:
            time.sleep(0.02)
        try:
            process.wait(chance.uniform(0.0, 0.5))  # within an update, a save, an evaluation, or a compilation
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            struck += 1
            steps = checkpoint.steps(killed / "checkpoints") if killed.exists() else []
            now = f"step {last_step(killed)}, newest checkpoint {steps[-1] if steps else 'none'}"
            print(f"kill {struck:2}: {now}", flush=True)
            if not (killed / "summary.json").exists():  # else it had ended and only its process was left
                continue
        assert (killed / "summary.json").exists(), f"exit code {process.returncode}"
        ends += 1
        assert newest(killed) == newest(whole), "the ends differ"
        print("the run ended, bitwise equal; begun again", flush=True)
        shutil.rmtree(killed)
    if killed.exists():
        assert qchunk("train", "--resume", killed, "--quiet").wait() == 0
        assert newest(killed) == newest(whole), "the ends differ"
        ends += 1
    print(f"{kills} kills on {env}: {ends} ends, all bitwise equal")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
