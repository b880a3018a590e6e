"""OGBench's data sets: making them with its own oracles, and reading them for a task.

A file holds ``observations`` [R, O], ``actions`` [R, A], ``terminals`` [R] (the last row of each episode, which is only its
final observation), ``qpos``, ``qvel`` and, with buttons, ``button_states``: OGBench's format, which its own loader reads too.
Ours have an ``about`` besides. Rewards and ends are not in the file: they are those of a task.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data import formats, npz
from qchunk.data import ogbench_oracles as oracles
from qchunk.data.adapting import Reading
from qchunk.data.formats import Rows
from qchunk.system import files, processes, stopping
from qchunk.system.errors import UserError
from qchunk.system.processes import cores

MIRROR = "https://rail.eecs.berkeley.edu/datasets/ogbench"  # where OGBench's own loader fetches its data
NEEDED = ("observations", "actions", "terminals", "qpos")


def is_one(path: Path) -> bool:
    """Whether the file or folder is in OGBench's format, to judge by what it holds; never raises."""
    with contextlib.suppress(OSError, UserError), npz.opened(shards(path)[0], "") as z:
        return "observations" in z
    return False


def shards(path: Path) -> list[Path]:
    """The files of a data set: itself, or every npz of a folder but the validation ones, in the order of their names."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.glob("*.npz") if not p.stem.endswith("-val"))
    if not found:
        raise UserError(f"there is no npz file in {path}", "give an npz file, or a folder of them")
    return found


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of a data set, shards one after the other, and its ``about`` ({} in OGBench's own files).

    Raises:
        UserError: a shard is missing an array, truncated, changed, or of another kind than the first.
    """
    parts: list[dict[str, np.ndarray]] = []
    about: dict[str, Any] = {}
    for shard in shards(path):
        with npz.opened(shard, "download or collect it again") as z:
            missing = [n for n in NEEDED if n not in z]
            if missing:
                raise UserError(f"{shard} lacks {', '.join(missing)}", "give a data set of OGBench with all its arrays")
            about = dict(json.loads(str(z["about"]))) if "about" in z else {}
            parts.append({n: z[n] for n in (*NEEDED, "button_states") if n in z})
            if problem := misfit(parts[-1]):
                raise UserError(f"{shard}: {problem}", "download it again")
        mark = fingerprint(parts[-1])
        if about.get("fingerprint", mark) != mark:
            raise UserError(f"{shard} does not match its fingerprint {about['fingerprint']}", "collect it again")
    widths = {tuple((n, x.shape[1:]) for n, x in p.items()) for p in parts}
    if len(widths) > 1:
        raise UserError(f"the files of {path} are of several environments", "give a folder with the shards of one")
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}, about


def misfit(arrays: dict[str, np.ndarray]) -> str:
    """What is wrong with the arrays of a shard: their types, shapes or ends; "" where they fit."""
    for n, x in arrays.items():
        if x.dtype.kind not in "fiub":
            return f"{n} holds {x.dtype}, no numbers"
        if not x.ndim or len(x) != len(arrays["terminals"]):
            return f"{n} has another number of rows than terminals"
        if (x.ndim == 1) != (n == "terminals"):
            return f"{n} is of the shape {list(x.shape)}"
    return "" if np.isfinite(arrays["terminals"]).all() else "terminals hold what is no number"


def read(path: Path, env: Any) -> tuple[Rows, dict[str, Any]]:
    """A data set with the rewards and ends of ``env``'s task, as the environment itself judges states before an action.

    Raises:
        UserError: of another environment, or damaged.
    """
    arrays, about = load(path)
    made_for = about.get("env", env.data_name)
    one = env.instance()
    try:
        sizes = (arrays["observations"].shape[1], arrays["actions"].shape[1], arrays["qpos"].shape[1])
        state = env.observation_size["state"] if one.goals else env.observation_size
        wanted = (state, env.action_size, one.env.unwrapped.model.nq)
        if made_for != env.data_name or sizes != wanted:
            got = f"{made_for} (sizes {sizes})" if "env" in about else f"sizes {sizes} (observation, action, qpos)"
            fix = f"collect data for it: qchunk collect {env.data_name} --out DATA"
            raise UserError(f"{path} holds data of {got}, but {env.name} has {env.data_name} {wanted}", fix)
        buttons = 0 if one.goals else getattr(one.env.unwrapped, "_num_buttons", 0)
        if buttons and ("button_states" not in arrays or arrays["button_states"].shape[1] != buttons):
            raise UserError(f"{path} lacks button_states, {buttons} numbers of each row", "download it again")
        # of goals there is none yet: formats.for_env finds some, and the environment judges by them
        reward, terminal = (np.zeros(len(arrays["terminals"])),) * 2 if one.goals else judged(one, env.scene, arrays)
    finally:
        one.close()
    end = arrays["terminals"].astype(bool)
    obs, action = (arrays[n].astype(np.float32) for n in ("observations", "actions"))
    blank = Rows(obs, action, np.zeros(len(end), np.float32), np.zeros(len(end), bool), end)
    formats.check(blank, str(path))
    rows = blank._replace(reward=np.where(end, 0, reward).astype(np.float32), terminal=(terminal > 0) & ~end)
    return rows, {**about, "env": env.data_name, "fingerprint": fingerprint(arrays)}


