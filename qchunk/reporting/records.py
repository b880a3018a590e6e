"""Run folders -> what a report needs of them, and its table. No jax and no matplotlib."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qchunk.reporting.judging import judged_alike, without_diverged
from qchunk.reporting.labels import plain, told_apart
from qchunk.reporting.seeds_together import together
from qchunk.reporting.stats import (
    Estimate,
    Pair,
    Verdict,
    bounds_of,
    clopper_pearson,
    find_or_not,
    interval,
    interval_whatever_the_seeds,
    verdicts,
)
from qchunk.runs import run_folder
from qchunk.system.errors import UserError, typed, unknown

COLUMNS = ("environment", "method", "seeds", "updates", "figure", "mean", "95 % interval", "whatever the seeds", "difference to baseline", "return", "note")  # fmt: skip
AXES = {
    "training": "updates, then environment steps",
    "env_steps": "environment steps",
    "updates": "updates",
    "minutes": "minutes of the program that trained all seeds",
}
Rows = Sequence[dict[str, str]]  # of a table
MOST_SEEDS = 100_000
YET = "has no evaluation yet"  # of a run that has only begun
ONE_SEED = " of its episodes alone"  # behind an interval that knows of no other seed
BASELINE = "bc"  # differences are to it; see load for where it is absent


class Record(NamedTuple):
    """What a report needs of a run."""

    label: str
    env: str
    seeds: tuple[int, ...]
    evals: list[dict]  # lines of metrics.jsonl with kind "eval", by step
    unfinished: bool
    folder: Path
    about: dict  # what config.json holds
    diverged: str = ""  # which seeds did, and when
    others: tuple[dict, ...] = ()  # what config.json holds of the other folders that its seeds come from

    @property
    def figure(self) -> str:
        """What is compared: success where the environment knows it, else return; without an environment what held-out data say."""
        return run_folder.compared(self.evals[-1]["values"])

    def by_return(self) -> Record:
        """The same run, compared by its return."""
        rest = lambda values: {n: v for n, v in values.items() if n != "success"}  # noqa: E731
        return self._replace(evals=[{**line, "values": rest(line["values"])} for line in self.evals])

    @property
    def episodes(self) -> int:
        """Episodes behind a seed's success; 0 where the figure is no share of episodes, or nobody wrote how many."""
        found = (self.about["config"].get("settings") or {}).get("episodes")
        return found if self.figure == "success" and type(found) is int and found > 0 else 0

    @property
    def still(self) -> bool:
        """Whether it trained nothing: an earlier stage as it is."""
        return self.evals[-1]["step"] <= 1

    def stands_on(self, other: Record) -> bool:
        """Whether it goes on from the other run, as its prior."""
        prior = self.about["config"].get("prior")
        return bool(prior) and Path(prior["path"]) == other.folder.resolve()

    @property
    def training(self) -> str:
        """How far it was trained: updates, and environment steps where it went online."""
        online, step = self.online_steps, self.evals[-1]["step"]
        offline = f"{step - online:,} + " if step > online else ""
        return f"{offline}{online:,} env steps" if online else f"{step:,}"

    @property
    def updates(self) -> int:
        """Updates at the last evaluation."""
        last = self.evals[-1]
        return int(last["values"].get("updates", [last["step"] - self.online_steps])[0])

    @property
    def family(self) -> str:
        """Which kind of method it is, by what its run has: no table to keep, and the user's own have one, too."""
        found = self.about["config"].get("config")
        fields = found if isinstance(found, dict) else {}
        if "rollout" in fields:
            return "policy gradients"
        if fields.get("model"):
            return "with a model"
        if not fields.get("critic"):
            return "cloning"
        return "on a prior" if self.about["config"].get("prior") else "actor and critic"

    @property
    def online_steps(self) -> int:
        """Environment steps at the last evaluation."""
        return int(self.evals[-1]["values"].get("env_steps", [0])[0])

    def along(self, axis: str) -> list[float]:
        """Where each evaluation lies on one of ``AXES``."""
        if axis == "training":
            return [line["step"] for line in self.evals]
        if axis == "minutes":
            return [line["seconds"] / 60 for line in self.evals]
        found = [line["values"] for line in self.evals]
        if axis == "updates":
            return [v.get("updates", [line["step"]])[0] for v, line in zip(found, self.evals, strict=True)]
        return [v.get("env_steps", [0])[0] for v in found]

    def values(self) -> np.ndarray:
        """Every evaluation [evaluations, S]."""
        return np.asarray([line["values"][self.figure] for line in self.evals], float)

    def final(self) -> np.ndarray:
        """Last evaluation [S]."""
        return self.values()[-1]


