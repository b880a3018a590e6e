"""The runs of a comparison, from its flags: the priors first, then every arm at the same sizes, data and budget."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from qchunk import env_names, envs, registry
from qchunk.comparison import arms, refusals, tables
from qchunk.comparison.arms import PRIOR, Sizes
from qchunk.comparison.suite import Data, Run, name_of
from qchunk.config import refuse_unread, validate
from qchunk.drivers.common import Driver
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OFFLINE_TO_ONLINE, OnlineSettings
from qchunk.envs import held_out
from qchunk.play.execute import parse, with_delay
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.system import loading, schema
from qchunk.system.errors import UserError

KIND = "comparison"  # what comparison.json is called
ENDS = "seeds_by_batch"  # its entry with the numbers of seeds that were asked for
ENVS, HOST_ENVS = 512, 16  # E of every online arm, on the device and on the host
LENGTH = 200  # environment steps of an on-policy iteration


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    """What is compared, and what all arms get."""

    env: tuple[str, ...]
    """Environments: qchunk list envs."""
    out: Path = Path("runs/compare")
    """Folder for data, runs and report; the same command goes on with it, and with more --algos or --env behind these, or more --seeds, trains what they add."""
    data: Path | None = None
    """Data set for every arm; by default --data-steps transitions of the environment's first scripted behaviour."""
    data_steps: PositiveInt = 200_000
    """Transitions to collect where --data names no data set."""
    algos: tuple[str, ...] = arms.DEFAULT
    """Arms, the methods to compare: algorithms, ALGORITHM@KIND for another actor (dppo@diffusion), or your own as my_file.py:my_function; settings of one stand behind it: qc:n=4, bc@diffusion:steps=5."""
    seed: NonNegativeInt = 0
    """The first seed."""
    seeds: PositiveInt = 4
    """S, seeds of every arm; with more of them the same command trains those that are missing."""
    offline_steps: PositiveInt = 2_500
    """Updates on the data set: of every arm that learns from data, and of the priors (the actors cloned from the data that some arms use)."""
    prior_steps: PositiveInt | None = None
    """Updates of the priors; by default --offline-steps. qc and bc go on cloning online: --offline-steps plus --online-updates gives the priors as many."""
    online_steps: NonNegativeInt = 1_024_000
    """Environment steps of every arm (rounded up to whole iterations of dppo); 0 compares offline data alone."""
    online_updates: NonNegativeInt = 2_500
    """Updates that arms with a data set make during --online-steps."""
    episodes: PositiveInt = 50
    """Episodes per evaluation and seed; the same start states for all."""
    evaluations: PositiveInt = 10
    """Evaluations of every arm, half of them before --online-steps where there are any."""
    normalise_obs: Literal["none", "min-max", "standard"] = "none"
    """How observations are scaled, by statistics of the data: not at all, to [-1, 1], or to mean 0 and deviation 1."""
    look: bool = True
    """Measure what acting costs and draw an episode of every arm."""
    execute: tuple[str, ...] = ()
    """Schemes by which every arm is played once it is trained, such as open-loop receding:1 (qchunk list schemes); nothing is trained twice, and differences are to the first scheme."""
    tune: PositiveInt | None = None
    """Settings tried for every arm before the comparison, with other seeds, start states and collected data; the best of each arm is compared."""
    tune_fields: Path | None = None
    """What is tuned, as json: {ARM: {FIELD: [values] or "LOW..HIGH" or "log:LOW..HIGH"}} or {ARM: [settings]}; by default one field of each arm, such as eta of dql, or the learning rate."""
    tune_env: str | None = None
    """Environment of the trials; by default tabletop/cube-single-task2."""
    tune_seeds: PositiveInt | None = None
    """Seeds of every trial; by default --seeds."""
    baseline: str = ""
    """The arm that differences are to; by default bc, or the first one."""
    against: Literal["none", "published"] = "none"
    """published: put the figures that papers released for the same OGBench tasks and methods beside ours."""
    suite: Literal["default", "seed"] = "default"
    """The arms where --algos names none. seed: every kind of system that the field's surveys name, one arm each."""
    share_prior: bool = False
    """Arms that clone an actor of their own only to read it (cgql, fedit, dsrl, idql, qam ...) read the frozen prior's instead, the same one for all."""


