"""Data sets on disk, by the reader that claims them; and our own format: one npz of plain arrays, with a fingerprint.

Nothing is ever unpickled. Arrays: ``obs`` [R, O] float32, ``action`` [R, A] float32 in [-1, 1], ``reward`` [R] float32, ``terminal`` [R] bool,
``end`` [R] bool (rows that hold an episode's final observation), and ``about``, a JSON text with ``format``, ``env``
(the data's name: an environment, or a scene whose tasks share it), ``version`` and how it was collected. A tree of
observations has an array for each leaf: ``obs/state``, ``obs/goal``, float32 or whole numbers (images: uint8). Whatever
else is kept of a step stands in ``extras/NAME`` [R, ...].
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qchunk import names, registry, trees
from qchunk.data import adapting, npz, on_disk
from qchunk.data.adapting import Reading
from qchunk.data.chunks import Dataset, dataset, with_history
from qchunk.data.faults import ARRAYS, arrays_of, faults, misshapen, usable
from qchunk.system import files, loading
from qchunk.system.errors import UserError, typed
from qchunk.types import EDGE, PyTree, Steps

FORMAT, VERSION = "qchunk-data", 1
AT_ONCE = 2**22  # numbers that a task judges at once


class Rows(NamedTuple):
    """Experience on the host; see ``data/chunks.py`` for the order of rows."""

    obs: PyTree  # [R, O]
    action: np.ndarray  # [R, A]
    reward: np.ndarray  # [R]
    terminal: np.ndarray  # [R] bool
    end: np.ndarray  # [R] bool
    extras: dict = {}  # noqa: RUF012  (never written to)  [R, ...] each; see types.Steps


def rows_of(arrays: Mapping[str, np.ndarray]) -> Rows:
    """The rows that ``arrays_of`` took apart."""
    plain = (arrays[name] for name in ARRAYS[1:])
    return Rows(trees.unnamed(arrays), *plain, extras=trees.unnamed(arrays, "extras"))


def joined(parts: Sequence[Rows]) -> Rows:
    """One after the other, with the extras that all have."""
    both = set.intersection(*(set(rows.extras) for rows in parts))
    parts = [rows._replace(extras={n: rows.extras[n] for n in sorted(both)}) for rows in parts]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def of_steps(steps: Steps) -> Rows:
    """Steps [n, E, ...] -> rows, episode after episode. The last episode of each environment is cut: a time-out."""
    parts = []
    for e in range(steps.alive.shape[1]):
        keep = np.flatnonzero(steps.alive[:, e] > 0)
        one = jax.tree.map(lambda x: np.asarray(x[keep, e]), steps._replace(success=None, terms={}))
        ends = np.flatnonzero((one.terminal > 0) | (one.truncation > 0))
        if len(keep):
            parts.append(_rows(one, np.union1d(ends, len(keep) - 1)))
    return joined(parts)


def _rows(steps: Steps, last: np.ndarray) -> Rows:
    """Transitions [L, ...] of one environment -> rows; ``last`` are the places of those that end an episode."""
    finals = jax.tree.map(lambda after: after[last], steps.next_obs)
    return of_transitions(steps.obs, steps.action, steps.reward, steps.terminal, last, finals, steps.extras)


def of_transitions(
    obs: PyTree,
    action: np.ndarray,
    reward: np.ndarray,
    terminal: np.ndarray,
    last: np.ndarray,
    finals: PyTree,
    extras: dict | None = None,
) -> Rows:
    """Transitions in time order, episode after episode -> rows, with a row behind each episode for its final observation.

    Args:
        obs: [N, O] before the action; ``action`` [N, A], ``reward`` and ``terminal`` [N], ``extras`` [N, ...].
        last: [E] places of the transitions that end an episode.
        finals: [E, O] the observations after these.
    """
    tail = lambda x: np.insert(x, last + 1, 0, axis=0)  # noqa: E731
    end = np.insert(np.zeros(len(reward), bool), last + 1, True)
    obs = jax.tree.map(lambda x, final: _short(np.insert(x, last + 1, final, axis=0)), obs, finals)
    kept = jax.tree.map(tail, extras or {})
    return Rows(obs, _short(tail(action)), tail(reward), tail(terminal) > 0, end, kept)


def _short(x: np.ndarray) -> np.ndarray:
    """Floats as float32; whole numbers as they are."""
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def _native(x: np.ndarray) -> np.ndarray:
    """In this machine's order of bytes, the only one that jax takes."""
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