class Damaged(NamedTuple):
    """A run that cannot be read."""

    folder: Path
    why: str  # "unfinished: ..." where it has only begun, otherwise "damaged: ..."


def load(folders: Sequence[Path], until: float = np.inf, baseline: str = "") -> list[Record]:
    """Reads runs.

    Args:
        until: the last step (updates, then environment steps) of which evaluations are read.
        baseline: the label of the run that differences are to, where it is to be another.

    Raises:
        UserError: a folder that is no run, or one without an evaluation yet.

    Returns:
        By environment, the baseline first: ``bc``, or what trained nothing, or the run named first. Runs that share environment and label get names of their folders, too (``told_apart``).
    """
    return labelled([read(f, until) for f in once(folders)], baseline)


def once(folders: Sequence[Path]) -> list[Path]:
    """The folders in their order; one named twice is read once."""
    return list({Path(f).resolve(): Path(f) for f in folders}.values())


def load_whole(
    folders: Sequence[Path], baseline: str = "", until: float = np.inf
) -> tuple[list[Record], list[Damaged]]:
    """The runs that can be read, as ``load`` gives them, and those that cannot.

    Raises:
        UserError: there is no folder of this name, none of the runs can be read, or not the baseline that is asked for.
    """
    found, damaged, first = list[Record](), list[Damaged](), None
    for folder in once(folders):
        try:
            found.append(read(folder, until))
        except UserError as e:
            if not (folder / run_folder.CONFIG).exists():
                raise
            begun = e.problem.endswith(YET) and not (folder / run_folder.SUMMARY).exists()
            damaged.append(Damaged(folder, f"{'unfinished' if begun else 'damaged'}: {e.problem}"))
            first = first or e
    if not found and first:
        raise first
    lost = [d for d in damaged if baseline and plain(run_folder.label_of(d.folder)) == baseline]
    if lost and baseline not in {r.label for r in found}:
        fix = "put it back as it was, or give another --baseline"
        raise UserError(f"--baseline {baseline} is {lost[0].why}", fix)
    return labelled(found, baseline), damaged


def read(folder: Path, until: float = np.inf) -> Record:
    """One run. Raises UserError where a report cannot be made of it; see ``load``."""
    about = run_folder.read_config(folder)
    c = about["config"]
    if not {"algorithm", "env", "seed", "seeds"} <= set(c):
        raise UserError(f"{folder} is no whole run: its {run_folder.CONFIG} lacks what was trained", "leave it out")
    if c.get("swept"):
        raise UserError(f"{folder} holds several settings of a sweep", "see the table that qchunk sweep has written")
    lines = run_folder.judged(run_folder.read_metrics(folder)) if (folder / run_folder.METRICS).is_file() else []
    lines = [line for line in lines if line["step"] <= until]
    evals = [line for line in lines if line["kind"] == "eval"]
    if not evals:
        raise UserError(f"{folder} {YET}", f"go on with qchunk train --resume {typed(folder)}")
    if not 1 <= c["seeds"] <= MOST_SEEDS:
        raise UserError(f"{folder} is no whole run: its {run_folder.CONFIG} names {c['seeds']} seeds", "leave it out")
    seeds = tuple(range(c["seed"], c["seed"] + c["seeds"]))
    if not (_has_figures(evals, len(seeds)) and {*run_folder.COMPARED} & set(evals[-1]["values"])):
        raise UserError(f"{folder} has an evaluation without a figure for each of its seeds", "leave it out")
    label, unfinished = c.get("label") or c["algorithm"], not (folder / run_folder.SUMMARY).exists()
    env, good = plain(c["env"]), without_diverged(lines, evals)
    return Record(plain(label), env, seeds, good, unfinished, folder, about, _diverged(lines, seeds))


