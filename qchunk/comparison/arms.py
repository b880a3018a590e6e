"""The arms of a comparison: every method at the same sizes, with the settings that a few runs on another task chose.

An arm is an algorithm's name, or ``ALGORITHM@KIND`` with another kind of actor (``dppo@diffusion``), or a function of the
user's own as ``file.py:function``; settings of its own stand behind (``qc:n=4:optim.lr=0.0003``, ``bc@diffusion:steps=5``). What a configuration of ours says, an arm of the user's own has as ours do, so that the
same method twice is the same; what the user's own class says stays, but for sizes and for a learning rate left at its default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from qchunk import names, registry
from qchunk.actor_configs import DiffusionConfig, FlowConfig
from qchunk.actors import actor
from qchunk.actors.paths import count_steps
from qchunk.config import ActorConfig, ChunkConfig, OptimConfig, Stands, actor_fields, of_kind, stands_on
from qchunk.ranges import PositiveInt, Widths, kind_of, read
from qchunk.system import loading
from qchunk.system.errors import UserError, unknown
from qchunk.system.files import is_file
from qchunk.varied import hints, put

DEFAULT = ("bc", "qc", "qc-frozen", "value-guided", "v-gps", "dppo", "dppo@diffusion", "ppo")
# Every kind of system that the field's surveys name, an arm each, those that train soonest first
SEED = (
    *("bc@regression", "bc", "bc@diffusion"),  # averages the data, or clones them
    *("v-gps", "dppo", "learned-k", "qc-fql", "rlpd", "value-guided", "dsrl", "qc@meanflow", "dql", "reinflow", "qc"),
    *("opal", "qam-e", "mac", "top-erl", "cqn-as"),
)
SUITES = {"default": DEFAULT, "seed": SEED}
LR = OptimConfig(1e-3)  # of every arm that learns from data: what the tuning runs of bc, qc and qc-frozen chose
PRIOR = "prior ("  # how the labels begin of what arms stand on
PRIOR_KIND = "flow"  # of the actors that arms stand on, where their name says none


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What every arm shares."""

    hidden: Widths = (128, 128, 128)
    """Widths of the hidden layers of every network."""
    horizon: PositiveInt = 5
    """H, actions per chunk."""
    n: PositiveInt = 8
    """N, candidates of our methods that choose among some; a method of your own keeps the n of its own configuration."""
    steps: PositiveInt = 10
    """K, denoising steps of every flow; a diffusion has 20 levels and walks as many of them by DDIM, all of them in dppo."""


# Of the runs of each arm in TRIALS the best; ties go to what stood here before. By arm, or by algorithm.
TUNED: dict[str, dict[str, Any]] = {
    "bc": {"optim": LR},
    "qc": {"optim": LR},
    "qc-frozen": {"optim": LR},
    "value-guided": {"optim": LR, "guidance": "mean", "weight": 1.0},
    "v-gps": {"optim": LR, "expectile": 0.8},
    "dppo": {"clip": 0.03, "clip_base": 0.03, "tuned_steps": 5},
    "dppo@diffusion": {"clip": 0.01, "clip_base": 0.01, "tuned_steps": 5},
    "ppo": {"clip": 0.03},
    "dacer": {"regulate_every": 100},  # its own 10,000 is more updates than a comparison makes
}
TUNING_ENV = "tabletop/cube-single-task2"
# Success in percent by setting, as in docs/results/tuning.md: qchunk reproduce tuning, on TUNING_ENV, one seed, 50 episodes,
# 2,000 updates offline and as many during 1,024,000 environment steps, with a data set, a seed and start states that no comparison has.
TRIALS: dict[str, dict[str, int]] = {
    "bc": {"lr 0.0003": 0, "lr 0.001": 2, "lr 0.003": 0},
    "qc": {"lr 0.0003": 100, "lr 0.001": 100, "lr 0.003": 100},
    "qc-frozen": {"lr 0.0003": 100, "lr 0.001": 100, "lr 0.003": 100},
    "value-guided": {"log-expectation, weight 0.3": 50, "log-expectation, weight 1": 10, "mean, weight 1": 88},
    "v-gps": {"expectile 0.7": 66, "expectile 0.8": 100, "expectile 0.9": 96},
    "dppo": {"clip 0.003": 8, "clip 0.01": 42, "clip 0.03": 64},
    "dppo@diffusion": {"clip 0.003": 8, "clip 0.01": 26, "clip 0.03": 0},
    "ppo": {"clip 0.003": 0, "clip 0.01": 4, "clip 0.03": 96},
}
# What a reader of the runs above must know.
FOOTNOTES = {
    "value-guided": "the mean is among its three because it had won offline on all five tasks (docs/results/guidance.md), after a first round of "
    "three weights of its exact target had lost on task 1; the mean at weight 0.3, run by mistake, had 94 %",
}


