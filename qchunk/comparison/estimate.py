"""What a suite will cost, before anything is trained: counted products, at the speed of this machine."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import envs, registry
from qchunk.actors import actor
from qchunk.comparison.suite import Data, Run, file_of, finished, folder_of
from qchunk.config import stands_on
from qchunk.data import chunks
from qchunk.drivers.common import assemble
from qchunk.envs import held_out
from qchunk.envs.base import spec_of
from qchunk.primitives import weights_of
from qchunk.reporting import cost
from qchunk.runs import run_folder
from qchunk.seeds import for_each
from qchunk.system import tracebacks
from qchunk.system.errors import UserError
from qchunk.types import Spec

LEAST = 20.0  # seconds: below, what takes time is compiling, which nobody counts


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


def speed() -> float:
    """Multiplications per second of float32 products here, of a size that updates are made of."""
    a, b = jnp.ones((2048, 256)), jnp.ones((256, 256))
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
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


@functools.cache
def _counted(run: Run, spec: Spec) -> float:
    return multiplications(run, spec)


def work(run: Run) -> float:
    """``multiplications`` of a run, counted once for all that differ in their names, data or environment only."""
    data = None if run.data is None else Path()
    alike = run._replace(
        label="", batch="", swept=(), prior="prior" * bool(run.prior), data=data, env="" if data else run.env
    )
    return _counted(alike, spec_of_run(run))


@functools.cache
def _spec(env: str, history: int, horizon: int) -> Spec:
    return spec_of(envs.make(env, history), horizon)


def spec_of_run(run: Run) -> Spec:
    """The sizes of a run's networks."""
    env = run.env if isinstance(run.data, Data) else held_out.sized(run.env, run.data)
    return _spec(env, run.config.chunk.history, run.config.chunk.horizon)


def left(suite: Sequence[Run], done: int, root: Path) -> str:
    """How long the runs behind the first ``done`` will take, by the pace of these: the time of their training for each product. "" where
    they took less than ``LEAST`` seconds, or nobody can count."""
    runs = [r for r in suite[:done] if finished(r, root)]
    todo = [r for r in suite[done:] if not finished(r, root)]
    seconds = sum(_seconds(folder_of(r, root)) for r in runs)
    if seconds < LEAST or not todo:
        return ""
    try:
        hours = seconds / 3600 * sum(map(work, todo)) / max(sum(map(work, runs)), 1.0)
    except Exception:  # a method of the user's own, which its run will name
        return ""
    return f"about {spoken(hours)} left"


@functools.cache  # it is asked before every run of a suite
def _seconds(folder: Path) -> float:
    """How long a finished run was trained."""
    try:
        return max((line["seconds"] for line in run_folder.read_metrics(folder)), default=0.0)
    except UserError:
        return 0.0


def spoken(hours: float) -> str:
    """A time as one says it."""
    minutes = round(60 * hours)
    return f"{hours:.1f} hours" if hours >= 1 else f"{minutes} minutes" if minutes > 1 else "a minute"


def told(suite: Sequence[Run], root: Path) -> list[str]:
    """What is left to do, in lines for the user: counts, and the time of the products alone."""
    todo = [r for r in suite if not finished(r, root)]
    if not todo:
        return [f"all {len(suite)} runs are done"]
    data = {d: None for r in todo if isinstance(d := r.data, Data) and not file_of(d, root).exists()}
    total, uncounted = 0.0, []
    for run in todo:
        try:
            total += work(run)
        except UserError:
            raise
        except Exception as e:  # a method of the user's own: its run will say so, and the others go on
            uncounted.append(f"not counted: {run.name}: {tracebacks.why(e)}")
    updates = sum(r.amount.updates * r.settings.seeds for r in todo)
    steps = sum(r.amount.env_steps * r.settings.seeds for r in todo)
    seconds = total / speed()
    took = (
        f"their products alone take {spoken(seconds / 3600)} at this machine's speed; everything else (activations, evaluations, the simulator) "
        "comes on top"
        if seconds >= LEAST
        else f"their products take less than {LEAST:.0f} seconds: how long they take is decided by compiling, evaluations and the simulator"
    )
    return [
        f"{len(todo)} of {len(suite)} runs are to do: {updates:,} updates and {steps:,} environment steps over all seeds, evaluations not counted"
        + (f"; {sum(d.steps for d in data):,} transitions to collect" if data else ""),
        took,
        *uncounted,
    ]


def listed(suite: Sequence[Run], root: Path, what: str = "a comparison") -> list[str]:
    """What it will train and cost, in lines: ``told``, and every run."""
    amounts = {r.name: r.amount for r in suite}
    runs = [
        f"  {r.name}: {r.settings.seeds} seeds, {amounts[r.name].updates:,} updates, {amounts[r.name].env_steps:,} environment steps"
        for r in suite
    ]
    return [f"{what} in {root}", *told(suite, root), *runs]