def ends_of(f: CompareFlags) -> tuple[int, ...]:
    """How many seeds a comparison has had, and has now: (4, 8) where four were trained and as many are added.

    Raises:
        UserError: its settings were chosen by trials, for the seeds that it began with; or its file was edited.
    """
    path = f.out / f"{KIND}.json"
    if not path.is_file() or not (f.out / "runs").exists():
        return (f.seeds,)
    fix = "put it back as it was, or pass --out with a new folder"
    found = schema.read(path, dict[str, Any], fix)
    ends = found.get(ENDS) or [found.get("seeds", f.seeds)]
    if schema.mismatch(ends, list[int]) or any(a >= b for a, b in itertools.pairwise((0, *ends))):
        raise UserError(f"{path} is damaged: {ENDS} is {ends}", fix)
    ends = tuple(ends)
    if f.seeds <= ends[-1]:  # fewer are refused by ``claim``
        return ends
    if f.tune:
        raise UserError(f"{f.out} has settings that trials chose for {ends[-1]} seeds", f"leave --seeds at {ends[-1]}, or pass --out with a new folder")  # fmt: skip
    return (*ends, f.seeds)


def by_batches(f: CompareFlags, sizes: Sizes, ends: Sequence[int]) -> tuple[list[Run], tables.LeftOut]:
    """``plan`` of the seeds that a comparison began with, and of those that were added to it, in runs of their own."""
    found, left_out = list[Run](), tables.LeftOut()
    for first, end in itertools.pairwise((0, *ends)):
        runs, left_out = plan(dataclasses.replace(f, seed=f.seed + first, seeds=end - first), sizes)
        batch = f" (seeds {f.seed + first} to {f.seed + end - 1})" if first else ""
        found += [r._replace(batch=batch, prior=r.prior and r.prior + batch) for r in runs]
    return found, left_out


def checked(f: CompareFlags, sizes: Sizes) -> None:
    """Refuses numbers and files that no arm can use.

    Raises:
        UserError: names the flag.
    """
    for part in (f, sizes):
        validate(part)
    if f.data and not (f.out / f"{KIND}.json").is_file():  # what was made with both goes on
        refuse_unread(f, CompareFlags, ("data_steps",), "", "the data are those of --data", "leave it out")
    if f.data and not loading.readable(f.data):
        raise UserError(f"there is no data set {f.data}", "make one with qchunk collect, or leave --data out")
    if not f.env:
        raise UserError("--env names no environment", "give one or more: qchunk list envs")
    if not f.algos:
        raise UserError("--algos names no arms", "give one or more: qchunk list algorithms")
    for env in f.env:
        env_names.check_env(env)
    if f.execute and all(held_out.judges(env) for env in f.env):
        raise UserError(f"--execute has nothing to play in: --env {' '.join(f.env)}", "leave --execute out, or name an environment")  # fmt: skip
    for scheme in f.execute:
        name, delay = with_delay(scheme)
        parse(name, sizes.horizon, delay or 0)
    if len(set(f.algos)) < len(f.algos) or len(set(f.env)) < len(f.env):
        raise UserError("an arm or an environment is named twice", "name each once")


