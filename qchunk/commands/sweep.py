"""``qchunk sweep``: settings of a method tried beside each other, the best of them chosen and reported where it was not tuned."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qchunk import env_names, envs, names, registry
from qchunk.commands import flags, train
from qchunk.comparison import estimate, fitting, handed, selection, sweeping
from qchunk.comparison.list_flags import ListFlags
from qchunk.comparison.selection import Scores
from qchunk.comparison.suite import Data, Leeway, Run, Trained, check, claim, collected, file_of, train_all
from qchunk.comparison.sweeping import Group, Setting
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.reporting import mattered, records
from qchunk.reporting.publish import write_report
from qchunk.runs import prior, training
from qchunk.runs.training import TrainFlags, Wanted
from qchunk.system import answers, loading, schema
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write, write_json
from qchunk.varied import put


@dataclasses.dataclass(frozen=True)
class SweepFlags:
    """What is tried, where, and how the best is reported."""

    env: tuple[str, ...]
    """Environments to tune on: qchunk list envs."""
    data: Path | None = None
    """Data set to train on; by default --data-steps transitions of each environment's first scripted behaviour, others for tuning than for reporting."""
    data_steps: PositiveInt = 200_000
    """Transitions to collect where --data names none."""
    out: Path | None = None
    """Folder for data, runs and tables; by default runs/sweep-ALGO. The same command goes on with it."""
    trials: PositiveInt | None = None
    """Settings to draw at random, from values and from ranges (LOW..HIGH, log:LOW..HIGH); by default the grid of all values."""
    draw_seed: NonNegativeInt = 0
    """Seed of what --trials draws."""
    settings: Path | None = None
    """Settings from a file in place of flags: a csv with a header of flags, or a json list of objects."""
    lanes: PositiveInt | None = None
    """Most settings times seeds in one program; by default as many as an estimate of their memory allows."""
    report_env: tuple[str, ...] = ()
    """Environments to report the chosen setting on; by default those of --env."""
    report_seed: NonNegativeInt | None = None
    """First seed of the report; by default the one after those that were tuned on."""
    report_seeds: NonNegativeInt | None = None
    """Seeds of the report; by default as many as --seeds; 0: no report."""
    objective: tuple[str, ...] = ()
    """The reward as a weighted sum, as for qchunk train."""
    prior: Path | None = None
    """An earlier run, whose actor every setting stands on, seed for seed."""


HELP = (
    "qchunk sweep ALGO --env ENV [fields]: a field with several values (--optim.lr 3e-4 1e-3; --critic.hidden 64,64 128,128) or, with "
    "--trials N, a range (--optim.lr log:1e-4..1e-2) is swept. Floats of the method are trained beside each other in one program."
)
NOT_ASKED = ("out", "lanes")  # what may be otherwise when the same sweep goes on
PLACES = ("data", "prior")  # of these: where they lie
PICTURE = "mattered.png"  # what mattered
PROGRAMS = "programs.json"  # which settings lie beside each other: what was decided when the sweep began


class Sweep(NamedTuple):
    """A sweep that can run."""

    algorithm: str
    flags: SweepFlags
    how: ListFlags
    fixed: list[str]  # words of the command line that every setting has, without those of the sweep itself
    settings: list[Setting]
    groups: list[Group]
    parts: tuple[Any, Any]  # a configuration and its driver's settings, before flags

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.flags.out or Path("runs") / f"sweep-{loading.stem(self.algorithm)}"

    @property
    def seeds(self) -> tuple[int, int]:
        """The first seed that is tuned on, and how many."""
        s = self.groups[0].driver_settings
        return s.seed, s.seeds

    @property
    def given(self) -> dict[str, Any]:
        """What all its runs stand on and are rewarded by, as ``Run`` has it."""
        f = self.flags
        return {"prior": str(f.prior.resolve()) if f.prior else "", "objective": f.objective}

    @property
    def report(self) -> tuple[tuple[str, ...], int, int]:
        """(environments, first seed, seeds) of the report."""
        f, (seed, seeds) = self.flags, self.seeds
        first = seed + seeds if f.report_seed is None else f.report_seed
        return f.report_env or f.env, first, seeds if f.report_seeds is None else f.report_seeds


