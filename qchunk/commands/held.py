"""What a comparison held equal, what differs all the same, and how its arms were tuned: tables for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qchunk import arms
from qchunk.actors import actor
from qchunk.arms import Sizes
from qchunk.commands.estimate import env_steps_of, updates_of
from qchunk.commands.suite import Data, Run
from qchunk.records import Rows
from qchunk.sampling import count_steps

TUNING = "protocol B with 2,000 + 2,000 updates and 1,024,000 environment steps"
LeftOut = dict[str, list[str]]  # environment -> the arms that it cannot have


def equal(suite: Sequence[Run], sizes: Sizes, left_out: LeftOut) -> Rows:
    """What every arm got.

    Args:
        suite: the arms' runs, without those of the priors.
    """
    first, s = suite[0], suite[0].settings
    offline = next((r for r in suite if r.data), None)
    steps = max(map(env_steps_of, suite))
    found = {}
    if not steps:
        found["protocol"] = f"A: {updates_of(first):,} updates on offline data only"
    else:
        envs = {r.config.rollout.envs if _plays(r) else r.online.envs for r in suite}
        found["protocol"] = (
            f"B: {steps:,} environment steps for every arm, in {' or '.join(map(str, sorted(envs)))} environments"
        )
    if offline:
        before = offline.settings.offline_steps  # type: ignore[union-attr]
        if steps:
            found["data arms"] = (
                f"{before:,} updates on the data before, {updates_of(offline) - before:,} meanwhile, half of each batch online"
            )
        found["data"] = _data(offline)
    standing = [r for r in suite if r.prior]
    if standing:
        frozen = [r.label for r in standing if not _plays(r)]
        tuned = [r.label for r in standing if _plays(r)]
        own = [r.label for r in suite if not r.prior and not _plays(r)]
        said = [f"frozen in {_names(frozen)}"] * bool(frozen) + [
            f"the start of {_names(tuned)}, which have no data"
        ] * bool(tuned)
        said += [f"{_names(own)} clone their own"] * bool(own)
        found["prior"] = (
            f"cloned from the data with as many seeds and updates; seed i stands on its seed i; {'; '.join(said)}"
        )
    widths = " x ".join(map(str, sizes.hidden))
    found["networks"] = (
        f"{widths} for every actor, critic and value; flows of {sizes.steps} steps, N = {sizes.n}, chunks of {sizes.horizon}"
    )
    found["evaluation"] = (
        f"{s.episodes} episodes per seed, open loop, the same start states for every arm and every evaluation"
    )
    found["seeds"] = f"{s.seed} to {s.seed + s.seeds - 1}"
    found["tuning"] = f"three runs of every default arm on {arms.TUNING_ENV}, one seed, {TUNING}; see the table"
    if any(r.env == arms.TUNING_ENV for r in suite):
        found["tuning"] += ". That task is compared here, too: its figures favour arms that depend on their settings"
    if left_out:
        why = (
            "they play on the device only"
            if steps
            else "nothing to learn from without environment steps (--online-steps)"
        )
        found["left out"] = "; ".join(f"{', '.join(names)} on {env}" for env, names in left_out.items()) + f": {why}"
    return [{"what": k, "how": v} for k, v in found.items()]


def unequal(suite: Sequence[Run]) -> Rows:
    """What the methods differ in besides their idea, an arm a line."""
    return [
        {
            "arm": r.label,
            "denoising steps": " / ".join(str(count_steps(actor(a))) for a in _actors(r.config)) or "no actor",
            "discount": f"{r.config.chunk.gamma:g} per {'decision' if r.config.chunk.discount == 'decision' else 'environment step'}",
            "critic": _critic(r.config),
            "updates": f"{updates_of(r):,}",
            "rewards of the data": "used" if uses_rewards(bool(r.data), r.config) else "not used",
        }
        for r in {r.label: r for r in suite}.values()
    ]


def tuning(suite: Sequence[Run]) -> Rows:
    """The tuning runs of every arm."""
    return [
        {"arm": arm, "success of its tuning runs": arms.trials(arm)} for arm in dict.fromkeys(r.label for r in suite)
    ]


def uses_rewards(data: bool, c: Any) -> bool:
    """Whether a method learns from the rewards of offline data: one with data and a critic."""
    return data and hasattr(c, "critic")


def _plays(r: Run) -> bool:
    return hasattr(r.config, "rollout")


def _data(r: Run) -> str:
    if not isinstance(r.data, Data):
        return str(r.data)
    return f"{r.data.steps:,} transitions of the environment's first scripted behaviour"


def _names(labels: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(labels))


def _actors(c: Any) -> list[Any]:
    return [getattr(c, field) for field in ("actor", "given", "tuned") if hasattr(c, field)]


def _critic(c: Any) -> str:
    found = getattr(c, "critic", None)
    if found is None:
        return "none"
    norm = "with" if found.layer_norm else "no"
    return (
        f"{found.members} of chunks, {norm} LayerNorm"
        if hasattr(found, "members")
        else f"1 of states, {norm} LayerNorm"
    )
