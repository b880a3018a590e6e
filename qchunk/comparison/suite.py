"""A suite is a list of runs: what is there is skipped, what was interrupted goes on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qchunk import env_names, envs, registry
from qchunk.comparison import standing
from qchunk.comparison.literature import Published
from qchunk.config import filled, validate
from qchunk.data import formats
from qchunk.drivers.common import Amount, Driver, DriverSettings
from qchunk.envs import held_out
from qchunk.reporting import origins, records
from qchunk.runs import run_folder, sinks, sources, training
from qchunk.runs.recording import CollectFlags, collect_to
from qchunk.runs.resuming import Going
from qchunk.runs.training import TrainFlags, Wanted
from qchunk.system import installed, loading, schema, stopping, tracebacks
from qchunk.system.errors import UserError, typed
from qchunk.system.files import is_taken, make_folder, write_json
from qchunk.varied import Swept


class Data(NamedTuple):
    """A data set to collect."""

    env: str
    steps: int
    policies: tuple[str, ...] = ()  # scripted behaviours, or ENV/LABEL of earlier runs of the suite
    episode_length: int = 0  # 0: the environment's own
    seed: int = 0  # what is tuned learns from another data set than what is reported


class Run(NamedTuple):
    """One run of a suite."""

    algorithm: str
    env: str
    data: Data | Path | None  # None where a method learns from what it plays
    config: Any
    settings: DriverSettings  # of the driver that the configuration asks for
    label: str
    prior: str = ""  # ENV/LABEL of an earlier run of the suite, of as many seeds or of one, that this one stands on; or another's absolute path
    objective: tuple[str, ...] = ()
    swept: Swept = ()  # settings beside each other in one program; the seeds of ``settings`` are their lanes
    batch: str = ""  # " (seeds 4 to 7)", where another run of this label has the first ones

    @property
    def name(self) -> str:
        """ENV/LABEL, and its batch of seeds."""
        return name_of(self.env, self.label) + self.batch

    @property
    def driver(self) -> Driver:
        """Who trains it."""
        return registry.driver_of(type(self.config))

    @property
    def amount(self) -> Amount:
        """The updates and environment steps that it makes, for each seed."""
        algorithm = registry.builder(self.algorithm)[0](self.config)
        return self.driver.amount(algorithm, self.config, self.settings)


def name_of(env: str, label: str) -> str:
    """ENV/LABEL, below the folder of a suite: names that are paths of files of the user's own become one word."""
    own = env.replace("/", "-").strip(".-") if loading.is_own(env) else env
    return f"{own}/{label.replace('/', '-')}"


class Suite(NamedTuple):
    """What ``qchunk reproduce`` finds under the name SUITE in a file."""

    runs: Callable[[str], list[Run]]  # scale -> runs; "smoke" is "small" shrunk, and never passed
    scales: tuple[str, ...] = ("small",)  # of small and paper
    published: Published | None = None
    differences: Callable[[str], Sequence[str]] = lambda scale: ()  # scale -> each difference from what is reproduced
    execute: Callable[[Run], Sequence[str]] = lambda run: ()  # run -> schemes that play it once it is trained
    after: Callable[[Path, list[Run]], None] | None = (
        None  # (root, runs): pictures and tables of its own, into root/report
    )


# what fits seconds, by the field's name; the rest of a configuration stays as it is
SMOKE = {
    **{"seeds": 2, "episodes": 4, "offline_steps": 40, "eval_every": 20, "online_steps": 640, "online_eval_every": 320},
    **{"envs": 16, "decisions": 4, "epochs": 1, "minibatches": 2, "start_training": 64, "batch": 64},
    **{"steps": 3, "tuned_steps": 2, "ddim": 2, "n": 2, "hidden": 16},
}


def shrunk(c: Any) -> Any:
    """A configuration or settings with every number that costs time at most what ``SMOKE`` says."""
    made = {}
    for field in dataclasses.fields(c):
        value, most = getattr(c, field.name), SMOKE.get(field.name)
        if dataclasses.is_dataclass(value):
            made[field.name] = shrunk(value)
        elif field.name == "hidden":
            made[field.name] = tuple(min(width, most) for width in value)
        elif isinstance(value, int) and most is not None:
            made[field.name] = min(value, most)
    return dataclasses.replace(c, **made)