def sweep(argv: list[str]) -> None:
    """``qchunk sweep ALGO --env ENV ... --FIELD VALUE VALUE ...``."""
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & set(argv):
            print(f"usage: {HELP}\nqchunk sweep ALGO --help shows the fields of ALGO")
            print(f"algorithms: {', '.join(names.ALGORITHMS)}, or yours as my_file.py:my_function")
            return
        raise UserError("sweep needs an algorithm first", "qchunk sweep ALGO --env ENV --optim.lr 3e-4 1e-3")
    s = plan(argv)
    f = s.flags
    handed.check_flags(s.how)
    asked = {n: v for n, v in dataclasses.asdict(f).items() if n not in NOT_ASKED}
    seeds = dict(zip(("seed", "seeds"), s.seeds, strict=True))
    asked = {"algorithm": s.algorithm, **asked, **seeds, "fixed": s.fixed, "settings": s.settings}
    stock = dataclasses.asdict(SweepFlags(f.env)) | seeds  # of an older folder ``check`` asks the runs
    apart = {"fixed": lambda line: dict(sweeping.words(line))}
    claim(s.root, "sweep", asked, Leeway(places=PLACES, stock=stock, apart=apart))
    runs = runs_of(s)
    check([run for _, run in runs], s.root)
    print(f"[sweep] {told(s, runs)}", file=sys.stderr, flush=True)
    trained = handed.trained_on(s.how, ["sweep", *argv], todo_of(s, runs))
    each, over = scored(s, runs, trained)
    chosen = selection.best(over)
    rows = written(s, each, over, chosen)
    if chosen is None:
        fix = f"see {s.root / 'settings.md'}, and sweep other values"
        raise UserError("no setting has a score: every one of them failed, diverged or is not finite", fix)
    best(s, chosen, over, [])  # it is known now, whatever becomes of the report
    reported, also = report(s, chosen, {"Settings": rows, "What mattered": selection.mattered(s.settings, over)})
    say(s, rows, best(s, chosen, over, reported))
    for one in (trained, also):
        one.leave()


def todo_of(s: Sweep, runs: Sequence[tuple[Group, Run]]) -> handed.Listed:
    """What is to be trained before a setting is chosen."""
    return handed.Listed("sweep", [run for _, run in runs], s.root, s.how.log_to)


def listed(argv: list[str]) -> handed.Listed:
    """The runs of a command line, for a worker; which settings lie beside each other its folder says."""
    s = plan(argv)
    return todo_of(s, runs_of(s))


def plan(argv: list[str]) -> Sweep:
    """What a command line asks for.

    Raises:
        UserError: whatever cannot run, before a folder is made.
    """
    algorithm, rest = argv[0], argv[1:]
    config_class = registry.builder(algorithm)[1]
    c, driver_settings = train.defaults(argv, config_class)
    parts = flags.switched(c, rest), driver_settings
    command = f"sweep {algorithm}"
    if {"-h", "--help"} & set(rest):
        flags.parse(command, ["--help"], SweepFlags, ListFlags, *parts, text=HELP)
    fields, fixed = sweeping.fields_of(rest, parts)
    f, how = flags.parse(command, fixed, SweepFlags, ListFlags, *parts, text=HELP)[:2]
    settings = sweeping.checked(settings_of(f, fields), parts)

    def parse(static: Setting) -> list[Any]:
        words = [*fixed, *sweeping.as_flags(static, parts)]
        return flags.parse(command, words, SweepFlags, ListFlags, *parts, text=HELP)[2:]

    found = sweeping.groups(settings, parts[0], parse)
    own = {*flags.flag_names(SweepFlags), *flags.flag_names(ListFlags), "seed", "seeds"}
    kept = [w for flag, values in sweeping.words(fixed) if flag not in own for w in (f"--{flag}", *values)]
    s = Sweep(algorithm, f, how, kept, settings, found, parts)
    refuse(s)
    return s


def settings_of(f: SweepFlags, fields: Sequence[sweeping.Field]) -> list[Setting]:
    """The settings that flags or a file name.

    Raises:
        UserError: neither does, or both do.
    """
    if f.settings is None:
        if not fields:
            raise UserError(
                "nothing is swept", "give a field several values, such as --optim.lr 3e-4 1e-3, or --settings FILE"
            )
        return sweeping.grid(fields) if f.trials is None else sweeping.drawn(fields, f.trials, f.draw_seed)
    if fields or f.trials:
        odd = f"--{fields[0].flag} with several values" if fields else "--trials"
        raise UserError(f"--settings names every setting, and {odd} asks for others", "leave one of them out")
    return sweeping.listed(f.settings)


