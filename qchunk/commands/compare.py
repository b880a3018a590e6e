"""``qchunk compare``: several methods on the same data, prior, networks and episodes; one report."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qchunk import arms, envs, flags, names, on_policy, page, records
from qchunk.arms import Sizes
from qchunk.commands.render import look
from qchunk.commands.suite import Data, Run, claim, name_of, train_all, write
from qchunk.envs.host import HostEnv
from qchunk.errors import UserError
from qchunk.online import OnlineSettings
from qchunk.records import Rows
from qchunk.train import Settings

PRIOR = "prior ("
ENVS, HOST_ENVS, LENGTH = (
    512,
    16,
    200,
)  # E of every online arm, on the device and on the host; environment steps of an on-policy iteration


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    """What is compared, and what all arms get."""

    env: tuple[str, ...]
    """Environments: qchunk list envs."""
    out: Path = Path("runs/compare")
    """Folder for data, runs and report; the same command goes on with it."""
    data: Path | None = None
    """Data set for every arm; by default --data-steps transitions of the environment's first scripted behaviour."""
    data_steps: int = 200_000
    """Transitions to collect."""
    algos: tuple[str, ...] = arms.DEFAULT
    """Arms: algorithms, ALGORITHM@KIND for another actor (dppo@diffusion), or your own as my_file.py:my_function."""
    seed: int = 0
    """The first seed."""
    seeds: int = 4
    """S, seeds of every arm."""
    offline_steps: int = 2_500
    """Updates on the data set: of the priors, and of every arm that learns from data."""
    online_steps: int = 1_024_000
    """Environment steps of every arm (rounded up to whole iterations of dppo); 0 compares offline data alone."""
    online_updates: int = 2_500
    """Updates that arms with a data set make meanwhile."""
    episodes: int = 50
    """Episodes per evaluation and seed; the same start states for all."""
    evaluations: int = 10
    """Evaluations of every arm, half of them offline where both are."""
    normalise_obs: str = "none"
    """Units of observations: none, min-max or standard."""
    look: bool = True
    """Measure what acting costs and draw an episode of every arm."""
    quiet: bool = False
    """No progress bars."""


def compare(argv: list[str]) -> None:
    """``qchunk compare --env ENV ... [--algos A B ...] [--seeds S]``."""
    f, sizes = flags.parse("compare", argv, CompareFlags, Sizes)
    suite, left_out = plan(f, sizes)
    asked = {n: v for n, v in dataclasses.asdict(f).items() if n not in ("out", "quiet", "look")}
    claim(f.out, "comparison", {**asked, **dataclasses.asdict(sizes)})
    folders = train_all("compare", suite, f.out, f.quiet)
    shown = [folder for folder, run in zip(folders, suite, strict=True) if not run.label.startswith(PRIOR)]
    for folder in shown if f.look else ():
        print(f"[compare] looking at {folder.name} on {folder.parent.name}", file=sys.stderr, flush=True)
        look(folder)
    learnt = [folder for folder, run in zip(folders, suite, strict=True) if folder in shown and run.data]
    offline = offline_part(learnt, f) if f.online_steps and learnt else {}
    write(shown, f.out, {**offline, "Held equal": held(f, sizes, left_out), "Tuning": tuning(f, left_out)})


def plan(f: CompareFlags, sizes: Sizes) -> tuple[list[Run], list[str]]:
    """(the runs: priors first, then every arm, environment by environment; the arms that offline data cannot train).

    Raises:
        UserError: an unknown name, or nothing to compare.
    """
    for env in f.env:
        names.check_env(env)
    if len(set(f.algos)) < len(f.algos) or len(set(f.env)) < len(f.env):
        raise UserError("an arm or an environment is named twice", "name each once")
    configs = {arm: arms.config_of(arm, sizes) for arm in f.algos}
    on_host = any(map(is_host, f.env))
    left_out = [arm for arm, c in configs.items() if hasattr(c, "rollout") and (on_host or not f.online_steps)]
    wanted = [arm for arm in f.algos if arm not in left_out]
    if not wanted:
        raise UserError(
            f"{', '.join(left_out)} learn online only, on the device",
            "give --online-steps, a device environment, or other --algos",
        )
    found: list[Run] = []
    for env in f.env:
        data = f.data or Data(envs.make(env).data_name, f.data_steps)
        first = next((r.env for r in found if r.data == data), env)  # one prior serves every task of a scene
        if first == env:
            once = dataclasses.replace(settings_of(f), eval_every=f.offline_steps)
            priors = {p[0]: p[1] for arm in wanted if (p := arms.prior_of(arm, sizes))}
            found += [Run("bc", env, data, c, once, f"{PRIOR}{kind})") for kind, c in priors.items()]
        found += [arm_of(arm, env, data, f, sizes, first) for arm in wanted]
    return found, left_out


