"""Trials of every arm before a comparison: as many for each, floats beside each other, on other seeds and data than it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qchunk import envs
from qchunk.comparison import arms, lineup, selection, sweeping, tables
from qchunk.comparison.handed import Listed, as_asked
from qchunk.comparison.lineup import CompareFlags
from qchunk.comparison.list_flags import PageFlags
from qchunk.comparison.selection import Scores
from qchunk.comparison.suite import Data, Run, Trained
from qchunk.comparison.sweeping import Setting
from qchunk.data import formats
from qchunk.reporting.records import Rows
from qchunk.system import schema
from qchunk.system.errors import UserError
from qchunk.system.files import write_json
from qchunk.varied import hints

LR = {"optim.lr": "log:1e-4..1e-2"}  # what is tuned of an arm of which nothing else is said
SLOWER = {"optim.lr": "log:3e-5..1e-3"}  # of methods whose own rate is about a tenth of the others'
ETA, WEIGHT, ALPHA = {"eta": "log:0.01..10"}, {"weight": "log:0.1..10"}, {"alpha": "log:0.1..10"}
SCALE, EXPECTILE = {"scale": "0.05..0.8"}, {"expectile": "0.7..0.95"}
# What is tuned of an algorithm where --tune-fields does not say: what its authors say by task, over wide ranges, as sizes and returns are others here
FIELDS: dict[str, dict[str, Any]] = {
    "v-gps": {"expectile": "0.6..0.95"},
    "value-guided": {"weight": "log:0.1..3"},
    "qc-fql": {"alpha": "log:1..300"},
    "rlpd": {"bc-alpha": [0, 1e-3, 1e-2, 0.1], **LR},
    **dict.fromkeys(("dql", "edp", "consistency-ac"), ETA),
    **dict.fromkeys(("qam", "qam-e", "qam-f"), WEIGHT),
    "bam": {"weight": "log:1..100"},
    "trqam": {"bound": "log:0.1..10"},
    "qgf": {"weight": "log:0.004..0.2"},
    "cgql": {"share": "log:0.001..1"},
    "qsm": {"weight": "log:0.3..30"},
    "fbrac": {"alpha": "log:0.03..100"},
    "dtql": {"alpha": "log:0.1..100", "expectile": "0.7..0.95"},
    "gfp": {"alpha": "log:0.3..30", "eta": "log:1e-5..0.1"},
    "meanflow-q": {"alpha": "log:100..10000"},
    **dict.fromkeys(("fedit", "expo"), SCALE),
    **dict.fromkeys(("ifql", "idql"), EXPECTILE),
    **dict.fromkeys(("iql", "fawac", "dac"), ALPHA),
    "rebrac": {"alpha": "log:0.003..0.3"},
    "opal": {"alpha": "log:1..10"},
    "mac": {"lam": "0.5..1"},
    "cqn-as": {"optim.lr": "log:2e-5..1e-3"},
    **dict.fromkeys(("dppo", "ppo", "reinflow", "fpo", "fpo++", "learned-k", "top-erl"), SLOWER),
}
FIX = 'write json such as {"qc": {"optim.lr": "log:1e-4..1e-2"}, "dppo": [{"clip": 0.01, "clip_base": 0.01}, ...]}'
BEST = "best.json"  # the chosen settings, beside the trials


class Trials(NamedTuple):
    """The trials of one arm."""

    arm: str
    settings: list[Setting]
    runs: list[tuple[tuple[int, ...], Run]]  # (places of its settings, run)
    seeds: int
    episodes: int


def asked(path: Path | None) -> dict[str, Any]:
    """What a json file says is tuned: {ARM: {FIELD: [values] or "LOW..HIGH"}, or a list of settings}; "" is every other arm.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it holds something else.
    """
    return schema.read(path, dict[str, dict[str, Any] | list[dict[str, Any]]], FIX) if path else {}


def fields_of(arm: str, wanted: Mapping[str, Any]) -> Any:
    """What is tuned of an arm: what ``asked`` says of it, or of every other arm; by default its algorithm's own field, or the learning rate.

    Raises:
        UserError: the arm's name says what that is to be.
    """
    said = arms.named_settings(arm)[1]

    def free(fields: Any) -> bool:
        names = [n.replace("-", "_") for one in (fields if isinstance(fields, list) else [fields]) for n in one]
        return not any(f".{n}".endswith(f".{own}") for n in names for own in said)

    named = wanted.get(arm, wanted.get(""))
    offers = [FIELDS.get(arms.ours(arms.split(arm)[0]), LR), LR] if named is None else [named]
    if said and not (offers := [o for o in offers if free(o)]):
        raise UserError(f"the name of {arm} says what is tuned of it", "name other fields in --tune-fields")
    return offers[0]


def tuned_fields(arm: str, c: Any, wanted: Any) -> list[sweeping.Field]:
    """The fields that are tuned of an arm, with their values or ranges.

    Raises:
        UserError: it has no such field, or a field no such value.
    """
    known = dict(hints(c))
    if not isinstance(wanted, Mapping) or not wanted:
        raise UserError(f"--tune-fields for {arm} names no fields", FIX)
    fields = []
    for name, values in wanted.items():
        flag, several = sweeping.flag_of(name), values if isinstance(values, list) else [values]
        if flag not in known:
            raise UserError(f"{arm} has no field {name!r}", "name its own in --tune-fields")
        made = sweeping.field(flag, known[flag], [sweeping.spelled(v) for v in several])
        for text in made.values:
            sweeping.valued(flag, known[flag], text)
        fields.append(made)
    return fields


def settings_of(arm: str, c: Any, wanted: Any, count: int, seed: int) -> list[Setting]:
    """``count`` settings of an arm.

    Raises:
        UserError: it has no such field, another number of settings, or fewer than that that differ.
    """
    if isinstance(wanted, list):
        found = sweeping.settings_from(wanted, f"--tune-fields for {arm}", FIX)
        if len(found) != count:
            raise UserError(
                f"{arm} has {len(found)} settings, and every arm is to have {count}", "give as many for each"
            )
    else:
        found = sweeping.drawn(tuned_fields(arm, c, wanted), count, seed)
    made = [sweeping.with_values(c, setting) for setting in found]
    if twice := next((s for i, s in enumerate(found) if made[i] in made[:i]), None):
        told = " ".join(f"{flag}={value}" for flag, value in twice.items())
        raise UserError(f"{arm} would be tried twice with {told}", "give it as many settings that differ")
    return found


def trials_of(run: Run, wanted: Any, count: int) -> Trials:
    """The trials of an arm, from its run at its stock setting."""
    settings = settings_of(run.label, run.config, wanted, count, run.settings.seed)
    parse = lambda static: (sweeping.with_values(run.config, static), run.settings)  # noqa: E731
    runs = []
    for i, group in enumerate(sweeping.groups(settings, run.config, parse)):
        more = {"prior": run.prior, "objective": run.objective}
        made = sweeping.run_of(group, run.algorithm, run.env, run.data, f"{run.label}-{i}", **more)
        runs.append((group.settings, made))
    return Trials(run.label, settings, runs, run.settings.seeds, run.settings.episodes)


def scored(trials: Trials, trained: Trained) -> Scores:
    """The scores of an arm's settings."""
    folders = [(places, trained.folders.get(run.name) or trained.failed[run.name]) for places, run in trials.runs]
    return selection.scores(trials.runs[0][1].env, trials.seeds, trials.episodes, folders)


