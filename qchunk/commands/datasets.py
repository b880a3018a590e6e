"""``qchunk data``."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qchunk import env_names, names
from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.data import description, doubts, faults, formats, npy_folder
from qchunk.data.adapting import SCALE, Reading
from qchunk.data.formats import Rows, Survey
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.system import answers, files
from qchunk.system.errors import UserError, typed, unknown


@dataclasses.dataclass(frozen=True)
class ReadFlags:
    """How a data set is to be read."""

    env: str = ""
    """The environment that the data are of, one of qchunk list envs or yours; sizes are compared with it."""
    reader: str = ""
    """One of qchunk list readers; by default the first that claims the file."""
    obs_keys: tuple[str, ...] = ()
    """Parts of the observations, in this order; by default all but images."""
    tree: bool = False
    """Keep the parts of observations as a dictionary in place of joining them; also done where --env has dictionaries."""
    names: tuple[str, ...] = ()
    """Names of a file's arrays, as obs=my_obs action=my_act reward=... terminal= timeout= success= episode= ends= frame= time=
    next=; obs/PART and next/PART name parts."""
    terminals: Literal["stored", "reward", "none"] = "stored"
    """What ends an episode for good: what the file says, rewards above 0, or nothing: then all ends are cuts by time."""
    episode_length: PositiveInt | None = None
    """Steps after which episodes were cut, for files that do not mark it."""
    cut_gaps: bool = False
    """End episodes, cut by time, where steps are missing."""
    scale_actions: bool = False
    """Map actions to [-1, 1] from the bounds that the file declares, or else from the lowest and highest of each; kept in the data set."""
    action_range: tuple[float, float] | None = None
    """The recorded units that become -1 and 1, for all actions."""
    drop: tuple[NonNegativeInt, ...] = ()
    """Episodes to leave out, counted from 0."""
    drop_bad: bool = False
    """Leave out episodes with NaN or infinite values."""
    json: bool = False
    """Print the answer as JSON to stdout."""


@dataclasses.dataclass(frozen=True)
class PictureFlags:
    """What else to show."""

    picture: Path | None = None
    """A new file (.png): the distribution of every action."""


@dataclasses.dataclass(frozen=True)
class OutFlags:
    """Where to write."""

    out: Path
    """File to write (.npz), or folder; it must not exist."""
    folder: bool = False
    """Write a folder of plain arrays, which training streams where memory does not hold them. It takes several FILEs, one after the other."""


LEFT_BEHIND = (
    "format",
    "version",
    "fingerprint",
    "reader",
    "action_bounds",
    "arrays",
    "rows",
)  # of what a file says of itself, when it is converted
HELP = "qchunk data info|check|convert FILE [flags], convert --folder FILE... [flags]: FILE is whatever a reader of qchunk list readers takes, or file.py:function:ARGUMENT."


def data(argv: list[str]) -> None:
    """``qchunk data info|check|convert FILE [flags]``."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {HELP}\nqchunk data info --help shows the flags")
        if not argv:
            raise UserError("data needs info, check or convert", "qchunk data check FILE")
        return
    table: dict[str, tuple[Callable, tuple]] = {
        "info": (info, (PictureFlags,)),
        "check": (check, ()),
        "convert": (convert, (OutFlags,)),
    }
    if argv[0] not in table:
        raise unknown("part of qchunk data", argv[0], table)
    run, more = table[argv[0]]
    path, rest = positional(f"data {argv[0]}", argv[1:], "a file or folder")
    paths = [path, *itertools.takewhile(lambda a: run is convert and not a.startswith("-"), rest)]
    found = flags.parse(f"data {argv[0]}", rest[len(paths) - 1 :], ReadFlags, *more, text=HELP)
    run(paths if run is convert else path, *found)


def reading(f: ReadFlags) -> Reading:
    """What the flags ask of a reader.

    Raises:
        UserError: no such reader, environment or pair of names.
    """
    if f.reader and f.reader not in names.READERS:
        raise unknown("reader", f.reader, names.READERS)
    pairs = tuple((a, b) for a, _, b in (text.partition("=") for text in f.names))
    if odd := [text for text, (a, b) in zip(f.names, pairs, strict=True) if not (a and b)]:
        raise UserError(f"--names {odd[0]} is no pair of names", "give OURS=THEIRS, such as obs=my_observations")
    if f.names and f.reader and f.reader not in names.FLAT_READERS:
        raise UserError(f"the reader {f.reader} knows its names", f"--names is for {', '.join(names.FLAT_READERS)}")
    same = {n: getattr(f, n) for n in Reading._fields if n not in ("env", "names")}
    return Reading(env=environment(f.env), names=pairs, **same)


