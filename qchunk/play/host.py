"""What rollout.py and evaluate.py do, for host environments: Python loops around the same schemes.

The actor runs once per chunk, for all slots of all seeds in one call. A slot's randomness is labelled by its episode and
decision, so figures do not depend on how many slots or worker processes there are.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.envs.base import State
from qchunk.envs.host.pool import HostEnv, HostState, Pool
from qchunk.play.episodes import Episodes
from qchunk.play.execute import Scheme, parse, restart
from qchunk.play.rollout import Steps
from qchunk.seeds import over_seeds
from qchunk.types import Learner, PyTree, view

SLOTS = 16  # environments that evaluation keeps open: each takes a second and 160 MB to make (OGBench)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def decide(build, role: str, execute: str, learner: Learner, c: Any, given: dict, keys, labels, obs, fresh, carry):
    """One decision in every slot: (carry, plan), leaves [S, E, ...].

    Args:
        role: "act" or "explore": which of the algorithm's policies.
        learner, given: of all seeds [S, ...].
        keys: [S].
        labels: [S, E, 2] int, two numbers that no other decision of the seed has.
        obs: [S, E, O].
        fresh: [S, E] whether the episode has just begun; its carry is then a new one.
        carry: what the last decision returned, or None.
    """

    def one_seed(learner: Learner, given: dict, key, labels, obs, fresh, carry):
        vars, scheme = view(learner, given), scheme_of(build, role, execute, c)

        def one(label, obs, fresh, carry):  # a batch of one, so that its noise is its own
            start_key, restart_key, plan_key = jax.random.split(labelled(key, label), 3)
            state = seen(obs[None])
            carry = scheme.init(vars, start_key, state) if carry is None else carry
            carry = restart(scheme, vars, restart_key, state, fresh[None], carry)
            return scheme.decide(vars, plan_key, state, carry)

        return jax.vmap(one)(labels, obs, fresh, carry)

    return over_seeds(one_seed, per_seed(learner, keys), given, keys, labels, obs, fresh, carry)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def act(build, role: str, execute: str, learner: Learner, c: Any, given: dict, i, obs, plan) -> jax.Array:
    """The actions [S, E, A] of a plan's step ``i``."""

    def one_seed(learner: Learner, given: dict, obs, plan):
        vars, scheme = view(learner, given), scheme_of(build, role, execute, c)
        return jax.vmap(lambda obs, plan: scheme.act(vars, i, seen(obs[None]), plan)[0])(obs, plan)

    return over_seeds(one_seed, per_seed(learner, obs), given, obs, plan)


def scheme_of(build, role: str, execute: str, c: Any) -> Scheme:
    """Execution of one of an algorithm's policies."""
    return parse(execute, c.chunk.horizon)(getattr(build(c), role))


def labelled(key: jax.Array, label: jax.Array) -> jax.Array:
    """A key for two numbers [2]."""
    return jax.random.fold_in(jax.random.fold_in(key, label[0]), label[1])


def seen(obs: jax.Array) -> State:
    """What a scheme sees of a host environment."""
    zero = jnp.zeros(obs.shape[0])
    return State(None, obs, zero, zero)


def per_seed(learner: Learner, like: Any) -> Learner:
    """The learner with its step once per seed, for mapping over seeds."""
    return learner._replace(step=jnp.full(like.shape[0], learner.step))


def label(key: jax.Array) -> tuple[int, ...]:
    """A key as numbers, for ``reset_seeds``."""
    return tuple(int(x) for x in jax.random.key_data(key))


def reset_seeds(label: tuple[int, ...], count: int) -> np.ndarray:
    """``count`` seeds [count] for episodes; equal labels give equal start states whatever is played."""
    return (np.random.SeedSequence(label).generate_state(count) >> 1).astype(np.int64)


def begin_ended(pool: Pool, state: HostState, begun: np.ndarray, labels: list[tuple]) -> tuple[HostState, Any, Any]:
    """Starts an episode in every slot whose last one has ended: (state, begun, which slots those are [E]).

    Args:
        begun: [E] episodes so far in each slot.
        labels: [E] of the slots; an episode's start follows from its slot's label and its number there.
    """
    fresh = state.done > 0
    seeds = np.zeros(pool.envs, np.int64)
    for slot in np.flatnonzero(fresh):
        seeds[slot] = reset_seeds((*labels[slot], int(begun[slot])), 1)[0]
    return pool.begin(state, fresh, seeds), begun + fresh.astype(begun.dtype), fresh