def _has_figures(evals: list[dict], seeds: int) -> bool:
    """Whether every evaluation has the same figures, a number (or None, for what is not finite) for each seed."""
    names = [n for n in run_folder.COMPARED if n in evals[-1]["values"]]
    counts = (n for n in ("env_steps", "updates") if any(n in e["values"] for e in evals))
    whole = all(isinstance(e["values"].get(n), list) and len(e["values"][n]) == seeds for e in evals for n in names)
    counted = [e["values"].get(n, [0]) for e in evals for n in counts]
    return whole and all(isinstance(x, list) and x and x[0] is not None for x in counted)


def labelled(records: list[Record], baseline: str = "") -> list[Record]:
    """By environment, the baseline first; runs that differ by their seeds alone are one, others that share environment and label
    are told apart by their folders.

    Raises:
        UserError: no run is called as the baseline that is asked for.
    """
    if baseline and baseline not in {r.label for r in records}:
        raise unknown("--baseline", baseline, dict.fromkeys(r.label for r in records))
    records = together(judged_alike(records))
    alike: dict[tuple[str, str], list[Path]] = {}
    for r in records:
        alike.setdefault((r.env, r.label), []).append(r.folder)
    more = {folder: name for group in alike.values() if len(group) > 1 for folder, name in zip(group, told_apart(group), strict=True)}  # fmt: skip
    return [
        r._replace(label=f"{r.label} ({more[r.folder]})") if r.folder in more else r
        for r in sorted(records, key=lambda r: (r.env, r.label != baseline, r.label != BASELINE, not r.still))
    ]


def _diverged(lines: list[dict], seeds: Sequence[int]) -> str:
    found = run_folder.diverged(lines)
    if not found:
        return ""
    which = [str(seed) for seed, lost in zip(seeds, found["diverged"], strict=False) if lost]
    of_which = f" (seed {', '.join(which)})" if len(which) < len(seeds) else ""
    return f"diverged at update {int(found['diverged_at'][0]):,}{of_which}"


def damaged_rows(damaged: Sequence[Damaged]) -> list[dict[str, str]]:
    """The table's rows of runs that cannot be read."""
    blank = dict.fromkeys(COLUMNS, "")
    return [{**blank, "method": plain(d.folder.name), "note": plain(d.why)} for d in damaged]


def show(e: Estimate, unit: str) -> tuple[str, str]:
    """Mean and interval as text: percent for shares, percentage points for a difference of two, plain for a return."""
    scale, digits = (1.0, 2) if unit == "return" else (100.0, 1)
    if np.isnan(e.mean):
        return "not finite", "not finite"
    mean = _number(scale * e.mean, digits) + {"return": "", "points": " points"}.get(unit, " %")
    if not np.isfinite(e.low):
        return mean, "too few seeds"
    return mean, f"[{_number(scale * e.low, digits)}, {_number(scale * e.high, digits)}]"


def in_words(e: Estimate, unit: str) -> str:
    """``show`` in one text; what is not finite is said once."""
    return " ".join(dict.fromkeys(show(e, unit)))


def _number(x: float, digits: int) -> str:
    """Rounded; with as many digits more, up to four, as a number that is not 0 needs in order not to look like 0."""
    x = round(float(x), 4)  # float32 means that are equal look equal
    digits = next((d for d in range(digits, 5) if not x or round(x, d)), 4)
    return f"{round(x, digits) + 0.0:.{digits}f}"  # + 0.0: none is -0.0


def table(records: Sequence[Record]) -> list[dict[str, str]]:
    """One row per run, grouped by environment as ``load`` orders them.

    The paired difference is there where seeds and updates are the baseline's; otherwise its cell says what differs.
    """
    rows, found = [], differences(records)
    for r, base in with_baselines(records):
        mean, spread = show(estimate(r), r.figure)
        spread += ONE_SEED if len(r.seeds) == 1 and r.episodes and r.figure == "success" else ""
        rows.append(
            {
                "environment": r.env,
                "method": r.label,
                "seeds": str(len(r.seeds)),
                "updates": r.training,
                "figure": r.figure,
                "mean": mean,
                "95 % interval": spread,
                "whatever the seeds": show(bound, r.figure)[1] if (bound := whatever_the_seeds(r)) else "",
                "difference to baseline": _difference(r, base, found.get(r.folder)),
                "return": in_words(found_return, "return") if (found_return := estimate_of_return(r)) else "",
                "note": "; ".join(notes(r)),
            }
        )
    return rows


