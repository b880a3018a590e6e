"""A run's life: made in a folder of its own, gone on with, summed up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qchunk import env_names, envs, nets, registry
from qchunk.config import validate
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.data.description import meaning
from qchunk.drivers.common import Driver, assemble, check_acting, check_devices
from qchunk.drivers.events import Event
from qchunk.envs import held_out, objective
from qchunk.play import evaluation
from qchunk.ranges import NonNegativeFloat, NonNegativeInt
from qchunk.runs import checkpoint, prior, resuming, run_folder, sinks, sources
from qchunk.runs.opened import SWEPT, Opened, bytes_of, rebuild, restore, save_given
from qchunk.runs.progress import Bar
from qchunk.runs.resuming import Going
from qchunk.runs.scores import Scored, best, last_finite, scored
from qchunk.seeds import for_each, mesh, repeated, spread
from qchunk.system import compiled, hosts, loading, memory, stopping
from qchunk.system.errors import UserError, typed
from qchunk.system.files import check_place
from qchunk.varied import Swept


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
    """Folder of an earlier run whose actor this one uses, frozen or to begin with."""
    prior_seed: NonNegativeInt | None = None
    """Which of the prior's seeds all seeds use, counted from 0; by default the first uses its first, the second its second, and so on."""
    env_python: str = ""
    """Python that runs the simulator in worker processes, such as VENV/bin/python; it needs numpy and the simulator only. By default the one that qchunk env setup kept for this environment, else the one that runs qchunk."""
    checkpoint_minutes: NonNegativeFloat = 15.0
    """Minutes between two checkpoints, besides those that are saved after so many steps; 0: no others."""
    log_to: tuple[str, ...] = ()
    """Also log to tensorboard or wandb (optional extras); a resumed run logs there again."""
    json: bool = False
    """Print the final figures as JSON to stdout."""
    quiet: bool = False
    """No progress bar, no lines of evaluations and no closing lines."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A run that is to be made."""

    algorithm: str
    flags: TrainFlags
    config: Any
    settings: Any
    """Of the driver that the configuration asks for."""
    build: Callable | None = None
    """config -> Algorithm, where ``algorithm`` is no name to find it by."""
    swept: Swept = ()
    """Settings beside each other (varied.py); the seeds of ``settings`` are their lanes."""

    @property
    def place(self) -> Path:
        """Its folder."""
        f = self.flags
        return f.out or Path("runs") / f.env / f"{f.label or loading.stem(self.algorithm)}-seed{self.settings.seed}"


