"""``qchunk compare``: several methods with the same data, sizes and episodes; one report, which says what differs all the same."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

from qchunk.commands import flags
from qchunk.comparison import afterwards, arms, estimate, handed, lineup, literature, refusals, tables, trials
from qchunk.comparison.arms import PRIOR, Sizes
from qchunk.comparison.lineup import CompareFlags
from qchunk.comparison.list_flags import PageFlags
from qchunk.comparison.suite import Leeway, Run, check, claim, name_of
from qchunk.reporting import against, pooled, records
from qchunk.reporting.publish import publish
from qchunk.reporting.records import Rows
from qchunk.system.errors import UserError, unknown

SHOWN = ("out", "look", "execute", "baseline", "against", "suite")  # flags that train nothing
TRIALS_LIST = "compare-trials"  # what workers know ``listed_trials`` by


def compare(argv: list[str]) -> None:
    """``qchunk compare --env ENV ... [--algos A B ...] [--seeds S]``."""
    f, sizes, how = asked_for(argv)
    if f.baseline and f.baseline not in f.algos:
        raise unknown("--baseline", f.baseline, f.algos, "it is one of --algos")
    asked = {**{n: v for n, v in dataclasses.asdict(f).items() if n not in SHOWN}, **dataclasses.asdict(sizes)}
    ends = lineup.ends_of(f)
    kept, refused = refusals.without(f.algos, f.env, sizes)
    f = dataclasses.replace(f, algos=kept)
    suite, left_out = lineup.by_batches(f, sizes, ends)
    claims = functools.partial(
        claim,
        f.out,
        lineup.KIND,
        {**asked, lineup.ENDS: ends},
        Leeway(("algos", "env", lineup.ENDS), rises=("seeds",), places=("data",), stock=stock(f)),
    )
    claims(dry=True)  # what differs is named by its flag, before the runs are looked at
    if not f.tune:  # what trials choose is not known yet
        check(suite, f.out)
    handed.check_flags(how)
    planned = trials.planned(f, sizes, how.so_far)
    claims(dry=how.dry or how.so_far)
    refusals.told(refused)
    if absent := tables.absent(left_out, suite):
        print(f"[compare] left out: {absent}", file=sys.stderr, flush=True)
    if how.dry:
        tried = trials.listed(f, planned, how.log_to)
        lines = estimate.listed(tried.runs, tried.root, "trials") if f.tune else []
        return print("\n".join([*lines, *estimate.listed(suite, f.out)]), file=sys.stderr, flush=True)
    suite, tuning = trials.tuned_suite(f, how, suite, planned, [TRIALS_LIST, *argv]) if f.tune else (suite, [])
    todo = handed.Listed("compare", suite, f.out, how.log_to)
    asked_runs = [r for r in suite if not r.label.startswith(PRIOR)]
    trained = handed.as_asked(how, ["compare", *argv], todo, asked_runs)
    compared = [r for r in asked_runs if r.name in trained.folders or not how.so_far]
    folders = {trained.folders[r.name]: r for r in compared if r.name in trained.folders}
    played(folders, f)
    learnt = {folder: r for folder, r in folders.items() if r.data and r.settings.offline_steps}
    more: dict[str, Rows] = {"Not trained yet": handed.not_yet(trained, asked_runs) if how.so_far else []}
    more |= offline_part(learnt, f) if learnt and f.online_steps else {}
    priors = [r for r in suite if r.label.startswith(PRIOR)]
    more |= {
        "Held equal": trials.held(f, tables.equal(compared, sizes, left_out)),
        "Not equal": tables.unequal(compared, priors),
    }
    more |= {"Not equal: every setting": tables.settings(compared), "In no interval": tables.caveats(compared)}
    more["Tuning"] = tuning or tables.tuning(compared)
    if f.against == "published":
        more["Beside the published figures"] = literature.beside_ours(records.table(records.load_whole([*folders])[0]))
    failed = [*trained.rows(compared), *((*place, why) for place, why in refused.items())]
    publish(list(folders), f.out / "report", more, how.json, failed, baseline_of(folders, f))
    trained.failed.update({name_of(env, arm): why for env, arm, why in failed})
    trained.leave()


def played(folders: dict[Path, Run], f: CompareFlags) -> None:
    """Looks at what was trained (``--look``), and plays it by schemes (``--execute``); what was measured before stays."""
    if f.look:
        afterwards.look_at_each([folder for folder, r in folders.items() if not r.batch], "compare")
    for folder in folders if f.execute else ():
        print(
            f"[compare] playing {folder.name} on {folder.parent.name} by {len(f.execute)} schemes",
            file=sys.stderr,
            flush=True,
        )
        afterwards.by_schemes(folder, f.execute, f.episodes)


def stock(f: CompareFlags) -> dict[str, Any]:
    """All flags with their defaults, but for the environments."""
    return {**dataclasses.asdict(CompareFlags(f.env)), **dataclasses.asdict(Sizes())}


def asked_for(argv: list[str]) -> tuple[CompareFlags, Sizes, PageFlags]:
    """The flags of a command line."""
    f, sizes, how = flags.parse("compare", argv, CompareFlags, Sizes, PageFlags)
    algos = tuple(arm for word in f.algos for arm in arms.listed(word))
    if how.so_far:  # what was measured before is shown all the same
        f = dataclasses.replace(f, look=False, execute=())
    if f.suite != "default" and algos != arms.DEFAULT:
        raise UserError(f"--suite {f.suite} and --algos both name the arms", "give one of them")
    return dataclasses.replace(f, algos=arms.SUITES[f.suite] if f.suite != "default" else algos), sizes, how


def listed(argv: list[str]) -> handed.Listed:
    """The runs of a command line, for a worker."""
    f, sizes, how = asked_for(argv)
    f = dataclasses.replace(f, algos=refusals.without(f.algos, f.env, sizes)[0])
    suite, _ = lineup.by_batches(f, sizes, lineup.ends_of(f))
    return handed.Listed("compare", trials.as_chosen(f, suite) if f.tune else suite, f.out, how.log_to)


def listed_trials(argv: list[str]) -> handed.Listed:
    """The trials of a command line, for a worker."""
    f, sizes, how = asked_for(argv)
    f = dataclasses.replace(f, algos=refusals.without(f.algos, f.env, sizes)[0])
    return trials.listed(f, trials.planned(f, sizes, how.so_far), how.log_to)


def baseline_of(folders: dict[Path, Run], f: CompareFlags) -> str:
    """The arm that differences of these runs are to, by its label; "" where it is not among them."""
    return f.baseline if any(r.label == f.baseline for r in folders.values()) else ""


def offline_part(folders: dict[Path, Run], f: CompareFlags) -> dict[str, Rows]:
    """Where arms with data stood before their first environment step, which is protocol A at these updates, for the page."""
    found, _ = records.load_whole([*folders], baseline_of(folders, f), f.offline_steps)
    return {
        "Offline part (protocol A)": records.table(found),
        "Offline part, over all runs": pooled.aggregate(found),
        "Offline part, each against each": against.pairs(found),
    }