def by_env(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """(environment, its runs), of runs that stand together by environment, as ``load`` orders them."""
    return [(env, list(group)) for env, group in itertools.groupby(records, key=lambda r: r.env)]


def with_baselines(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Every run, and the first of its environment."""
    return [(r, members[0]) for _, members in by_env(records) for r in members]


def differences(records: Sequence[Record]) -> dict[Path, Verdict]:
    """By folder, the paired differences to the baselines; one family of comparisons (Holm)."""
    pairs = [(r, base) for r, base in with_baselines(records) if r is not base and not unpaired(r, base)]
    found = verdicts([Pair(r.final(), b.final(), r.figure == "success", min(r.episodes, b.episodes)) for r, b in pairs])
    return {r.folder: v for (r, _), v in zip(pairs, found, strict=True)}


def notes(r: Record) -> list[str]:
    """What a reader must know of a run besides its figures."""
    found = ["unfinished: last evaluation" * r.unfinished, r.diverged]
    if r.figure == "success" and (count := find_or_not(r.final())) is not None:
        apart = f"{count} of {len(r.seeds)} lie above a gap of more than 50 points"
        found.append(f"its seeds find it or not: {apart}, and the mean is of none of them")
    return [text for text in found if text]


def failed_rows(failed: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    """A row for each run without a figure: (environment, label, why)."""
    empty = dict.fromkeys(COLUMNS, "")
    return [{**empty, "environment": env, "method": label, "note": f"failed: {why}"} for env, label, why in failed]


def estimate(r: Record) -> Estimate:
    """Mean and interval of a run's figure: over its seeds; of one seed's success over its episodes (Clopper and Pearson)."""
    mean = r.final()[0]
    if len(r.seeds) == 1 and r.episodes and np.isfinite(mean):
        return Estimate(float(mean), *clopper_pearson(mean, r.episodes))
    return interval(r.final(), bounds=bounds_of(r.figure), episodes=r.episodes)


def whatever_the_seeds(r: Record) -> Estimate | None:
    """The interval of a run's success that holds whatever its seeds do; None of another figure."""
    return interval_whatever_the_seeds(r.final()) if r.figure == "success" else None


def estimate_of_return(r: Record) -> Estimate | None:
    """Mean and interval of the return beside a success; None where it is the figure itself, or is not known."""
    values = r.evals[-1]["values"].get("return")
    return None if r.figure == "return" or values is None else interval(np.asarray(values, float))


def unpaired(r: Record, base: Record) -> str:
    """What forbids the difference of two runs; empty where nothing does."""
    if r.seeds != base.seeds:
        return "other seeds"
    if r.figure != base.figure:
        return "another figure"
    if base.still or r.stands_on(base):
        return ""  # what is compared is training with none
    # more training is not a better method; online it is environment steps that are held equal
    if r.online_steps != base.online_steps:
        return "other environment steps"
    return "other updates" if not r.online_steps and r.evals[-1]["step"] != base.evals[-1]["step"] else ""


def _difference(r: Record, base: Record, found: Verdict | None) -> str:
    if r is base:
        return f"(baseline: {base.label})"
    if not found:
        return f"not paired: {unpaired(r, base)}"
    return difference_text(found, r.figure)


def difference_text(found: Verdict, figure: str) -> str:
    """A paired difference of successes or returns, its interval and what may be said of it."""
    e = found.difference
    mean, spread = show(e, figure if figure == "return" else "points")
    if np.isnan(e.mean):
        return mean
    return f"{'+' if e.mean >= 0 else ''}{mean} {spread} {found.word}".rstrip()


def markdown(rows: Rows, columns: Sequence[str] = COLUMNS) -> str:
    """A table as markdown; a bar in a label does not end its cell."""
    cells = [[row[c].replace("|", "\\|") for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells]) + "\n"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names."""
    found: dict[str, str] = {}
    for k, v in values.items():
        found |= flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": str(v)}
    return found