def told(trials: Trials, found: Scores) -> dict[str, str]:
    """The trials of an arm as a row of the table of tunings."""
    cells = []
    for setting, values in zip(trials.settings, found.values, strict=True):
        spelled = ", ".join(f"{flag} {value}" for flag, value in setting.items())
        cells.append(f"{spelled}: {selection.shown(found, selection.estimate(found, values))[0]}")
    best = selection.best(found)
    how = ", of equals by its return" if selection.by_return(found) else ""
    kept = "; none has a score: its stock setting" if best is None else f"; chosen: the {best + 1}.{how}"
    return {"arm": trials.arm, tables.TRIED: ", ".join(cells) + kept}


def chosen(found: Sequence[tuple[Trials, Scores]]) -> tuple[dict[str, Setting], Rows]:
    """(the best setting of each arm that has one, the table)."""
    best = {t.arm: t.settings[i] for t, s in found if (i := selection.best(s)) is not None}
    return best, [told(t, s) for t, s in found]


def tuned(run: Run, best: Mapping[str, Setting]) -> Run:
    """A run of the comparison with its arm's best setting."""
    return run._replace(config=sweeping.with_values(run.config, best[run.label])) if run.label in best else run


def planned(f: CompareFlags, sizes: arms.Sizes, so_far: bool = False) -> tuple[list[Run], list[Trials]]:
    """(the priors of the trials, the trials of every arm) of the flags of a comparison; none where nothing is tuned.

    Args:
        so_far: nothing is trained, so that nobody asks for the data.

    Raises:
        UserError: an arm that cannot be tuned so, or in the environment of the trials; or data of another one.
    """
    if not f.tune:
        if odd := [n for n in ("tune_fields", "tune_env", "tune_seeds") if getattr(f, n) is not None]:
            raise UserError(f"--{odd[0].replace('_', '-')} is of trials", "say how many of every arm: --tune N")
        return [], []
    env, seeds = f.tune_env or arms.TUNING_ENV, f.tune_seeds or f.seeds
    found, _ = lineup.plan(dataclasses.replace(f, env=(env,), seed=f.seed + f.seeds, seeds=seeds), sizes)
    labels = {r.label for r in found}
    if without := [arm for arm in f.algos if arm not in labels]:
        raise UserError(f"{', '.join(without)} cannot be tuned in {env}", "give another --tune-env, or other --algos")
    found = [r._replace(data=r.data._replace(seed=1)) if isinstance(r.data, Data) else r for r in found]
    if not so_far:
        check_data(f, env, found)
    wanted = asked(f.tune_fields)
    if unknown := [arm for arm in wanted if arm and arm not in f.algos]:
        raise UserError(f"{f.tune_fields} tunes {unknown[0]}, which is no arm", "name arms of --algos")
    own = [r for r in found if not r.label.startswith(arms.PRIOR)]
    made = [trials_of(r, fields_of(r.label, wanted), f.tune) for r in own]
    return [r for r in found if r.label.startswith(arms.PRIOR)], made


