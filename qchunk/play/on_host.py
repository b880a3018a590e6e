"""Environments in worker processes, as rollout.py and episodes.py play them: Python loops around compiled decisions.

The actor runs once per chunk, for all slots of all seeds in one call. A slot's randomness is labelled by two numbers, such as
its episode and decision, so figures do not depend on how many slots or worker processes there are. S * E slots stand seed
after seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import trees
from qchunk.envs.base import State, goal_count
from qchunk.envs.host.pool import HostState, Pool
from qchunk.envs.host.worker import UNKNOWN
from qchunk.play import episodes as counting
from qchunk.play.episodes import Episodes, Tally, summary
from qchunk.play.execute import restart
from qchunk.play.program import Inputs, Program, depends, each_seed, reads
from qchunk.play.rollout import Outcome, Player, Simulator, bounded, extras_of
from qchunk.types import Array, Learner, PyTree, Steps

SLOTS = 16  # environments that evaluation keeps open: each takes a second and 160 MB to make (OGBench)


class Slots(NamedTuple):
    """S * E slots that play one episode after the other."""

    envs: HostState
    begun: np.ndarray  # [S * E] int32, episodes


class Lanes(NamedTuple):
    """S * E slots that share a list of episodes."""

    envs: HostState
    episode: np.ndarray  # [S * E] the episode that a slot plays; there is none from ``count`` on
    made: np.ndarray  # [S * E] int32, decisions in it
    queued: np.ndarray  # [S] the next episode that no slot has taken


def scan(fn: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
    """``jax.lax.scan`` as a Python loop over numpy arrays."""
    found = []
    for x in xs:
        carry, out = fn(carry, x)
        found.append(out)
    return carry, jax.tree.map(lambda *x: np.stack(x), *found)


def repeat(going: Callable, body: Callable, carry: Any) -> Any:
    """``jax.lax.while_loop`` as Python's."""
    while going(carry):
        carry = body(carry)
    return carry


def simulator(pool: Pool, begin: Callable) -> Simulator:
    """The slots of a pool. ``begin`` decides which episodes start: ``one_after_another``, or ``from_a_list``."""

    def step(state: Any, action: np.ndarray, alive: np.ndarray) -> Any:
        return state._replace(envs=pool.step(state.envs, action, alive))

    def play(state: Any, actions: np.ndarray, alive: np.ndarray) -> list:
        return [state._replace(envs=envs) for envs in pool.play(state.envs, actions, alive)]

    def show(state: Any) -> Outcome:
        s = state.envs
        return Outcome(s.obs, s.reward, s.terminal, s.truncation, s.done, s.success, {})

    return Simulator(begin, step, show, scan, repeat, play)


def one_after_another(pool: Pool, labels: list[tuple]) -> Callable:
    """Starts an episode in every slot whose last one has ended; state is ``Slots``.

    Args:
        labels: [S * E] of the slots; an episode's start follows from its slot's label and its number there.
    """

    def begin(state: Slots) -> tuple[Slots, np.ndarray]:
        fresh = state.envs.done > 0
        seeds = np.zeros(pool.envs, np.int64)
        for slot in np.flatnonzero(fresh):
            seeds[slot] = reset_seeds((*labels[slot], int(state.begun[slot])), 1)[0]
        return Slots(pool.begin(state.envs, fresh, seeds), state.begun + fresh.astype(state.begun.dtype)), fresh

    return begin


