"""A data set in a file, from scripted behaviours and from runs."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from qchunk import env_names, envs
from qchunk.config import refuse_unread, validate
from qchunk.data import formats, ogbench_files
from qchunk.envs.host.pool import HostEnv
from qchunk.play import collecting, on_host
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened, first_seed, learner_of, rebuild, vars_of
from qchunk.runs.play_flags import PlayFlags
from qchunk.runs.progress import Bar
from qchunk.seeds import key_of
from qchunk.system import answers, installed, memory, stopping
from qchunk.system.errors import UserError
from qchunk.system.files import check_new, make_folder
from qchunk.types import Learner


@dataclasses.dataclass(frozen=True)
class CollectFlags(PlayFlags):
    """A data set to make."""

    out: Path
    """File to write (.npz); it must not exist."""
    policy: tuple[str, ...] = ()
    """Who acts: scripted behaviours of the environment (such as play, expert, noisy, random) or run folders, each for an equal share; by default its first behaviour."""
    steps: PositiveInt = 200_000
    """Least number of transitions to collect."""
    envs: PositiveInt = 200
    """E, environments in parallel."""
    episode_length: NonNegativeInt = 0
    """Environment steps after which an episode is cut; 0: the environment's own limit (1000 for tabletop's play, which has no task)."""
    seed: NonNegativeInt = 0
    """Seed of everything that is drawn at random."""
    env_python: str = ""
    """Python that runs the simulator in worker processes, such as VENV/bin/python; it needs numpy and the simulator only. By default the one that qchunk env setup kept for this environment, else the one that runs qchunk."""
    json: bool = False
    """Print what was collected as JSON to stdout."""
    quiet: bool = False
    """No progress bar and no closing line."""


def collect_to(name: str, f: CollectFlags, keep: bool = False) -> None:
    """Collects a data set into a new file.

    Args:
        keep: write what is there when a signal asks to stop; whoever needs all of it leaves this out, and nothing is written.

    Raises:
        UserError: an unknown name, or a file that is there already.
    """
    validate(f)
    env_names.check_env(name, scene_too=True)
    if "" in f.policy:
        raise UserError("--policy names nothing", "name a behaviour or a run, or leave --policy out")
    check_play(name, f)
    out = f.out if f.out.suffix == ".npz" or not f.out.name else f.out.with_name(f.out.name + ".npz")
    check_new(out)
    make_folder(out.parent)
    about: dict[str, Any] = {
        "policy": " ".join(f.policy) or "default",
        "seed": f.seed,
        "versions": installed.versions(),
    }
    found: dict[str, Any]
    with Bar(f.steps, 0, f.quiet, f"collecting {name}") as bar:
        part = env_names.ogbench(name)
        if part and f.policy in ((), (part["kind"],)):
            envs.python_of(name, f.env_python)
            about["env"] = f"ogbench/{part['scene']}-{part['kind']}-v0"
            more = {"transitions": f.steps, "seed": f.seed, "about": about, "progress": bar.move}
            more["length"] = f.episode_length + 1 if f.episode_length else None  # rows: one more than steps
            with stopping.hint("the same command goes on where this one was"):
                found = ogbench_files.collect(part["scene"], part["kind"], out, **more)
        else:
            with stopping.saving() if keep else contextlib.nullcontext():
                rows, env, successes = _rows(name, f, bar.move)
                about |= {"env": env.data_name, **({} if successes is None else {"successes": successes})}
                about["versions"] |= getattr(env, "versions", {})
                found = {"transitions": int((~rows.end).sum()), "episodes": int(rows.end.sum())}
                if stopping.asked():
                    about["stopped"] = f"{found['transitions']} of {f.steps} transitions"
                    stopping.note(f"{about['stopped']} are in {out}")
                found["fingerprint"] = formats.save(out, rows, about)
    if f.json:
        answers.answer({"path": str(out), **found})
    elif not f.quiet:
        count, episodes, mark = (found[k] for k in ("transitions", "episodes", "fingerprint"))
        print(f"{count} transitions in {episodes} episodes of {about['env']} -> {out} ({mark})")


def check_play(name: str, f: CollectFlags) -> None:
    """Refuses what does not change how scripted behaviours play.

    Raises:
        UserError: names the flag.
    """
    runs = [policy for policy in f.policy if _is_run(policy)]
    if not runs:
        why = "scripted behaviours decide at every step"
        refuse_unread(f, CollectFlags, ("execute", "delay"), "", why, "leave it out, or give a run as --policy RUN")
    if (part := env_names.ogbench(name)) and f.policy in ((), (part["kind"],)):
        refuse_unread(
            f, CollectFlags, ("envs",), "", "OGBench's oracles play in processes of their own", "leave it out"
        )


def _is_run(policy: str) -> bool:
    return (Path(policy) / run_folder.CONFIG).is_file()


def _rows(name: str, f: CollectFlags, progress: Any) -> tuple[formats.Rows, Any, int | None]:
    """What was played, one policy after the other, the environment that it was played in, and how many episodes reached a success.

    That is None where no step speaks of it, and where the data are of several tasks, of which each judges them itself.
    """
    if (found := env_names.ogbench(name)) and not (found["single"] or found["goals"]):
        fix = f"--policy {' '.join(f.policy)} needs a task: {name[:-3]}-singletask-v0"
        raise UserError(f"{name} names OGBench's own data", fix)
    env: Any = envs.make(name, python=f.env_python)
    play: Any = _host_rows if envs.on_host(name) else _device_rows
    policies, parts, reached = f.policy or ("",), list[formats.Rows](), list[int]()
    for i, policy in enumerate(policies):
        run = Path(policy) if _is_run(policy) else None
        share = dataclasses.replace(f, steps=-(-f.steps // len(policies)))
        before = i * share.steps
        told = {"progress": lambda done: progress(min(f.steps, before + done)), "reached": reached.append}
        parts.append(play(env, name, policy, run, share, i, told))
        if stopping.asked():
            break
    known = len(reached) == len(parts) and not hasattr(env, "relabel")
    return formats.joined(parts), env, sum(reached) if known else None


def _device_rows(
    env: Any, name: str, policy: str, run: Path | None, f: CollectFlags, number: int, told: dict[str, Any]
) -> formats.Rows:
    history = 1
    if run:
        p, learner = _learned(run, name, f)
        history = p.config.chunk.history
        env = envs.make(name, history)  # data hold the environment's own reward, whatever the run's objective
        scheme, vars = p.inputs.execution.scheme(p.algorithm.explore), vars_of(p, learner)
    else:
        env = getattr(env, "scene", env)  # a scripted data set serves every task of a scene
        scheme, vars = collecting.scheme_of(env, policy or None), collecting.NO_VARS
    length = f.episode_length or env.episode_length  # type: ignore[union-attr]
    count = max(1, min(f.envs, -(-f.steps // length)))
    start = jax.tree.leaves(jax.eval_shape(env.reset, jax.random.key(0)))  # type: ignore[union-attr]
    least = count * memory.of_arrays(start)
    memory.check("a step of all environments", least, "give fewer --envs")
    more = {"steps": f.steps, "envs": count, "episode_length": length, **told}
    rows = collecting.collect(env, scheme, vars, key_of(f.seed, "collect", number), **more)
    if history > 1:
        rows = rows._replace(obs=env.newest(rows.obs))  # type: ignore[union-attr]
    return rows


def _host_rows(
    env: HostEnv, name: str, policy: str, run: Path | None, f: CollectFlags, number: int, told: dict[str, Any]
) -> formats.Rows:
    if f.episode_length > env.episode_length:
        problem = f"--episode-length {f.episode_length} is more than the {env.episode_length} steps of {name}"
        raise UserError(problem, f"give {env.episode_length} or less, or leave it out")
    if 0 < f.episode_length < env.episode_length:
        env = env.limited(f.episode_length)
    count = max(1, min(f.envs, on_host.SLOTS, -(-f.steps // env.episode_length)))
    carry = None
    if not run:
        player = collecting.scripted_player(env, policy, f.seed, number)
    else:
        p, learner = _learned(run, name, f)
        learner, x = first_seed(p, learner, key_of(f.seed, "collect", number))
        player = collecting.learned_player(p.program, learner, x)
        carry = on_host.nothing_carried(p.program, "explore", learner, x, count)
    with contextlib.closing(env):
        more = {"steps": f.steps, "seed": f.seed, "number": number, "envs": count, **told}
        return collecting.collect_host(env, player, carry, **more)


def _learned(folder: Path, name: str, f: CollectFlags) -> tuple[Opened, Learner]:
    """A run, played as the flags say, and its learner, whose first seed plays."""
    kept = run_folder.read_config(folder)["config"]
    if kept["env"] != name:
        raise UserError(f"the run {folder} is of {kept['env']}", f"collect {kept['env']}, or take a run of {name}")
    p = rebuild(kept, folder).played(f.execute, f.delay)
    return p, learner_of(folder, p)[0]
