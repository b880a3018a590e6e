"""One update, and one act, of every method over the floor of their matrix products (and one Adam step).

The floor runs the forward and backward products of every network call at their shapes, and ``optax.adam`` on the same
tree; no activation, no normalisation, no sampling, no batch. ``qchunk bench update`` takes a few minutes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _products import Call, Group, arrays, products
from _timing import medians, tell

from qchunk import flags, train
from qchunk.actors import actor
from qchunk.config import CriticConfig, DiffusionConfig, FlowConfig
from qchunk.data import chunks
from qchunk.data.chunks import Dataset
from qchunk.sampling import count_steps
from qchunk.types import Spec, view

SPEC, BATCH = Spec(37, 5, 5), 256
SIZES = {"3x128": ((128,) * 3, 8, 15), "4x512": ((512,) * 4, 32, 5)}  # widths, N, updates a dispatch
METHODS = {
    "qc": {},
    "bc (diffusion)": {},
    "qc-frozen": {},
    "value-guided": {},
    "v-gps": {},
}


def acting(name: str, c: Any, rows: int) -> list[Group]:
    """The calls of ``rows`` decisions."""
    chunk, prior = SPEC.horizon * SPEC.action, getattr(c, "given", None) or c.actor
    time = 1 if prior.kind == "flow" else prior.time_features
    k, n = count_steps(actor(prior)), getattr(c, "n", 1)
    denoise = Call((SPEC.obs + chunk + time, *prior.hidden, chunk), rows * n)
    if name == "value-guided":
        value = Call((SPEC.obs + chunk + 2, *c.value.hidden, 1), rows, c.value.members, "input")
        return [Group((denoise, value), k)]
    return [Group((denoise,), k), *([Group((critic(c, rows * n),))] if n > 1 else [])]


def critic(c: Any, rows: int, backward: str = "", obs_only: bool = False, noisy: bool = False) -> Call:
    """One call of a method's critics, of its value of states or of its value of noisy chunks."""
    of = c.value if noisy else c.critic
    size = SPEC.obs + (0 if obs_only else SPEC.horizon * SPEC.action) + (2 if noisy else 0)
    return Call((size, *of.hidden, 1), rows, 1 if obs_only else of.members, backward)


def updating(name: str, c: Any) -> list[Group]:
    """The calls of one update."""
    chunk, b = SPEC.horizon * SPEC.action, BATCH
    calls: list[Call] = []
    if hasattr(c, "actor"):
        time = 1 if c.actor.kind == "flow" else c.actor.time_features
        calls.append(Call((SPEC.obs + chunk + time, *c.actor.hidden, chunk), b, 1, "weights"))
    if hasattr(c, "critic"):
        calls += [critic(c, b, "weights")]
    if name == "v-gps":
        calls += [critic(c, b), critic(c, b, obs_only=True), critic(c, b, "weights", obs_only=True)]
        return [Group(tuple(calls))]
    if name == "value-guided":
        calls += [critic(c, b), critic(c, b, "weights", noisy=True)]
    if hasattr(c, "critic"):
        return [*acting(name, c, b), Group((*calls, critic(c, b)))]
    return [Group(tuple(calls))]


def repeat(fn, args, count: int):
    """``count`` rounds of (i, loop) -> loop in one dispatch."""
    run = jax.jit(lambda args: jax.lax.fori_loop(0, count, fn, args))
    return lambda: run(args)


def data_set(rows: int = 20_000) -> Dataset:
    key = jax.random.key(0)
    obs = jax.random.normal(key, (rows, SPEC.obs))
    action = jax.random.uniform(key, (rows, SPEC.action), minval=-1.0)
    end = (jnp.arange(rows) + 1) % 1001 == 0
    end = end.at[-1].set(True)
    return chunks.dataset(obs, action, -jnp.ones(rows), jnp.zeros(rows), end)


def configured(name: str, hidden: tuple[int, ...], n: int) -> tuple[Any, Any]:
    """(build, config) of a method at one of the sizes."""
    build, config_class = flags.builder(name.split(" ")[0])
    flow = FlowConfig(hidden)
    deep = DiffusionConfig(hidden if len(hidden) % 2 else hidden[:-1], steps=20)  # 3 x 512 is DPPO's
    values = {"n": n if name.startswith("qc") else 10, "critic": CriticConfig(hidden), "given": flow}
    values |= {"actor": deep if "diffusion" in name else flow, "value": CriticConfig(hidden, members=1)}
    known = {f.name for f in dataclasses.fields(config_class)}
    return build, config_class(**{k: v for k, v in values.items() if k in known}, **METHODS[name])


def main() -> None:
    data = data_set()
    for size, (hidden, n, count) in SIZES.items():
        for name in METHODS:
            build, c = configured(name, hidden, n)
            given = {"actor": actor(c.given).modules[0].init(jax.random.key(7), SPEC)} if hasattr(c, "given") else {}
            measure(f"{name} {size}", name, build, c, given, data, count)


def measure(title: str, name: str, build: Any, c: Any, given: dict, data: Dataset, count: int) -> None:
    """Update, driver (which draws batches besides) and act, each beside its floor."""
    state = jax.jit(lambda: build(c).init(jax.random.key(0), SPEC, given))()
    settings = train.Settings()
    stacked = jax.tree.map(lambda x: x[None], state)._replace(step=state.step)
    keys = train.seed_keys(settings)
    fixed = chunks.draw(jax.random.key(3), data, c.chunk, BATCH)

    def whole():
        copy = jax.tree.map(jnp.copy, stacked)  # the driver donates its learner
        return train.updates(build, BATCH, copy, c, given, data, keys, count)

    def one_batch(i, state):
        return build(c).update(state, given, jax.random.fold_in(jax.random.key(0), i), fixed)[0]

    groups, tx = updating(name, c), optax.adam(3e-4)
    parts = arrays(groups)

    def floor(i, loop):
        params, opt, used = loop
        used = products(groups, parts, used)
        updates, opt = tx.update(jax.tree.map(lambda p: p + 1e-9 * used, params), opt, params)
        return optax.apply_updates(params, updates), opt, used * 1e-9

    start = (state.params, tx.init(state.params), jnp.zeros(()))
    t = medians(7, floor=repeat(floor, start, count), update=repeat(one_batch, state, count), driver=whole)
    ms, least = t["update"] / count * 1e3, t["floor"] / count * 1e3
    tell(f"update {title}", ms=ms, floor_ms=least, ratio=ms / least, with_batch=t["driver"] / t["update"])

    vars, policy = view(state, given), build(c).act
    obs = jax.random.normal(jax.random.key(4), (1, SPEC.obs))
    decide = jax.jit(lambda vars, key, obs: policy.plan(vars, policy.draw(vars, key, obs), obs, None).action)
    groups = acting(name, c, 1)
    only = jax.jit(lambda parts, x: products(groups, parts, x))
    parts, key = arrays(groups), jax.random.key(5)
    t = medians(200, floor=lambda: only(parts, jnp.zeros(())), act=lambda: decide(vars, key, obs))
    tell(f"act {title}", ms=t["act"] * 1e3, floor_ms=t["floor"] * 1e3, ratio=t["act"] / t["floor"])


if __name__ == "__main__":
    main()