class Survey(NamedTuple):
    """What a reader finds, before anybody judges it."""

    rows: Rows | None  # None where none can be made: ``faults`` say why
    about: dict  # what is known besides: "env", "fingerprint", "action_bounds" ([low], [high]), ... where they are
    faults: tuple[UserError, ...] = ()  # what training must not use
    doubts: tuple[UserError, ...] = ()  # what is probably a mistake: ``qchunk data check`` tells them
    notes: tuple[str, ...] = ()  # what the reader has decided


class Reader(NamedTuple):
    """One way to read data sets; a row of ``names.READERS``."""

    claims: Callable  # path -> whether it reads what lies there
    survey: Callable  # (path, Reading) -> Survey; may raise UserError in place of a single fault
    # path -> (rows that were checked when they were written, whose arrays may stay in their files, and what they say of
    # themselves, with their "fingerprint"); None: it reads into memory
    mapped: Callable | None = None


def fingerprint(rows: Rows) -> str:
    """See ``digest``."""
    return digest(arrays_of(rows).items())


def digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all arrays, with their names and shapes."""
    h = hashlib.sha256()
    for name, x in arrays:
        h.update(f"{name}{x.shape}{x.dtype}".encode())
        h.update(np.ascontiguousarray(x))
    return h.hexdigest()[:16]


def save(path: Path, rows: Rows, about: dict[str, Any]) -> str:
    """Writes a data set, whole or not at all, and returns its fingerprint.

    Raises:
        UserError: the file exists, or the disk is full.
    """
    path = Path(path)
    files.check_new(path)
    mark = fingerprint(rows)
    text = json.dumps({"format": FORMAT, "version": VERSION, "fingerprint": mark, **about})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.asarray(text), **arrays_of(rows))
    files.atomic_write(path, buffer.getvalue())
    return mark


def load(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Reads and checks a data set.

    Raises:
        UserError: missing, truncated, foreign, or with values that training cannot use; the line names the fix.
    """
    rows, about = opened(Path(path))
    for fault in (*faults(rows, str(path)), *changed(rows, about, path)):
        raise fault
    return rows, about


def opened(path: Path) -> tuple[Rows, dict[str, Any]]:
    """Reads a data set of our own format, unchecked: its rows, and what it says of itself.

    Raises:
        UserError: missing, truncated or foreign.
    """
    if not files.is_file(path):
        raise UserError(f"there is no data set at {path}", "make one: qchunk collect ENV --out DATA")
    with npz.opened(path, "collect it again: qchunk collect") as z:
        found = {"obs" if name.startswith("obs/") else name for name in z.files}
        missing = [n for n in (*ARRAYS, "about") if n not in found]
        if missing:
            fix = "collect it again, or where its arrays are called otherwise say how: --names obs=NAME action=NAME"
            holds = f"it lacks {', '.join(missing)}, and holds {', '.join(z.files[:12]) or 'nothing'}"
            raise UserError(f"{path} is no qchunk data set: {holds}", fix)
        about = json.loads(str(z["about"]))
        rows = rows_of({n: z[n] for n in z.files if n.split("/")[0] in (*ARRAYS, "extras")})
    if not isinstance(about, dict):
        raise UserError(f"{path} is no qchunk data set: its description is no JSON object", "collect it again")
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        got = f"{about.get('format')} version {about.get('version')}"
        raise UserError(f"{path} is of format {got}, expected {FORMAT} version {VERSION}", "collect it again")
    return rows, about


def changed(rows: Rows, about: Mapping[str, Any], path: Path) -> tuple[UserError, ...]:
    """That the rows do not match the fingerprint they were written with, where that is so."""
    line = f"{path} does not match its fingerprint {about.get('fingerprint')}"
    return () if fingerprint(rows) == about.get("fingerprint") else (UserError(line, "collect it again"),)


def check(rows: Rows, where: str) -> None:
    """Refuses rows that training cannot use.

    Raises:
        UserError: names the array, the row and the fix.
    """
    for fault in faults(rows, where):
        raise fault


def to_device(rows: Rows) -> Dataset:
    """The rows as a Dataset, actions clipped to +-EDGE. What final rows hold besides observations means nothing; NaN there becomes 0."""
    action, reward, extras = jax.tree.map(
        lambda x: x if usable(x).all() else np.where(np.isfinite(x), x, 0).astype(np.float32),
        (rows.action, rows.reward, rows.extras),
    )
    return dataset(*rows._replace(action=np.clip(action, -EDGE, EDGE), reward=reward, extras=extras))


