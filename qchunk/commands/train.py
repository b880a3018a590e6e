"""``qchunk train``: makes a run folder, or goes on with one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from qchunk import envs, names, registry
from qchunk.commands import flags, stages
from qchunk.commands.shared import print_figures
from qchunk.config import from_dict, validate
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.drivers import offline as training
from qchunk.drivers import on_policy, online
from qchunk.envs import objective
from qchunk.envs.host.pool import HostEnv
from qchunk.runs import checkpoint, prior, run_folder, sinks
from qchunk.runs.opened import Parts, drivers, rebuild, restore, save_given
from qchunk.runs.progress import Bar
from qchunk.seeds import for_each, spread
from qchunk.system.errors import UserError


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
    """An earlier run, whose modules this one stands on and never trains."""
    prior_seed: int | None = None
    """The place among the prior's seeds that every seed stands on; by default each on its own."""
    log_to: tuple[str, ...] = ()
    """Also log to: tensorboard, wandb (optional extras)."""
    json: bool = False
    """Print the final figures as JSON to stdout."""
    quiet: bool = False
    """No progress bar and no closing lines."""


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """Going on with a run."""

    resume: Path
    """The run folder."""
    step: int | None = None
    """The checkpoint to go on from; by default the newest."""
    log_to: tuple[str, ...] = ()
    """Also log to: tensorboard, wandb (optional extras)."""
    json: bool = False
    """Print the final figures as JSON to stdout."""
    quiet: bool = False
    """No progress bar and no closing lines."""


NO_ONLINE = online.OnlineSettings()


def train(argv: list[str]) -> None:
    """``qchunk train ALGO --env ENV --data DATA [any field] [--then ALGO [fields]]`` and ``qchunk train --resume RUN``."""
    if any(a.split("=")[0] == "--resume" for a in argv):
        (f,) = flags.parse("train", argv, ResumeFlags)
        return stages.resume(f.resume, train) if (f.resume / stages.FILE).is_file() else resume(f)
    if stages.THEN in argv:
        return stages.run(argv, TrainFlags, train)
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & set(argv):
            print("usage: qchunk train ALGO --env ENV --data DATA [fields]; qchunk train ALGO --help shows the fields")
            print(f"algorithms: {', '.join(names.ALGORITHMS)}, or yours as my_file.py:my_function")
            return None
        raise UserError("train needs an algorithm first", "qchunk train ALGO --env ENV --data DATA; see qchunk list")
    build, config_class = registry.builder(argv[0])
    f, c, settings, more = parse(argv, config_class)
    run(argv[0], f, c, settings, more, build)
    return None


def parse(argv: list[str], config_class: type) -> list[Any]:
    """The flags of a run; what a prior has settled (its actor, its chunks, its units) is the default."""
    c, (settings, *more) = config_class(), [cls() for cls in drivers(config_class)]
    folder = flags.value_of(argv, "--prior")
    if folder and (field := prior.field_of(c)):
        kept = run_folder.read_config(Path(folder))["config"]
        before = from_dict(registry.builder(kept["algorithm"])[1], kept["config"])
        chunk = before.chunk if field == "given" else prior.sizes(c.chunk, before.chunk)
        c = dataclasses.replace(c, chunk=chunk, **{field: prior.actor_of(before, folder)})
        units = {n: kept["settings"][n] for n in ("normalise_obs", "normalise_action")}
        settings = dataclasses.replace(settings, **units)
    return [*flags.parse(f"train {argv[0]}", argv[1:], TrainFlags, c, settings, *more), *([] if more else [None])]


def run(algorithm: str, f: TrainFlags, c: Any, settings: Any, more: Any = NO_ONLINE, build: Any = None) -> Path:
    """Trains in a new run folder and returns it; also what experiments call."""
    build = build or registry.builder(algorithm)[0]
    names.check_env(f.env)
    validate(c)
    on = isinstance(settings, on_policy.Settings)
    more = None if on else more
    settings = settings if on else training.resolve(settings)
    weights = objective.parse(f.objective)
    env = envs.make(f.env, c.chunk.history, weights)
    earlier = prior.load(f.prior, settings.seeds, f.prior_seed) if f.prior else None
    prior.check(earlier, algorithm, c, settings, env)
    data, about = data_of(f, algorithm, env, on)
    if on:
        on_policy.check(c, settings, env, earlier.given if earlier else {})
    else:
        training.check(c, settings, data)
        online.check(c, settings, more)
    out = f.out or Path("runs") / f.env / f"{f.label or Path(algorithm).stem.replace(':', '-')}-seed{settings.seed}"
    kept = {
        "algorithm": algorithm,
        "label": f.label or algorithm,
        "env": f.env,
        "objective": weights,
        "driver": "on_policy" if on else "offline_to_online" if more and more.online_steps else "offline",
        "seed": settings.seed,
        "seeds": settings.seeds,
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.local_device_count(),
        "prior": earlier and earlier.about,
        "data": about,
        "config": dataclasses.asdict(c),
        "settings": dataclasses.asdict(settings),
        "online": more and dataclasses.asdict(more),
    }
    given = {**(earlier.given if earlier else {}), **for_each(settings.seeds, objective.weights_given(weights))}
    with run_folder.create(out, kept, functools.partial(save_given, given)) as folder:
        folder.sinks += sinks.sinks_by_name(f.log_to, out)
        drive(folder, Parts(build, c, settings, more, env, given), data, (None, None), 0, f)
    return out


