"""The methods that are measured: every one of names.ALGORITHMS, at two sizes, and the products of their floors."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from _products import Products

from qchunk import names, registry, sampling
from qchunk.actor_configs import DiffusionConfig, FlowConfig
from qchunk.actors import actor
from qchunk.comparison.estimate import Shapes
from qchunk.config import Stands, stands_on
from qchunk.data import buffer, chunks
from qchunk.data.buffer import Source
from qchunk.data.chunks import Dataset
from qchunk.data.goals import needs_goals
from qchunk.drivers import offline
from qchunk.drivers.common import assemble, init
from qchunk.drivers.offline import OfflineSettings
from qchunk.play.program import Inputs, Program
from qchunk.reporting import cost
from qchunk.seeds import Share, for_each, spread
from qchunk.system import compiled
from qchunk.types import Chunk, Key, Learner, Policy, Spec, view

SPEC, BATCH = Spec(37, 5, 5), 256
GOAL = 6  # numbers of a goal, of methods that learn for goals
METHODS = (*names.ALGORITHMS, "bc (diffusion)")


def asked() -> Sequence[str]:
    """The methods of ``--only NAME ...`` on the command line, by default all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    return parser.parse_known_args()[0].only


class Size(NamedTuple):
    """How large a method is measured."""

    hidden: tuple[int, ...]  # of every network
    n: int  # N of methods that choose among candidates


SIZES = {"3x128": Size((128,) * 3, 8), "4x512": Size((512,) * 4, 32)}


