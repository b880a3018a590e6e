"""The methods that are measured: every one of names.ALGORITHMS, at two sizes, and the products of their floors."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from _products import Call, Group

from qchunk import names, registry
from qchunk.actors import actor
from qchunk.config import DiffusionConfig, FlowConfig, GaussianConfig
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.sampling import count_steps
from qchunk.types import Policy, Spec

SPEC, BATCH = Spec(37, 5, 5), 256
SIZES = {"3x128": ((128,) * 3, 8), "4x512": ((512,) * 4, 32)}  # widths, N
METHODS = (*names.ALGORITHMS, "bc (diffusion)")


def configured(
    name: str, hidden: tuple[int, ...], n: int, steps: int = 10, horizon: int = SPEC.horizon
) -> tuple[Any, Any]:
    """(build, config) of a method: a flow of ``steps`` steps where one fits, networks ``hidden``, ``n`` for Q-chunking."""
    build, config_class = registry.builder(name.split(" ")[0])
    c = config_class()
    deep = DiffusionConfig(hidden if len(hidden) % 2 else hidden[:-1], steps=20)  # 3 x 512 is DPPO's
    values: dict[str, Any] = {"chunk": dataclasses.replace(c.chunk, horizon=horizon)}
    for field in dataclasses.fields(c):
        value = getattr(c, field.name)
        if field.name in ("actor", "given", "tuned") and not isinstance(value, GaussianConfig):
            values[field.name] = deep if "diffusion" in name else FlowConfig(hidden, steps=steps)
        elif hasattr(value, "hidden"):
            values[field.name] = dataclasses.replace(value, hidden=hidden)
    if name.startswith("qc"):
        values["n"] = n
    if name == "dppo":
        values["tuned_steps"] = steps // 2  # both its Kernels walk
    return build, dataclasses.replace(c, **values)


def prior(c: Any) -> Any:
    """The configuration of a method's actor, its own or the one it stands on."""
    return next(getattr(c, field) for field in ("given", "tuned", "actor") if hasattr(c, field))


def given_of(c: Any, spec: Spec = SPEC) -> dict:
    """Frozen modules for a method that stands on some."""
    stands = hasattr(c, "given") or hasattr(c, "tuned")
    return {"actor": actor(prior(c)).modules[0].init(jax.random.key(7), spec)} if stands else {}


def deciding(policy: Policy):
    """(vars, key, obs [*B, O]) -> chunks [*B, H, A], compiled."""
    return jax.jit(lambda vars, key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None).action)


def walking(a: Any, rows: int, horizon: int, backward: str = "") -> Call:
    """One call of an actor's network."""
    chunk = horizon * SPEC.action
    if isinstance(a, GaussianConfig):
        return Call((SPEC.obs, *a.hidden, 3 * a.components * chunk), rows, 1, backward)
    time = 1 if a.kind == "flow" else a.time_features
    return Call((SPEC.obs + chunk + time, *a.hidden, chunk), rows, 1, backward)


def acting(name: str, c: Any, rows: int) -> list[Group]:
    """The calls of ``rows`` decisions."""
    a, n = prior(c), getattr(c, "n", 1)
    k, denoise = count_steps(actor(a)), walking(a, rows * n, c.chunk.horizon)
    if name == "value-guided":
        return [Group((denoise, critic(c, rows, "input", noisy=True)), k)]
    return [Group((denoise,), k), *([Group((critic(c, rows * n),))] if n > 1 else [])]


def critic(c: Any, rows: int, backward: str = "", obs_only: bool = False, noisy: bool = False) -> Call:
    """One call of a method's critics, of its value of states or of its value of noisy chunks."""
    of = c.value if noisy else c.critic
    size = SPEC.obs + (0 if obs_only else c.chunk.horizon * SPEC.action) + (2 if noisy else 0)
    return Call((size, *of.hidden, 1), rows, 1 if obs_only else of.members, backward)


def updating(name: str, c: Any) -> list[Group]:
    """The calls of one update on a batch of data (not of the on-policy methods: on_policy.py has theirs)."""
    calls: list[Call] = []
    if hasattr(c, "actor"):
        calls.append(walking(c.actor, BATCH, c.chunk.horizon, "weights"))
    if hasattr(c, "critic"):
        calls += [critic(c, BATCH, "weights")]
    if name == "v-gps":
        calls += [critic(c, BATCH), critic(c, BATCH, obs_only=True), critic(c, BATCH, "weights", obs_only=True)]
        return [Group(tuple(calls))]
    if name == "value-guided":
        calls += [critic(c, BATCH), critic(c, BATCH, "weights", noisy=True)]
    if hasattr(c, "critic"):
        return [*acting(name, c, BATCH), Group((*calls, critic(c, BATCH)))]
    return [Group(tuple(calls))]


def data_set(rows: int = 20_000) -> Dataset:
    """Random transitions in episodes of 1001 steps."""
    obs_key, action_key = jax.random.split(jax.random.key(0))
    obs = jax.random.normal(obs_key, (rows, SPEC.obs))
    action = jax.random.uniform(action_key, (rows, SPEC.action), minval=-1.0)
    end = (jnp.arange(rows) + 1) % 1001 == 0
    end = end.at[-1].set(True)
    return chunks.dataset(obs, action, -jnp.ones(rows), jnp.zeros(rows), end)