def _survey(path: Path, reading: Reading) -> Survey:
    rows, about = opened(Path(path))
    return adapted_to(reading, rows, about, path)


def adapted_to(reading: Reading, rows: Rows, about: dict, path: Path) -> Survey:
    """Rows of our own format with the parts and terminals that are asked for; a fault where their fingerprint does not match.

    Raises:
        UserError: asked for what our own format says itself.
    """
    adapting.check_own(reading, path)
    obs, terminal = adapting.stored_obs(rows.obs, reading), adapting.terminals(reading, rows.reward, rows.terminal)
    return Survey(rows._replace(obs=obs, terminal=terminal), about, changed(rows, about, path))


# the last one, which says what is wrong with a file that nobody else claims
READER = Reader(lambda path: True, _survey)


def survey(path: Path | str, reading: Reading = Reading()) -> Survey:  # noqa: B008  (a tuple)
    """What some reader finds at ``path``, or a function of the user's own (``file.py:function:ARGUMENT``), as ``reading`` asks for it.

    Raises:
        UserError: missing or damaged, no such reader, or no function that returns rows.
    """
    if loading.is_own(str(path)):
        found = Survey(_of_own(str(path)), {})
    else:
        name = reading.reader or claimant(path, reading)
        found = registry.named(names.READERS, name, "reader")[0].survey(path, reading)
        found = found._replace(about={"reader": name, **found.about})
    if found.rows is None or any(misshapen(found.rows, str(path))):
        return found
    found = found._replace(rows=jax.tree.map(_native, found.rows))
    rows, more, fault = adapting.adapted(found.rows, reading, found.about, str(path))
    if rows is not found.rows:  # what the file says of all its episodes is not true of these
        for name in ("fingerprint", *(("successes",) if reading.drop or reading.drop_bad else ())):
            found.about.pop(name, None)
    return found._replace(rows=rows, about={**found.about, **more}, faults=(*found.faults, *fault))


def claimant(path: Path | str, reading: Reading) -> str:
    """The name of the reader that claims a file or folder; with names for its arrays, the one of plain arrays."""
    known = names.FLAT_READERS if reading.names else names.READERS
    return next((n for n in known if registry.named(names.READERS, n, "reader")[0].claims(path)), [*known][-1])


def _of_own(path: str) -> Rows:
    """What a function of the user's own, ``file.py:function:ARGUMENT``, returns; ARGUMENT is the text as it stands."""
    target, argument = names.target({}, path, "reader")
    if not argument:
        raise UserError(f"--data {path} lacks what is to be read", f"give {path}:ARGUMENT, such as a file's path")
    try:
        rows = loading.function(target)(argument)
    except OSError as e:
        raise UserError(f"{target} cannot read {argument}: {e}", "give what it can read after the last colon") from e
    if not isinstance(rows, Rows):
        raise UserError(f"{target} returns a {type(rows).__name__}", "return a qchunk.data.formats.Rows")
    if odd := [type(x).__name__ for x in jax.tree.leaves(rows) if not isinstance(x, np.ndarray)]:
        raise UserError(f"{target} returns rows that hold a {odd[0]}", "make arrays of them: numpy.asarray")
    return rows


def read(path: Path | str, env: Any) -> tuple[Rows, dict[str, Any]]:
    """The rows of a file that some reader claims, or of a function of the user's own, see ``survey``.

    Returned besides are the data's "fingerprint" and, where it is known, their name, "env".

    Raises:
        UserError: missing, damaged, or not what a reader returns.
    """
    found = survey(path, Reading(env=env))
    for fault in found.faults:
        raise fault
    check(found.rows, str(path))  # type: ignore[arg-type]
    return found.rows, {"fingerprint": fingerprint(found.rows), **found.about}  # type: ignore[return-value, arg-type]


def mapped(path: Path | str) -> tuple[Rows, dict[str, Any]] | None:
    """The rows of a data set that stays in its files, and what it says of itself; None where it is read into memory."""
    if loading.is_own(str(path)):
        return None
    reader = registry.named(names.READERS, claimant(path, Reading()), "reader")[0]
    return reader.mapped(path) if reader.mapped else None


