"""All that a GPU is asked, in parts: ``make gpu``. At most 8 minutes; the same command goes on with the parts that are missing.

``python experiments/gpu/measure.py [--out runs/gpu] [--seconds 470] [--only PART ...] [--baseline FILE] [--smoke]``. OUT/gpu.json has the format
of the benchmarks' baseline and is written after every part, OUT/gpu.png shows all ratios, OUT/NAME.log what the tests said. A part that is not
done in its time is cut: what it told until then is kept, and the next call runs it again. The first whole run on a GPU writes the baseline, later
ones are compared with it (exit code 1 where a ratio is more than 25 % worse, or a test fails). ``--smoke`` runs the same at tiny sizes on a CPU.
Needs the test extra, and no network.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from qchunk.commands import bench
from qchunk.system import compiled
from qchunk.system.errors import UserError
from qchunk.system.files import make_folder, write_json
from qchunk.system.processes import cores

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = (
    "jax finds no GPU here",
    "pip install -c constraints.txt -e '.[cuda12]', or give --smoke, which runs the same on a CPU at tiny sizes",
)
ON_A_GPU = {  # tests: with deterministic operations, and beside each other, so that none takes the card's memory beforehand
    "JAX_PLATFORMS": "cuda,cpu",
    "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
MOST_AT_ONCE = 8  # processes of tests: they wait for compilers, not for the card
NOTHING_LEFT = 5  # pytest's exit code where no test is selected
SHORTEST = 20.0  # seconds: with less left no part begins


class Part(NamedTuple):
    """What is run in a process of its own."""

    limit: float  # seconds
    tests: tuple[str, ...] = ()  # what pytest is told; a benchmark of the part's name where there is nothing
    smoke: tuple[str, ...] = ()  # in their place
    flags: tuple[str, ...] = ()  # of the benchmark


CONFORMANCE = ("-m", "accelerator and not slow", "tests/test_conformance.py")
PARITY = ("-m", "accelerator and not slow", *(f"tests/{p.name}" for p in sorted(ROOT.glob("tests/test_parity*.py"))))
PARTS = {  # most wanted first; 470 seconds together
    "blocks": Part(40, ("tests/test_accelerator.py",), ("tests/test_accelerator.py", "-m", "not slow")),
    "conformance": Part(50, CONFORMANCE, (*CONFORMANCE, "-k", "acts and ppo")),
    "roofline": Part(70),
    "many_seeds": Part(60),
    "dppo_iteration": Part(50),
    "many_environments": Part(80),
    "latency": Part(30, flags=("--only", "qc")),
    "precision": Part(60),
    "parity": Part(30, PARITY, (*PARITY, "-k", "flow_field")),
}


def main() -> None:
    """Runs what is missing, one part after the other."""
    f = flags()
    device = device_here(f.smoke)
    make_folder(f.out)
    compiled.keep()  # so that a part that was cut does not compile the same again
    kept = opened(f.out / "gpu.json", device)
    began = time.monotonic()
    for name in f.only or PARTS:
        left = f.seconds - (time.monotonic() - began)
        if kept["parts"].get(name) == "whole" or left < SHORTEST:
            continue
        kept["results"] = [r for r in kept["results"] if r["file"] != name]
        kept["parts"][name] = "begun"
        save(f.out / "gpu.json", kept)  # a signal leaves the part to be run again
        kept["parts"][name] = run(name, left if f.smoke else min(PARTS[name].limit, left), f, kept["results"])
        save(f.out / "gpu.json", kept)
        print(f"[gpu] {name}: {kept['parts'][name]}", file=sys.stderr, flush=True)
    ended(f, kept)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--seconds", type=float, default=470.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=())
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--smoke", action="store_true")
    f = parser.parse_args()
    f.baseline = f.baseline or (f.out / "baseline.json" if f.smoke else ROOT / "benchmarks" / "baseline_gpu.json")
    return f


def environment(smoke: bool) -> dict[str, str]:
    """Of every process: this package, and the platform that is measured."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **({"JAX_PLATFORMS": "cpu"} if smoke else {})}