def plan(f: CompareFlags, sizes: Sizes) -> tuple[list[Run], tables.LeftOut]:
    """(the runs: priors first, then every arm, environment by environment; by environment the arms that learn nothing there).

    Arms that ``refusals`` refuses in an environment have no run there, and are not listed.

    Raises:
        UserError: an unknown name, a number out of range, an arm that cannot be made, or nothing to compare.
    """
    checked(f, sizes)
    configs = {arm: arms.config_of(arm, sizes) for arm in f.algos}
    for arm, c in configs.items():
        registry.builder(arms.split(arm)[0])[0](c)  # says what does not fit together, before anything is trained
    found: list[Run] = []
    left_out: tables.LeftOut = {}
    for env in f.env:
        able = {arm: c for arm, c in configs.items() if not refusals.lacking(c, env)}
        wanted = [arm for arm, c in able.items() if learns_there(registry.driver_of(type(c)), f, env)]
        if without := [arm for arm in able if arm not in wanted]:
            left_out[env] = without
        if not able:
            continue
        if not wanted:
            fix = "give --online-steps, a device environment, or other --algos"
            raise UserError(f"{', '.join(without)} learn online only, some of them on the device only", fix)
        data = f.data or Data(envs.make(env).data_name, f.data_steps)
        first = next((r.env for r in found if r.data == data), env)  # one prior serves every task of a scene
        steps = f.prior_steps or f.offline_steps
        once = dataclasses.replace(settings_of(f), offline_steps=steps, eval_every=steps)
        priors = {p[0]: p[1] for arm in wanted if (p := arms.prior_of(arm, sizes, f.share_prior))}
        made = {r.name for r in found}
        runs = [Run("bc", first, data, c, once, f"{PRIOR}{kind})") for kind, c in priors.items()]
        found += [r for r in runs if r.name not in made]
        found += [arm_of(arm, env, data, f, sizes, first) for arm in wanted]
    return found, left_out


def learns_there(driver: Driver, f: CompareFlags, env: str) -> bool:
    """Whether a driver has something to learn from in an environment: offline, or by playing where it can play."""
    if not driver.takes_data:
        return bool(f.online_steps) and not envs.on_host(env)
    return bool(f.online_steps) or learns_offline(driver)


def learns_offline(driver: Driver) -> bool:
    """Whether a driver's runs begin with updates on the data set."""
    return driver.settings().offline_steps > 0


def common(f: CompareFlags) -> dict[str, Any]:
    """The settings of every driver."""
    return {"seed": f.seed, "seeds": f.seeds, "episodes": f.episodes, "normalise_obs": f.normalise_obs}


def settings_of(f: CompareFlags, driver: Driver = OFFLINE_TO_ONLINE) -> OnlineSettings:
    """Of an arm's offline part; one that has none makes no update there."""
    parts = max(1, f.evaluations // 2 if f.online_steps else f.evaluations)
    offline: dict[str, Any] = {"offline_steps": f.offline_steps, "eval_every": math.ceil(f.offline_steps / parts)}
    offline = offline if learns_offline(driver) else {"offline_steps": 0}
    return driver.settings(**common(f), **{"online_steps": 0, **offline})


def arm_of(arm: str, env: str, data: Data | Path, f: CompareFlags, sizes: Sizes, first: str) -> Run:
    """One arm in one environment; its prior lies with the first environment of these data."""
    algorithm, c = arms.split(arm)[0], arms.config_of(arm, sizes)
    stands = arms.prior_of(arm, sizes, f.share_prior)
    prior = name_of(first, f"{PRIOR}{stands[0]})") if stands else ""
    steps = online_steps(f, sizes)
    every = math.ceil(steps / max(1, f.evaluations // 2))
    driver = registry.driver_of(type(c))
    if not driver.takes_data:
        rollout = dataclasses.replace(c.rollout, envs=ENVS, decisions=decisions(sizes))
        played = OnPolicySettings(**common(f), online_steps=steps, eval_every=every)
        return Run(algorithm, env, None, dataclasses.replace(c, rollout=rollout), played, arm, prior=prior)
    settings = settings_of(f, driver)
    if steps:
        online: dict[str, Any] = {"online_steps": steps, "start_training": 0, "update_ratio": f.online_updates / steps}
        online |= {"envs": HOST_ENVS if envs.on_host(env) else ENVS, "mix": "share:0.5", "online_eval_every": every}
        settings = dataclasses.replace(settings, **online)
    return Run(algorithm, env, data, c, settings, arm, prior)


def decisions(sizes: Sizes) -> int:
    """Of an on-policy iteration: LENGTH environment steps, in whole chunks."""
    return math.ceil(LENGTH / sizes.horizon)


def online_steps(f: CompareFlags, sizes: Sizes) -> int:
    """Environment steps of every arm: whole on-policy iterations, which are whole decisions of the others."""
    per = ENVS * decisions(sizes) * sizes.horizon
    return math.ceil(f.online_steps / per) * per
