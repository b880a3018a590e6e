"""What a suite will cost, before anything is trained: counted products, at the speed of this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import envs, registry
from qchunk.actors import actor
from qchunk.comparison.suite import Data, Run, file_of, finished
from qchunk.config import stands_on
from qchunk.data import chunks
from qchunk.drivers.common import assemble
from qchunk.envs.base import spec_of
from qchunk.primitives import weights_of
from qchunk.reporting import cost
from qchunk.seeds import for_each
from qchunk.types import Spec


class Shapes(NamedTuple):
    """Stands for an environment where only its sizes are needed."""

    spec: Spec

    @property
    def observation_size(self) -> Any:
        return self.spec.obs

    @property
    def action_size(self) -> int:
        return self.spec.action

    @staticmethod
    def goal_of(obs: Any) -> Any:
        """What has the size of a goal, where there are any."""
        return obs["goal"]


def speed(seconds: float = 0.3) -> float:
    """Multiplications per second of float32 products here, of a size that updates are made of."""
    a, b = jnp.ones((2048, 256)), jnp.ones((256, 256))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        product(a, b).block_until_ready()
        count += 1
    return count * 2048 * 256 * 256 / (time.perf_counter() - began)


def multiplications(run: Run, spec: Spec) -> float:
    """Of all products in a run's training, all seeds: of its updates, and where it plays its own data of its rollouts, too."""
    c, s = run.config, dataclasses.replace(run.settings, normalise_obs="none", normalise_action="none")
    spec = spec._replace(horizon=weights_of(c.chunk))
    frozen = {}
    if run.prior and (stands := stands_on(c)):
        frozen = {"actor": actor(getattr(c, stands[0])).modules[0].init(jax.random.key(0), spec)}
    data = None
    if run.data is not None:
        rows = 4 * max(c.chunk.horizon, *c.chunk.backup, 1)
        end = np.arange(rows) == rows - 1
        obs, action = jax.tree.map(lambda n: np.zeros((rows, n)), (spec.obs, spec.action))
        data = chunks.dataset(obs, action, np.zeros(rows), np.zeros(rows), end)
    env = Shapes(spec) if run.data is not None else envs.make(run.env, c.chunk.history)
    program, x = assemble(registry.builder(run.algorithm)[0], c, env, s, for_each(s.seeds, frozen), data)
    once, args, times = run.driver.unit(program, x, s)
    return cost.multiplications(once, *args) * times


def spec_of_run(run: Run) -> Spec:
    """The sizes of a run's networks."""
    return spec_of(envs.make(run.env, run.config.chunk.history), run.config.chunk.horizon)


def told(suite: Sequence[Run], root: Path) -> list[str]:
    """What is left to do, in lines for the user: counts, and the time of the products alone."""
    left = [r for r in suite if not finished(r, root)]
    if not left:
        return [f"all {len(suite)} runs are done"]
    data = {d: None for r in left if isinstance(d := r.data, Data) and not file_of(d, root).exists()}
    specs = {env: spec_of_run(next(r for r in left if r.env == env)) for env in dict.fromkeys(r.env for r in left)}
    seen: dict[Any, float] = {}
    for r in left:
        key = (r.algorithm, specs[r.env], r.config, r.settings, bool(r.prior))
        seen[key] = seen.get(key) or multiplications(r, specs[r.env])
    total = sum(seen[(r.algorithm, specs[r.env], r.config, r.settings, bool(r.prior))] for r in left)
    updates = sum(r.amount.updates * r.settings.seeds for r in left)
    steps = sum(r.amount.env_steps * r.settings.seeds for r in left)
    hours = total / speed() / 3600
    return [
        f"{len(left)} of {len(suite)} runs are to do: {updates:,} updates and {steps:,} environment steps over all seeds, evaluations not counted"
        + (f"; {sum(d.steps for d in data):,} transitions to collect" if data else ""),
        f"their products alone take {f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.1f} minutes'} at this machine's speed; "
        "everything else (activations, evaluations, the simulator) comes on top",
    ]


def listed(suite: Sequence[Run], root: Path) -> list[str]:
    """What a comparison will train and cost, in lines: ``told``, and every run."""
    amounts = {r.name: r.amount for r in suite}
    runs = [
        f"  {r.name}: {r.settings.seeds} seeds, {amounts[r.name].updates:,} updates, {amounts[r.name].env_steps:,} environment steps"
        for r in suite
    ]
    return [f"a comparison in {root}", *told(suite, root), *runs]