def from_a_list(pool: Pool, seeds: np.ndarray) -> Callable:
    """Hands slots that are done the next of the episodes that start from ``seeds`` [S, count]; state is ``Lanes``."""
    count = seeds.shape[1]
    seed_of = np.repeat(np.arange(len(seeds)), pool.envs // len(seeds))

    def begin(state: Lanes) -> tuple[Lanes, np.ndarray]:
        episode, made, queued = state.episode.copy(), state.made.copy(), state.queued.copy()
        fresh = (state.envs.done > 0) & (episode < count)
        for slot in np.flatnonzero(fresh & (made > 0)):
            episode[slot], made[slot] = queued[seed_of[slot]], 0
            queued[seed_of[slot]] += 1
        begun = pool.begin(state.envs, fresh & (episode < count), seeds[seed_of, np.minimum(episode, count - 1)])
        return Lanes(begun, episode, made + 1, queued), fresh & (episode < count)

    return begin


@functools.partial(jax.jit, static_argnums=(0, 1))
def decide(program: Program, role: str, learner: Learner, x: Inputs, labels, obs, fresh, carry) -> tuple[Any, Any]:
    """One decision in every slot: (carry, plan), leaves [S, E, ...].

    Args:
        role: "act" or "explore": which of the algorithm's policies.
        labels: [S, E, 2] int, two numbers that no other decision of the seed has.
        obs: [S, E, O].
        fresh: [S, E] whether the episode has just begun; its carry is then a new one.
        carry: what the last decision returned, or ``nothing_carried``.
    """

    def one_seed(learner: Learner, x: Inputs, labels, obs, fresh, carry):
        vars, scheme = reads(learner, x), program.scheme(x, role)

        def one(label, obs, fresh, carry):  # a batch of one, so that its noise is its own
            _, restart_key, plan_key = jax.random.split(labelled(x.keys, label), 3)
            state = seen(batch_of_one(obs))
            carry = restart(scheme, vars, restart_key, state, fresh[None], carry)
            return scheme.decide(vars, plan_key, state, carry)

        return jax.vmap(one)(labels, obs, fresh, carry)

    return each_seed(one_seed, learner, x, labels, obs, fresh, carry)


_looks_on: dict[tuple, bool] = {}  # what the function of this name has found


def looks_on(program: Program, role: str, learner: Learner, x: Inputs, obs, plan) -> bool:
    """Whether an action of a plan depends on what is seen while it is played, as a skill's does: told from ``act``'s program."""
    key = program, role, jax.tree.structure((learner, x, obs, plan))
    if key not in _looks_on:  # asked at every decision, and tracing takes longer than it
        args = learner, x, jnp.int32(0), obs, plan
        jaxpr = act.trace(program, role, *args).jaxpr.jaxpr
        _looks_on[key] = depends(jaxpr, len(jax.tree.leaves(args[:3])), len(jax.tree.leaves(obs)))
    return _looks_on[key]


@functools.partial(jax.jit, static_argnums=(0, 1))
def acts(program: Program, role: str, learner: Learner, x: Inputs, obs, plan) -> Array:
    """``act`` at every step of a plan of which no action ``looks_on``: actions [n, S, E, A]."""
    steps = program.scheme(x, role).steps
    return jax.lax.map(lambda i: act(program, role, learner, x, i, obs, plan), jnp.arange(steps))


@functools.partial(jax.jit, static_argnums=(0, 1))
def act(program: Program, role: str, learner: Learner, x: Inputs, i, obs, plan) -> Array:
    """The actions [S, E, A] of a plan's step ``i``, ``bounded``."""

    def one_seed(learner: Learner, x: Inputs, obs, plan):
        vars, scheme = reads(learner, x), program.scheme(x, role)
        return jax.vmap(lambda obs, plan: bounded(scheme.act(vars, i, seen(batch_of_one(obs)), plan)[0]))(obs, plan)

    return each_seed(one_seed, learner, x, obs, plan)


def nothing_carried(program: Program, role: str, learner: Learner, x: Inputs, envs: int) -> Any:
    """What a scheme carries before the first episode, zeros [S, E, 1, ...]: every episode's start replaces it."""

    def one_seed(learner: Learner, x: Inputs) -> Any:
        obs = jax.tree.map(lambda o: jnp.zeros((1, *o.shape), o.dtype), program.env.no_obs)
        return program.scheme(x, role).init(reads(learner, x), x.keys, seen(obs))

    like = jax.eval_shape(lambda learner, x: each_seed(one_seed, learner, x), learner, x)
    return jax.tree.map(lambda a: jnp.zeros((a.shape[0], envs, *a.shape[1:]), a.dtype), like)


def player(program: Program, role: str, learner: Learner, x: Inputs, labels: Callable) -> Player:
    """The scheme of one of the algorithm's policies, for all slots of all seeds.

    Args:
        labels: (number of the decision, state) -> [S * E, 2] int, see ``decide``.
    """
    seeds, scheme = len(x.keys), program.scheme(x, role)

    def split(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.reshape(seeds, -1, *a.shape[1:]), tree)

    def choose(number: int, state: Any, fresh: np.ndarray, carry: Any) -> tuple[Any, Any]:
        label = labels(number, state).astype(np.int32)
        return decide(program, role, learner, x, split(label), split(state.envs.obs), split(fresh), carry)

    def action(i: int, state: Any, plan: Any, alive: np.ndarray) -> np.ndarray:
        if not alive.any():
            return np.zeros((len(alive), program.env.action_size), np.float32)
        found = np.asarray(act(program, role, learner, x, i, split(state.envs.obs), plan), np.float32)
        return found.reshape(len(alive), -1)

    def ahead(state: Any, plan: Any) -> np.ndarray | None:
        obs = split(state.envs.obs)
        if scheme.steps == 1 or looks_on(program, role, learner, x, obs, plan):
            return None
        found = np.asarray(acts(program, role, learner, x, obs, plan), np.float32)
        return found.reshape(len(found), len(state.envs.done), -1)

    def extras(plan: Any) -> dict:  # [S, E, 1, ...] -> [S * E, ...]
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), extras_of(plan))

    return Player(scheme.steps, choose, action, extras, scheme.looks, scheme.delay, ahead)


def batch_of_one(obs: PyTree) -> PyTree:
    """Leaves [O] -> [1, O]."""
    return jax.tree.map(lambda o: o[None], obs)


def by_seed(seeds: int, steps: Steps) -> Steps:
    """Steps [n, S * E, ...] -> [S, n, E, ...], without success, which no buffer keeps."""
    steps = steps._replace(success=None)
    return jax.tree.map(lambda x: np.moveaxis(x.reshape(len(x), seeds, -1, *x.shape[2:]), 1, 0), steps)


