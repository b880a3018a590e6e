"""What the commands do. Each parses its flags, calls the library, and prints figures to stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from qchunk import checkpoint, envs, flags, names, normalise, online, runs
from qchunk import collect as collecting
from qchunk import train as training
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.errors import UserError, unknown
from qchunk.execute import parse, receding
from qchunk.progress import Bar
from qchunk.types import Learner, Spec, view


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """Where a run reads and writes."""

    env: str
    """Environment to evaluate in: qchunk list envs."""
    data: Path
    """Data set to train on: qchunk collect."""
    out: Path | None = None
    """Run folder to make; by default runs/ENV/ALGO-seedSEED."""
    label: str = ""
    """Name in tables and plots; by default the algorithm's."""
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
    """``qchunk train ALGO --env ENV --data DATA [any field]`` and ``qchunk train --resume RUN``."""
    if any(a.split("=")[0] == "--resume" for a in argv):
        (f,) = flags.parse("train", argv, ResumeFlags)
        return resume(f)
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & set(argv):
            print("usage: qchunk train ALGO --env ENV --data DATA [fields]; qchunk train ALGO --help shows the fields")
            print(f"algorithms: {', '.join(names.ALGORITHMS)}, or yours as my_file.py:my_function")
            return None
        raise UserError("train needs an algorithm first", "qchunk train ALGO --env ENV --data DATA; see qchunk list")
    build, config_class = flags.builder(argv[0])
    parts = (TrainFlags, config_class, training.Settings, online.OnlineSettings)
    f, c, settings, more = flags.parse(f"train {argv[0]}", argv[1:], *parts)
    run(argv[0], f, c, settings, more, build)
    return None


def run(algorithm: str, f: TrainFlags, c: Any, settings: Any, more: Any = NO_ONLINE, build: Any = None) -> Path:
    """Trains in a new run folder and returns it; also what experiments call."""
    build = build or flags.builder(algorithm)[0]
    names.check_env(f.env)
    settings = training.resolve(settings)
    env = envs.make(f.env)
    data, about = formats.for_env(f.data, env, f.env)
    training.check(c, settings, data)
    online.check(c, settings, more)
    out = f.out or Path("runs") / f.env / f"{f.label or Path(algorithm).stem.replace(':', '-')}-seed{settings.seed}"
    kept = {
        "algorithm": algorithm,
        "label": f.label or algorithm,
        "env": f.env,
        "driver": "offline_to_online" if more.online_steps else "offline",
        "seed": settings.seed,
        "seeds": settings.seeds,
        "device": str(jax.devices()[0].device_kind),
        "data": {"path": str(Path(f.data).resolve()), "fingerprint": about["fingerprint"]},
        "config": dataclasses.asdict(c),
        "settings": dataclasses.asdict(settings),
        "online": dataclasses.asdict(more),
    }
    with runs.create(out, kept) as folder:
        folder.sinks += runs.sinks_by_name(f.log_to, out)
        _drive(folder, _Parts(build, c, settings, more, env), data, (None, None), 0, f)
    return out


def resume(f: ResumeFlags) -> None:
    """Goes on from a checkpoint to the same bits as a run that was never stopped."""
    with runs.open_run(f.resume) as run:
        run.sinks += runs.sinks_by_name(f.log_to, f.resume)
        kept = run.config
        parts = _rebuild(kept)
        data, about = formats.for_env(Path(kept["data"]["path"]), parts.env, kept["env"])
        if about["fingerprint"] != kept["data"]["fingerprint"]:
            fix = f"put the data set with fingerprint {kept['data']['fingerprint']} back"
            raise UserError(f"{kept['data']['path']} has changed since the run began", fix)
        state, step = _restore(f.resume, parts, f.step)
        run.rewind(step)
        _drive(run, parts, data, state, step, f)


class _Parts(NamedTuple):
    """What a run is made of, besides its data."""

    build: Any
    c: Any
    settings: training.Settings
    online: online.OnlineSettings
    env: Any


def _rebuild(kept: dict) -> _Parts:
    build, config_class = flags.builder(kept["algorithm"])
    c = flags.from_dict(config_class, kept["config"])
    settings = flags.from_dict(training.Settings, kept["settings"])
    return _Parts(build, c, settings, flags.from_dict(online.OnlineSettings, kept["online"]), envs.make(kept["env"]))


def _restore(folder: Path, p: _Parts, step: int | None) -> tuple[tuple[Learner | None, Any], int]:
    """(learner, online part or None) of a checkpoint, and its step; None and 0 where the run never saved one."""
    where = folder / "checkpoints"
    if step is None and not checkpoint.steps(where):
        return (None, None), 0
    spec = Spec(p.env.observation_size, p.env.action_size, p.c.chunk.horizon)
    learner = jax.eval_shape(lambda: training.init(p.build, p.c, {}, spec, p.settings))
    like = {"learner": learner}
    if checkpoint.about(where, step).get("online"):
        like["online"] = online.state_like(p.build, p.env, learner, p.c, p.settings, p.online)
    tree, about = checkpoint.restore(where, like, step)
    tree = jax.tree.map(jax.numpy.asarray, tree)
    normalise.check(tree["learner"], p.settings.normalise_obs, p.settings.normalise_action)
    return (tree["learner"], tree.get("online")), int(about["step"])