def play_chunk(pool: Pool, state: HostState, steps: int, act_at: Any) -> tuple[HostState, Steps]:
    """Executes one decision in every open slot; one that ends rests. Steps' leaves are numpy arrays [steps, E, ...].

    Args:
        act_at: (i, obs [E, O]) -> action [E, A].
    """
    out = []
    for i in range(steps):
        alive = state.done == 0
        action = np.zeros((pool.envs, pool.env.action_size), np.float32)
        if alive.any():
            action = np.clip(np.asarray(act_at(i, state.obs), np.float32), -1.0, 1.0)
        after = pool.step(state, action, alive)
        success = after.success if pool.env.has_success else None
        ended = (after.terminal, after.truncation)
        out.append(Steps(state.obs, action, after.reward, *ended, after.obs, success, alive.astype(np.float32)))
        state = after
    return state, jax.tree.map(lambda *x: np.stack(x), *out)


def decision(
    pool: Pool, state: HostState, build, role: str, execute: str, learner, c, given, keys, labels, fresh, carry: PyTree
) -> tuple[HostState, PyTree, Steps]:
    """Plans and plays one chunk in every open slot: (state, carry, Steps [steps, S * E, ...]).

    Args:
        labels, fresh: see ``decide``; S * E slots, seed after seed.
    """
    by_seed = (len(keys), pool.envs // len(keys))
    obs = state.obs.reshape(*by_seed, -1)
    policy = (build, role, execute, learner, c, given)
    carry, plan = decide(*policy, keys, labels, obs, fresh.reshape(by_seed), carry)

    def act_at(i: int, obs: np.ndarray) -> np.ndarray:
        return np.asarray(act(*policy, i, obs.reshape(*by_seed, -1), plan)).reshape(pool.envs, -1)

    state, steps = play_chunk(pool, state, scheme_of(build, role, execute, c).steps, act_at)
    return state, carry, steps


def episodes(
    env: HostEnv, build, execute: str, count: int, learner: Learner, c: Any, given: dict, keys: jax.Array, seeds
) -> Episodes:
    """``count`` episodes of every seed's acting policy, [S, count] numpy arrays. Slots that are done take the next one.

    Args:
        seeds: [S, count] int, of the start states.
    """
    lanes = max(1, min(count, SLOTS // len(keys)))
    pool = env.pool("evaluate", len(keys) * lanes)
    seed_of = np.repeat(np.arange(len(keys)), lanes)  # [S * E]
    episode = np.tile(np.arange(lanes), len(keys))  # [S * E] that the slot plays; there is none from ``count`` on
    queued = np.full(len(keys), lanes)  # [S] the next episode that no slot has taken
    made = np.zeros(pool.envs, np.int32)  # decisions in the slot's episode
    total = {name: np.zeros(seeds.shape, np.float32) for name in Episodes._fields}
    state, carry, fresh = pool.nothing(), None, np.ones(pool.envs, bool)
    while (episode < count).any():
        state = pool.begin(state, fresh & (episode < count), seeds[seed_of, np.minimum(episode, count - 1)])
        labels = np.stack([episode, made], axis=1).reshape(len(keys), lanes, 2)
        policy = (build, "act", execute, learner, c, given, keys)
        state, carry, s = decision(pool, state, *policy, labels, fresh, carry)
        at = np.flatnonzero(s.alive[0] > 0)
        cell = seed_of[at], episode[at]
        total["ret"][cell] += (s.reward * s.alive).sum(axis=0)[at]
        total["length"][cell] += s.alive.sum(axis=0)[at]
        if s.success is not None:
            total["success"][cell] = np.maximum(total["success"][cell], (s.success * s.alive).max(axis=0)[at])
        made += 1
        fresh = (state.done > 0) & (episode < count)
        for slot in np.flatnonzero(fresh):
            episode[slot], made[slot] = queued[seed_of[slot]], 0
            queued[seed_of[slot]] += 1
    return Episodes(**{**total, **({} if env.has_success else {"success": None})})


def evaluate(env: HostEnv, build, execute: str, count: int, learner: Learner, c, given, keys) -> dict[str, np.ndarray]:
    """Figures [S] of an evaluation, as ``evaluate.summary``; equal ``keys`` [S] give equal start states."""
    seeds = np.stack([reset_seeds(label(key), count) for key in keys])
    e = episodes(env, build, execute, count, learner, c, given, keys, seeds)
    means = {"success": e.success, "return": e.ret, "length": e.length}
    return {name: x.mean(axis=1) for name, x in means.items() if x is not None}