def environment(name: str) -> Any:
    """The environment, or None where none is named, or ``none``: that would hold episodes out."""
    if name.partition("/")[0] in ("", "none"):
        return None
    from qchunk import envs

    return envs.make(env_names.check_env(name))


class Judged(NamedTuple):
    """What a reader finds, and everything that is wrong with it."""

    found: Survey | None  # None where there is nothing to be read
    rows: Rows | None  # as the environment judges them, if there is one; None where their arrays do not fit
    faults: list[UserError]  # what training cannot use
    doubts: list[UserError]  # what is probably a mistake


def judged(path: str, r: Reading, env: str) -> Judged:
    """Reads a data set and says all that is wrong with it."""
    try:
        found = formats.survey(path, r)
    except UserError as e:
        return Judged(None, None, [e], [])
    rows, wrong, odd = found.rows, [*found.faults], [*found.doubts]
    if rows is None or (misfits := list(faults.misshapen(rows, path))):
        return Judged(found, None, wrong + (misfits if rows is not None else []), odd)
    wrong += faults.faults(rows, path)
    try:
        if r.env is not None:
            fits = formats.fitted(rows, claimed(found.about, r.env), r.env, env, path)
            rows = rows if wrong else formats.of_task(fits, r.env, path)
    except UserError as e:
        wrong.append(e)
    return Judged(found, rows, wrong, [*odd, *doubts.doubts(rows, found.about, path, found.doubts)])


def claimed(about: dict, env: Any) -> dict:
    """What a file says of itself, where it is of another package or of one's own and --env says what environment that is."""
    own = about.get("reader") in ("qchunk", "folder", "ogbench")
    return about if own and "env" in about else {**about, "env": env.data_name}


def remarks(j: Judged) -> list[str]:
    """What is no mistake, but good to know."""
    return [*(j.found.notes if j.found else ()), *(doubts.remarks(j.rows) if j.rows is not None else ())]


def check(path: str, f: ReadFlags) -> None:
    """Prints a line for each defect, with its fix, and leaves with 2; 0 where there is none."""
    j = judged(path, reading(f), f.env)
    wrong = j.faults + j.doubts
    if f.json:
        told = [{"problem": e.problem, "fix": e.fix} for e in wrong]
        answers.answer({"path": path, "good": not wrong, "defects": told, "notes": remarks(j)})
    else:
        for line in (*(f"defect: {one_line(str(e))}" for e in wrong), *(f"note: {n}" for n in remarks(j))):
            print(line)
        print(f"{path}: {len(wrong)} defect{'s' * (len(wrong) != 1)}" if wrong else f"{path}: good")
    if wrong:
        sys.exit(2)


def one_line(text: str) -> str:
    return " ".join(text.split())


def stored_rows(j: Judged) -> Rows:
    """The rows as they are read, whatever an environment says of them."""
    rows = j.found.rows if j.found else None
    assert rows is not None
    return rows


def rows_of(j: Judged) -> tuple[Rows, dict[str, Any]]:
    """The rows, and what the file says of itself.

    Raises:
        UserError: there are none whose arrays fit.
    """
    if j.found is None or j.rows is None:
        raise j.faults[0]
    return j.rows, j.found.about


def info(path: str, f: ReadFlags, more: PictureFlags) -> None:
    """Prints the figures of a data set, and of everything wrong a line."""
    if more.picture:
        files.check_new(more.picture)
    j = judged(path, reading(f), f.env)
    rows, about = rows_of(j)
    about.setdefault("fingerprint", formats.fingerprint(stored_rows(j)))
    figures = description.described(rows, about)
    if more.picture:
        files.make_folder(more.picture.parent)
        files.atomic_write(more.picture, description.picture(rows, figures))
    wrong = [one_line(e.problem) for e in j.faults + j.doubts]
    if f.json:
        return answers.answer({"path": path, **figures, "defects": wrong, "notes": remarks(j)})
    for line in description.lines({**figures, "notes": remarks(j), "defects": wrong}):
        print(line)
    if wrong:
        print(f"qchunk data check {typed(path)} says how to mend {'it' if len(wrong) == 1 else 'them'}")
    return None


