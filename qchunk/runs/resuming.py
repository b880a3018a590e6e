"""What a run is gone on with: more steps, data that have moved, and what has changed since it began."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from qchunk import nets
from qchunk.config import filled
from qchunk.data import formats
from qchunk.data.chunks import Dataset
from qchunk.drivers.common import check_devices
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from qchunk.runs import checkpoint, run_folder
from qchunk.runs.opened import Opened
from qchunk.seeds import Share
from qchunk.system import installed, loading
from qchunk.system.errors import UserError, typed

MORE = ("offline_steps", "online_steps")  # what may grow after the end of a run


@dataclasses.dataclass(frozen=True)
class Going:
    """How to go on with a run otherwise than as it was."""

    step: NonNegativeInt | None = None
    """The checkpoint to go on from; by default the newest."""
    data: Path | None = None
    """Where the run's data set lies now, if it has moved; its fingerprint says that it is the same."""
    offline_steps: NonNegativeInt | None = None
    """More updates on the data set than the run was made with, for one without an online part."""
    online_steps: NonNegativeInt | None = None
    """Environment steps to follow, for a run that was made without."""
    checkpoint_minutes: NonNegativeFloat | None = None
    """Minutes between two checkpoints, besides those that are saved after so many steps; by default as before."""
    log_to: tuple[str, ...] = ()
    """Also log to: tensorboard, wandb (optional extras); by default where it logged before."""
    quiet: bool = False
    """No progress bar, no lines of evaluations and no closing lines."""
    devices_per_seed: PositiveInt | None = None
    """Devices that share each seed's batches and environments from here on; by default as before, or as many as are here."""


def extended(run: run_folder.RunFolder, opened: Opened, f: Going) -> Opened:
    """The run with more steps than it was made with, or on other devices.

    Raises:
        UserError: fewer steps, or of a run whose end holds no environments to go on with; more devices than there are.
    """
    s, asked = opened.settings, {n: v for n in MORE if (v := getattr(f, n)) is not None}
    fields = {field.name for field in dataclasses.fields(s)}
    odd = [n for n, v in asked.items() if n not in fields or v < getattr(s, n)]
    if odd:
        flag, had = f"--{odd[0].replace('_', '-')}", getattr(s, odd[0])
        raise UserError(f"{run.path} was made with {flag} {had}", "give more, or leave it out")
    if asked and asked != {n: getattr(s, n) for n in asked} and s.online_steps:
        fix = "train a new run with more, or one that stands on this one by --prior"
        raise UserError(f"the end of {run.path} holds no environments and no replay to go on with", fix)
    if f.devices_per_seed is not None:
        asked["devices_per_seed"] = f.devices_per_seed
    s = dataclasses.replace(s, **asked)
    check_devices(opened.program, s, f.devices_per_seed is not None)
    return opened._replace(settings=s, inputs=opened.inputs._replace(share=Share(s.devices_per_seed)))


def same_data(folder: Path, config: dict, opened: Opened, moved: Path | None) -> Dataset:
    """The data set of a run, from where it was or where it has moved; its fingerprint says that it is the same.

    Args:
        config: what config.json keeps of the run.

    Raises:
        UserError: it is not there, or another.
    """
    kept = config["data"]
    path = Path(moved or kept["path"])
    if not loading.readable(path):
        raise UserError(
            f"there is no data set {path}", f"qchunk train --resume {typed(folder)} --data FILE, where it is now"
        )
    data, about = formats.for_env(path, opened.program.env, config["env"], stream=not opened.settings.online_steps)
    if about["fingerprint"] != kept["fingerprint"]:
        fix = f"put the data set with fingerprint {kept['fingerprint']} back, or say where it is by --data"
        raise UserError(f"{path} has changed since the run began", fix)
    return data


def refuse_finished(run: run_folder.RunFolder, p: Opened, began: int) -> None:
    """Refuses a run that has nothing left to do."""
    total = last_step(p)
    if began >= total and run.finished:
        raise UserError(f"{run.path} is finished: all {total} steps are done", "qchunk eval it")


def last_step(p: Opened) -> int:
    """The step at which a run ends."""
    return p.driver.amount(p.program.build(p.config), p.config, p.settings).last