def device_here(smoke: bool) -> str:
    """The kind of the first device. A process of its own asks: this one would hold most of the card's memory.

    Raises:
        UserError: there is no GPU, and no smoke run is asked for.
    """
    asking = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", asking], env=environment(smoke), capture_output=True, text=True)
    backend, _, kind = done.stdout.strip().partition(" ")
    if done.returncode or (backend == "cpu" and not smoke):
        raise UserError(*NO_GPU)
    return kind


def opened(path: Path, device: str) -> dict[str, Any]:
    """What earlier calls left, or a new one.

    Raises:
        UserError: another card's.
    """
    if not path.exists():
        return {"machine": bench.machine() | {"device": device}, "parts": {}, "results": []}
    kept = bench.read(path)
    if (was := kept["machine"].get("device")) != device:
        raise UserError(f"{path} was measured on {was}, here is {device}", "pass --out with another folder")
    return kept


def save(path: Path, kept: dict[str, Any]) -> None:
    """Writes what is known."""
    write_json(path, kept)


def run(name: str, limit: float, f: argparse.Namespace, results: list[bench.Result]) -> str:
    """A part: "whole", "cut" (its time was over) or "failed"; what it told is in ``results``."""
    part, began = PARTS[name], time.monotonic()
    print(f"[gpu] {name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
    if part.tests:
        code = tested(name, limit, f, results)
    else:
        os.environ.update(environment(f.smoke))
        try:
            path, argv = ROOT / "benchmarks" / f"{name}.py", [*part.flags, *["--smoke"] * f.smoke]
            bench.run(name, path, results, lambda r: print(bench.line(r), flush=True), argv, limit)
            return "whole"
        except subprocess.CalledProcessError as e:
            code = e.returncode
            print(f"{name}: {e.stderr}", file=sys.stderr)
    return "whole" if code == 0 else "cut" if time.monotonic() - began >= limit else "failed"


def tested(name: str, limit: float, f: argparse.Namespace, results: list[bench.Result]) -> int:
    """Tests with deterministic operations, but for those that passed in an earlier call; all of their counts as a result."""
    part, log = PARTS[name], f.out / f"{name}.log"
    passed = [test for test, word in outcomes(log).items() if word == "PASSED"]
    command = [sys.executable, "-m", "pytest", "-v", "-n", str(min(MOST_AT_ONCE, cores())), "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--strict-markers --dist worksteal"]
    env = environment(f.smoke) | ({} if f.smoke else ON_A_GPU)
    command += [*(part.smoke if f.smoke else part.tests), *(f"--deselect={test}" for test in passed)]
    with log.open("a") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers with it, which would disturb what is timed next
            process.wait()
    found = collections.Counter(outcomes(log).values())
    counts = {word.lower(): found[word] for word in ("PASSED", "FAILED", "ERROR")}
    results.append({"file": name, "benchmark": f"tests: {name}", **counts})
    print(bench.line(results[-1]), flush=True)
    return 0 if passed and code == NOTHING_LEFT else code


def outcomes(log: Path) -> dict[str, str]:
    """What became of each test, in whichever call it ran last."""
    said = log.read_text(errors="replace") if log.exists() else ""
    return {
        test: word for word, test in re.findall(r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR) (tests/\S+)", said, re.M)
    }


def ended(f: argparse.Namespace, kept: dict[str, Any]) -> None:
    """The picture; what is missing; the baseline, written or compared with.

    Raises:
        SystemExit: with 1 where a part failed, or a ratio is worse than the baseline's.
    """
    before = bench.read(f.baseline) if f.baseline.exists() else None
    bench.picture(kept["results"], f.out / "gpu.png", before["results"] if before else ())
    missing = [name for name in PARTS if kept["parts"].get(name) in (None, "begun", "cut")]
    failures = [f"{name}: {state}" for name, state in kept["parts"].items() if state == "failed"]
    if before is not None:
        there = {r["file"] for r in kept["results"]} - set(missing)
        failures += bench.compare(kept["results"], [r for r in before["results"] if r["file"] in there])
    elif not missing and not failures:
        save(f.baseline, kept)
        print(f"[gpu] the first baseline: {f.baseline}", file=sys.stderr)
    todo = f"; the same command goes on with {', '.join(missing)}" if missing else ""
    print(f"[gpu] {f.out / 'gpu.json'}, {f.out / 'gpu.png'}{todo}", file=sys.stderr)
    for text in failures:
        print(f"failed: {text}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a part's process is ended, too
    try:
        main()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
