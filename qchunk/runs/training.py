"""A run's life: made in a folder of its own, gone on with, summed up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qchunk import envs, names, registry
from qchunk.config import validate
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.drivers.common import Driver, Event, assemble
from qchunk.envs import objective
from qchunk.runs import checkpoint, prior, run_folder, sources
from qchunk.runs.opened import Opened, rebuild, restore, save_given
from qchunk.runs.progress import Bar
from qchunk.runs.sinks import sinks_by_name
from qchunk.seeds import for_each, spread
from qchunk.system.errors import UserError
from qchunk.system.files import check_place


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Where a run reads and writes."""

    env: str
    """Environment to play and to be evaluated in: qchunk list envs."""
    data: Path | None = None
    """Data set to train on: qchunk collect. On-policy methods need none."""
    out: Path | None = None
    """Run folder to make; by default runs/ENV/ALGO-seedSEED."""
    objective: tuple[str, ...] = ()
    """The reward as a weighted sum, such as task=1 energy=0.1 jerk=0.1 my_file.py:my_term=2; by default the environment's."""
    label: str = ""
    """Name in tables and plots; by default the algorithm's."""
    prior: Path | None = None
    """An earlier run, whose actor this one stands on."""
    prior_seed: int | None = None
    """The place among the prior's seeds that every seed stands on; by default each on its own."""
    log_to: tuple[str, ...] = ()
    """Also log to: tensorboard, wandb (optional extras)."""
    json: bool = False
    """Print the final figures as JSON to stdout."""
    quiet: bool = False
    """No progress bar and no closing lines."""


def run(algorithm: str, f: TrainFlags, c: Any, settings: Any, build: Callable | None = None) -> tuple[Path, dict]:
    """Trains in a new run folder: (the folder, its final figures).

    Args:
        settings: of the driver that the configuration asks for.
        build: config -> Algorithm, where ``algorithm`` is no name to find it by.

    Raises:
        UserError: whatever cannot run; no folder is made then.
    """
    build, driver = build or registry.builder(algorithm)[0], registry.driver_of(type(c))
    for part in (c, settings):
        validate(part)
    names.check_env(f.env)
    out = f.out or Path("runs") / f.env / f"{f.label or Path(algorithm).stem.replace(':', '-')}-seed{settings.seed}"
    check_place(out)
    settings, weights = driver.resolve(settings), objective.parse(f.objective)
    env = envs.make(f.env, c.chunk.history, weights)
    earlier = prior.load(f.prior, settings.seeds, f.prior_seed) if f.prior else None
    prior.check(earlier, algorithm, c, settings, env)
    data, about = data_of(f, algorithm, env, driver)
    given = {**(earlier.given if earlier else {}), **for_each(settings.seeds, objective.weights_given(weights))}
    program, x = assemble(build, c, env, settings, given, data)
    program.algorithm(c)  # says what does not fit together before anything is made
    driver.check(program, x, settings)
    say_no_success(f, data, c, env)
    once, args, _ = driver.unit(program, x, settings)
    jax.eval_shape(once, *args)  # what an update cannot do is found before a folder is made; jit keeps the trace
    kept = {
        "algorithm": algorithm,
        "label": f.label or algorithm,
        "env": f.env,
        "objective": weights,
        "driver": driver.name,
        "seed": settings.seed,
        "seeds": settings.seeds,
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.local_device_count(),
        "prior": earlier and earlier.about,
        "data": about,
        "config": dataclasses.asdict(c),
        "settings": dataclasses.asdict(settings),
    }
    kept["sources"] = sources.digests(kept)
    with run_folder.create(out, kept, functools.partial(fill, given, kept)) as folder:
        folder.sinks += sinks_by_name(f.log_to, out)
        return out, drive(folder, Opened(driver, settings, program, x), (None, None), 0, f.quiet)


def fill(given: dict, kept: dict, folder: Path) -> None:
    """What lies in a run's folder from the start: the frozen modules that it stands on, the files of the user's own."""
    save_given(given, folder)
    sources.save(kept, folder)


def data_of(f: TrainFlags, algorithm: str, env: Any, driver: Driver) -> tuple[Dataset | None, dict[str, str] | None]:
    """The data set of a run and what its configuration keeps of it; neither where the driver needs none."""
    if not driver.needs_data and f.data:
        raise UserError(
            f"{algorithm} learns from what it plays", "leave --data out; a prior's data stay with the prior"
        )
    if not driver.needs_data:
        return None, None
    if f.data is None:
        raise UserError(f"{algorithm} learns from a data set", f"give --data FILE, made by: qchunk collect {f.env}")
    data, about = formats.for_env(f.data, env, f.env)
    return data, {"path": str(Path(f.data).resolve()), "fingerprint": about["fingerprint"]}


def say_no_success(f: TrainFlags, data: Dataset | None, c: Any, env: Any) -> None:
    """Says on stderr that a critic will see no success, where the task itself has judged the data: its only ends are successes."""
    judges = hasattr(env, "relabel") or hasattr(env, "read")
    if data is not None and judges and getattr(c, "critic", None) is not None and not bool(data.terminal.any()):
        fix = "a critic learns from rewards alone, which are the same whatever is done; collect more steps"
        print(f"warning: {f.data} holds no success of {f.env}: {fix}", file=sys.stderr)


