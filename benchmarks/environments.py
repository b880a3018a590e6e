"""Environment steps per second under all three wrappers, and what a chunked rollout with a policy adds to its parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from _timing import medians, tell

from qchunk import envs, sampling
from qchunk.actor_configs import FlowConfig
from qchunk.algorithms.qc import QC, qc
from qchunk.config import CriticConfig
from qchunk.envs.base import wrap
from qchunk.play.execute import receding
from qchunk.play.on_device import begin, rollout
from qchunk.types import Spec, view

E, STEPS = 4096, 50


def throughput(name: str) -> None:
    """All wrappers on, actions drawn beforehand; against a dispatch of as many products as one step needs is no use
    here, so the figure is steps per second, beside the bare environment (vmapped, no wrapper) in the same process."""
    env: Any = envs.make(name)
    wrapped = wrap(env)
    actions = jax.random.uniform(jax.random.key(1), (STEPS, E, env.action_size), minval=-1.0)
    start = jax.jit(wrapped.reset)(jax.random.split(jax.random.key(0), E))
    bare_start = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), E))

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, a: (wrapped.step(s, a), None), state, actions)[0].obs.sum()

    @jax.jit
    def bare(state):
        return jax.lax.scan(lambda s, a: (jax.vmap(env.step)(s, a), None), state, actions)[0].obs.sum()

    t = medians(15, wrapped=lambda: run(start), bare=lambda: bare(bare_start))
    tell(
        f"environment {name} E={E}",
        million_steps_per_second=E * STEPS / t["wrapped"] / 1e6,
        bare_million=E * STEPS / t["bare"] / 1e6,
        ratio=t["wrapped"] / t["bare"],
        better="lower",
    )


def chunked(name: str, envs_at_once: int = 1024, decisions: int = 10) -> None:
    """A rollout of QC over (its environment steps + one actor call per chunk)."""
    env = envs.make(name)
    wrapped = wrap(env)
    c = QC(actor=FlowConfig((128,) * 3), critic=CriticConfig((128,) * 3), n=8)
    horizon = c.chunk.horizon
    state = jax.jit(lambda: qc(c).init(jax.random.key(0), Spec(env.observation_size, env.action_size, horizon), {}))()
    vars, policy = view(state, {}), qc(c).act
    scheme = receding(policy, horizon, horizon)
    start = jax.jit(wrapped.reset)(jax.random.split(jax.random.key(0), envs_at_once))
    loop = jax.jit(lambda vars, keys: begin(wrapped, scheme, vars, keys, envs_at_once))(
        vars, jax.random.split(jax.random.key(3))
    )
    actions = jax.random.uniform(jax.random.key(1), (decisions * horizon, envs_at_once, env.action_size), minval=-1.0)

    @jax.jit
    def whole(vars, key):
        return rollout(wrapped, scheme, vars, key, decisions, loop)[1].reward.sum()

    @jax.jit
    def steps(state):
        return jax.lax.scan(lambda s, a: (wrapped.step(s, a), None), state, actions)[0].obs.sum()

    @jax.jit
    def actor(vars, key):
        def decide(obs, k):
            action = sampling.act(policy, vars, k, obs).action
            return obs + 1e-9 * jnp.sum(action), None

        return jax.lax.scan(decide, start.obs, jax.random.split(key, decisions))[0].sum()

    key = jax.random.key(2)
    t = medians(9, whole=lambda: whole(vars, key), steps=lambda: steps(start), actor=lambda: actor(vars, key))
    parts = t["steps"] + t["actor"]
    tell(
        f"rollout qc 3x128-N8 {name} E={envs_at_once}",
        ms=t["whole"] * 1e3,
        steps_ms=t["steps"] * 1e3,
        actor_ms=t["actor"] * 1e3,
        ratio=t["whole"] / parts,
        better="lower",
        asked=1.15,
    )


if __name__ == "__main__":
    for scene in ("cube-single", "cube-double"):
        throughput(f"tabletop/{scene}-task1")
    chunked("tabletop/cube-single-task1")
