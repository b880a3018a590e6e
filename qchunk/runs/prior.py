"""Stages: the modules of an earlier run, frozen, as ``given`` of the next one. They are copied into its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from qchunk import normalise
from qchunk.actors import actor
from qchunk.actors.paths import count_steps
from qchunk.config import Stands, stands_on
from qchunk.drivers.common import acting
from qchunk.envs import objective
from qchunk.envs.base import spec_of
from qchunk.play.program import Inputs, Program, depends
from qchunk.primitives import weights_of
from qchunk.runs import run_folder, sources
from qchunk.runs.opened import Opened, learner_of, rebuild
from qchunk.system.errors import UserError

PRIMITIVES = ("codec", "basis")  # fields of ChunkConfig that a stage shares with its prior
STEPS = ("flow", "consistency", "shortcut", "meanflow", "reflow")
# fields of a prior's configuration that say how it is sampled, by kind
MAY_CHANGE = {"diffusion": {"ddim", "clip"}, **{kind: {"steps"} for kind in STEPS}}

USES = {  # what makes a method read the actor of its prior
    Stands.FROZEN: "read it as frozen(actor(c.{field}))",
    Stands.CLONED: "call its module actor, and return learner(..., prior=pi)",
    Stands.WARM_STARTED: 'call its module actor, and return warm_started(learner(...), "actor"), the name of the actor\'s module',
}


class Prior(NamedTuple):
    """An earlier run, as a stage stands on it."""

    given: dict  # modules by name, and units, [S, ...]; no modules where it is not trained yet
    actor: Any  # its ActorConfig
    config: Any
    settings: Any
    env: Any
    about: dict  # what config.json keeps of it


def load(folder: Path, seeds: int = 1, seed: int | None = None) -> Prior:
    """The newest checkpoint of a run, for ``seeds`` seeds of a stage: seed i stands on the prior's seed i.

    So a comparison over seeds holds the luck of the prior, too.

    Args:
        seed: the one place among the prior's seeds on which all of them stand instead; a prior of one seed leaves no choice.

    Raises:
        UserError: no run, no checkpoint, no such seed, fewer seeds than ours, or a method without an actor.
    """
    kept = run_folder.read_config(folder)["config"]
    p = rebuild(kept, folder)
    learner, step = learner_of(folder, p)
    places = places_of(folder, p.settings.seeds, seeds, seed)
    own = {n: x for n, x in p.inputs.given.items() if n != objective.GIVEN}  # a stage has its own objective
    given = {**own, **p.algorithm.freeze(learner)}
    if normalise.STATS in learner.stats:
        given[normalise.STATS] = normalise.as_dict(learner.stats[normalise.STATS])
    given = jax.tree.map(lambda x: x[np.asarray(places)], given)
    about = {"path": str(Path(folder).resolve()), "seeds": places, "step": step, "algorithm": kept["algorithm"]}
    return Prior(given, actor_of(p.config, folder), p.config, p.settings, p.program.env, about)


def to_be(name: str, p: Opened) -> Prior:
    """A run that is not trained yet, as far as a stage that will stand on it can be checked.

    Args:
        name: its algorithm.

    Raises:
        UserError: it will have no actor.
    """
    units: dict = {normalise.STATS: {}} if set(p.program.units) != {"none"} else {}
    return Prior(units, actor_of(p.config, name), p.config, p.settings, p.program.env, {})


def places_of(folder: Path, found: int, seeds: int, seed: int | None) -> list[int]:
    """For each of ``seeds`` seeds, the place among the ``found`` ones of a prior that it stands on."""
    if seed is not None and not 0 <= seed < found:
        raise UserError(f"the run {folder} has {found} seeds", f"give --prior-seed 0 to {found - 1}")
    if seed is None and 1 < found < seeds:
        fix = f"give --seeds {found}, train a prior with {seeds}, or let one serve all of them with --prior-seed 0"
        raise UserError(f"the prior {folder} has {found} seeds, not {seeds}", fix)
    return list(range(seeds)) if seed is None and found > 1 else [seed or 0] * seeds


def sizes(chunk: Any, prior: Any) -> Any:
    """A method's own chunks, as long as the prior's and seeing as much."""
    return dataclasses.replace(chunk, **{name: getattr(prior, name) for name in ("horizon", "history", *PRIMITIVES)})


def actor_of(c: Any, folder: Any) -> Any:
    """The configuration of a run's actor, or of the one that it stands on."""
    stands = stands_on(c)
    if not getattr(c, "walks_alone", True):
        last = getattr(c, "tuned_steps", 1)
        why = f"the run {folder} trained the last {last} denoising steps only, so it holds no single actor"
        raise UserError(why, "take one with --tuned-steps of all of them, or stand on its own prior")
    found = getattr(c, "actor", None) or (getattr(c, stands[0]) if stands else None)
    if found is None:
        raise UserError(f"the run {folder} has no actor", "give the folder of a bc or qc run")
    return found