def trials(arm: str, config_class: type = object) -> str:
    """The tuning runs of an arm, for the page; of the algorithm whose settings it takes, where it had none itself."""
    arm = named_settings(arm)[0]
    name = arm.partition("@")[0]
    tuned = arm if arm in TRIALS else name if name in names.ALGORITHMS else algorithm_of(config_class)
    if tuned not in TRIALS:
        return "none: its own settings, and the learning rate of all where it leaves that at its default"
    told = ", ".join(f"{setting}: {found} %" for setting, found in TRIALS[tuned].items())
    note = f" ({FOOTNOTES[tuned]})" if tuned in FOOTNOTES else ""
    return f"{told}{note}" if tuned == arm else f"none: the settings of {tuned}, whose runs were {told}{note}"


def listed(word: str) -> list[str]:
    """The arms of a word, between commas; those in the path of a file of the user's own that is there are the path's, and those
    before a number or ``name=value``, which is no arm, are among the ARGS of the arm before."""
    parts, found = word.split(","), list[str]()
    while parts:
        joined = ((count, ",".join(parts[:count])) for count in range(len(parts), 1, -1))
        paths = ((count, loading.place(named_settings(arm)[0])) for count, arm in joined)
        count = next((n for n, path in paths if path.count(",") == n - 1 and is_file(Path(path))), 1)
        arm = ",".join(parts[:count])
        if found and (not isinstance(registry.value(arm), str) or re.match(r"\w+=", arm)):
            found[-1] += f",{arm}"
        else:
            found.append(arm)
        del parts[:count]
    return [arm for arm in found if arm]


def split(arm: str) -> tuple[str, str]:
    """(algorithm, kind of its actor) of an arm's name.

    Raises:
        UserError: no such kind.
    """
    name, at, kind = named_settings(arm)[0].partition("@")
    if at:
        of_kind(ActorConfig, kind)
    return name, kind or own_kind(registry.builder(name)[1])


def named_settings(arm: str) -> tuple[str, dict[str, str]]:
    """(the arm without them, the settings that its name says): ``qc:n=4`` is qc with {"n": "4"}."""
    found = re.fullmatch(r"(.*?)((?::[\w.-]+=[^:]*)*)", arm, re.S)
    assert found, "the first part takes whatever the second does not"
    return found[1], {name.replace("-", "_"): text for name, text in re.findall(r":([\w.-]+)=([^:]*)", found[2])}


def with_setting(c: Any, name: str, text: str) -> Any:
    """A configuration with another value of a field, named in full (``actor.steps``) or by its end where one field has it (``steps``).

    Raises:
        UserError: no such field, several, or a value that it cannot have.
    """
    fields = {flag.replace("-", "_"): hint for flag, hint in hints(c)}
    found = [name] if name in fields else [f for f in fields if f.endswith(f".{name}")]
    if not found:
        raise unknown("setting of an arm", name, fields)
    if len(found) > 1:
        raise UserError(f"{name} may be {' or '.join(found)}", f"name it in full, as {found[0]}={text}")
    hint = fields[found[0]]
    try:
        return put(c, {found[0]: read(text, hint, "x")})
    except ValueError as e:
        fix = f"give {kind_of(hint)}{', as 64x64' * (get_origin(hint) is tuple)}"
        raise UserError(f"{found[0]}={text} is no value of it", fix) from e


