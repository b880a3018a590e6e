"""What a comparison held equal, what differs all the same, and how its arms were tuned: tables for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qchunk.actors import actor
from qchunk.comparison import arms
from qchunk.comparison.arms import Sizes
from qchunk.comparison.suite import Data, Run
from qchunk.config import actor_fields
from qchunk.reporting.records import Rows
from qchunk.sampling import count_steps

TUNING = "protocol B with 2,000 + 2,000 updates and 1,024,000 environment steps"
LeftOut = dict[str, list[str]]  # environment -> the arms that it cannot have


def equal(suite: Sequence[Run], sizes: Sizes, left_out: LeftOut) -> Rows:
    """What every arm got.

    Args:
        suite: the arms' runs, without those of the priors.
    """
    s, widths = suite[0].settings, " x ".join(map(str, sizes.hidden))
    found = {
        "protocol": _protocol(suite),
        "data": _data(next((r for r in suite if r.data), None)),
        "prior": _prior(suite),
        "networks": f"{widths} for every network; flows of {sizes.steps} steps, N = {sizes.n}, chunks of {sizes.horizon}",
        "evaluation": f"{s.episodes} episodes per seed, open loop, the same start states for every arm and every evaluation",
        "seeds": f"{s.seed} to {s.seed + s.seeds - 1}",
        "tuning": f"three runs of every default arm on {arms.TUNING_ENV}, one seed, {TUNING}; see the table{_compared(suite)}",
        "left out": _absent(left_out, any(r.amount.env_steps for r in suite)),
    }
    return [{"what": k, "how": v} for k, v in found.items() if v]


def unequal(suite: Sequence[Run]) -> Rows:
    """What the methods differ in besides their idea, an arm a line."""
    return [
        {
            "arm": r.label,
            "denoising steps": " / ".join(str(count_steps(actor(a))) for a in _actors(r.config)) or "no actor",
            "discount": f"{r.config.chunk.gamma:g} per {'decision' if r.config.chunk.discount == 'decision' else 'environment step'}",
            "critic": _critic(r.config),
            "updates": f"{r.amount.updates:,}",
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
    return data and getattr(c, "critic", None) is not None


def _plays(r: Run) -> bool:
    return not r.driver.needs_data


def _protocol(suite: Sequence[Run]) -> str:
    steps, learnt = max(r.amount.env_steps for r in suite), next((r for r in suite if r.data), None)
    if learnt and not steps:
        return f"A: {learnt.amount.updates:,} updates on offline data only"
    envs = sorted({r.config.rollout.envs if _plays(r) else r.settings.envs for r in suite})
    told = f"B: {steps:,} environment steps for every arm, in {' or '.join(map(str, envs))} environments"
    if learnt:
        before = learnt.settings.offline_steps  # type: ignore[union-attr]
        told += f". Arms with data make {before:,} updates on them before and {learnt.amount.updates - before:,} meanwhile, half of each batch online"
    return told


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
    return f"cloned from the data with as many seeds and updates, seed i for seed i: {told}" if frozen or tuned else ""


def _compared(suite: Sequence[Run]) -> str:
    if all(r.env != arms.TUNING_ENV for r in suite):
        return ""
    return ". That task is compared here, too: its figures favour arms that depend on their settings"


def _absent(left_out: LeftOut, online: bool) -> str:
    told = "; ".join(f"{', '.join(labels)} on {env}" for env, labels in left_out.items())
    why = (
        "they play on the device only" if online else "nothing to learn from without environment steps (--online-steps)"
    )
    return f"{told}: {why}" if told else ""


def _names(labels: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(labels))


def _actors(c: Any) -> list[Any]:
    return [getattr(c, field) for field in actor_fields(type(c))]


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