def in_common(kept: dict) -> dict[str, Any]:
    """What all processes of a run must have in common of its configuration; its files may lie elsewhere on another host."""
    parts: dict[str, Any] = {n: kept.get(n) for n in ("algorithm", "env", "objective", "config", "settings")}
    parts["prior"] = {n: v for n, v in (kept.get("prior") or {}).items() if n != "path"}
    parts["data"] = (kept["data"] or {}).get("fingerprint")
    told = flatten_dict(parts).items()
    return {" ".join(map(loading.short, k)): loading.short(v) if isinstance(v, str) else v for k, v in told}


def saved_before(run: run_folder.RunFolder) -> bool:
    """Whether a run has ever saved a checkpoint, by its metrics, its summary and what lies in its folder of checkpoints."""
    saved = [p for p in run.checkpoints.glob("*") if not p.name.startswith(".tmp-")]  # those a kill has cut short
    return bool(saved) or run.finished or any(line["kind"] == "checkpoint" for line in run.lines())


def changes(run: run_folder.RunFolder, opened: Opened, step: int) -> Iterator[str]:
    """What is otherwise than when a run began, a line each."""
    yield from (*differences(run, opened, step), *newer(run, opened), *elsewhere(run, opened), *machine(run, opened))


def differences(run: run_folder.RunFolder, opened: Opened, step: int) -> Iterator[str]:
    """What has changed since a run began, a line each: packages, the code, the configuration in config.json.

    Args:
        step: the checkpoint that the run goes on from; it keeps the configuration that it was trained with.
    """
    present = installed.versions()
    for name, version in run.about.get("versions", {}).items():
        if (now := present.get(name)) != version:
            yield f"made with {name} {version}, here is {now or 'none'}: bits may differ"
    made_by, commit = run.about.get("git_commit"), installed.git_commit()
    digest = run.about.get("code")  # runs of before have none
    if (digest != installed.code()) if digest else (made_by and commit != made_by):
        yield f"made by other code (commit {made_by or 'unknown'}, here is {commit or 'none'}): bits may differ"
    made_of = checkpoint.about(run.checkpoints, step).get("config", {}) if step else {}
    # its files are called as the user calls them
    here = filled({"config": type(opened.config)}, run.config)["config"]
    was, is_now = flatten_dict(made_of, sep="."), flatten_dict(here, sep=".")
    for name in sorted(was):
        if is_now.get(name) != was[name]:
            yield f"{name} in config.json was {was[name]} and is {is_now.get(name)}: this is another run now"


def newer(run: run_folder.RunFolder, opened: Opened) -> Iterator[str]:
    """The settings that this version has and a run's lacked, a line each."""
    parts = {"config": type(opened.config), "settings": opened.driver.settings}
    here = filled(parts, run.config)
    was = flatten_dict({n: run.config[n] for n in here}, sep=".")
    for name, value in flatten_dict(here, sep=".").items():
        if name not in was and not any(n.startswith(f"{name}.") for n in was):
            yield f"made before {name} was a setting: it is {value} here, its default"


def elsewhere(run: run_folder.RunFolder, opened: Opened) -> Iterator[str]:
    """What has changed in the other interpreter that a run's environment is in, a line each."""
    was, is_now = (run.config.get("env_versions") or {}), getattr(opened.program.env, "versions", {})
    for name in sorted({*was, *is_now}):
        if was.get(name) != is_now.get(name):
            there = getattr(opened.program.env, "python", "") or "this interpreter"
            yield f"made with {name} {was.get(name) or 'none'}, in {there} is {is_now.get(name) or 'none'}: bits may differ"


def machine(run: run_folder.RunFolder, opened: Opened) -> Iterator[str]:
    """Another number of devices, or of those that share a seed, or another precision, than a run was made with, a line each."""
    made, here = run.config.get("devices", 1), jax.device_count()
    if made != here:
        fix = f"for the same ones set JAX_NUM_CPU_DEVICES={made}"
        yield f"made on {made} devices, here are {here}: bits may differ; {fix}"
    was, now = run.config["settings"].get("devices_per_seed", 1), opened.settings.devices_per_seed
    if was != now:
        yield f"made with {was} devices per seed, goes on with {now}: bits may differ"
    was, now = run.config.get("precision", "highest"), nets.precision()
    if was != now:
        yield f"made with products in {was} precision, here {now}: set JAX_DEFAULT_MATMUL_PRECISION={was} for the same run"
    was, now = run.config.get("sampling_precision", ""), os.environ.get(nets.SAMPLING, "")
    if was != now:
        yield f"made with {nets.SAMPLING} {was or 'unset'}, here it is {now or 'unset'}: actions may differ"