@functools.cache
def is_host(env: str) -> bool:
    """Whether an environment runs in worker processes."""
    return isinstance(envs.make(env), HostEnv)


def common(f: CompareFlags) -> dict[str, Any]:
    """What every driver is told."""
    return {"seed": f.seed, "seeds": f.seeds, "episodes": f.episodes, "normalise_obs": f.normalise_obs}


def settings_of(f: CompareFlags) -> Settings:
    """Of an arm's offline part."""
    parts = max(1, f.evaluations // 2 if f.online_steps else f.evaluations)
    return Settings(**common(f), offline_steps=f.offline_steps, eval_every=math.ceil(f.offline_steps / parts))


def arm_of(arm: str, env: str, data: Data | Path, f: CompareFlags, sizes: Sizes, first: str) -> Run:
    """One arm in one environment; its prior lies with the first environment of these data."""
    algorithm, kind = arms.split(arm)
    c, prior = arms.config_of(arm, sizes), ""
    if arms.prior_of(arm, sizes):
        prior = name_of(first, f"{PRIOR}{kind})")
    steps = online_steps(f, sizes)
    every = math.ceil(steps / max(1, f.evaluations // 2))
    if hasattr(c, "rollout"):
        rollout = dataclasses.replace(c.rollout, envs=ENVS, decisions=decisions(sizes))
        settings = on_policy.Settings(**common(f), online_steps=steps, eval_every=every)
        return Run(algorithm, env, None, dataclasses.replace(c, rollout=rollout), settings, arm, prior=prior)
    online = OnlineSettings()
    if steps:
        ratio = f.online_updates / steps
        online = OnlineSettings(
            steps,
            HOST_ENVS if is_host(env) else ENVS,
            0,
            ratio,
            "share:0.5",
            online_eval_every=every,
        )
    return Run(algorithm, env, data, c, settings_of(f), arm, online, prior)


def offline_part(folders: Sequence[Path], f: CompareFlags) -> dict[str, Rows]:
    """Where arms with data stood before their first environment step, which is protocol A at these updates, for the page."""
    found = records.load(folders, until=f.offline_steps)
    return {
        "Offline part (protocol A)": records.table(found),
        "Offline part, over all runs": page.aggregate(found),
    }


def tuning(f: CompareFlags, left_out: list[str]) -> list[dict[str, str]]:
    """The tuning runs of every arm, for the page."""
    wanted = [arm for arm in f.algos if arm not in left_out]
    return [{"arm": arm, "success of its tuning runs": arms.trials(arm)} for arm in wanted]


def decisions(sizes: Sizes) -> int:
    """Of an on-policy iteration: LENGTH environment steps, in whole chunks."""
    return math.ceil(LENGTH / sizes.horizon)


def online_steps(f: CompareFlags, sizes: Sizes) -> int:
    """Environment steps of every arm: whole on-policy iterations, which are whole decisions of the others."""
    per = ENVS * decisions(sizes) * sizes.horizon
    return math.ceil(f.online_steps / per) * per


def held(f: CompareFlags, sizes: Sizes, left_out: list[str]) -> list[dict[str, str]]:
    """What was held equal, for the page."""
    steps = online_steps(f, sizes)
    data = str(f.data) if f.data else f"{f.data_steps:,} transitions of the environment's first scripted behaviour"
    widths = " x ".join(map(str, sizes.hidden))
    found = {
        "protocol": f"A: {f.offline_steps:,} updates on offline data only",
        "data": data,
        "prior": f"methods that stand on one: cloned in {f.offline_steps:,} updates with as many seeds; seed i of each stands on seed i of the prior, "
        "frozen in value-guided, v-gps and qc-frozen, the start in dppo and ppo; bc and qc clone their own",
        "networks": f"{widths} for every actor, critic and value; flows of {sizes.steps} steps, N = {sizes.n}, chunks of {sizes.horizon}",
        "evaluation": f"{f.episodes} episodes per seed, open loop, the same start states for every arm and every evaluation",
        "seeds": f"{f.seed} to {f.seed + f.seeds - 1}",
        "tuning": "each arm as many runs, on another task (tabletop/cube-single-task2, one seed); see the table",
    }
    if steps:
        found["protocol"] = (
            f"B: {steps:,} environment steps for every arm, in {ENVS} environments ({HOST_ENVS} on the host). Arms with data make {f.offline_steps:,} updates on "
            f"them before and {f.online_updates:,} meanwhile, half of each batch online; dppo and ppo start from the prior and have no data"
        )
    if left_out:
        why = (
            "they play on the device only"
            if f.online_steps
            else "nothing to learn from without environment steps (--online-steps)"
        )
        found["left out"] = f"{', '.join(left_out)}: {why}"
    return [{"what": k, "how": v} for k, v in found.items()]