def run(wanted: Wanted) -> tuple[Path, dict]:
    """Trains in a new run folder: (the folder, its final figures).

    Raises:
        UserError: whatever cannot run; no folder is made then.
    """
    compiled.make_room()
    wanted = sized(wanted)
    f, settings, swept = wanted.flags, wanted.settings, wanted.swept
    earlier = prior.load(f.prior, settings.seeds // (len(swept) or 1), f.prior_seed) if f.prior else None
    opened, weights, about = ready(wanted, earlier)
    out, driver, settings, given = wanted.place, opened.driver, opened.settings, opened.inputs.given
    say_no_success(f, opened)
    kept = {
        "algorithm": wanted.algorithm,
        "label": f.label or wanted.algorithm,
        "env": f.env,
        "env_python": getattr(opened.program.env, "python", ""),
        "env_versions": getattr(opened.program.env, "versions", {}),
        "objective": weights,
        "driver": driver.name,
        "seed": settings.seed,
        "seeds": settings.seeds,
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.device_count(),
        "precision": nets.precision(),
        "sampling_precision": os.environ.get(nets.SAMPLING, ""),
        "prior": earlier and earlier.about,
        "data": about,
        "log_to": f.log_to,
        "checkpoint_minutes": f.checkpoint_minutes,
        "config": dataclasses.asdict(wanted.config),
        "settings": dataclasses.asdict(settings),
        **({SWEPT: swept} if swept else {}),
    }
    kept["sources"] = sources.digests(kept)
    folder = run_folder.create(out, kept, functools.partial(fill, given, kept))
    with stopping.undone(lambda: discard(folder)), folder:
        folder.sinks += sinks.sinks_by_name(f.log_to, folder)
        return out, drive(folder, opened, (None, None), 0, f.checkpoint_minutes, f.quiet)


def sized(wanted: Wanted) -> Wanted:
    """The same; without a simulator the environment's name says the sizes and types of the data."""
    f = wanted.flags
    return dataclasses.replace(wanted, flags=dataclasses.replace(f, env=held_out.sized(f.env, f.data)))


def ready(wanted: Wanted, earlier: prior.Prior | None) -> tuple[Opened, dict, dict[str, Any] | None]:
    """(what a run is made of, the weights of its objective, what its configuration keeps of its data).

    Args:
        earlier: what it stands on; without modules where that is not trained yet.

    Raises:
        UserError: whatever cannot run. Nothing is made here.
    """
    algorithm, f, c, settings, swept = wanted.algorithm, wanted.flags, wanted.config, wanted.settings, wanted.swept
    build, driver = wanted.build or registry.builder(algorithm)[0], registry.driver_of(type(c))
    for part in (f, c, settings):
        validate(part)
    driver.check_read(c)
    env_names.check_env(f.env)
    check_place(wanted.place)
    sinks.check(f.log_to)
    if f.prior is None and f.prior_seed is not None:
        raise UserError(
            f"--prior-seed {f.prior_seed} is a place among a prior's seeds", "give --prior RUN, too, or leave it out"
        )
    settings, weights = driver.resolve(settings), objective.parse(f.objective)
    env = envs.make(f.env, c.chunk.history, weights, f.env_python)
    prior.check(earlier, algorithm, c, settings, env)
    data, about = data_of(f, algorithm, env, driver, settings)
    if data is not None:
        row = sum(a.nbytes for a in jax.tree.leaves(data)) // len(data.reward)
        memory.check("a batch", settings.batch * settings.seeds * row, "give a smaller --batch or fewer --seeds")
    stood_on = repeated(earlier.given if earlier else {}, len(swept) or 1)
    given = {**stood_on, **for_each(settings.seeds, objective.weights_given(weights))}
    program, x = assemble(build, c, env, settings, given, data, swept)
    check_devices(program, settings)
    program.algorithm(c)  # says what does not fit together before anything is made
    driver.check(program, x, settings)
    if earlier is None or earlier.about:  # what it stands on is there
        check_memory(Opened(driver, settings, program, x))
        check_acting(program, x)
        once, args, _ = driver.unit(program, x, settings)
        jax.eval_shape(once, *args)  # what an update cannot do is found before a folder is made; jit keeps the trace
        prior.check_used(program, x, (once, args))
    return Opened(driver, settings, program, x, swept), weights, about


def check_memory(p: Opened) -> None:
    """Refuses networks, environments and replay that this machine could never hold: compiling them would take for ever, too.

    Raises:
        UserError: says which, and how much it would take.
    """
    learner, state = bytes_of(p)
    memory.check("the learner", learner, "give smaller networks or fewer --seeds")
    memory.check("the state of play", state, "give fewer --envs or --seeds, or a smaller --capacity")
    evaluation.check(p.program, p.settings.episodes, p.config.chunk)


def discard(folder: run_folder.RunFolder) -> None:
    """Removes a new run's folder where nothing was trained, so that the same command can begin again."""
    if folder.discard():
        stopping.note("this run had trained nothing yet, and nothing of it is kept")


def fill(given: dict, kept: dict, folder: Path) -> None:
    """What lies in a run's folder from the start: the frozen modules that it stands on, the files of the user's own."""
    save_given(given, folder)
    sources.save(kept, folder)


def data_of(
    f: TrainFlags, algorithm: str, env: Any, driver: Driver, settings: Any
) -> tuple[Dataset | None, dict[str, Any] | None]:
    """The data set of a run and what its configuration keeps of it; neither where it has none."""
    if not driver.takes_data and f.data:
        raise UserError(
            f"{algorithm} learns from what it plays", "leave --data out; a prior's data stay with the prior"
        )
    if f.data is None:
        if settings.offline_steps:
            raise UserError(
                f"{algorithm} learns from a data set", f"give --data FILE, made by: qchunk collect {f.env} --out FILE"
            )
        return None, None
    data, about = formats.for_env(f.data, env, f.env, stream=not settings.online_steps)
    return data, {"path": str(Path(f.data).resolve()), "fingerprint": about["fingerprint"], **meaning(about)}


def say_no_success(f: TrainFlags, p: Opened) -> None:
    """Says on stderr that a critic will see no success, where the task itself has judged the data: its only ends are successes."""
    data, env = p.inputs.data, p.program.env
    judges = hasattr(env, "relabel") or hasattr(env, "read")
    if data is not None and judges and getattr(p.config, "critic", None) is not None and not bool(data.terminal.any()):
        fix = "a critic learns from rewards alone, which are the same whatever is done; collect more steps"
        print(f"warning: {f.data} holds no success of {f.env}: {fix}", file=sys.stderr)


def resume(folder: Path, f: Going | None = None) -> dict:
    """Goes on from a checkpoint to the same bits as a run that was never stopped: its final figures.

    Raises:
        UserError: nothing to go on with, its checkpoints are gone, or its data have changed.
    """
    f = f or Going()
    validate(f)
    with run_folder.open_run(folder) as run, stopping.hint(how_to_go_on(folder)):
        opened = resuming.extended(run, rebuild(run.config, folder, joint=True), f)
        if run.config["data"]:
            data = resuming.same_data(run.path, run.config, opened, f.data)
            opened = opened._replace(inputs=opened.inputs._replace(data=data))
        elif f.data:
            raise UserError(f"{folder} learns from what it plays", "leave --data out")
        state, began = restore(folder, opened, f.step)
        if state[0] is None and resuming.saved_before(run):
            fix = f"put {run.checkpoints} back as it was, or train a new run with --out"
            raise UserError(f"{folder} has saved checkpoints, and none of them can be used now", fix)
        resuming.refuse_finished(run, opened, began)
        for line in resuming.changes(run, opened, began):
            print(f"{folder}: {line}", file=sys.stderr)
        keep_changes(run, opened, f)
        # here, so that no second copy lives as long as the run
        state = spread(opened.settings.seeds, state, opened.inputs.share)
        run.rewind(began)
        log_to = f.log_to or tuple(run.config.get("log_to", ()))
        run.sinks += sinks.sinks_by_name(log_to if hosts.first() else (), run)
        minutes = run.config.get("checkpoint_minutes", 0.0) if f.checkpoint_minutes is None else f.checkpoint_minutes
        return drive(run, opened, state, began, minutes, f.quiet)


def keep_changes(run: run_folder.RunFolder, p: Opened, f: Going) -> None:
    """Writes into config.json what the run is gone on with from now on: more steps, and where its data lie.

    Raises:
        UserError: steps that the run cannot have.
    """
    p.driver.check(p.program, p.inputs, p.settings)
    names = (*resuming.MORE, "devices_per_seed")
    more = {n: getattr(p.settings, n) for n in names if getattr(f, n) is not None}
    found: dict[str, Any] = {"settings": {**run.config["settings"], **more}} if more else {}
    if f.data:
        found["data"] = {**run.config["data"], "path": str(Path(f.data).resolve())}
    if found:
        run.change(found)


def how_to_go_on(folder: Path) -> str:
    """For the line after a signal."""
    return f"go on with: qchunk train --resume {typed(folder)}"


def drive(run: run_folder.RunFolder, p: Opened, state: tuple, began: int, minutes: float, quiet: bool) -> dict:
    """Consumes a driver's events: logs, saves, shows; then sums the run up and returns its final figures.

    A signal to stop is answered at the next event after which nothing is due at its step: a checkpoint, then Stopped.

    Args:
        minutes: after which a checkpoint is saved besides the driver's own; 0: none.
    """
    hosts.meet(mesh(p.settings.seeds, p.inputs.share), [resuming.in_common(run.config), began])
    total, saved = resuming.last_step(p), time.monotonic()
    events = p.driver.run(p.program, p.inputs, p.settings, *state)
    title = f"{run.config['label']} on {run.config['env']}"
    lost, spare, scores = False, last_finite(run.checkpoints, began), {}
    with Bar(total, began, quiet, title) as bar, contextlib.ExitStack() as stack, closed(p.program):
        for event in events if began < total else ():
            bar.show(event)
            if event.kind == "diverged":
                lost = True
                say_diverged(event, p.lanes, spare)
            if event.kind not in ("checkpoint", "progress"):
                run.log(event.kind, event.step, event.values)
            if event.kind == "eval":
                scores = {event.step: score(event)}
            asked, over = hosts.agreed(stopping.asked(), bool(minutes and time.monotonic() - saved > 60 * minutes))
            extra = event.kind != "compile" and event.settled and (asked or over)
            if event.kind == "checkpoint" or extra:
                spare = spare if lost else event.step
                save(run, event, total, not lost, spare, None if lost else scores.get(event.step))
                saved, (asked,) = time.monotonic(), hosts.agreed(stopping.asked())
            if event.settled and event.step < total and asked:
                stopping.note(f"step {event.step} is saved")
                stopping.ask()  # another host may have been
                hosts.let_go()
                stopping.check()
            if event.kind == "compile":  # from here on there is something to lose
                stack.enter_context(stopping.hint(how_to_go_on(run.path)))
                stack.enter_context(stopping.saving())
        run.settle()
        figures = final_figures(run.path)
        run.finish(figures)
    return figures


def say_diverged(event: Event, names: Sequence[str], spare: int | None) -> None:
    """Says on stderr which seeds have diverged, and which checkpoint is good."""
    seeds = ", ".join(names[int(i)] for i in np.flatnonzero(event.values["diverged"]))
    kept = (
        "no checkpoint was saved before" if spare is None else f"the last finite checkpoint, of step {spare}, is kept"
    )
    at = int(event.values["diverged_at"][0])
    print(
        f"diverged: at update {at} the loss or the parameters of seed {seeds} are not finite; {kept}", file=sys.stderr
    )


def score(event: Event) -> Scored | None:
    """How good an evaluation was, over all seeds: the mean of what runs are compared by; None where that is no number."""
    figure = run_folder.compared(event.values)
    found = float(np.mean(event.values[figure]))
    return Scored(figure, found, event.step) if np.isfinite(found) else None


def save(
    run: run_folder.RunFolder, event: Event, total: int, finite: bool, spare: int | None, score: Scored | None
) -> None:
    """Saves a checkpoint of an event; from then on the metrics tell of it. The best one stays, too.

    Args:
        finite: whether no seed has diverged.
        spare: the step of the last finite checkpoint, which stays.
        score: of the evaluation at this step, if there was one, and no seed has diverged.
    """
    # the last one leaves environments and replay behind: nothing follows it, and they are most of a run's disk
    playing = event.state is not None and event.step < total
    tree = {"learner": event.learner} | ({"state": event.state} if playing else {})
    about = {**{n: run.config[n] for n in ("algorithm", "env", "config")}, "step": event.step, "state": playing}
    told = {} if score is None else {"score": score.value, "figure": score.figure}
    first = best([*scored(run.checkpoints, event.step), *([score] if score else [])])
    spared = {spare} | ({first.step} if first else set())
    tree = hosts.gathered(tree)
    if hosts.first():
        checkpoint.save(run.checkpoints, event.step, tree, {**about, "finite": finite, **told}, spare=spared)
    hosts.wait("saved")
    run.settle()
    run.log("checkpoint", event.step, {})


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