def data_of(f: TrainFlags, algorithm: str, env: Any, on: bool) -> tuple[Dataset | None, dict[str, str] | None]:
    """The data set of a run and what its configuration keeps of it; neither for an on-policy method."""
    if on and f.data:
        raise UserError(
            f"{algorithm} learns from what it plays", "leave --data out; a prior's data stay with the prior"
        )
    if on:
        return None, None
    if f.data is None:
        raise UserError(f"{algorithm} learns from a data set", f"give --data FILE, made by: qchunk collect {f.env}")
    data, about = formats.for_env(f.data, env, f.env)
    return data, {"path": str(Path(f.data).resolve()), "fingerprint": about["fingerprint"]}


def resume(f: ResumeFlags) -> None:
    """Goes on from a checkpoint to the same bits as a run that was never stopped."""
    with run_folder.open_run(f.resume) as run:
        run.sinks += sinks.sinks_by_name(f.log_to, f.resume)
        kept = run.config
        parts = rebuild(kept, f.resume)
        data = None
        if kept["data"]:
            data, about = formats.for_env(Path(kept["data"]["path"]), parts.env, kept["env"])
            if about["fingerprint"] != kept["data"]["fingerprint"]:
                fix = f"put the data set with fingerprint {kept['data']['fingerprint']} back"
                raise UserError(f"{kept['data']['path']} has changed since the run began", fix)
        made, here = kept.get("devices", 1), jax.local_device_count()
        if made != here:
            fix = f"for the same ones set JAX_NUM_CPU_DEVICES={made}"
            print(f"{f.resume} was made on {made} devices, here are {here}: bits may differ; {fix}", file=sys.stderr)
        state, step = restore(f.resume, parts, f.step)
        state = spread(parts.settings.seeds, state)  # here, so that no second copy lives as long as the run
        run.rewind(step)
        drive(run, parts, data, state, step, f)


def events_of(p: Parts, data: Dataset | None, state: tuple) -> tuple[int, Iterator[training.Event]]:
    """The last step of a run, and its driver at work."""
    more = {"env": p.env, "settings": p.settings, "learner": state[0], "state": state[1]}
    if p.online is None:
        return on_policy.total_steps(p.c, p.settings), on_policy.on_policy(p.build, p.c, p.given, **more)
    events = online.offline_to_online(p.build, p.c, p.given, **more, data=data, online=p.online)
    return online.total_steps(p.c, p.settings, p.online), events


def drive(run: run_folder.Run, p: Parts, data: Dataset | None, state: tuple, began: int, f: Any) -> None:
    """Consumes a driver's events: logs, saves, shows; then sums the run up."""
    total, events = events_of(p, data, state)
    if began >= total and (run.path / run_folder.SUMMARY).exists():
        raise UserError(f"{run.path} is finished: all {total} steps are done", "qchunk eval it")
    about = {"algorithm": run.config["algorithm"], "env": run.config["env"]}
    title = f"{run.config['label']} on {run.config['env']}"
    with Bar(total, began, f.quiet, title) as bar, going_on(run.path), contextlib.ExitStack() as after:
        if isinstance(p.env, HostEnv):
            after.callback(p.env.close)
        for event in events if began < total else ():
            bar.show(event)
            if event.kind == "checkpoint":
                # the last one leaves environments and replay behind: nothing follows it, and they are most of a run's disk
                playing = event.online is not None and event.step < total
                tree = {"learner": event.learner} | ({"online": event.online} if playing else {})
                about |= {"step": event.step, "online": playing}
                checkpoint.save(run.checkpoints, event.step, tree, about)
            else:
                run.log(event.kind, event.step, event.values)
    figures = final_figures(run.path)
    run.finish(figures)
    print_figures(figures, f, f"run folder: {run.path}")


def final_figures(folder: Path) -> dict[str, dict]:
    """A run's last evaluation, its compile time and its last speed, read from its metrics."""
    found: dict[str, Any] = {}
    for line in run_folder.read_metrics(folder):
        wanted = ("updates_per_second", "env_steps_per_second") if line["kind"] == "train" else tuple(line["values"])
        found.update({name: line["values"][name] for name in wanted if name in line["values"]})
    return {name: run_folder.figure(values) for name, values in found.items()}


@contextlib.contextmanager
def going_on(path: Path) -> Iterator[None]:
    """Tells on Ctrl-C how to go on with the run."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; go on with: qchunk train --resume {path}", file=sys.stderr)
        raise