def smoke(run: Run) -> Run:
    """The same run in seconds: it shows that everything works, and nothing about how well."""
    data = run.data._replace(steps=min(run.data.steps, 10_000)) if isinstance(run.data, Data) else run.data
    parts = {name: shrunk(getattr(run, name)) for name in ("config", "settings")}
    return run._replace(data=data, **parts)


def chosen(suite: Sequence[Run], only: Sequence[str]) -> list[Run]:
    """The runs whose ENV/LABEL contains one of ``only`` (all where it is empty), and the runs that those stand on."""
    wanted = {r.name for r in suite if not only or any(text in r.name for text in only)}
    for r in reversed(suite):  # what a run stands on comes before it
        if r.name in wanted:
            wanted |= {*needs(r)}
    return [r for r in suite if r.name in wanted]


@dataclasses.dataclass(frozen=True)
class Leeway:
    """In what flags may differ from those that a folder was made by, which goes on all the same."""

    grows: Sequence[str] = ()
    """Flags whose lists may have become longer at their end: what they add is trained, the rest stays."""
    rises: Sequence[str] = ()
    """Flags whose numbers may have become larger, likewise."""
    places: Sequence[str] = ()
    """Flags whose paths may be others: whether what lies there is the same ``check`` asks, of every run."""
    stock: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The defaults of flags: what a folder was made with that is older than a flag."""
    apart: Mapping[str, Callable[[Any], Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    """Entries that hold several flags, and what tells these apart: their order says nothing, and what differs has its own name."""

    def differing(self, made: dict[str, Any], kept: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
        """(what the folder was ``made`` with of flags that may not differ, and do, in their order; the flags that ask for more)."""
        found = schema.as_json(self.stock) | made
        for name, parts in self.apart.items():
            before, now = (dict(parts(x.get(name) or [])) for x in (found, kept))
            odd = {n: before.get(n) for n in {**now, **before} if before.get(n) != now.get(n)}
            if odd:
                return odd, set()
            kept = {n: x for n, x in kept.items() if n != name}
        lists = {n: old for n in self.grows if isinstance(old := found.get(n, []), list)}
        more = {n for n, old in lists.items() if old != kept[n] == [*old, *kept[n][len(old) :]]}
        more |= {n for n in self.rises if isinstance(old := found.get(n, 0), int) and old < kept[n]}
        moved = {n for n in self.places if found.get(n) and kept[n]}
        return {n: found.get(n) for n in sorted(kept) if found.get(n) != kept[n] and n not in more | moved}, more


NO_LEEWAY = Leeway()


def claim(root: Path, kind: str, asked: dict[str, Any], leeway: Leeway = NO_LEEWAY, dry: bool = False) -> None:
    """Makes the folder of a comparison or a suite, or finds it made by the same flags, or by others that trained nothing yet.

    Args:
        kind: what it is; ROOT/KIND.json keeps ``asked``.
        dry: only look.

    Raises:
        UserError: the folder holds another one, or something else.
    """
    kept = schema.as_json(asked)
    path = root / f"{kind}.json"
    if is_taken(root) and not path.is_file():
        raise UserError(f"{root} exists and holds no {kind}", "pass --out with a new folder")
    if path.is_file():
        made = schema.read(path, dict[str, Any], "pass --out with a new folder")
        odd, more = leeway.differing(made, kept)
        if odd and (root / "runs").exists():
            name, old = next(iter(odd.items()))
            fix = f"pass --out with a new folder, or {_as_before(name, old, path)}"
            raise UserError(f"{root} holds a {kind} with another --{name.replace('_', '-')}", fix)
        if not odd and not more:
            return
    if dry:
        return
    make_folder(root)
    write_json(path, kept)


def _as_before(name: str, old: Any, path: Path) -> str:
    """What one does to ask for the value that a flag had, as ``path`` keeps it."""
    flag = name.replace("_", "-")
    if old is None:
        return f"leave --{flag} out"
    if isinstance(old, bool):
        return f"--{'' if old else 'no-'}{flag}"
    words = old if isinstance(old, list) else [old]
    if any(isinstance(word, dict) for word in words):
        return f"the {name} that {path} lists"
    return f"--{flag} {typed(*words)}".rstrip()


def file_of(data: Data, root: Path) -> Path:
    """Where a data set of a suite lies: another description has another name."""
    more = {"length": data.episode_length, "seed": data.seed}
    told = "".join(f"-{what}{number}" for what, number in more.items() if number)
    name = f"{data.env}-{'+'.join(data.policies) or 'default'}-{data.steps}{told}"
    return root / "data" / f"{name.replace('/', '-').replace(' ', '-')}.npz"


def collected(data: Data, root: Path, quiet: bool = False) -> Path:
    """The file of a data set, collected if it is not there.

    Raises:
        UserError: it was collected anew, and runs that are there stand on another.
    """
    out = file_of(data, root)
    if not out.exists():
        policies = tuple(str(root / "runs" / p) if (root / "runs" / p).is_dir() else p for p in data.policies)
        flags = CollectFlags(out, policies, data.steps, seed=data.seed, episode_length=data.episode_length, quiet=quiet)
        collect_to(data.env, flags)
        standing.same_as_before(out, root)
    return out


def folder_of(run: Run, root: Path) -> Path:
    """Where a run of a suite lies."""
    return root / "runs" / run.name


def finished(run: Run, root: Path) -> bool:
    """Whether a run of a suite has nothing left to do."""
    return (folder_of(run, root) / run_folder.SUMMARY).exists()


def check(suite: Sequence[Run], root: Path) -> None:
    """Refuses impossible runs, and folders of runs that were made otherwise, before anything is trained.

    Raises:
        UserError: names the field, or the folder and what differs.
    """
    prints: dict[Path, str] = {}
    for run in suite:
        env_names.check_env(run.env)
        for part in (run.config, run.settings):
            validate(part)
        folder = folder_of(run, root)
        if not (folder / run_folder.CONFIG).is_file():
            continue
        found = run_folder.read_config(folder)["config"]
        ours = {"config": run.config, "settings": run.driver.resolve(run.settings)}
        asked: dict[str, Any] = {"algorithm": run.algorithm, **{k: dataclasses.asdict(v) for k, v in ours.items()}}
        asked |= {"swept": run.swept} if run.swept or found.get("swept") else {}
        kept = records.flat(found | _whole(found, ours))
        odd = sorted(n for n, v in records.flat(schema.as_json(asked)).items() if kept.get(n) != v)
        fix = "remove the folder, or pass --out with a new one"
        if odd:
            raise UserError(f"{folder} was made with another {odd[0]}", fix)
        if edited := sources.changed(found):
            raise UserError(f"{edited[0]} has changed since {folder} was made", f"put it back; otherwise {fix}")
        if other := standing.otherwise(run, found, root, folder):
            raise UserError(f"{folder} was made with {other}", fix)
        if run.data:
            file = file_of(run.data, root) if isinstance(run.data, Data) else run.data
            if file not in prints:
                prints[file] = _fingerprint(file, run)
            standing.refuse_other(file, prints[file], found["data"], folder)


def _fingerprint(file: Path, run: Run) -> str:
    """Of a run's data set; "" of one that would be collected, and is not there."""
    if isinstance(run.data, Data):
        return standing.mark_of(file) if file.exists() else ""
    env = envs.make(held_out.sized(run.env, file), run.config.chunk.history)
    found = formats.mapped(file) or formats.read(file, env)
    return found[1]["fingerprint"]