def resume(folder: Path, step: int | None = None, log_to: tuple[str, ...] = (), quiet: bool = False) -> dict:
    """Goes on from a checkpoint to the same bits as a run that was never stopped: its final figures.

    Args:
        step: the checkpoint to go on from; by default the newest.

    Raises:
        UserError: nothing to go on with, or its data have changed.
    """
    with run_folder.open_run(folder) as run:
        run.sinks += sinks_by_name(log_to, folder)
        kept = run.config
        opened = rebuild(kept, folder)
        if kept["data"]:
            data, about = formats.for_env(Path(kept["data"]["path"]), opened.program.env, kept["env"])
            if about["fingerprint"] != kept["data"]["fingerprint"]:
                fix = f"put the data set with fingerprint {kept['data']['fingerprint']} back"
                raise UserError(f"{kept['data']['path']} has changed since the run began", fix)
            opened = opened._replace(inputs=opened.inputs._replace(data=data))
        made, here = kept.get("devices", 1), jax.local_device_count()
        if made != here:
            fix = f"for the same ones set JAX_NUM_CPU_DEVICES={made}"
            print(f"{folder} was made on {made} devices, here are {here}: bits may differ; {fix}", file=sys.stderr)
        state, began = restore(folder, opened, step)
        state = spread(opened.settings.seeds, state)  # here, so that no second copy lives as long as the run
        run.rewind(began)
        return drive(run, opened, state, began, quiet)


def drive(run: run_folder.RunFolder, p: Opened, state: tuple, began: int, quiet: bool) -> dict:
    """Consumes a driver's events: logs, saves, shows; then sums the run up and returns its final figures."""
    total = p.driver.amount(p.program.build(p.config), p.config, p.settings).last
    if began >= total and (run.path / run_folder.SUMMARY).exists():
        raise UserError(f"{run.path} is finished: all {total} steps are done", "qchunk eval it")
    events = p.driver.run(p.program, p.inputs, p.settings, *state)
    about = {"algorithm": run.config["algorithm"], "env": run.config["env"]}
    title = f"{run.config['label']} on {run.config['env']}"
    lost, spare = False, last_finite(run.checkpoints)
    with Bar(total, began, quiet, title) as bar, going_on(run.path), closed(p.program):
        for event in events if began < total else ():
            bar.show(event)
            if event.kind == "checkpoint":
                # the last one leaves environments and replay behind: nothing follows it, and they are most of a run's disk
                playing = event.state is not None and event.step < total
                tree = {"learner": event.learner} | ({"state": event.state} if playing else {})
                about |= {"step": event.step, "state": playing, "finite": not lost}
                spare = spare if lost else event.step
                checkpoint.save(run.checkpoints, event.step, tree, about, spare=spare)
            else:
                if event.kind == "diverged":
                    lost = True
                    say_diverged(event, p.settings.seed, spare)
                run.log(event.kind, event.step, event.values)
    figures = final_figures(run.path)
    run.finish(figures)
    return figures


def last_finite(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint in which no seed had diverged."""
    for step in reversed(checkpoint.steps(checkpoints)):
        with contextlib.suppress(UserError):  # one that is damaged
            if checkpoint.about(checkpoints, step).get("finite", True):
                return step
    return None


def say_diverged(event: Event, first_seed: int, spare: int | None) -> None:
    """Says on stderr which seeds have diverged, and which checkpoint is good."""
    seeds = ", ".join(str(first_seed + i) for i in np.flatnonzero(event.values["diverged"]))
    kept = (
        "no checkpoint was saved before" if spare is None else f"the last finite checkpoint, of step {spare}, is kept"
    )
    at = int(event.values["diverged_at"][0])
    print(
        f"diverged: at update {at} the loss or the parameters of seed {seeds} are not finite; {kept}", file=sys.stderr
    )


@contextlib.contextmanager
def closed(program: Any) -> Iterator[None]:
    """Ends the worker processes of host environments at the end."""
    try:
        yield
    finally:
        if program.on_host:
            program.env.close()


def final_figures(folder: Path) -> dict[str, dict]:
    """A run's last evaluation, its compile time, its last speed and whether it diverged, read from its metrics."""
    lines = run_folder.judged(run_folder.read_metrics(folder))
    found: dict[str, Any] = {}
    for line in lines:
        wanted = ("updates_per_second", "env_steps_per_second") if line["kind"] == "train" else tuple(line["values"])
        found.update({name: line["values"][name] for name in wanted if name in line["values"]})
    return {name: run_folder.figure(values) for name, values in {**found, **run_folder.diverged(lines)}.items()}


@contextlib.contextmanager
def going_on(path: Path) -> Iterator[None]:
    """Says on Ctrl-C how to go on with the run."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; go on with: qchunk train --resume {path}", file=sys.stderr)
        raise