def for_env(path: Path | str, env: Any, name: str, stream: bool = False) -> tuple[Dataset, dict[str, Any]]:
    """The data set at ``path``, as ``env`` (of that ``name``) gives rewards, terminals and observations.

    Args:
        path: a file or folder that some reader claims, or ``file.py:function:ARGUMENT``, see ``survey``. Where the
            environment judges rows itself (``relabel``), its rewards and ends replace those that were read. Where it has goals,
            data of states alone get some (``with_goals``), also those called as its ``state_data``.
        stream: leave a folder of memory maps on disk (``on_disk.of_rows``), for learning offline. Histories and objectives, which
            are of several rows, need it in memory all the same.

    Raises:
        UserError: data of another environment, or of other sizes.
    """
    if not isinstance(path, str):
        files.path_of(path, "the data set")
    if (count := getattr(env, "history", 1)) > 1:
        data, about = for_env(path, env.env, name)
        return with_history(data, count), about
    if stream and not hasattr(env, "reweighed") and (kept := mapped(path)):
        rows, about = kept
        return on_disk.of_rows(of_task(fitted(rows, about, env, name, path), env, path)), about
    rows, about = read(path, env)
    return to_device(of_task(fitted(rows, about, env, name, path), env, path)), about


def of_task(rows: Rows, env: Any, path: Path | str) -> Rows:
    """The rows, which fit ``env``, with its own rewards and ends where it judges rows itself; without those that it holds out.

    Raises:
        UserError: rewards that are no numbers.
    """
    if hasattr(env, "relabel"):
        rows = relabelled(rows, env)
    if hasattr(env, "reweighed"):
        found = env.reweighed(rows.obs, rows.action, rows.reward, rows.end)
        rows = rows._replace(reward=np.asarray(found, np.float32))
        check(rows, f"{path} under this objective")
    return env.hold_out(rows) if hasattr(env, "hold_out") else rows


def fitted(rows: Rows, about: Mapping[str, Any], env: Any, name: str, path: Path | str) -> Rows:
    """The rows, where they are of ``env`` by name (unless nobody has named it) and by sizes; with goals, if it has some.

    Raises:
        UserError: data of another environment, or of other sizes.
    """
    wanted = getattr(env, "data_name", name)
    foreign = about.get("reader") in names.FOREIGN_READERS
    if wanted and about.get("env", wanted) not in (wanted, getattr(env, "state_data", wanted)):
        fix = f"collect data for it: qchunk collect {wanted} --out DATA"
        if foreign:
            fix = f"if they are the same, say so: qchunk data convert {typed(path)} --env {name} --out DATA.npz"
        raise UserError(f"{path} holds data of {about.get('env')}, but --env {name} needs data of {wanted}", fix)
    expected = (trees.declared(env.observation_size, name), env.action_size)
    if hasattr(env, "goal_of"):
        rows = with_goals(rows, env.goal_of, expected[0])
    got = (trees.sizes(rows.obs), rows.action.shape[1])
    if got != expected:
        part = "--obs-keys NAME" if got[0] != expected[0] else "--names action=NAME"
        fix = f"choose its columns: qchunk data convert {part}" if foreign else "collect it again"
        raise UserError(f"{path} holds observations and actions of sizes {got}, but {name} has {expected}", fix)
    return rows._replace(obs=adapting.as_played(rows.obs, env, path))


def with_goals(rows: Rows, goal_of: Callable, sizes: PyTree) -> Rows:
    """The rows with a goal in each observation, {"state": ..., "goal": ...}: where they have none, what their episode ends in.

    Args:
        sizes: of observations with a goal; rows whose other parts are not of these sizes stay as they are.
    """
    obs = rows.obs if isinstance(rows.obs, Mapping) else {"state": rows.obs}
    if "goal" in obs or trees.sizes(obs) != {name: size for name, size in sizes.items() if name != "goal"}:
        return rows
    finals = np.flatnonzero(rows.end)
    goal = np.asarray(goal_of(jax.tree.map(lambda x: x[finals], obs)))
    return rows._replace(obs={**obs, "goal": goal[np.searchsorted(finals, np.arange(len(rows.end)))]})


def relabelled(rows: Rows, env: Any) -> Rows:
    """The rows with reward and terminal of the environment's task; final-observation rows get 0."""
    inside, found = ~rows.end, []
    step = max(1, AT_ONCE // trees.total(trees.sizes(rows.obs)))
    for first in range(0, len(inside), step):
        now = np.arange(first, min(first + step, len(inside)))
        obs, following = (jax.tree.map(lambda x: x[at], rows.obs) for at in (now, np.minimum(now + 1, len(inside) - 1)))
        found.append(env.relabel(obs, rows.action[now], following))
    reward, terminal = (np.concatenate([np.asarray(x) for x in parts]) for parts in zip(*found, strict=True))
    return rows._replace(reward=np.where(inside, reward, 0.0).astype(np.float32), terminal=(terminal > 0) & inside)