def configured(title: str, size: Size, steps: int = 10, horizon: int = SPEC.horizon) -> tuple[Any, Any]:
    """(build, config) of one of METHODS, or of a function of one's own (``file.py:function``).

    Every network is of this size, iterative actors are flows of ``steps`` steps; all else is the method's default.
    """
    compiled.make_room()
    deep = size.hidden if len(size.hidden) % 2 else size.hidden[:-1]  # 3 x 512 is DPPO's
    differ: dict[str, tuple[str, dict]] = {
        "dppo": ("dppo", {"tuned_steps": steps // 2}),  # both its Kernels walk
        # they choose among N at every state of a tree, and in U observations of each row
        **{name: (name, {"n": 8}) for name in ("vpn", "muzero")},
        "bc (diffusion)": ("bc", {"actor": DiffusionConfig(deep)}),
    }
    target, fields = differ.get(title, (title, {}))
    build, config_class = registry.builder(target)
    c = sized(config_class(), size.hidden, steps)
    fields = {**({"n": size.n} if hasattr(c, "n") else {}), **fields}
    return build, dataclasses.replace(c, chunk=dataclasses.replace(c.chunk, horizon=horizon), **fields)


def sized(c: Any, hidden: tuple[int, ...], steps: int) -> Any:
    """A configuration with every network at these widths."""
    if isinstance(c, (FlowConfig, DiffusionConfig)):
        return FlowConfig(hidden, steps=steps)
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
    inner = {n: sized(v, hidden, steps) for n, v in values.items() if dataclasses.is_dataclass(v)}
    return dataclasses.replace(c, **inner, **({"hidden": hidden} if "hidden" in values else {}))


def on_policy(c: Any) -> bool:
    """Whether a method learns from what it has just played."""
    return not registry.driver_of(type(c)).takes_data


def spec_of(c: Any) -> Spec:
    """The sizes that a method is measured at: SPEC's, with a goal beside the state where it learns for goals."""
    return SPEC._replace(obs={"state": SPEC.obs, "goal": GOAL}) if needs_goals(type(c)) else SPEC


def data_for(c: Any, data: Dataset) -> Dataset:
    """The data as a method sees them, likewise."""
    return data._replace(obs={"state": data.obs, "goal": data.obs[:, :GOAL]}) if needs_goals(type(c)) else data


def offline_run(build: Any, c: Any, data: Dataset, seeds: int = 1, first: int = 0) -> tuple[Program, Inputs]:
    """What ``offline.updates`` takes for a method on data of SPEC's sizes."""
    settings = OfflineSettings(seed=first, seeds=seeds)
    return assemble(build, c, Shapes(spec_of(c)), settings, for_each(seeds, given_of(c)), data_for(c, data))


def going_on(
    build: Any, c: Any, data: Dataset, count: int, seeds: int = 1, first: int = 0, devices: int = 1
) -> Callable[[], Any]:
    """Makes ``count`` more updates of the seeds first, first + 1, ... with every call, in one program of the driver. It goes on, as the
    driver donates its learner: a copy for each call would be measured, too."""
    program, x = offline_run(build, c, data, seeds, first)
    x = x._replace(share=Share(devices))
    learner, placed = spread(seeds, (init(program, x), x.data), x.share)
    x = x._replace(data=placed)

    def go_on() -> Any:
        nonlocal learner
        learner, metrics = offline.updates(program, BATCH, learner, x, count)
        return metrics

    return go_on


def given_of(c: Any, spec: Spec = SPEC) -> dict:
    """Frozen modules for a method that stands on some: a prior's actor. What may be cloned is cloned."""
    if (stands := stands_on(c)) is None or stands[1] is Stands.CLONED:
        return {}
    return {"actor": actor(getattr(c, stands[0])).modules[0].init(jax.random.key(7), spec)}


def deciding(policy: Policy) -> Callable:
    """(vars, key, obs [*B, O]) -> chunks [*B, H, A], compiled."""
    return jax.jit(lambda vars, key, obs: sampling.act(policy, vars, key, obs).action)


def shapes(build: Any, c: Any, spec: Spec | None = None) -> tuple[Learner, dict]:
    """The shapes of a learner and of what it is given; nothing is computed."""
    spec = spec or spec_of(c)
    given = jax.eval_shape(lambda: given_of(c, spec))
    return jax.eval_shape(lambda given: build(c).init(jax.random.key(0), spec, given), given), given


def acting(build: Any, c: Any, rows: int, spec: Spec | None = None) -> Products:
    """The products of ``rows`` decisions."""
    spec = spec or spec_of(c)
    obs = jax.tree.map(lambda n: jax.ShapeDtypeStruct((rows, n), jnp.float32), spec.obs)
    return cost.products(deciding(build(c).act), view(*shapes(build, c, spec)), jax.random.key(0), obs)


def updating(build: Any, c: Any, batch: int = BATCH) -> Products:
    """The products of one update on a batch of data (not of the on-policy methods: on_policy.py has theirs)."""
    data, key = data_for(c, data_set(1002)), jax.random.key(0)
    chunk = jax.eval_shape(lambda key, data: drawn(build, c, key, data, batch), key, data)
    return cost.products(one_update(build, c), *shapes(build, c), key, chunk)


def drawn(build: Any, c: Any, key: Key, data: Dataset, batch: int = BATCH) -> Chunk:
    """A batch, as the method draws it."""
    source = Source(data, goal_of=Shapes.goal_of if needs_goals(type(c)) else None)
    return (build(c).draw or buffer.draw)(key, source, c.chunk, batch)


def one_update(build: Any, c: Any) -> Callable:
    """(learner, given, key, chunk) -> (learner, metrics): what a method makes of a batch, and an update on that."""
    algorithm = build(c)

    def update(learner: Learner, given: dict, key: Key, chunk: Chunk) -> tuple:
        before, within = jax.random.split(key)
        learner, chunk = algorithm.prepare(learner, given, before, chunk)
        return algorithm.update(learner, given, within, chunk)

    return update


def data_set(rows: int = 20_000) -> Dataset:
    """Random transitions in episodes of 1001 steps."""
    obs_key, action_key = jax.random.split(jax.random.key(0))
    obs = jax.random.normal(obs_key, (rows, SPEC.obs))
    action = jax.random.uniform(action_key, (rows, SPEC.action), minval=-1.0)
    end = (jnp.arange(rows) + 1) % 1001 == 0
    end = end.at[-1].set(True)
    return chunks.dataset(obs, action, -jnp.ones(rows), jnp.zeros(rows), end)