def _learner(folder: Path, p: _Parts, step: int | None) -> tuple[Learner, int]:
    """The learner of a checkpoint that must be there."""
    (learner, _), at = _restore(folder, p, step)
    if learner is None:
        raise UserError(f"{folder} has no checkpoint yet", f"go on with qchunk train --resume {folder}")
    return learner, at


def _drive(run: runs.Run, p: _Parts, data: Dataset, state: tuple, began: int, f: Any) -> None:
    """Consumes a driver's events: logs, saves, shows; then sums the run up."""
    total = online.total_steps(p.c, p.settings, p.online)
    if began >= total and (run.path / runs.SUMMARY).exists():
        raise UserError(f"{run.path} is finished: all {total} steps are done", "qchunk eval it")
    about = {"algorithm": run.config["algorithm"], "env": run.config["env"]}
    more = {"env": p.env, "data": data, "settings": p.settings, "online": p.online}
    events = online.offline_to_online(p.build, p.c, {}, **more, learner=state[0], state=state[1])
    title = f"{run.config['label']} on {run.config['env']}"
    with Bar(total, began, f.quiet, title) as bar, going_on(run.path):
        for event in events:
            bar.show(event)
            if event.kind == "checkpoint":
                tree = {"learner": event.learner} | ({} if event.online is None else {"online": event.online})
                about |= {"step": event.step, "online": event.online is not None}
                checkpoint.save(run.checkpoints, event.step, tree, about)
            else:
                run.log(event.kind, event.step, event.values)
    figures = final_figures(run.path)
    run.finish(figures)
    _print_figures(figures, f, f"run folder: {run.path}")


def final_figures(folder: Path) -> dict[str, dict]:
    """A run's last evaluation, its compile time and its last speed, read from its metrics."""
    found: dict[str, Any] = {}
    for line in runs.read_metrics(folder):
        wanted = ("updates_per_second", "env_steps_per_second") if line["kind"] == "train" else tuple(line["values"])
        found.update({name: line["values"][name] for name in wanted if name in line["values"]})
    return {name: runs.figure(values) for name, values in found.items()}


@contextlib.contextmanager
def going_on(path: Path) -> Iterator[None]:
    """Tells on Ctrl-C how to go on with the run."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; go on with: qchunk train --resume {path}", file=sys.stderr)
        raise


def _print_figures(figures: dict[str, dict], f: Any, closing: str) -> None:
    if f.json:
        print(json.dumps(figures))
    elif not f.quiet:
        for name, figure in figures.items():
            per_seed = ", ".join(f"{x:.4g}" for x in figure["per_seed"])
            print(f"{name:20} {figure['mean']:10.4g}" + (f"   per seed: {per_seed}" if "," in per_seed else ""))
        print(closing)


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Evaluation of a run."""

    episodes: int = 100
    """Episodes per seed."""
    execute: str = ""
    """open-loop or receding:STEPS; by default as the run was evaluated."""
    seed: int = 1000
    """Seed of the start states; training evaluates on others."""
    step: int | None = None
    """The checkpoint; by default the newest."""
    json: bool = False
    """Print the figures as JSON to stdout."""
    quiet: bool = False
    """Print nothing but --json."""


def evaluate(argv: list[str]) -> None:
    """``qchunk eval RUN --episodes 100``."""
    folder, rest = _positional("eval", argv, "a run folder")
    (f,) = flags.parse("eval", rest, EvalFlags)
    if f.episodes < 1:
        raise UserError(f"--episodes {f.episodes} is below 1", "give a positive whole number")
    p = _rebuild(runs.read_config(Path(folder))["config"])
    shown = dataclasses.replace(p.settings, episodes=f.episodes, execute=f.execute or p.settings.execute)
    parse(shown.execute, p.c.chunk.horizon)
    learner, step = _learner(Path(folder), p, f.step)
    values = training.evaluate(p.build, p.env, shown, learner, p.c, {}, base=f.seed)
    _print_figures({k: runs.figure(v) for k, v in values.items()}, f, f"checkpoint: step {step} of {folder}")


@dataclasses.dataclass(frozen=True)
class CollectFlags:
    """A data set to make."""

    out: Path
    """File to write (.npz); it must not exist."""
    policy: str = ""
    """A scripted behaviour (play, noisy, random), or a run folder; by default the environment's first."""
    steps: int = 200_000
    """Transitions, at least."""
    envs: int = 200
    """E, environments in parallel."""
    episode_length: int = 1000
    """Environment steps after which an episode is cut; at most this."""
    seed: int = 0
    """Seed of everything drawn."""
    json: bool = False
    """Print what was collected as JSON to stdout."""
    quiet: bool = False
    """No progress bar and no closing line."""