def refuse(s: Sweep) -> None:
    """Refuses names that are none, and a report on what was tuned on.

    Raises:
        UserError: names the flag.
    """
    f, (seed, seeds), (where, first, count) = s.flags, s.seeds, s.report
    for env in (*f.env, *f.report_env):
        env_names.check_env(env)
    for one in (f.env, f.report_env):
        if len(set(one)) < len(one):
            raise UserError("an environment is named twice", "name each once")
    if not f.env:
        raise UserError("--env names no environment", "give one or more: qchunk list envs")
    if count and set(where) & set(f.env) and first < seed + seeds and seed < first + count:
        fix = f"give --report-seed {seed + seeds}, another --report-env, or --report-seeds 0"
        raise UserError(f"seeds {first} to {first + count - 1} of the report were tuned on", fix)
    if f.data and not registry.driver_of(type(s.parts[0])).takes_data:
        raise UserError(f"{s.algorithm} learns from what it plays", "leave --data out")


def data_of(s: Sweep, env: str, tuning: bool) -> Data | Path | None:
    """The data set of runs in an environment, the same for all settings; none where all of them learn from what they play."""
    if s.flags.data or not any(g.driver_settings.offline_steps for g in s.groups):
        return s.flags.data
    return Data(envs.make(env).data_name, s.flags.data_steps, seed=int(tuning))


def runs_of(s: Sweep) -> list[tuple[Group, Run]]:
    """The runs of the tuning, environment by environment; the data that they learn from are there afterwards."""
    stem = loading.stem(s.algorithm)
    data = {env: data_of(s, env, tuning=True) for env in s.flags.env}
    for one in data.values():
        if isinstance(one, Data):
            collected(one, s.root, s.how.quiet or s.how.json)
    parts = programs(s, data[s.flags.env[0]])
    return [
        (part, sweeping.run_of(part, s.algorithm, env, data[env], f"{stem}-{i}", **s.given))
        for env in s.flags.env
        for i, part in enumerate(parts)
    ]


def programs(s: Sweep, data: Data | Path | None) -> list[Group]:
    """The groups, split by memory; as they were where the sweep has begun."""
    path = s.root / PROGRAMS
    places = {i: group for group in s.groups for i in group.settings}
    if path.is_file():
        kept = schema.read(path, list[list[int]], "pass --out with a new folder")
        if sorted(i for part in kept for i in part) == sorted(places) and all(kept):
            return [sweeping.part_of(places[part[0]], part) for part in kept]
        raise UserError(f"{path} is of other settings", "pass --out with a new folder")
    found = [part for group in s.groups for part in sweeping.split(group, beside(s, group, data))]
    write_json(path, [list(part.settings) for part in found], allow_nan=False)
    return found


