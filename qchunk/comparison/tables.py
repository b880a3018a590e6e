"""What a comparison held equal, what differs all the same, and how its arms were tuned: tables for the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qchunk import registry
from qchunk.actors import actor
from qchunk.actors.paths import count_steps
from qchunk.comparison import arms
from qchunk.comparison.arms import Sizes
from qchunk.comparison.suite import Data, Run
from qchunk.config import OptimConfig, ValueConfig, actor_fields
from qchunk.reporting import records
from qchunk.reporting.records import Rows
from qchunk.sampling import is_from_zero

TUNING = "protocol B with 2,000 + 2,000 updates and 1,024,000 environment steps"
TRIED = "success of its tuning runs"  # the column of trials
AT_MEAN, FROM_ZERO = "at its mean; it explores with noise", "from noise 0; it explores with noise"
LeftOut = dict[str, list[str]]  # environment -> the arms that it cannot have


def equal(suite: Sequence[Run], sizes: Sizes, left_out: LeftOut) -> Rows:
    """What every arm got.

    Args:
        suite: the arms' runs, without those of the priors.
    """
    s = suite[0].settings
    found = {
        "protocol": _protocol(suite),
        "data": _data(next((r for r in suite if r.data), None)),
        "prior": _prior(suite),
        "networks": _networks(suite, sizes),
        "evaluation": f"{s.episodes} episodes per seed, open loop, the same start states for every arm and every evaluation",
        "seeds": _seeds(suite),
        "tuning": f"three runs of every default arm on {arms.TUNING_ENV}, one seed, {TUNING}; see the table{_compared(suite)}",
        "left out": absent(left_out, suite),
    }
    return [{"what": k, "how": v} for k, v in found.items() if v]


def unequal(suite: Sequence[Run], priors: Sequence[Run] = ()) -> Rows:
    """What the methods differ in besides their idea, an arm a line."""
    cloned = {r.name: r for r in priors}
    return [
        {
            "arm": r.label,
            "learning rate": _rates(r.config),
            "N": str(getattr(r.config, "n", "-")),
            "denoising steps": " / ".join(str(count_steps(actor(a))) for a in _actors(r.config)) or "no actor",
            "acts, when evaluated": _acts(r),
            "discount": f"{r.config.chunk.gamma:g} per {'decision' if r.config.chunk.discount == 'decision' else 'environment step'}",
            "critic": _critic(r.config),
            "updates": f"{r.amount.updates:,}",
            "an update sees": _sees(r),
            "updates that clone its actor": _cloning(r, cloned.get(r.prior)),
            "rewards of the data": "used" if uses_rewards(bool(r.data), r.config) else "not used",
        }
        for r in {r.label: r for r in suite}.values()
    ]


def settings(suite: Sequence[Run]) -> Rows:
    """Every field of the arms' configurations and drivers in which any two of them differ, a field a line; "-" where an arm lacks it."""
    arms_ = {r.label: _flat(r) for r in suite}
    fields = dict.fromkeys(field for found in arms_.values() for field in found)
    lines = {field: {label: found.get(field, "-") for label, found in arms_.items()} for field in fields}
    return [{"setting": field, **line} for field, line in lines.items() if len(set(line.values())) > 1]


def caveats(suite: Sequence[Run]) -> Rows:
    """What no column shows and no interval holds."""
    found = {}
    if any(r.data for r in suite):
        found["data"] = (
            "one data set for every arm and seed: what another one would have given is in no interval and no difference"
        )
    if any(r.amount.env_steps for r in suite):
        found["environment steps"] = (
            "counted until an episode's last chunk ends: actions of a chunk that come after the end of its episode are not "
            "played, but count, so that arms with short episodes have less experience of the same number of steps (3 to 4 % on cube-single)"
        )
    if any(r.prior for r in suite) and any(not r.prior and r.data for r in suite):
        found["cloning"] = (
            "arms that clone their own actor go on cloning with every update, those on a prior have what it had: see the column; "
            "--prior-steps gives priors more updates, so that the two can be held equal"
        )
    still = {r.label: _acts(r) in (AT_MEAN, FROM_ZERO) for r in suite}
    if len(set(still.values())) > 1:
        found["noise"] = (
            f"{_names([label for label, without in still.items() if without])} are evaluated without noise, as their methods ask, which alone "
            "can be worth much; --execute open-loop zero-noise plays every arm without it, too (candidates of a best of N are then alike)"
        )
    return [{"what": k, "how": v} for k, v in found.items()]


def tuning(suite: Sequence[Run]) -> Rows:
    """The tuning runs of every arm."""
    once = {r.label: type(r.config) for r in suite}
    return [{"arm": arm, TRIED: arms.trials(arm, cls)} for arm, cls in once.items()]


def uses_rewards(data: bool, c: Any) -> bool:
    """Whether a method learns from the rewards of offline data: one with data and a critic."""
    return data and getattr(c, "critic", None) is not None


def _plays(r: Run) -> bool:
    return not r.driver.takes_data


def _protocol(suite: Sequence[Run]) -> str:
    steps, offline = max(r.amount.env_steps for r in suite), [r for r in suite if r.data]
    learnt = max(offline, key=lambda r: r.settings.offline_steps, default=None)
    if learnt and not steps:
        return f"A: {learnt.amount.updates:,} updates on offline data only"
    envs = sorted({r.config.rollout.envs if _plays(r) else r.settings.envs for r in suite})
    told = f"B: {steps:,} environment steps for every arm, in {' or '.join(map(str, envs))} environments"
    if learnt:
        before = learnt.settings.offline_steps
        told += f". Arms with data make {before:,} updates on them before and {learnt.amount.updates - before:,} meanwhile, half of each batch online"
        none = [r.label for r in offline if r.settings.offline_steps == 0]
        told += (
            f"; {_names(none)} learn from the first environment step on, without those before"
            if none and before
            else ""
        )
    return told


