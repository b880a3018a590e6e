"""Target networks: second copies of a module's parameters that follow them, for critics to learn from or actors to act with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qchunk.types import Array, Key, Module, TargetNetwork, Vars


def ema(on: bool) -> TargetNetwork | None:
    """The moving average of an actor's weights that acts in its place (2303.04137's code); None where it is not ``on``.

    1 - decay after update n is max(1e-4, n^-0.75), so the first updates are copied whole.
    """
    if not on:
        return None
    return TargetNetwork(lambda n: jnp.maximum(1e-4, jnp.maximum(n, 1.0) ** -0.75), lagged=False, acts=True)


def with_target(part: Any, **changes: Any) -> Any:
    """The same Kernel or Critic, whose modules' target networks have these fields of ``TargetNetwork``; one that had none gets one."""

    def changed(m: Module) -> Module:
        return m._replace(target=TargetNetwork(**changes) if m.target is None else m.target._replace(**changes))

    return part._replace(modules=tuple(changed(m) for m in part.modules))


def slow_copy(part: Any, rate: float, every: int = 1, acts: bool = False) -> Any:
    """The same Kernel with a target network, as critics have one, in the place of any moving average that it keeps.

    Args:
        rate: how far the copy goes towards the weights before the update, every ``every`` updates.
        acts: whether the copy acts in their place.
    """
    return with_target(part, rate=rate, every=every, acts=acts, lagged=True)


def copies(modules: Sequence[Module], params: dict) -> dict:
    """The target networks of those modules that keep one, equal to their parameters."""
    return {m.name: jax.tree.map(jnp.copy, params[m.name]) for m in modules if m.target is not None}


def moved(targets: dict, modules: Sequence[Module], before: dict, after: dict, step: Array) -> dict:
    """Every target network moved once towards its module, by the module's own rule.

    Args:
        before, after: parameters by module, on either side of the gradient step.
        step: number of the update, [] int32.
    """
    found = {}
    for module in modules:
        if (rule := module.target) is None:
            continue
        rate = rule.rate(step) if callable(rule.rate) else rule.rate
        rate = jnp.where(step % rule.every == 0, rate, 0.0) if rule.every > 1 else rate
        source = before if rule.lagged else after
        found[module.name] = optax.incremental_update(source[module.name], targets[module.name], rate)
    return found


def drawn(targets: dict, modules: Sequence[Module], key: Key) -> dict:
    """What an update reads of the target networks: of an ensemble, ``TargetNetwork.drawn`` members without replacement (2101.05982, algorithm 1)."""
    found = dict(targets)
    for i, module in enumerate(modules):
        if module.target is not None and module.target.drawn:
            members = len(jax.tree.leaves(targets[module.name])[0])
            few = jax.random.choice(jax.random.fold_in(key, i), members, (module.target.drawn,), replace=False)
            found[module.name] = jax.tree.map(lambda x, few=few: x[few], targets[module.name])
    return found


def target_view(vars: Vars) -> Vars:
    """The same variables with every target network in the place of its module."""
    return vars._replace(params={**vars.params, **vars.targets})