def beside(s: Sweep, group: Group, data: Data | Path | None) -> int:
    """Settings of a group that go into one program. Raises UserError where not one of them can run."""
    f, settings = s.flags, group.driver_settings
    file = collected(data, s.root) if isinstance(data, Data) else data
    earlier = prior.load(f.prior, settings.seeds) if f.prior else None
    where = TrainFlags(f.env[0], file, s.root, f.objective, prior=f.prior)
    opened = training.ready(training.sized(Wanted(s.algorithm, where, group.config, settings)), earlier)[0]
    with training.closed(opened.program):
        most = f.lanes or fitting.most_lanes(opened)
    return max(1, most // settings.seeds)


def told(s: Sweep, runs: Sequence[tuple[Group, Run]]) -> str:
    """What will be trained, in a line."""
    lanes = sum(run.settings.seeds for _, run in runs)
    return (
        f"{len(s.settings)} settings of {s.algorithm}, {s.seeds[1]} seeds each, on {', '.join(s.flags.env)}: "
        f"{lanes} trainings in {len(runs)} program{'s' * (len(runs) > 1)}, in {s.root}"
    )


def scored(s: Sweep, runs: Sequence[tuple[Group, Run]], trained: Trained) -> tuple[list[Scores], Scores]:
    """The scores in each environment, and over all of them."""
    each = []
    for env in s.flags.env:
        found = [
            (part.settings, trained.folders.get(run.name) or trained.failed[run.name])
            for part, run in runs
            if run.env == env
        ]
        each.append(selection.scores(env, s.seeds[1], s.groups[0].driver_settings.episodes, found))
    return each, selection.combined(each)


def written(s: Sweep, each: Sequence[Scores], over: Scores, chosen: int | None) -> records.Rows:
    """Writes the table of settings (md, csv, json) and the picture of what mattered; the table's rows."""
    rows = selection.table(s.settings, each, over, chosen)
    columns = tuple(rows[0])
    atomic_write(s.root / "settings.md", records.markdown(rows, columns))
    atomic_write(s.root / "settings.csv", selection.as_csv(s.settings, over, chosen))
    write_json(s.root / "settings.json", selection.numbers(s.settings, each, over, chosen), allow_nan=False)
    means = over.values.mean(axis=1)
    panels = []
    for flag in s.settings[0]:
        found = selection.levels(s.settings, over, flag)
        if len(found) > 1:
            texts = [x.value for x in found]
            points = [[float(means[i]) for i in x.settings] for x in found]
            known = [selection.as_number(text) for text in texts]
            panels.append(mattered.Panel(flag, texts, known, [x.estimate for x in found], points))
    if panels and np.isfinite(means).any():
        mattered.picture(panels, over.figure, s.root / PICTURE)
    return rows


def report(s: Sweep, chosen: int, more: dict[str, records.Rows]) -> tuple[records.Rows, Trained]:
    """Trains the chosen setting where it was not tuned, and writes a page of it: (its rows, the runs). No page and no rows where all fail."""
    where, first, count = s.report
    if not count:
        return [], Trained({}, {})
    group = next(g for g in s.groups if chosen in g.settings)
    c = put(group.config, group.floats[group.settings.index(chosen)])
    settings = dataclasses.replace(group.driver_settings, seed=first, seeds=count)
    label = f"{loading.stem(s.algorithm)} (setting {chosen})"
    runs = [Run(s.algorithm, env, data_of(s, env, tuning=False), c, settings, label, **s.given) for env in where]
    trained = train_all("report", runs, s.root, s.how.quiet or s.how.json, s.how.log_to, estimate.left)
    folders = trained.of(runs)
    return write_report(folders, s.root / "report", more, trained.rows(runs)) if folders else [], trained


def best(s: Sweep, chosen: int, over: Scores, reported: records.Rows) -> dict[str, Any]:
    """Writes best.json, the chosen setting with the command that trains it; what it holds."""
    words = sweeping.as_flags(s.settings[chosen], s.parts)
    env = s.report[0][0] if reported else s.flags.env[0]
    data = data_of(s, env, tuning=not reported)
    file = file_of(data, s.root) if isinstance(data, Data) else data
    where = ["--env", env, *(["--data", str(file)] if file else [])]
    where += ["--prior", str(s.flags.prior)] if s.flags.prior else []
    where += ["--objective", *s.flags.objective] if s.flags.objective else []
    line = shlex.join(["qchunk", "train", s.algorithm, *where, *s.fixed, *words])
    mean = selection.estimate(over, over.values[chosen]).mean
    found = {"setting": s.settings[chosen], "flags": " ".join(words), "command": line, "tuned": mean}
    found |= {"figure": over.figure, "reported": list(reported)}
    write_json(s.root / "best.json", answers.finite(found), allow_nan=False)
    return found


def say(s: Sweep, rows: records.Rows, found: dict[str, Any]) -> None:
    """The tables and the chosen setting, to stdout.

    Args:
        found: what ``best`` gives.
    """
    if s.how.json:
        answers.answer({"settings": list(rows), "best": found})
        return
    print(records.markdown(rows, tuple(rows[0])))
    if found["reported"]:
        print(f"the chosen setting, where it was not tuned:\n{records.markdown(found['reported'])}")
    else:
        print("these figures chose the setting, so that its own is too good: --report-seeds reports it on others")
    print(f"best: {found['flags']}\n{found['command']}")
    if (s.root / PICTURE).exists():  # of one setting, and of none that has a score, there is nothing to draw
        print(f"picture: {s.root / PICTURE}")