def check_data(f: CompareFlags, env: str, runs: Sequence[Run]) -> None:
    """Refuses a data set that is not of the trials' environment, which need not be one that is compared.

    Raises:
        UserError: names --tune-env.
    """
    if f.data is None or env in f.env or not any(r.data for r in runs):
        return
    made = envs.make(env)
    rows, about = formats.mapped(f.data) or formats.read(f.data, made)
    try:
        formats.fitted(rows, about, made, env, f.data)
    except UserError as e:
        fix = f"give --tune-env {f.env[0]}, or another environment that --data is of"
        raise UserError(f"the trials are made in {env}, and {e.problem}", fix) from e


def listed(f: CompareFlags, planned: tuple[list[Run], list[Trials]], log_to: tuple[str, ...]) -> Listed:
    """The trials, below OUT/tuning."""
    priors, tried = planned
    return Listed("tune", [*priors, *(run for t in tried for _, run in t.runs)], f.out / "tuning", log_to)


def tuned_suite(
    f: CompareFlags,
    how: PageFlags,
    suite: list[Run],
    planned: tuple[list[Run], list[Trials]],
    argv: Sequence[str],
) -> tuple[list[Run], Rows]:
    """Trains the trials, and gives the comparison's runs the best settings: (runs, the table of the trials).

    Args:
        argv: words from which a worker makes the same list.

    Raises:
        UserError: nothing is to be trained, and the trials have not ended.
        SystemExit: a trial failed. Nothing is compared then: its arm would have its stock setting beside others that were tuned,
            and the same command, once it can try again, would find the arm's run made otherwise.
    """
    todo = listed(f, planned, how.log_to)
    trained = as_asked(how, argv, todo, todo.runs)
    trained.leave()
    if how.so_far and len(trained.folders) < len(todo.runs):
        raise UserError("the trials have not ended", "wait, or leave --so-far out")
    best, rows = chosen([(t, scored(t, trained)) for t in planned[1]])
    write_json(todo.root / BEST, best)
    return [tuned(r, best) for r in suite], rows


def as_chosen(f: CompareFlags, suite: list[Run]) -> list[Run]:
    """The comparison's runs with the best settings of trials that have ended."""
    best = schema.read(f.out / "tuning" / BEST, dict[str, dict[str, str]], "start the comparison again")
    return [tuned(r, best) for r in suite]


def held(f: CompareFlags, rows: Rows) -> Rows:
    """The table of what was held equal, with the trials that were made here in place of those behind the stock settings."""
    if not f.tune:
        return rows
    seeds, first = f.tune_seeds or f.seeds, f.seed + f.seeds
    env = f.tune_env or arms.TUNING_ENV
    here = ". That task is compared here, too, with other seeds" if env in f.env else ""
    how = f"{f.tune} trials of every arm on {env}, seeds {first} to {first + seeds - 1}, with the budget of the comparison; see the table{here}"
    return [{**row, "how": how} if row["what"] == "tuning" else row for row in rows]