def restored(pool: Pool, loop: tuple[Slots, Any]) -> tuple[Slots, Any]:
    """What a checkpoint held of ``training``, with the pool's simulators brought to it."""
    slots = jax.tree.map(np.array, loop[0])
    pool.restore(slots.envs)
    return slots, loop[1]


def labelled(key: Array, label: Array) -> Array:
    """A key for two numbers [2]."""
    return jax.random.fold_in(jax.random.fold_in(key, label[0]), label[1])


def seen(obs: PyTree) -> State:
    """What a scheme sees of a host environment."""
    zero = jnp.zeros(trees.first(obs).shape[0])
    return State(None, obs, zero, zero)


def label(key: Array) -> tuple[int, ...]:
    """A key as numbers, for ``reset_seeds``."""
    return tuple(int(x) for x in jax.random.key_data(key))


def reset_seeds(label: tuple[int, ...], count: int) -> np.ndarray:
    """``count`` seeds [count] for episodes; equal labels give equal start states whatever is played."""
    return (np.random.SeedSequence(label).generate_state(count) >> 1).astype(np.int64)


def lanes(env: Any, seeds: int, slots: int) -> Lanes:
    """Slots at the head of the list."""
    episode = np.tile(np.arange(slots), seeds)
    return Lanes(env.nothing(seeds * slots), episode, np.zeros(seeds * slots, np.int32), np.full(seeds, slots))


def from_seeds(
    program: Program, role: str, learner: Learner, x: Inputs, seeds: np.ndarray, use: str = "evaluate"
) -> tuple[Simulator, Player, tuple[Lanes, Any]]:
    """What plays the episodes that start from ``seeds`` [S, count] int, and (lanes, carry) before the first decision.

    Args:
        use: which of the environment's pools is taken.
    """
    slots = max(1, min(seeds.shape[1], SLOTS // len(seeds)))
    pool = program.env.pool(use, len(seeds) * slots)
    labels = lambda i, state: np.stack([state.episode, state.made - 1], axis=1)  # noqa: E731
    start = lanes(program.env, len(seeds), slots), nothing_carried(program, role, learner, x, slots)
    return simulator(pool, from_a_list(pool, seeds)), player(program, role, learner, x, labels), start


def episodes(program: Program, role: str, learner: Learner, x: Inputs, seeds: np.ndarray) -> Episodes:
    """The episodes that start from ``seeds`` [S, count] int, of every seed's policy: [S, count] numpy arrays."""
    count = seeds.shape[1]
    sim, player, start = from_seeds(program, role, learner, x, seeds)
    seed_of = np.repeat(np.arange(len(seeds)), len(start[0].episode) // len(seeds))

    def going(state: Lanes) -> bool:
        waiting = (state.made == 0) & (state.episode < count)
        return bool(((state.envs.done == 0) | waiting).any() or (state.queued < count).any())

    def add(state: Lanes, total: Episodes, more: Episodes) -> Episodes:
        at = np.flatnonzero(more.length > 0)
        cell = seed_of[at], state.episode[at]
        total.ret[cell] += more.ret[at]
        total.length[cell] += more.length[at]
        total.success[cell] = np.maximum(total.success[cell], more.success[at])  # type: ignore[index]
        for sums, one in zip(total.manner, more.manner, strict=True):
            sums[cell] += np.asarray(one)[at]
        return total

    ret, success, length = (np.full(seeds.shape, x, np.float32) for x in (0, UNKNOWN, 0))
    none_yet = Episodes(ret, success, length, counting.no_manner(ret.astype(float)))
    before = np.full((len(seed_of), program.env.action_size), np.nan, np.float32)
    found = counting.episodes(sim, player, Tally(going, lambda i: i, add), start, none_yet, before)
    # an environment that speaks of success, if only where it is reached, knows that the others have failed
    return found._replace(success=np.maximum(found.success, 0) if program.env.has_success else None)


def evaluate(program: Program, count: int, learner: Learner, x: Inputs) -> dict[str, Array]:
    """``count`` episodes of every seed's acting policy: means [S]; equal keys give equal start states.

    Where the environment has several goals, episode i has number i modulo their count.
    """
    goals = goal_count(program.env)
    seeds = np.stack([in_turn(reset_seeds(label(key), count), goals) for key in x.keys])
    return summary(episodes(program, "act", learner, x, seeds), goals)


def in_turn(seeds: np.ndarray, goals: int) -> np.ndarray:
    """Seeds [count] like these whose episodes have each goal in turn (``worker.One``: a seed's modulo their count)."""
    return seeds // 2 // goals * goals + np.arange(len(seeds)) % goals if goals else seeds


def training(program: Program, learner: Learner, x: Inputs, envs: int) -> tuple[Slots, Any]:
    """(slots, carry) before the first decision of training or collecting, ``envs`` slots for each seed."""
    slots = len(x.keys) * envs
    carry = nothing_carried(program, "explore", learner, x, envs)
    return Slots(program.env.nothing(slots), np.zeros(slots, np.int32)), carry