def check(prior: Prior | None, algorithm: str, c: Any, settings: Any, env: Any) -> None:
    """Refuses a prior that a stage cannot stand on.

    Raises:
        UserError: names what differs and the fix.
    """
    stands = stands_on(c)
    if prior is None:
        if stands and stands[1] is Stands.FROZEN:
            raise UserError(f"{algorithm} stands on a frozen prior", "give --prior RUN, the folder of a bc run")
        if not getattr(c, "walks_alone", True):
            steps = count_steps(actor(c.tuned))
            more = f"--tuned-steps {steps}" if hasattr(c, "tuned_steps") else "take dppo"
            fix = f"give --prior RUN, the folder of a bc run, or {more} to train all from scratch"
            raise UserError(f"the first of {steps} denoising steps are a frozen prior's", fix)
        return
    if not stands:
        fix = (
            "leave --prior out, or take a method that stands on one, such as qc-frozen, dsrl or dppo (docs/methods.md)"
        )
        raise UserError(f"{algorithm} trains its own actor from data", fix)
    field = stands[0]
    ours, theirs = dataclasses.asdict(getattr(c, field)), dataclasses.asdict(prior.actor)
    if sources.same(ours["kind"], theirs["kind"]):
        theirs["kind"] = ours["kind"]  # the prior names its own copy
    odd = sorted(n for n in theirs if ours.get(n) != theirs[n] and n not in MAY_CHANGE.get(theirs["kind"], ()))
    if odd:
        name = odd[0].replace("_", "-")
        raise UserError(
            f"--{field}.{name} {ours.get(odd[0])} is not the prior's {theirs[odd[0]]}", f"leave --{field}.{name} out"
        )
    if c.chunk.horizon != prior.config.chunk.horizon:
        fix = f"leave --chunk.horizon out, or train a prior with {c.chunk.horizon}"
        raise UserError(f"the prior's chunks have {prior.config.chunk.horizon} actions, not {c.chunk.horizon}", fix)
    for name in PRIMITIVES:
        if (mine := getattr(c.chunk, name)) != (its := getattr(prior.config.chunk, name)):
            raise UserError(f"the prior has --chunk.{name} {its}, not {mine}", f"leave --chunk.{name} out")
    if env.data_name != prior.env.data_name:
        fix = f"take an environment of {prior.env.data_name}, or train a prior for {env.data_name}"
        raise UserError(f"the prior was trained for {prior.env.data_name}, not for {env.data_name}", fix)
    for name in ("normalise_obs", "normalise_action"):
        if getattr(settings, name) != getattr(prior.settings, name):
            flag = name.replace("_", "-")
            raise UserError(f"the prior's --{flag} is {getattr(prior.settings, name)}", f"leave --{flag} out")
    if "actor" in prior.given:
        _fits(prior.given["actor"], getattr(c, field), weights_of(c.chunk), env)


def check_used(program: Program, x: Inputs, unit: tuple[Callable, tuple]) -> None:
    """Refuses a method whose configuration says that it stands on a prior, and which leaves the prior's weights unread: nothing else would tell.

    Args:
        unit: what the driver does again and again, and its arguments.

    Raises:
        UserError: names the field and what would use the prior.
    """
    stands = stands_on(x.c)
    if stands is None or "actor" not in x.given:
        return
    (field, mark), ours = stands, jax.tree.map(lambda value: value[0], dict(x.given))  # those of one seed
    if mark is Stands.FROZEN:
        played, (learner, _, *seen) = acting(program, x, "act")
        fn, args = unit

        def play(given: dict, learner: Any, *seen: Any) -> Any:
            return played(learner, given, *seen)

        def train(given: dict, *args: Any) -> Any:
            return fn(*(a._replace(given=given) if isinstance(a, Inputs) else a for a in args))

        does, read = "plays and trains", _reads_actor(play, ours, learner, *seen) or _reads_actor(train, x.given, *args)
    else:
        algorithm, spec = program.algorithm(x.c), program.spec(x.c)
        does, read = "starts", _reads_actor(lambda given: algorithm.init(jax.random.key(0), spec, given).params, ours)
    if not read:
        problem = (
            f"--{field}, which the prior fills in, is marked {mark}, and the method {does} without the prior's weights"
        )
        raise UserError(problem, USES[mark].format(field=field))


def _reads_actor(fn: Callable, given: dict, *args: Any) -> bool:
    """Whether anything that ``fn(given, *args)`` returns depends on ``given["actor"]``; arguments may be shapes."""
    rest = dict(given)
    actor = rest.pop("actor")
    traced = jax.make_jaxpr(lambda actor, rest, *args: fn({**rest, "actor": actor}, *args))(actor, rest, *args)
    return depends(traced.jaxpr, 0, len(jax.tree.leaves(actor)))


def _fits(params: Any, c: Any, horizon: int, env: Any) -> None:
    spec = spec_of(env, horizon)
    like = jax.eval_shape(lambda: actor(c).modules[0].init(jax.random.key(0), spec))
    if jax.tree.map(lambda x: x.shape[1:], params) != jax.tree.map(lambda x: x.shape, like):
        raise UserError("the prior's networks do not fit this environment's sizes", "train a prior for it")
