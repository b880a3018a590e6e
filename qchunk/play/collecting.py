"""Scripted or learned behaviour -> a data set with episode ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from qchunk.data.faults import UNUSABLE, usable
from qchunk.data.formats import Rows, of_steps
from qchunk.envs.base import Behaviour, Env, State, called, wrap
from qchunk.envs.host.pool import HostEnv
from qchunk.play import on_device, on_host
from qchunk.play.execute import Scheme, scripted
from qchunk.play.program import Inputs, Program
from qchunk.play.rollout import Player, decision
from qchunk.seeds import key_of
from qchunk.system import stopping
from qchunk.system.errors import UserError, unknown
from qchunk.trees import named
from qchunk.types import Learner, Steps, Vars

NO_VARS = Vars({}, {}, {}, {})
EXPERTS = {"expert": 0.0, "noisy": 0.3}  # the standard deviation of the noise upon an environment's own expert


def uniform(env: Env) -> Behaviour:
    """Uniform actions in [-1, 1], held for no longer than a step."""

    def act(key, state: State, carry: tuple):
        return jax.random.uniform(key, (env.action_size,), minval=-1.0, maxval=1.0), carry

    return Behaviour(lambda key, state: (), act)


def behaviours(env: Env) -> dict[str, Callable[[Env], Behaviour]]:
    """The scripted behaviours that this environment has, by name; the first one is its default."""
    own = getattr(env, "behaviours", {})
    return {**own, "random": uniform}


def scheme_of(env: Env, policy: str | None) -> Scheme:
    """The scheme of a scripted behaviour by name.

    Raises:
        UserError: no such behaviour here.
    """
    known = behaviours(env)
    name = policy or next(iter(known))
    if name not in known:
        raise unknown("policy", name, known, "or give the folder of a run")
    return scripted(known[name](env))


def gather(
    env: Any, play: Callable, loop: Any, steps: int, progress: Callable[[int], Any], reached: Callable[[int], Any]
) -> Rows:
    """Rows of at least ``steps`` transitions, or those until a signal asks to stop; ``play`` (i, loop) -> (loop, Steps) gives some more each time.

    ``reached`` is called with ``successes``, where they are known.

    Raises:
        UserError: something that training could not use.
    """
    parts, done = list[Steps](), 0
    while done < steps:
        loop, out = play(len(parts), loop)
        # reading what does not fit memory would end the process; waiting for it raises
        out = jax.block_until_ready(out)
        parts.append(jax.tree.map(np.asarray, out))
        check(called(env), parts[-1], done)
        done += int(parts[-1].alive.sum())
        progress(min(done, steps))
        if stopping.asked():  # within ``stopping.saving`` alone; elsewhere the process has ended
            break
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    if (count := successes(whole)) is not None:
        reached(count)
    return of_steps(whole)


def successes(s: Steps) -> int | None:
    """How many of the episodes of steps [n, E] reached a success; None where no step speaks of it."""
    if s.success is None or (s.success < 0).all():
        return None
    ended = ((s.terminal > 0) | (s.truncation > 0)) & (s.alive > 0)
    episode = np.cumsum(ended, axis=0) - ended
    there = (s.success > 0) & (s.alive > 0)
    return sum(len(np.unique(episode[there[:, e], e])) for e in range(there.shape[1]))


def check(name: str, s: Steps, done: int) -> None:
    """Refuses steps [n, E, ...] that training could not use, ``done`` transitions after the beginning.

    Raises:
        UserError: names the environment, what it is and where.
    """
    alive = s.alive.reshape(-1) > 0
    shown = {"action": s.action, **named(s.next_obs, "next obs"), **named(s.obs), "reward": s.reward}
    for what, x in shown.items():
        bad = ~usable(x.reshape(alive.size, -1)) & alive
        if bad.any():
            number, e = done + int(alive[: bad.argmax()].sum()) + 1, int(bad.argmax()) % s.alive.shape[1]
            where = f"in transition {number}, of environment {e}"
            raise UserError(f"{name}: its {what} holds {UNUSABLE} {where}", "fix what plays there, then collect again")


def collect(
    env: Env,
    scheme: Scheme,
    vars: Vars,
    key,
    *,
    steps: int,
    envs: int = 64,
    episode_length: int | None = None,
    progress: Callable[[int], Any] = lambda done: None,
    reached: Callable[[int], Any] = lambda count: None,
    dispatch: int = 250,
) -> Rows:
    """Plays E environments on the device in parallel, in whole decisions, until at least ``steps`` transitions are there.

    Args:
        episode_length: environment steps after which an episode is cut (no bootstrap is lost: it is a time-out).
        progress: called with the transitions so far.
        reached: called with how many episodes reached a success, where that is known.
        dispatch: environment steps per call to the device, at most.
    """
    wrapped = wrap(env, episode_length)
    decisions = max(1, min(dispatch, -(-steps // envs)) // scheme.steps)
    run = jax.jit(lambda vars, key, loop: on_device.rollout(wrapped, scheme, vars, key, decisions, loop, envs))
    return gather(env, lambda i, loop: run(vars, jax.random.fold_in(key, i), loop), None, steps, progress, reached)


def collect_host(
    env: HostEnv,
    player: Player,
    carry: Any = None,
    *,
    steps: int,
    seed: int = 0,
    number: int = 0,
    envs: int = 1,
    progress: Callable[[int], Any] = lambda done: None,
    reached: Callable[[int], Any] = lambda count: None,
) -> Rows:
    """``collect`` in E host environments.

    Args:
        player: what it plays by, such as ``random_player`` or ``learned_player``.
        carry: what its scheme carries before the first episode.
        seed, number: of the start states; ``number`` tells those apart that share a seed.
    """
    pool, label = env.pool("collect", envs), on_host.label(key_of(seed, "collect", number))
    sim = on_host.simulator(pool, on_host.one_after_another(pool, [(*label, e) for e in range(envs)]))

    def play(i: int, loop: Any) -> tuple[Any, Steps]:
        loop, _, out = decision(sim, player, i, loop)
        return loop, out

    return gather(env, play, (on_host.Slots(pool.nothing(), np.zeros(envs, np.int64)), carry), steps, progress, reached)


def random_player(env: HostEnv, seed: int, number: int = 0) -> Player:
    """Uniform actions in [-1, 1], drawn at each step; ``number`` as in ``collect_host``."""
    label = on_host.label(key_of(seed, "random actions", number))

    def decide(i: int, state: Any, fresh: np.ndarray, carry: Any) -> tuple[Any, np.ndarray]:
        rng = np.random.default_rng((*label, i))
        return carry, rng.uniform(-1.0, 1.0, (len(fresh), env.action_size)).astype(np.float32)

    return Player(1, decide, lambda i, state, plan, alive: plan)


def expert_player(env: HostEnv, seed: int, number: int = 0, noise: float = 0.0) -> Player:
    """The environment's own expert, asked at each step, and Gaussian noise of this standard deviation upon its actions."""
    label = on_host.label(key_of(seed, "expert's noise", number))

    def decide(i: int, state: Any, fresh: np.ndarray, carry: Any) -> tuple[Any, np.ndarray]:
        action = env.pool("collect", len(fresh)).expert(state.envs)
        drawn = np.random.default_rng((*label, i)).normal(0.0, 1.0, action.shape)
        return carry, np.clip(action + noise * drawn, -1.0, 1.0).astype(np.float32)

    return Player(1, decide, lambda i, state, plan, alive: plan)


def scripted_player(env: HostEnv, policy: str, seed: int, number: int = 0) -> Player:
    """The player of a scripted behaviour by name; "" is the first that there is: the environment's own expert, or random.

    Raises:
        UserError: no such behaviour here.
    """
    makers: dict[str, Callable[[], Player]] = {"random": lambda: random_player(env, seed, number)}
    if env.has_expert:
        noisy = {n: lambda noise=noise: expert_player(env, seed, number, noise) for n, noise in EXPERTS.items()}
        makers = {**noisy, **makers}
    name = policy or next(iter(makers))
    if name not in makers:
        raise unknown("policy", name, makers, "or give the folder of a run")
    return makers[name]()


def learned_player(program: Program, learner: Learner, x: Inputs) -> Player:
    """The exploring policy of a learner of one seed, leaves [1, ...]."""

    def labels(i: int, state: Any) -> np.ndarray:
        slots = len(state.begun)
        return np.stack([np.arange(slots), np.full(slots, i)], axis=1)

    return on_host.player(program, "explore", learner, x, labels)
