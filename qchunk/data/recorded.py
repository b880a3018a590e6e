"""From columns, as other packages keep them, to rows: where episodes end, what was seen last, what is missing between steps.

Columns are arrays of one entry per transition: ``obs/NAME`` [N, ...] before the action, ``action`` [N, A], and where they are
known ``reward``, ``terminal`` (a success or failure: nothing is to come), ``timeout`` (the episode was cut), ``success``, ``episode``
(a number that changes with it), ``frame`` (the step within the episode), ``time`` (seconds) [N], ``next/NAME`` [N, ...] after the action.
Instead of ``next/NAME`` there may be ``final/NAME`` [E, ...] after each episode's last action, and in place of
``episode`` ``ends`` [E], the count of transitions up to each episode's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from qchunk.data import adapting
from qchunk.data.adapting import Reading
from qchunk.data.formats import Survey, of_transitions
from qchunk.system.errors import UserError

Columns = dict[str, np.ndarray]
NAMES = {  # ours -> what others call it
    "obs": ("observations", "observation", "obs", "states", "state"),
    "action": ("actions", "action"),
    "reward": ("rewards", "reward"),
    "terminal": ("terminals", "terminal", "terminations", "dones", "done"),
    "timeout": ("timeouts", "timeout", "truncations", "truncated"),
    "success": ("success", "successes"),
    "episode": ("episode", "episodes", "episode_index", "episode_id"),
    "ends": ("episode_ends",),
    "frame": ("frame", "frame_index"),
    "time": ("time", "timestamp"),
    "next": ("next_observations", "next_observation", "next_obs", "next_states", "next_state"),
}
MARKS = ("terminal", "timeout", "success", "episode", "ends", "frame", "time")  # what is neither seen, done nor earned
CHANCE = 3  # so many time-outs that are all terminals, too, are no coincidence
TYPICAL = 1.5  # steps take so many times the usual one at most; more is a gap
TERMINAL = "mark what ended there, and name the array: qchunk data convert --names terminal=NAME"


class Findings(NamedTuple):
    """What a reader finds wrong, or has to say, in the order of ``Survey``."""

    faults: list[UserError]
    doubts: list[UserError]
    notes: list[str]


def nothing() -> Findings:
    return Findings([], [], [])


def stacked(parts: Mapping[str, Columns], where: str, found: Findings) -> Columns:
    """The columns of episodes by their name, one after the other, and which ``episode`` each row is of.

    Episodes must have the same columns, as long as their actions: what one lacks would be lost for all, or stand beside others' steps.
    """
    columns: Columns = {}
    told = bool(found.faults)  # a reader that has left a column out has said so
    for name in dict.fromkeys(n for part in parts.values() for n in part):
        if fault := _unlike(name, parts, where):
            found.faults.extend([] if told and any(name not in part for part in parts.values()) else [fault])
        else:
            columns[name] = np.concatenate([part[name] for part in parts.values()])
    if "action" in columns:
        columns["episode"] = np.repeat(np.arange(len(parts)), [len(part["action"]) for part in parts.values()])
    return columns


def _unlike(name: str, parts: Mapping[str, Columns], where: str) -> UserError | None:
    """Why a column cannot be put together: the first episode that lacks it, has it of another shape, or not one for each step."""
    each = {episode: part[name] for episode, part in parts.items() if name in part}
    if len(each) < len(parts):
        lacking = next(episode for episode in parts if episode not in each)
        line = f"{where}: {lacking} has no {name}, which {len(each)} other episodes have"
        return UserError(line, "record the same in each, or leave such episodes out of the file")
    like = next(iter(each.values())).shape[1:]
    for episode, x in each.items():
        if x.shape[1:] != like:
            line = f"{where}: {name} is {list(x.shape[1:])} in {episode}, and {list(like)} in the first episode"
            return UserError(line, "record the same in each")
        steps = 1 if name.startswith("final/") else len(parts[episode].get("action", x))
        if len(x) != steps:
            line = f"{where}: {episode} has {len(x)} entries of {name}, and {steps} actions"
            return UserError(line, "record one of each for every step")
    return None


def renamed(
    found: Mapping[str, Any], reading: Reading, where: str, known: Mapping[str, tuple] = NAMES
) -> dict[str, str]:
    """{column: the file's name} of the arrays that a file has, by its own names or by those that ``reading`` gives.

    Args:
        found: what the file has, by name.

    Raises:
        UserError: a name that the file does not have, or a column that there is none of.
    """
    named = {ours: next(n for n in theirs if n in found) for ours, theirs in known.items() if set(theirs) & set(found)}
    for ours, theirs in reading.names:
        if ours.partition("/")[0] not in NAMES:
            raise UserError(f"--names {ours}={theirs}: there is no {ours}", f"name {', '.join(NAMES)}, or obs/PART")
        if theirs not in found:
            raise UserError(f"{where} has no {theirs}", f"--names {ours}=..., one of {', '.join(found)}")
        if ours.startswith("obs/"):
            named.pop("obs", None)
        if ours.startswith("next/"):
            named.pop("next", None)
        named[ours] = theirs
    return named


def survey(
    columns: Mapping[str, Any], reading: Reading, about: dict, where: str, found: Findings | None = None
) -> Survey:
    """The rows that columns make, with everything that is wrong with them; see the module's docstring.

    Args:
        about: what else the file says; it is written to.
        where: what to call the file.
        found: what the reader has found wrong, or has to say, already.
    """
    found = found or nothing()
    alone = {n: f"{n}/obs" for n in ("obs", "next", "final")}
    columns = {alone.get(n, n): np.asarray(x) for n, x in columns.items()}
    columns = chosen(columns, reading) if reading.obs_keys else columns
    found.faults.extend(misfits(columns, where, not found.faults))
    if found.faults:
        return Survey(None, about, *map(tuple, found))
    columns["action"] = columns["action"].reshape(len(columns["action"]), -1)
    last = bounds(columns, reading, where, found)
    cut(columns, last, reading, where, found)
    columns |= judged(columns, reading, where, found)
    if "success" in columns:
        about["successes"] = len(np.unique((np.cumsum(last) - last)[np.ravel(columns["success"]) > 0]))
    kept, places, finals = settled(columns, last, found)
    found.doubts.extend(_lost_rewards(columns, kept, reading, where))
    if not len(places):
        found.faults.append(UserError(f"{where} holds no transition whose outcome is known", "record longer episodes"))
        return Survey(None, about, *map(tuple, found))
    parts = of_kind(kept, "obs")
    images = [n for n, x in parts.items() if x.ndim > 2 and n not in reading.obs_keys]
    found.notes.extend([f"images are left out: {', '.join(images)}"] if images else [])
    names = [n for n in reading.obs_keys or parts if n not in images]
    if not names:
        fix = f"take some: qchunk data convert --tree --obs-keys {images[0]}"
        found.faults.append(UserError(f"{where} holds no observations but images", fix))
        return Survey(None, about, *map(tuple, found))
    about |= {} if names == ["obs"] or adapting.as_tree(reading) else {"observations": names}  # joined in this order
    obs, finals = adapting.picked(parts, reading), adapting.picked({n: finals[n] for n in parts}, reading)
    rows = of_transitions(obs, kept["action"], kept["reward"], kept["terminal"], places, finals)
    return Survey(rows, about, *map(tuple, found))


def chosen(columns: Columns, reading: Reading) -> Columns:
    """The columns without the parts of observations that are not asked for, whatever these hold.

    Raises:
        UserError: one is asked for that there is none of.
    """
    adapting.check_keys(of_kind(columns, "obs"), reading)
    return {n: x for n, x in columns.items() if "/" not in n or n.partition("/")[2] in reading.obs_keys}


def of_kind(columns: Columns, kind: str) -> Columns:
    """The columns ``KIND/NAME`` by NAME."""
    return {n.removeprefix(f"{kind}/"): x for n, x in columns.items() if n.startswith(f"{kind}/")}


def misfits(columns: Columns, where: str, whole: bool = True) -> Iterator[UserError]:
    """What is wrong with columns as a whole: missing, of several lengths, no numbers, no continuous actions.

    Args:
        whole: the reader has not said already why some are missing.
    """
    if whole and not of_kind(columns, "obs"):
        yield UserError(f"{where} holds no observations", "name them: --names obs=NAME, or --obs-keys NAME")
    if whole and "action" not in columns:
        yield UserError(f"{where} holds no actions", "name them: --names action=NAME")
    odd = [n for n, x in columns.items() if x.dtype.kind not in "fiub"]
    for n in odd:
        yield UserError(
            f"{where}: {n} holds {columns[n].dtype}, no numbers", "leave it out, or name another by --names"
        )
    if "action" not in columns or "action" in odd:
        return
    action = columns["action"]
    if action.dtype.kind != "f":
        fix = "qchunk is for continuous ones; take another data set, or save floats in [-1, 1]"
        yield UserError(f"{where}: actions are whole numbers ({action.dtype})", fix)
    if action.ndim > 2:
        fix = "save one action a step: [N, A]"
        yield UserError(f"{where}: actions are of the shape {list(action.shape)}", fix)
    if not len(action):
        yield UserError(f"{where} holds no transition", "record more steps")
    for n, x in columns.items():
        if n.partition("/")[0] not in ("ends", "final") and x.shape[:1] != action.shape[:1]:
            fix = "save one of each for every step, what was seen before the action"
            yield UserError(f"{where}: {n} has {len(x) if x.ndim else 'no'} rows, and action {len(action)}", fix)
        elif "/" not in n and n != "action" and (not x.ndim or x.size != len(x)):
            yield UserError(f"{where}: {n} is of the shape {list(x.shape)}", "save one number a step: [N]")
        elif n in MARKS and n not in odd and not np.isfinite(x.astype(np.float64)).all():
            bad = ~np.isfinite(np.ravel(x.astype(np.float64)))
            line = f"{where}: {n} is no number in {int(bad.sum())} rows (the first is {int(bad.argmax())})"
            yield UserError(line, "say there what was so, or leave the array out")
        elif n == "ends" and (odd := x[x != np.floor(x)]).size:
            yield UserError(f"{where}: {n} holds {odd[0]}", "save the count of steps up to each episode's end")


def bounds(columns: Columns, reading: Reading, where: str, found: Findings) -> np.ndarray:
    """Which transitions [N] are their episode's last, by whatever says so."""
    count = len(columns["action"])
    last = np.zeros(count, bool)
    flags = {n: np.ravel(columns[n]) > 0 for n in ("terminal", "timeout") if n in columns}
    if "episode" in columns:
        episode = np.ravel(columns["episode"])
        last[:-1] = episode[1:] != episode[:-1]
        names, times = np.unique(episode[np.append(True, last[:-1])], return_counts=True)
        if (times > 1).any():
            line = f"{where}: the steps of {int((times > 1).sum())} episodes stand in several places (first {names[times > 1][0]})"
            found.doubts.append(UserError(line, "sort them by episode and step"))
    if "ends" in columns:
        ends = np.ravel(columns["ends"]).astype(np.int64)
        if not len(ends) or (np.diff(ends, prepend=0) <= 0).any() or ends[-1] != count:
            line = f"{where}: episode ends do not rise to the number of steps, {count}"
            found.faults.append(UserError(line, "save the count of steps up to each episode's end"))
        last[ends[(ends > 0) & (ends <= count)] - 1] = True
    by_number = {"episode", "ends"} & set(columns)
    for name, flag in flags.items():
        last |= flag if name == "timeout" or not by_number else False
    if not by_number and "timeout" not in flags:
        if of_kind(columns, "next"):
            last |= jumps(columns)
        elif reading.episode_length:
            last |= counted(last, reading.episode_length)
        else:
            fix = "give --episode-length N, after which they were cut, or --names timeout=NAME or episode=NAME"
            if last.any():
                found.doubts.append(UserError(f"{where} does not mark which episodes were cut by time", fix))
            else:
                found.faults.append(UserError(f"{where} does not mark where episodes end", fix))
    last[-1] = True
    return last


def counted(last: np.ndarray, length: int) -> np.ndarray:
    """Every transition [N] that is a multiple of ``length`` steps from its episode's start; ``last`` [N] marks ends that are known."""
    rows = np.arange(len(last))
    start = np.maximum.accumulate(np.where(np.append(True, last[:-1]), rows, 0))
    return (rows - start + 1) % length == 0


def jumps(columns: Columns) -> np.ndarray:
    """Transitions [N] whose next observation is not the one that follows; not the last."""
    found = np.zeros(len(columns["action"]), bool)
    obs = of_kind(columns, "obs")
    for name, after in of_kind(columns, "next").items():
        if name in obs and obs[name].shape == after.shape:
            same = np.isclose(after[:-1], obs[name][1:], rtol=1e-4, atol=1e-5, equal_nan=True)
            found[:-1] |= ~same.all(axis=tuple(range(1, same.ndim)))
    return found


def cut(columns: Columns, last: np.ndarray, reading: Reading, where: str, found: Findings) -> None:
    """Finds steps that are missing within episodes; ``last`` [N] is set there if that is asked for, otherwise it is a doubt."""
    inside = ~last[:-1]
    gap = np.zeros_like(last)
    lines = []

    def told(at: np.ndarray, what: str) -> None:
        at = at & inside & ~gap[:-1]
        gap[:-1] |= at
        if at.any():
            lines.append(f"{where}: {what} after {int(at.sum())} steps within episodes (first step {int(at.argmax())})")

    if "frame" in columns:
        told(np.diff(np.ravel(columns["frame"]).astype(np.float64)) != 1, "frames are missing or repeated")
    if "time" in columns and inside.any():
        step = np.diff(np.ravel(columns["time"]).astype(np.float64))
        usual = np.median(step[inside])
        told(~(step > 0), "the time does not go on")
        told(step > TYPICAL * usual, f"the time jumps by more than {TYPICAL} of the usual {usual:.3g} s")
    told(jumps(columns)[:-1], "the next observation is not the one that follows")
    if reading.cut_gaps and gap.any():
        last |= gap
        found.notes.append(f"episodes are cut at {int(gap.sum())} gaps")
    elif not reading.cut_gaps:
        fix = "let episodes end there: qchunk data convert --cut-gaps"
        found.doubts.extend(UserError(line, fix) for line in lines)


def judged(columns: Columns, reading: Reading, where: str, found: Findings) -> Columns:
    """Rewards and terminals [N]: those recorded, or as ``reading`` asks for them."""
    zero = np.zeros(len(columns["action"]))
    if "reward" not in columns:
        by = "successes count as 1" if "success" in columns else "all are 0, which is enough to clone"
        found.notes.append(f"no rewards are recorded: {by}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is a fault
        reward = np.ravel(columns.get("reward", columns.get("success", zero))).astype(np.float32)
    terminal = np.ravel(columns.get("terminal", zero)) > 0
    cut_by_time = np.ravel(columns.get("timeout", zero)) > 0
    if reading.terminals == adapting.STORED and cut_by_time.sum() >= CHANCE and terminal[cut_by_time].all():
        line = f"{where}: all {int(cut_by_time.sum())} time-outs are marked terminal, too, as where done holds both"
        fix = "if they are cuts alone: name an array without them, --names terminal=NAME, or give --terminals none or reward"
        found.doubts.append(adapting.EndsDoubted(line, fix))
    return {"reward": reward, "terminal": adapting.terminals(reading, reward, terminal)}


def settled(columns: Columns, last: np.ndarray, found: Findings) -> tuple[Columns, np.ndarray, Columns]:
    """The transitions whose outcome is known, the places [E] of those that end an episode, and the observations after these [E, ...].

    Where final observations are not recorded, an episode that was cut loses its last action, so that its last observation is
    the final one; one that ended at a terminal repeats its last observation, which no target reads.
    """
    places, obs = np.flatnonzero(last), of_kind(columns, "obs")
    columns = {n: x for n, x in columns.items() if n in ("action", "reward", "terminal") or n.startswith("obs/")} | {
        n: x for n, x in columns.items() if n.startswith(("next/", "final/"))
    }
    if finals := of_kind(columns, "final"):
        return columns, places, finals
    if set(after := of_kind(columns, "next")) >= set(obs):
        return columns, places, {n: after[n][places] for n in obs}
    cut_off = last & ~columns["terminal"]
    episode = (np.cumsum(last) - last)[~cut_off]
    columns = {n: x[~cut_off] for n, x in columns.items()}
    ends = np.flatnonzero(np.append(episode[1:] != episode[:-1], True)) if len(episode) else np.zeros(0, int)
    cuts, others = int(cut_off.sum()), int(len(places) - cut_off.sum())
    found.notes.append(
        f"final observations are not recorded: {cuts} episodes that were cut lose their last action, {others} that ended "
        "at a terminal repeat their last observation"
    )
    return columns, ends, {n: x[places[episode[ends]]] for n, x in obs.items()}


def _lost_rewards(columns: Columns, kept: Columns, reading: Reading, where: str) -> Iterator[UserError]:
    """Where the actions that ``settled`` drops earned what no other does, such as the 1 of a success."""
    left, all_of = np.unique(kept["reward"]), columns["reward"]
    lost = int((~np.isin(all_of, left)).sum())
    if lost and len(left) == 1 and reading.terminals != adapting.NONE:
        fix = "if they ended there: qchunk data convert --terminals reward" if all_of.max() > left[0] >= 0 else TERMINAL
        line = f"{where}: {lost} episodes earn something at their last action alone, which is lost, as final observations are not recorded"
        yield UserError(line, f"{fix}; if not: --terminals none")