def own_kind(cls: type) -> str:
    """The kind of a method's actor where no name says another: of one of several steps a flow, so that arms stand on one prior."""
    fields = actor_fields(cls)
    kind = getattr(cls(), fields[-1]).kind if fields else PRIOR_KIND
    return PRIOR_KIND if kind in ("flow", "diffusion") else kind


def ours(name: str) -> str:
    """The algorithm of ours that a name is, or whose configuration the user's own has; "" for one with a class of its own."""
    return name if name in names.ALGORITHMS else algorithm_of(registry.builder(name)[1])


def actor_of(kind: str, sizes: Sizes, tuned: bool = False) -> ActorConfig:
    """An actor of a kind; it acts with a moving average of its weights. ``tuned`` ones need the noise of every step."""
    h = sizes.hidden
    if kind == "flow":
        return FlowConfig(h, steps=sizes.steps, ema=True)
    if kind == "diffusion":
        ddim = 0 if tuned else min(sizes.steps, DiffusionConfig().steps)
        return DiffusionConfig(h, residual=fits_residual(h), ddim=ddim, ema=True)
    return resized(of_kind(ActorConfig, kind), sizes).averaged(True)


def fits_residual(hidden: tuple[int, ...]) -> bool:
    """Whether a residual network can have these widths."""
    return len(hidden) % 2 == 1 and len(set(hidden)) == 1


def shared_fields(c: Any, sizes: Sizes, whole: bool) -> dict[str, Any]:
    """By name, the fields that every arm has alike: widths, lengths of chunks, a flow's steps; of a ``whole`` method of ours N, too."""
    has = {"hidden": any(f.name == "hidden" for f in dataclasses.fields(c)), "horizon": isinstance(c, ChunkConfig)}
    has |= {"steps": isinstance(c, FlowConfig)}
    has |= {"n": whole and type(getattr(c, "n", None)) is int and stated_by_us(type(c), "n")}
    return {name: getattr(sizes, name) for name, shared in has.items() if shared}


def resized(c: Any, sizes: Sizes, whole: bool = True) -> Any:
    """A configuration of whatever class with the ``shared_fields`` of every arm, at any depth; target networks take one rate, too.

    Raises:
        UserError: a field ``hidden`` that does not hold widths.
    """
    if type(c) is tuple:
        return tuple(resized(part, sizes, False) for part in c)
    if not dataclasses.is_dataclass(c) or isinstance(c, type):
        return c
    made = {field.name: resized(getattr(c, field.name), sizes, False) for field in dataclasses.fields(c)}
    if not isinstance(made.get("hidden", ()), tuple):
        problem = f"hidden of {type(c).__name__} is no tuple of widths, so that a comparison cannot hold it equal"
        raise UserError(problem, "make it hidden: Widths = (512, 512), with Widths of qchunk")
    made |= shared_fields(c, sizes, whole)
    if isinstance(c, DiffusionConfig):
        made["residual"] = c.residual and fits_residual(sizes.hidden)
    if {"hidden", "tau"} <= made.keys():
        made["tau"] = 0.01
    return dataclasses.replace(c, **made)


def unsized(c: Any, sizes: Sizes, prefix: str = "") -> dict[str, str]:
    """By dotted name, the fields of a configuration that are not as the ``shared_fields`` of every arm."""
    shared, found = shared_fields(c, sizes, not prefix), dict[str, str]()
    for field in dataclasses.fields(c):
        value, name = getattr(c, field.name), f"{prefix}{field.name}"
        parts = {f"{name}.{i}.": x for i, x in enumerate(value)} if type(value) is tuple else {f"{name}.": value}
        for place, part in parts.items():
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                found |= unsized(part, sizes, place)
        if value != shared.get(field.name, value):
            found[name] = " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return found


