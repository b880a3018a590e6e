"""What a finished run is asked besides its training, kept in its folder for reports: what acting costs, an episode, other schemes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from qchunk import seeds
from qchunk.comparison.tables import uses_rewards
from qchunk.data import on_disk
from qchunk.drivers.common import evaluate
from qchunk.envs.base import obs_spec
from qchunk.play import evaluation, on_data
from qchunk.reporting import cost, executions, film, page, prices
from qchunk.runs import run_folder
from qchunk.runs.opened import SEED, Opened, first_seed, learner_of, rebuild, vars_of
from qchunk.runs.resuming import same_data
from qchunk.runs.training import closed
from qchunk.system import tracebacks
from qchunk.system.answers import finite
from qchunk.system.errors import UserError
from qchunk.system.files import write_json
from qchunk.types import Learner


def draw(folder: Path, out: Path, seed: int = SEED, wanted: str = "newest") -> int:
    """Draws an episode of a run's first seed; returns the number of frames. RUN/episode.gif gets its last frame as a png."""
    p = rebuild(run_folder.read_config(folder)["config"], folder)
    learner, _ = learner_of(folder, p, wanted)
    key = jax.random.key(seed)
    if p.program.on_host:
        frames = film.host_pictures(p.program, *first_seed(p, learner, key))
    else:
        scheme = p.program.scheme(p.inputs, "act")
        shown = film.episode(p.program.env, p.algorithm.act, scheme, vars_of(p, learner), key)
        frames = film.pictures(p.program.env, shown)
    film.write_gif(frames, out, folder / page.STILL if out == folder / page.EPISODE else None)
    return len(frames)


def measure(folder: Path) -> None:
    """Writes RUN/cost.json."""
    kept = run_folder.read_config(folder)["config"]
    p = rebuild(kept, folder)
    learner = learner_of(folder, p)[0]
    found = cost.of_policy(p.algorithm.act, vars_of(p, learner), obs_spec(p.program.env))
    found["multiplications"] *= looks_per_step(p, learner)
    learns = "used" if uses_rewards(bool(kept["data"]), p.config) else "not used"
    apart = from_data(folder, kept, p, learner) if kept["data"] else {}
    write_json(folder / prices.COST, {**found, "offline_rewards": learns, **apart}, indent=None)


def from_data(folder: Path, kept: dict, p: Opened, learner: Learner) -> dict[str, list[float | None]]:
    """How far a run's chunks are from those of its data, of each seed; {} where these are no more where they were, or stay on disk."""
    try:
        data = same_data(folder, kept, p, None)
        if on_disk.stays(data):
            raise UserError("its data stay on disk", "convert them to one file to have that")
    except UserError as e:
        print(f"{folder.name} is not held against its data: {e}", file=sys.stderr)
        return {}
    found = on_data.from_data(p.program, learner, p.inputs._replace(data=data))
    return {n: finite(np.asarray(found[n], float).tolist()) for n in ("error", "energy_distance")}


def looks_per_step(p: Opened, learner: Learner) -> float:
    """How often a run calls its policy per environment step; where its plans set their own ends, in 10 episodes of each seed."""
    scheme = p.program.scheme(p.inputs, "act")
    if scheme.looks:
        return 1 / scheme.steps
    x = evaluate(p.program, p.inputs, dataclasses.replace(p.settings, episodes=10), learner, seed=SEED)
    return float(x["looks"].mean() / x["length"].mean())


def look_at_each(folders: Sequence[Path], command: str) -> None:
    """``look`` at finished runs; one that cannot be looked at keeps its figures, and says why."""
    for folder in folders:
        print(f"[{command}] looking at {folder.name} on {folder.parent.name}", file=sys.stderr, flush=True)
        try:
            look(folder)
        except Exception as e:
            print(f"[{command}] no look at {folder}: {tracebacks.line_of(e)}", file=sys.stderr, flush=True)


def look(folder: Path) -> None:
    """What acting costs and an episode, where they are not there yet; an environment that nobody can draw has no picture."""
    if not (folder / prices.COST).exists():
        measure(folder)
    if not (folder / page.EPISODE).exists():
        try:
            draw(folder, folder / page.EPISODE)
        except UserError as e:
            print(f"no picture of {folder.name}: {e}", file=sys.stderr)


def by_schemes(folder: Path, names: Sequence[str], episodes: int) -> None:
    """Plays a run by each scheme and keeps what comes of it in RUN/executions.json, scheme by scheme; what is there from the same
    checkpoint stays.

    A scheme that the run cannot be played by, or that fails, is kept with the reason and costs no other.
    """
    p = rebuild(run_folder.read_config(folder)["config"], folder)
    learner, step = learner_of(folder, p)
    found: dict[str, dict] = {}
    for name in names:
        one = executions.known(folder, name, step, episodes)
        if one is None:
            one = {"step": step, "episodes": episodes, **executions.NOT_PLAYED}
            try:
                one |= _by_scheme(p.played(name, None), learner, episodes)
            except Exception as e:  # code of the user's may be in it
                one |= {"why": tracebacks.line_of(e)}
        found[name] = one
        later = {n: x for n in names if n not in found and (x := executions.known(folder, n, step, episodes))}
        write_json(folder / executions.EXECUTIONS, {**found, **later})


def _by_scheme(p: Opened, learner: Learner, episodes: int) -> dict:
    evaluation.check_playing(p.program)
    scheme = p.program.scheme(p.inputs, "act")
    shown = dataclasses.replace(p.settings, episodes=episodes)
    spread, given = seeds.spread(shown.seeds, (learner, p.inputs.given), p.inputs.share)
    with closed(p.program):
        values = evaluate(p.program, p.inputs._replace(given=given), shown, spread, seed=SEED)
    price = cost.of_scheme(scheme, vars_of(p, learner), obs_spec(p.program.env))
    figures = finite({n: np.asarray(v, float).tolist() for n, v in values.items()})
    return {"figures": figures, "multiplications": price["multiplications"], "p50": price["p50"]}
