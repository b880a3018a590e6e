"""What moves parameters: a transformation of optax for every module, its learning rate or schedule, and a bound on gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import optax

from qchunk import registry
from qchunk.config import OptimConfig
from qchunk.system.errors import UserError
from qchunk.types import Module

Optim: TypeAlias = OptimConfig | optax.GradientTransformation


def transformation(modules: Sequence[Module], optim: Optim | dict[str, Optim]) -> optax.GradientTransformation:
    """One transformation per module, behind one interface. ``optim`` as ``learner`` takes it.

    Raises:
        UserError: ``optim`` names what is no module, or leaves one out.
    """
    by_name = optim if isinstance(optim, dict) else {"": optim}
    names = [m.name for m in modules]
    if odd := sorted(set(by_name) - {*names, ""}):
        known = f'take {", ".join(sorted(names))}, or "" for all others'
        raise UserError(f"optim names {', '.join(odd)}, which no module is called", known)
    if "" not in by_name and (lacking := sorted(set(names) - set(by_name))):
        raise UserError(f"optim has nothing for {', '.join(lacking)}", 'add them, or "" for all others')
    chosen = {n: by_name[n] if n in by_name else by_name[""] for n in names}
    per_module = {
        n: registry.optimiser(c.kind)(rate_of(c)) if isinstance(c, OptimConfig) else c for n, c in chosen.items()
    }
    return optax.partition(per_module, lambda params: {n: jax.tree.map(lambda _: n, p) for n, p in params.items()})


def rate_of(c: OptimConfig) -> Any:
    """The learning rate, or its schedule: final_lr -> lr linearly, then a cosine back, as DPPO's (2409.00588, code)."""
    if c.warmup == c.decay == 0:
        return c.lr
    up = optax.linear_schedule(c.final_lr, c.lr, c.warmup) if c.warmup else optax.constant_schedule(c.lr)
    if c.decay == 0:
        return up
    down = optax.cosine_decay_schedule(c.lr, max(1, c.decay - c.warmup), alpha=c.final_lr / c.lr)
    return optax.join_schedules([up, down], [c.warmup])


def clipped_adam(rate: Any, max_norm: float = 1.0, **of_adam: Any) -> optax.GradientTransformation:
    """Adam on gradients that are scaled down where their norm over all parameters of a module is above ``max_norm`` (1211.5063).

    Args:
        rate: the learning rate, or its schedule.
        of_adam: further arguments of ``optax.adam``.

    Raises:
        UserError: a bound of 0 or less, under which nothing learns.
    """
    if not max_norm > 0.0:
        raise UserError(f"max_norm is {max_norm}", "give more than 0, or take adam")
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(rate, **of_adam))
