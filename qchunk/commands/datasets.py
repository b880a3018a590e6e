"""``qchunk data``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from qchunk import env_names, names
from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.data import description, doubts, faults, formats
from qchunk.data.adapting import SCALE, Reading
from qchunk.data.formats import Survey
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.system import answers, files
from qchunk.system.errors import UserError, unknown


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
    """File to write (.npz); it must not exist."""


HELP = "qchunk data info|check|convert FILE [flags]: FILE is whatever a reader of qchunk list readers takes, or file.py:function:ARGUMENT."


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
    run(path, *flags.parse(f"data {argv[0]}", rest, ReadFlags, *more, text=HELP))


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
    """The environment, or None where none is named."""
    if not name:
        return None
    from qchunk import envs

    return envs.make(env_names.check_env(name))


def judged(path: str, r: Reading, env: str) -> tuple[Survey | None, list[UserError]]:
    """What a reader finds, and everything that is wrong with it."""
    try:
        found = formats.survey(path, r)
    except UserError as e:
        return None, [e]
    wrong = [*found.faults]
    if found.rows is not None:
        misfits = list(faults.misshapen(found.rows, path))
        wrong += misfits or faults.faults(found.rows, path)
        wrong += found.doubts
        if not misfits:
            wrong += doubts.doubts(found.rows, found.about, path)
            try:
                if r.env is not None:
                    formats.fitted(found.rows, claimed(found.about, r, env), r.env, env, path)
            except UserError as e:
                wrong.append(e)
    else:
        wrong += found.doubts
    return found, wrong


def claimed(about: dict, r: Reading, env: str) -> dict:
    """What a file says of itself, where it is of another package or of one's own and --env says what environment that is."""
    own = about.get("reader") in ("qchunk", "ogbench")
    return about if own and "env" in about else {**about, "env": getattr(r.env, "data_name", env)}


def remarks(found: Survey | None) -> list[str]:
    """What is no mistake, but good to know."""
    if found is None or found.rows is None or any(faults.misshapen(found.rows, "")):
        return list(found.notes) if found else []
    return [*found.notes, *doubts.remarks(found.rows)]


def check(path: str, f: ReadFlags) -> None:
    """Prints a line for each defect, with its fix, and leaves with 2; 0 where there is none."""
    found, wrong = judged(path, reading(f), f.env)
    notes = remarks(found)
    if f.json:
        told = [{"problem": e.problem, "fix": e.fix} for e in wrong]
        answers.answer({"path": path, "good": not wrong, "defects": told, "notes": notes})
    else:
        for e in wrong:
            print("defect: " + " ".join(str(e).split()))
        for note in notes:
            print(f"note: {note}")
        print(f"{path}: {len(wrong)} defect{'s' * (len(wrong) != 1)}" if wrong else f"{path}: good")
    if wrong:
        sys.exit(2)


def usable(path: str, r: Reading) -> Survey:
    """What a reader finds, whose arrays fit.

    Raises:
        UserError: there are none.
    """
    found = formats.survey(path, r)
    for fault in found.faults if found.rows is None else faults.misshapen(found.rows, path):
        raise fault
    return found


def info(path: str, f: ReadFlags, more: PictureFlags) -> None:
    """Prints the figures of a data set, and of everything wrong a line."""
    if more.picture:
        files.check_new(more.picture)
    r = reading(f)
    found = usable(path, r)
    assert found.rows is not None
    figures = description.described(found.rows, found.about)
    wrong = judged(path, r, f.env)[1]
    if more.picture:
        files.make_folder(more.picture.parent)
        files.atomic_write(more.picture, description.picture(found.rows, figures))
    if f.json:
        notes = {"defects": [e.problem for e in wrong], "notes": remarks(found)}
        return answers.answer({"path": path, **figures, **notes})
    for line in (*description.lines(figures), *(f"note           {n}" for n in remarks(found))):
        print(line)
    for e in wrong:
        print(f"defect         {' '.join(e.problem.split())}")
    if wrong:
        print(f"qchunk data check {path} says how to mend {'it' if len(wrong) == 1 else 'them'}")
    return None


def convert(path: str, f: ReadFlags, to: OutFlags) -> None:
    """Writes a data set in our own format.

    Raises:
        UserError: whatever training could not use; doubts are told on stderr.
    """
    out = to.out if to.out.suffix == ".npz" or not to.out.name else to.out.with_name(to.out.name + ".npz")
    files.check_new(out)
    r = reading(f)
    found = usable(path, r)
    rows, about = found.rows, found.about
    assert rows is not None
    if about.get("reader") == "ogbench":
        raise UserError(f"{path} is judged by each task of OGBench anew", "give it to qchunk train --data as it is")
    for fault in (*found.faults, *faults.faults(rows, path)):
        raise fault
    if f.env:
        about = claimed(about, r, f.env)
        rows = formats.fitted(rows, about, r.env, f.env, path)
    for e in (*found.doubts, *doubts.doubts(rows, about, path)):
        print(f"warning: {' '.join(str(e).split())}", file=sys.stderr)
    files.make_folder(out.parent)
    asked = {n: v for n, v in dataclasses.asdict(f).items() if v and n not in ("env", "json")}
    left_out = ("format", "version", "fingerprint", "reader", "action_bounds")
    about = {n: v for n, v in about.items() if n not in left_out}
    about |= {"source": f"{Path(path).name} ({found.about.get('reader', 'own reader')})", "reading": asked}
    mark = formats.save(out, rows, about)
    figures = {"transitions": int((~rows.end).sum()), "episodes": int(rows.end.sum()), "fingerprint": mark}
    if f.json:
        return answers.answer({"path": str(out), **figures, "env": about.get("env"), SCALE: about.get(SCALE)})
    for note in found.notes:
        print(f"note: {note}")
    print(f"{figures['transitions']} transitions in {figures['episodes']} episodes -> {out} ({mark})")
    return None