def convert(paths: list[str], f: ReadFlags, to: OutFlags) -> None:
    """Writes a data set in our own format.

    Raises:
        UserError: whatever training could not use; doubts are told on stderr.
    """
    if len(paths) > 1 and not to.folder:
        raise UserError(f"{len(paths)} files do not become one", "add --folder")
    is_file = not to.folder and to.out.name and to.out.suffix != ".npz"
    out = to.out.with_name(to.out.name + ".npz") if is_file else to.out
    files.check_new(out)
    parts = (converted(path, f) for path in paths)
    if to.folder:
        mark, figures, about = folder_of(out, parts)
    else:
        ((rows, about, _),) = parts
        files.make_folder(out.parent)
        mark = formats.save(out, rows, about)
        figures = {"transitions": int((~rows.end).sum()), "episodes": int(rows.end.sum())}
    if f.json:
        told = {"path": str(out), **figures, "fingerprint": mark}
        return answers.answer({**told, "env": about.get("env"), SCALE: about.get(SCALE)})
    print(f"{figures['transitions']} transitions in {figures['episodes']} episodes -> {out} ({mark})")
    return None


def converted(path: str, f: ReadFlags) -> tuple[Rows, dict[str, Any], str]:
    """The rows of one file, what is kept of what it says of itself, and its path; what else there is to say is printed.

    Raises:
        UserError: whatever training could not use.
    """
    r = reading(f)
    j = judged(path, r, f.env)
    about = rows_of(j)[1]
    if about.get("reader") == "ogbench":
        raise UserError(f"{path} is judged by each task of OGBench anew", "give it to qchunk train --data as it is")
    for fault in j.faults:
        raise fault
    for e in j.doubts:
        print(f"warning: {one_line(str(e))}", file=sys.stderr)
    for note in () if f.json else remarks(j):
        print(f"note: {note}")
    asked = {n: v for n, v in dataclasses.asdict(f).items() if v and v != "stored" and n not in ("env", "json")}
    source = f"{Path(path).name} ({about.get('reader', 'a reader of your own')})"
    kept = {n: v for n, v in (claimed(about, r.env) if r.env is not None else about).items() if n not in LEFT_BEHIND}
    return stored_rows(j), {**kept, "source": source, "reading": asked}, path


def folder_of(
    out: Path, parts: Iterable[tuple[Rows, dict[str, Any], str]]
) -> tuple[str, dict[str, int], dict[str, Any]]:
    """Writes a folder, a file's rows after the other's: its fingerprint, its figures, what it says of itself.

    Raises:
        UserError: files of several environments, whose actions were in other units, or whose columns have other names.
    """
    first: dict[str, Any] = {}
    sources: list[str] = []
    successes: list[int | None] = []

    def checked() -> Iterator[tuple[Rows, str]]:
        for rows, about, path in parts:
            first.update({} if first else about)
            sources.append(about["source"])
            successes.append(about.get("successes"))
            if about.get("env") != first.get("env"):
                raise UserError(
                    f"{path} is of {about.get('env')}, the first file of {first.get('env')}", "leave it out"
                )
            if about.get(SCALE) != first.get(SCALE):
                fix = "give the same bounds to all: --action-range LOW HIGH"
                raise UserError(f"{path}: -1 and 1 are other actions than in the first file", fix)
            for kind in ("observations", "action_names"):
                if about.get(kind) != first.get(kind):
                    problem = f"{path}: its {kind} are {told(about, kind)}, the first file's {told(first, kind)}"
                    raise UserError(problem, "choose parts that both have by --obs-keys, or leave it out")
            yield rows, path

    def told(about: dict[str, Any], kind: str) -> str:
        return ", ".join(about.get(kind) or ["without names"])

    def described() -> dict[str, Any]:
        first["source"] = ", ".join(sources)
        first.pop("successes", None)
        if None not in successes:
            first["successes"] = sum(n or 0 for n in successes)
        return first

    mark, figures = npy_folder.write(out, checked(), described)
    return mark, figures, first