def collect(argv: list[str]) -> None:
    """``qchunk collect ENV --out DATA [--policy play|noisy|random|RUN]``."""
    name, rest = _positional("collect", argv, "an environment")
    (f,) = flags.parse("collect", rest, CollectFlags)
    collect_to(name, f)


def collect_to(name: str, f: CollectFlags) -> None:
    """Collects a data set into a new file; also what experiments call."""
    names.check_env(name, scene_too=True)
    out = f.out if f.out.suffix == ".npz" else f.out.with_name(f.out.name + ".npz")
    if out.exists():
        raise UserError(f"{out} exists already", "pass --out with a new file")
    if min(f.steps, f.envs, f.episode_length) < 1:
        raise UserError("--steps, --envs and --episode-length must be positive", "give positive whole numbers")
    env = envs.make(name)
    if (Path(f.policy) / runs.CONFIG).is_file():
        scheme, vars = _learned(Path(f.policy), name)
    else:
        env = getattr(env, "scene", env)  # a scripted data set serves every task of a scene
        scheme, vars = collecting.scheme_of(env, f.policy or None), collecting.NO_VARS
    count = max(1, min(f.envs, -(-f.steps // f.episode_length)))
    with Bar(f.steps, 0, f.quiet, f"collecting {name}") as bar:
        rows = collecting.collect(
            env,
            scheme,
            vars,
            jax.random.key(f.seed),
            steps=f.steps,
            envs=count,
            episode_length=f.episode_length,
            progress=bar.move,
        )
    wanted = getattr(env, "data_name", name)
    about = {"env": wanted, "policy": f.policy or "default", "seed": f.seed, "versions": runs.versions()}
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = formats.save(out, rows, about)
    found = {
        "path": str(out),
        "transitions": int((~rows.end).sum()),
        "episodes": int(rows.end.sum()),
        "fingerprint": mark,
    }
    if f.json:
        print(json.dumps(found))
    elif not f.quiet:
        print(f"{found['transitions']} transitions in {found['episodes']} episodes of {wanted} -> {out} ({mark})")


def _learned(folder: Path, name: str) -> tuple[Any, Any]:
    """Scheme and variables of a run's first seed, collecting with its exploring policy."""
    kept = runs.read_config(folder)["config"]
    if kept["env"] != name:
        raise UserError(f"the run {folder} is of {kept['env']}", f"collect {kept['env']}, or take a run of {name}")
    p = _rebuild(kept)
    learner, _ = _learner(folder, p, None)
    first = jax.tree.map(lambda x: x[0], learner._replace(step=learner.step[None]))
    return receding(training.in_units(p.build, p.settings)(p.c).explore, p.c.chunk.horizon), view(first, {})


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """A report to write."""

    out: Path = Path("report")
    """Folder for table.md, table.csv, curves.png, clock.png and report.html."""


def report(argv: list[str]) -> None:
    """``qchunk report RUN... --out DIR``."""
    from qchunk import report as reporting

    folders = []
    for arg in argv:
        if arg.startswith("-"):
            break
        folders.append(arg)
    (f,) = flags.parse("report", argv[len(folders) :], ReportFlags)
    if not folders:
        raise UserError("report needs at least one run folder", "qchunk report RUN... --out DIR")
    reporting.write_report([Path(p) for p in folders], f.out)
    print((f.out / "table.md").read_text())
    print(f"report: {f.out / 'report.html'}")


def bench(argv: list[str]) -> None:
    """``qchunk bench [NAME...]``: runs the files of benchmarks/, which lie in the repository, not in the wheel."""
    import runpy

    folder = Path(__file__).resolve().parent.parent / "benchmarks"
    found = {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}
    if {"-h", "--help"} & set(argv):
        print(f"usage: qchunk bench [{'|'.join(found) or 'NAME'}] ...")
        return
    if not found:
        raise UserError(
            "qchunk bench needs the repository: this install has no benchmarks/", "clone it and run make bench"
        )
    for name in argv:
        if name not in found:
            raise unknown("benchmark", name, found)
    sys.path.insert(0, str(folder))  # what they share
    for name in argv or found:
        sys.argv = [str(found[name])]
        runpy.run_path(str(found[name]), run_name="__main__")


def _positional(command: str, argv: list[str], what: str) -> tuple[str, list[str]]:
    if {"-h", "--help"} & set(argv):
        return "", ["--help"]
    if not argv or argv[0].startswith("-"):
        raise UserError(f"{command} needs {what} first", f"qchunk {command} --help shows how")
    return argv[0], argv[1:]