def _survey(path: Path, reading: Reading) -> formats.Survey:
    if reading.env is None:  # as it lies there, without a task that judges it
        arrays, about = load(path)
        end = arrays["terminals"].astype(bool)
        obs, action = (arrays[n].astype(np.float32) for n in ("observations", "actions"))
        rows = Rows(obs, action, np.zeros(len(end), np.float32), np.zeros(len(end), bool), end)
        note = "rewards and terminals are not in such files: --env ogbench/... judges them by its task"
        return formats.Survey(rows, {**about, "fingerprint": fingerprint(arrays)}, notes=(note,))
    if not hasattr(reading.env, "read"):
        why = f"{path} is in OGBench's format, whose rewards are those of a task of OGBench"
        raise UserError(why, "give --env ogbench/..., or data of the environment: qchunk collect")
    return formats.Survey(*reading.env.read(path))


READER = formats.Reader(is_one, _survey)


def judged(one: Any, scene: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [R] and successes [R] of stored states, by OGBench's own rule for its single-task data.

    Args:
        one: the task's environment (worker.One).
    """
    from ogbench.relabel_utils import relabel_dataset

    labels = {str(n): arrays[n] for n in ("qpos", "button_states") if n in arrays}
    one.reset(0)
    relabel_dataset(scene, one.env, labels)
    reward = labels["rewards"]
    return np.where(reward != 0, -1.0, 0.0) if one.sparse else reward, labels["masks"] == 0


def fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all arrays, with their shapes."""
    return formats.digest(sorted(arrays.items()))


def collect(
    scene: str,
    kind: str,
    out: Path,
    *,
    transitions: int,
    seed: int = 0,
    length: int | None = None,
    processes: int | None = None,
    about: dict[str, Any],
    progress: Callable[[int], Any] = lambda done: None,
) -> dict[str, Any]:
    """Plays whole episodes of ``length`` rows (None: as published) in parallel processes into ``out``; goes on where an earlier call stopped.

    Finished episodes lie in ``out.parts/`` until all are there. A process that dies is started again.

    Args:
        about: what else the file shall say.
        progress: called with the transitions so far.

    Returns:
        What was collected: transitions, episodes, fingerprint.

    Raises:
        UserError: nothing in the package plays this kind, parts of other settings lie there, processes die again and again, or the disk is full.
    """
    if oracles.is_maze(scene) and not (scene.startswith("pointmaze") and kind == "navigate"):
        fix = f"download {scene}-{kind}-v0.npz from {MIRROR}, or make pointmaze-...-navigate"
        raise UserError(f"the package ogbench has no oracle that plays {scene}-{kind}", fix)
    length = length or oracles.length_of(scene)
    count = -(-transitions // (length - 1))
    folder = out.with_name(out.name + ".parts")
    settings = json.dumps({"scene": scene, "kind": kind, "seed": seed, "length": length})
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "settings.json"
    if note.exists() and note.read_text() != settings:
        raise UserError(f"{folder} holds episodes of {note.read_text()}", "remove it, or pass --out with another file")
    files.atomic_write(note, settings)
    play(folder, json.loads(settings), count, processes or cores(), progress)
    arrays = load_parts(folder, count)
    mark = fingerprint({n: x for n, x in arrays.items() if n != "qvel"})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.asarray(json.dumps({**about, "fingerprint": mark})), **arrays)
    files.atomic_write(out, buffer.getvalue())
    shutil.rmtree(folder)
    return {"transitions": count * (length - 1), "episodes": count, "fingerprint": mark}


def load_parts(folder: Path, count: int) -> dict[str, np.ndarray]:
    """All episodes, one after the other."""
    parts = []
    for number in range(count):
        with np.load(oracles.part(folder, number), allow_pickle=False) as z:
            parts.append({n: z[n] for n in z.files})
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def play(folder: Path, settings: dict, count: int, processes: int, progress: Callable[[int], Any]) -> None:
    """Runs the processes until every episode is there."""

    def missing() -> list[int]:
        return [n for n in range(count) if not oracles.part(folder, n).exists()]

    if importlib.util.find_spec("ogbench") is None:
        raise UserError(f"{settings['scene']} is OGBench's, which is not installed", "pip install 'qchunk[ogbench]'")
    for _ in range(3):
        todo = missing()
        with tempfile.TemporaryFile() as log:
            running = [_start(folder, settings, todo[i::processes], log) for i in range(min(processes, len(todo)))]
            with stopping.undone(lambda playing=running: ended(playing)):
                while any(p.poll() is None for p in running):
                    time.sleep(0.5)
                    progress((count - len(missing())) * (settings["length"] - 1))
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        if not missing():
            return
        print(f"a process that plays {settings['scene']} died: {last}; starting again", file=sys.stderr)
    raise UserError(f"processes that play {settings['scene']} died three times: {last}", "fix that, then collect again")


def ended(running: list[subprocess.Popen]) -> None:
    """Kills processes and waits for them."""
    for p in running:
        p.kill()
        p.wait()


def _start(folder: Path, settings: dict, numbers: list[int], log: Any) -> subprocess.Popen:
    job = json.dumps({**settings, "folder": str(folder), "numbers": numbers})
    return processes.start("qchunk.data.ogbench_oracles", job, stderr=log)
