"""What a suite will cost, before anything is trained: counted products, at the speed of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import envs, registry
from qchunk.actors import actor
from qchunk.comparison.suite import Data, Run, file_of, finished
from qchunk.data import chunks
from qchunk.drivers import offline as training
from qchunk.drivers import on_policy, online
from qchunk.envs.host.pool import HostEnv
from qchunk.report import cost
from qchunk.runs.prior import field_of
from qchunk.seeds import for_each
from qchunk.types import Spec


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


def updates_of(run: Run) -> int:
    """Updates per seed, offline and online."""
    c, s = run.config, run.settings
    if isinstance(s, on_policy.Settings):
        return on_policy.plan_of(c, s).iterations * c.rollout.epochs * c.rollout.minibatches
    steps = online.total_steps(c, s, run.online) - s.offline_steps
    return s.offline_steps + int(online.updates_due(run.online, np.asarray(steps)))


def env_steps_of(run: Run) -> int:
    """Environment steps per seed, evaluations not counted."""
    s = run.settings
    if isinstance(s, on_policy.Settings):
        return on_policy.total_steps(run.config, s)
    return online.total_steps(run.config, s, run.online) - s.offline_steps


def multiplications(run: Run, sizes: tuple[int, int]) -> float:
    """Of all products in a run's training, all seeds: of its updates, and where it is on-policy of its rollouts, too.

    Args:
        sizes: O and A.
    """
    c, s = run.config, run.settings
    build, spec = training.in_units(registry.builder(run.algorithm)[0], s), Spec(*sizes, c.chunk.horizon)
    frozen = {"actor": actor(getattr(c, field_of(c))).modules[0].init(jax.random.key(0), spec)} if run.prior else {}
    frozen = for_each(s.seeds, frozen)
    state, keys = jax.eval_shape(lambda: build_state(build, c, frozen, spec, s)), training.seed_keys(s)
    if isinstance(s, on_policy.Settings):
        env = envs.make(run.env, c.chunk.history)
        loop = jax.eval_shape(lambda state: on_policy.start(build, c, frozen, env, s, state), state)
        once = partial(on_policy.iterate, build, env, s.execute)
        return cost.multiplications(once, state, loop, c, frozen, keys, 1) * on_policy.plan_of(c, s).iterations
    rows = 4 * max(c.chunk.horizon, *c.chunk.backup, 1)
    end = np.arange(rows) == rows - 1
    data = chunks.dataset(np.zeros((rows, sizes[0])), np.zeros((rows, sizes[1])), np.zeros(rows), np.zeros(rows), end)
    return cost.multiplications(partial(training.updates, build, s.batch), state, c, frozen, data, keys, 1) * updates_of(run)  # fmt: skip


def build_state(build: Any, c: Any, given: dict, spec: Spec, s: Any) -> Any:
    """Learners of all seeds; ``build`` is in its units already."""
    plain = s.__class__(**{**vars(s), "normalise_obs": "none", "normalise_action": "none"})
    return training.init(build, c, given, spec, plain)


def sizes_of(run: Run) -> tuple[int, int]:
    """O and A of a run's environment."""
    env = envs.make(run.env, run.config.chunk.history)
    found = env.observation_size, env.action_size
    if isinstance(env, HostEnv):
        env.close()
    return found


def told(suite: Sequence[Run], root: Path) -> list[str]:
    """What is left to do, in lines for the user: counts, and the time of the products alone."""
    left = [r for r in suite if not finished(r, root)]
    if not left:
        return [f"all {len(suite)} runs are done"]
    data = {d: None for r in left if isinstance(d := r.data, Data) and not file_of(d, root).exists()}
    sizes = {env: sizes_of(next(r for r in left if r.env == env)) for env in dict.fromkeys(r.env for r in left)}
    seen: dict[Any, float] = {}
    for r in left:
        key = (r.algorithm, sizes[r.env], r.config, r.settings, r.online, bool(r.prior))
        seen[key] = seen.get(key) or multiplications(r, sizes[r.env])
    total = sum(seen[(r.algorithm, sizes[r.env], r.config, r.settings, r.online, bool(r.prior))] for r in left)
    updates, steps = (sum(f(r) * r.settings.seeds for r in left) for f in (updates_of, env_steps_of))
    hours = total / speed() / 3600
    return [
        f"{len(left)} of {len(suite)} runs are to do: {updates:,} updates and {steps:,} environment steps over all seeds, evaluations not counted"
        + (f"; {sum(d.steps for d in data):,} transitions to collect" if data else ""),
        f"their products alone take {f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.1f} minutes'} at this machine's speed; "
        "everything else (activations, evaluations, the simulator) comes on top",
    ]