def config_of(arm: str, sizes: Sizes) -> Any:
    """The configuration of an arm, see above.

    Raises:
        UserError: an unknown algorithm, kind or setting, or a kind for a method without an actor.
    """
    arm, given = named_settings(arm)
    return with_settings(_shared_config(arm, sizes), given)


def with_settings(c: Any, given: Mapping[str, str]) -> Any:
    """``with_setting`` of each; a diffusion of fewer levels walks no more than it has, where ``ddim`` is not said."""
    c = functools.reduce(lambda made, setting: with_setting(made, *setting), given.items(), c)
    if any(name.rpartition(".")[2] == "ddim" for name in given):
        return c
    own = {field: getattr(c, field) for field in actor_fields(type(c))}
    fewer = {f: a for f, a in own.items() if isinstance(a, DiffusionConfig) and a.ddim > a.steps}
    return dataclasses.replace(c, **{f: dataclasses.replace(a, ddim=a.steps) for f, a in fewer.items()})


def _shared_config(arm: str, sizes: Sizes) -> Any:
    """The configuration of an arm before settings of its own."""
    name, kind = split(arm)
    c = registry.builder(name)[1]()
    actors, stands = actor_fields(type(c)), stands_on(c)
    warm = stands[0] if stands and stands[1] is Stands.WARM_STARTED else ""
    if "@" in arm and not actors:
        raise UserError(f"{name} has no actor of its own", f"give {name} without @{kind}")
    c = resized(c, sizes)
    kinds = dict.fromkeys(actors, kind) | dict.fromkeys(actors[:-1], PRIOR_KIND)  # the last is its own
    made: dict[str, Any] = {field: actor_of(kinds[field], sizes, field == warm) for field in actors}
    for field in actors:
        if (own := getattr(c, field)).kind == kinds[field] and own.kind not in ("flow", "diffusion"):
            made[field] = own.averaged(True)  # as its method has it
    c = dataclasses.replace(c, **made)
    tuned = TUNED.get(arm, TUNED.get(f"{ours(name)}@{kind}", TUNED.get(ours(name), {})))
    made = {field: value for field, value in tuned.items() if stated_by_us(type(c), field)}
    if getattr(c, "act_horizon", None):
        made["act_horizon"] = min(c.act_horizon, sizes.horizon)
    if "tuned_steps" in made:
        made["tuned_steps"] = min(made["tuned_steps"], count_steps(actor(c.tuned)))
    if registry.driver_of(type(c)).takes_data:
        rates = [f.name for f in dataclasses.fields(c) if getattr(c, f.name) == OptimConfig()]
        made |= {field: LR for field in rates if field not in made}
    return dataclasses.replace(c, **made)


def stated_by_us(cls: type, field: str) -> bool:
    """Whether a field of a configuration is as a class of ours says, and no class of the user's that derives from it."""
    owner = next(t for t in cls.__mro__ if field in inspect.get_annotations(t))
    return owner.__module__.partition(".")[0] == "qchunk"


def algorithm_of(cls: type) -> str:
    """The algorithm of ours whose configuration a class is, or derives from; "" for a class of its own."""
    found = {registry.builder(name)[1]: name for name in names.ALGORITHMS}
    return next((found[t] for t in cls.__mro__ if t in found), "")


def prior_of(arm: str, sizes: Sizes, shared: bool = False) -> tuple[str, Any] | None:
    """(kind, configuration of ``bc``) of the prior that an arm stands on; None for one that trains its own actor.

    Args:
        shared: a method that clones an actor beside only to read it stands on the prior, too.
    """
    c = config_of(arm, sizes)
    stands = stands_on(c)
    if stands is None or (stands[1] is Stands.CLONED and not shared):
        return None
    kind = getattr(c, stands[0]).kind
    cloned = config_of(f"bc@{kind}", sizes)
    return kind, dataclasses.replace(cloned, chunk=ChunkConfig(sizes.horizon))