def made_otherwise(name: str, suite: Sequence[Run], root: Path) -> None:
    """Says on stderr where finished runs stand beside others that would be trained by other code or packages now."""
    done = [r for r in suite if finished(r, root)]
    if not done or len(done) == len(suite):
        return
    here = {"config": {}, **installed.everything()}
    odd: dict[str, int] = {}
    for run in done:
        about = run_folder.read_config(folder_of(run, root))
        for what in origins.unlike([{**about, "config": {}}, here]):
            odd[what] = odd.get(what, 0) + 1
    if odd:
        told = ", ".join(f"{count} have another {what}" for what, count in odd.items())
        fix = "what is trained now may differ by that alone; to train all alike pass --out with a new folder"
        print(f"[{name}] of its {len(done)} finished runs {told}: {fix}", file=sys.stderr, flush=True)


def _whole(found: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The parts of a run's configuration, with what has become a setting since; nothing where it is of another kind than ours."""
    try:
        return filled({n: type(part) for n, part in ours.items()}, found)
    except UserError:
        return {}


def shown(suite: Sequence[Run]) -> list[Run]:
    """The runs that a report is about: without those of fewer seeds that others stand on."""
    used = {name for r in suite for name in needs(r)}
    most = max(r.settings.seeds for r in suite)
    return [r for r in suite if r.name not in used or r.settings.seeds == most]


class Trained(NamedTuple):
    """What became of the runs of a suite."""

    folders: dict[str, Path]  # by ENV/LABEL, of those that are finished
    failed: dict[str, str]  # by ENV/LABEL, why

    def of(self, suite: Sequence[Run]) -> list[Path]:
        """The finished folders of these runs."""
        return [self.folders[r.name] for r in suite if r.name in self.folders]

    def rows(self, suite: Sequence[Run]) -> list[tuple[str, str, str]]:
        """(environment, label, why) of these runs that failed."""
        return [(r.env, r.label, self.failed[r.name]) for r in suite if r.name in self.failed]

    def leave(self) -> None:
        """Ends the program with 1 where a run failed, and says which; for after the report.

        Raises:
            SystemExit: a run failed.
        """
        if self.failed:
            lines = [f"failed: {name}: {why}" for name, why in self.failed.items()]
            print("\n".join([*lines, "the same command tries these again"]), file=sys.stderr, flush=True)
            sys.exit(1)


def train_all(
    name: str,
    suite: Sequence[Run],
    root: Path,
    quiet: bool = False,
    log_to: tuple[str, ...] = (),
    left: Callable[[Sequence[Run], int, Path], str] = lambda suite, done, root: "",
) -> Trained:
    """Runs what is missing. A run that fails is shown with its line, and the others go on; what stands on it fails with it.

    Args:
        log_to: other places that want the metrics of every run: tensorboard, wandb.
        left: (suite, how many of its runs are done, root) -> how long the others will take, in words, or "".
    """
    quiet = quiet or not sys.stderr.isatty()
    sinks.check(log_to)
    check(suite, root)
    made_otherwise(name, suite, root)
    found = Trained({}, {})
    with stopping.hint("the same command goes on"):
        for i, run in enumerate(suite, 1):
            stopping.check()
            then = left(suite, i - 1, root)
            more = f"; {then}" if then else ""
            print(f"[{name} {i}/{len(suite)}] {run.label} on {run.env}{more}", file=sys.stderr, flush=True)
            if broken := next((n for n in needs(run) if n in found.failed), ""):
                found.failed[run.name] = f"it stands on {broken}, which failed"
                continue
            try:
                if not finished(run, root):
                    train_one(run, root, quiet, log_to)
            except (Exception, SystemExit) as e:  # code of the user's may end a program, but not the other runs
                found.failed[run.name] = tracebacks.line_of(e)
                print(f"[{name} {i}/{len(suite)}] failed: {found.failed[run.name]}", file=sys.stderr, flush=True)
            else:
                found.folders[run.name] = folder_of(run, root)
    return found


def train_one(run: Run, root: Path, quiet: bool, log_to: tuple[str, ...]) -> None:
    """Trains a run of a suite, or goes on with it."""
    out = folder_of(run, root)
    if out.exists():
        training.resume(out, Going(quiet=quiet, log_to=log_to))
        return
    prior = root / "runs" / run.prior if run.prior else None
    data = collected(run.data, root, quiet) if isinstance(run.data, Data) else run.data
    where = TrainFlags(run.env, data, out, run.objective, run.label, prior, log_to=log_to, quiet=quiet)
    training.run(Wanted(run.algorithm, where, run.config, run.settings, swept=run.swept))


def needs(run: Run) -> tuple[str, ...]:
    """ENV/LABEL of the runs of its suite that a run stands on, or whose play it learns from."""
    found = (run.prior, *(run.data.policies if isinstance(run.data, Data) else ()))
    return tuple(n for n in found if n and not Path(n).is_absolute())