def _networks(suite: Sequence[Run], sizes: Sizes) -> str:
    """The sizes that arms share, and each arm that has others, by settings in its name or by what its trials chose."""
    widths = " x ".join(map(str, sizes.hidden))
    told = f"{widths} for every network; flows of {sizes.steps} steps, N = {sizes.n} in our methods, chunks of {sizes.horizon}"
    odd = [(r.label, arms.unsized(r.config, sizes)) for r in suite]
    but = dict.fromkeys(f"{arm} ({', '.join(f'{k} {v}' for k, v in own.items())})" for arm, own in odd if own)
    return f"{told}; but for: {'; '.join(but)}" if but else told


def _data(r: Run | None) -> str:
    if not r or not isinstance(r.data, Data):
        return str(r.data) if r else ""
    return f"{r.data.steps:,} transitions of the environment's first scripted behaviour"


def _prior(suite: Sequence[Run]) -> str:
    """Who stands on a prior, and how."""
    frozen, tuned = ([r.label for r in suite if r.prior and _plays(r) == on] for on in (False, True))
    own = [r.label for r in suite if not r.prior and not _plays(r)]
    said = {"frozen in {}": frozen, "the start of {}, which have no data": tuned, "{} clone their own": own}
    told = "; ".join(text.format(_names(labels)) for text, labels in said.items() if labels)
    return f"cloned from the same data with as many seeds, seed i for seed i: {told}" if frozen or tuned else ""


def _compared(suite: Sequence[Run]) -> str:
    if all(r.env != arms.TUNING_ENV for r in suite):
        return ""
    return ". That task is compared here, too: its figures favour arms that depend on their settings"


def _seeds(suite: Sequence[Run]) -> str:
    """Of every arm; by arm where some have been given more."""
    found: dict[tuple[int, int], list[str]] = {}
    for label in dict.fromkeys(r.label for r in suite):
        own = [r.settings for r in suite if r.label == label]
        span = (min(s.seed for s in own), max(s.seed + s.seeds for s in own) - 1)
        found.setdefault(span, []).append(label)
    told = {f"{first} to {last}": labels for (first, last), labels in found.items()}
    return next(iter(told)) if len(told) == 1 else "; ".join(f"{t}: {', '.join(labels)}" for t, labels in told.items())


def absent(left_out: LeftOut, suite: Sequence[Run]) -> str:
    """Who is left out where, and why; "" where nobody is."""
    online = any(r.amount.env_steps for r in suite)
    told = "; ".join(f"{', '.join(labels)} on {env}" for env, labels in left_out.items())
    why = (
        "they play on the device only" if online else "nothing to learn from without environment steps (--online-steps)"
    )
    return f"{told}: {why}" if told else ""


def _names(labels: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(labels))


def _flat(r: Run) -> dict[str, str]:
    """The configuration of a run and the settings of its driver, as dotted names; a whole field where an arm has another class there."""
    parts = {"config": r.config, "settings": r.settings}
    found = {name: dataclasses.asdict(part) for name, part in parts.items()}
    return {name.removeprefix("config."): value for name, value in records.flat(found).items()}


def _rates(c: Any) -> str:
    found = {
        f.name: getattr(c, f.name).lr for f in dataclasses.fields(c) if isinstance(getattr(c, f.name), OptimConfig)
    }
    if len(set(found.values())) < 2:
        return "".join(f"{rate:g}" for rate in set(found.values())) or "of its own"
    return ", ".join(f"{rate:g} ({name.replace('_', ' ')})" for name, rate in found.items())


def _acts(r: Run) -> str:
    """How the acting policy draws, where that is not how the method samples while it learns."""
    kinds = {a.kind: count_steps(actor(a)) for a in _actors(r.config)}
    algorithm = registry.builder(r.algorithm)[0](r.config)
    if is_from_zero(algorithm.act):
        return FROM_ZERO
    if not _plays(r):
        return "as it learns" if algorithm.explore is algorithm.act else "without the noise that it explores with"
    if set(kinds.values()) == {1}:
        return AT_MEAN
    noisy = all(actor(a).noisy for a in _actors(r.config))
    return "with the noise of its steps" if noisy else "without the noise that it explores and is tuned with (an ODE)"


def _sees(r: Run) -> str:
    if not _plays(r):
        return f"{r.settings.batch:,} windows"
    rollout = r.config.rollout
    return f"{rollout.envs * rollout.decisions // rollout.minibatches:,} decisions"


def _cloning(r: Run, prior: Run | None) -> str:
    """Of an arm that has no prior as many as it makes."""
    if prior:
        return f"{prior.amount.updates:,}, its prior's"
    c = r.config
    if _plays(r) or not _actors(c) or getattr(c, "bc_alpha", None) == 0 or not getattr(c, "clones", True):
        return "none"
    return f"{getattr(r.config, 'clone_until', 0) or r.amount.updates:,}, its own"


def _actors(c: Any) -> list[Any]:
    return [getattr(c, field) for field in actor_fields(type(c))]


def _critic(c: Any) -> str:
    found = getattr(c, "critic", None)
    if found is None:
        return "none"
    what = (
        f"{found.members} of chunks"
        if hasattr(found, "members")
        else "1 of states"
        if isinstance(found, ValueConfig)
        else "1 of its own kind"
    )
    norm = {True: ", with LayerNorm", False: ", no LayerNorm"}.get(getattr(found, "layer_norm", None), "")
    return what + norm
