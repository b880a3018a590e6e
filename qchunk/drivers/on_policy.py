"""Learning from what was just played: the driver of policy gradients.

An iteration is one compiled program: T decisions of E environments, advantages, then epochs of minibatches. Environment
steps are counted as played steps, those of environments that rest until their next decision included.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qchunk import normalise
from qchunk.config import RolloutConfig, config
from qchunk.drivers.common import Amount, Driver, DriverSettings, accumulate, execution, init, learner_like
from qchunk.drivers.events import Event, Work, counting, events, figures, no_sums
from qchunk.drivers.reward_scale import Scale, no_scale, scaled
from qchunk.envs.base import obs_spec
from qchunk.normalise import Moments
from qchunk.play import on_device
from qchunk.play.program import Inputs, Program, each_seed, reads
from qchunk.ranges import NonNegativeInt, PositiveInt
from qchunk.seeds import divided, for_each, one, spread, stream
from qchunk.system import hosts
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Chunk, Learner, Metrics


@config
class OnPolicySettings(DriverSettings):
    """What the driver ``on_policy`` needs besides the algorithm's own configuration."""

    online_steps: NonNegativeInt = 2_000_000
    """Environment steps per seed, rounded up to whole iterations."""
    log_every: PositiveInt = 1
    """Environment steps between two lines of training figures, rounded up, as the two below, to whole iterations."""
    eval_every: NonNegativeInt = 0
    """Environment steps between two evaluations; 0 makes ten of them."""
    checkpoint_every: NonNegativeInt = 0
    """Environment steps between two checkpoints; 0 saves at each evaluation."""


class OnPolicy(NamedTuple):
    """What a run resumes from besides its learner, for S seeds."""

    envs: Any  # (State, carry) [S, E, ...]
    first: jax.Array  # [S, E] 1 where the next decision is its episode's first
    scale: Scale  # [S, ...]
    moments: Moments | None  # [S, ...] of all observations, where units follow what is seen
    iterations: jax.Array  # [] int32, done so far


class Iterations(NamedTuple):
    """Whole iterations, worked out from the settings."""

    steps: int  # environment steps per iteration
    total: int
    log_every: int  # iterations, as the two below
    eval_every: int
    save_every: int


def iterations(per_decision: int, c: RolloutConfig, s: OnPolicySettings) -> Iterations:
    """Everything rounded up to whole iterations.

    Args:
        per_decision: environment steps that execution plays of a chunk.
    """
    steps = c.envs * c.decisions * per_decision
    total = math.ceil(s.online_steps / steps)
    eval_every = math.ceil(s.eval_every / steps) if s.eval_every else max(1, math.ceil(total / 10))
    save_every = math.ceil(s.checkpoint_every / steps) or eval_every
    return Iterations(steps, total, math.ceil(s.log_every / steps), eval_every, save_every)


def check(program: Program, x: Inputs, s: OnPolicySettings) -> None:
    """Refuses settings and an environment that cannot run.

    Raises:
        UserError: names the field and the fix.
    """
    if s.online_steps == 0:
        raise UserError("there is nothing to train", "give --online-steps")
    r = x.c.rollout
    x.share.check(r.envs * r.decisions // r.minibatches, "the decisions of a minibatch")
    if program.on_host:
        fix = "take one on the device: tabletop/, brax/ or gymnax/"
        problem = f"{program.env.name} runs in worker processes, and on-policy methods play thousands of steps"
        raise UserError(problem, fix)
    if not program.scheme(x, "explore").own:
        delay = f" --delay {s.delay}" * (s.delay > 0)
        problem = f"--execute {s.execute}{delay} plays other actions than those whose probabilities an on-policy method learns from"
        raise UserError(
            problem, "train with open-loop or receding:STEPS, and evaluate with it: qchunk eval RUN --execute ..."
        )
    if program.units[1] != "none" and normalise.STATS not in x.given:
        fix = "leave --normalise-action out, or give --prior RUN"
        raise UserError("there are no data to take the units of actions from", fix)


def in_units(program: Program, x: Inputs, learner: Learner) -> Learner:
    """The learner in its units: those of the stage before, or of what each seed's first policy sees in one iteration's decisions.

    Standard units from scratch are a beginning only: ``iterate`` moves them with everything that was seen since. A first
    iteration is short and near its start; kept for good, its standard deviations put later observations far outside of the usual range.
    """
    if normalise.STATS not in learner.stats:
        return learner
    if normalise.STATS in x.given:
        found = normalise.of_given(x.given)
    else:
        seen = jax.tree.map(hosts.read, play(program, learner, start(program, x, learner), x).obs)
        # seed by seed: none's units depend on which others are trained with it
        each = [normalise.fit(one(seen, i), program.units[0]) for i in range(len(x.keys))]
        obs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        found = {"obs": obs, "action": for_each(len(x.keys), normalise.identity(program.env.action_size))}
    return learner._replace(stats={**learner.stats, normalise.STATS: found})


@functools.partial(jax.jit, static_argnums=0)
def play(program: Program, learner: Learner, loop: OnPolicy, x: Inputs) -> Chunk:
    """One iteration's decisions of every seed [S, T, E, ...], for looking at only."""

    def one_seed(learner: Learner, x: Inputs, envs: Any) -> Chunk:
        scheme, env = program.scheme(x, "explore"), program.playable(x.given)
        key = stream(x.keys, "first look")
        return on_device.rollout_chunks(env, scheme, reads(learner, x), key, x.c.rollout.decisions, envs, x.c.chunk)[1]

    return each_seed(one_seed, learner, x, loop.envs)


@functools.partial(jax.jit, static_argnums=0)
def start(program: Program, x: Inputs, learner: Learner) -> OnPolicy:
    """Environments at their start."""
    envs, seeds = x.c.rollout.envs, len(x.keys)

    def one_seed(learner: Learner, x: Inputs) -> on_device.Loop:
        keys = jax.random.split(stream(x.keys, "on-policy start"))
        return on_device.begin(program.playable(x.given), program.scheme(x, "explore"), reads(learner, x), keys, envs)

    follows = program.units[0] == "standard" and normalise.STATS not in x.given
    none_yet = no_scale(envs), normalise.no_moments(obs_spec(program.env)) if follows else None
    scale, moments = for_each(seeds, none_yet)
    played = each_seed(one_seed, learner, x)
    return OnPolicy(played, jnp.ones((seeds, envs)), scale, moments, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def iterate(
    program: Program, learner: Learner, loop: OnPolicy, x: Inputs, n, sums: Metrics | None = None
) -> tuple[Learner, OnPolicy, Metrics]:
    """``n`` iterations of every seed: (learner, loop, ``sums`` of the figures [S], with theirs added)."""
    done = loop.iterations

    def one_seed(learner: Learner, x: Inputs, sums: Metrics | None, *mine: Any):
        return accumulate(lambda i, state: _iteration(program, state, x, done + i), (learner, mine), n, sums=sums)

    (learner, after), sums = each_seed(one_seed, learner, x, sums, *loop[:-1])
    return learner, OnPolicy(*after, iterations=done + n), sums


# traced once, for whoever asks for its shapes and for every program of a run that iterates: tracing a method takes seconds
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _iteration(program: Program, state: tuple, x: Inputs, number: Array) -> tuple[tuple, Metrics]:
    """Iteration ``number`` of one seed: ((learner, what ``OnPolicy`` holds of it), its figures)."""
    learner, (envs, first, scale, moments) = state
    c, env = x.c.rollout, program.playable(x.given)
    algorithm, scheme = program.algorithm(x.c), program.scheme(x, "explore")
    play_key, prepare_key, learn_key = jax.random.split(stream(x.keys, "iteration", number), 3)
    learner = algorithm.refresh(learner)
    vars = reads(learner, x)
    envs, chunk, seen = on_device.rollout_chunks(env, scheme, vars, play_key, c.decisions, envs, x.c.chunk)
    if c.scale_rewards:
        firsts = jnp.concatenate([first[None], chunk.last[:-1]])
        scale, reward = scaled(scale, chunk.reward[..., 0], firsts)
        chunk = chunk._replace(reward=reward[..., None])
    if moments is not None:
        moments = normalise.seen(moments, chunk.obs)
    learner, chunk = algorithm.prepare(learner, x.given, prepare_key, chunk)
    learner, sums = learn(algorithm, c, learner, x.given, learn_key, chunk)
    if moments is not None:  # after the updates: they take the policy in the units that it played in
        learner = in_moments(learner, moments)
    return (learner, (envs, chunk.last[-1], scale, moments)), {**sums, **seen}


def in_moments(learner: Learner, moments: Moments) -> Learner:
    """The learner with observations in the units of all that was seen."""
    units = {**learner.stats[normalise.STATS], "obs": normalise.of_moments(moments)}
    return learner._replace(stats={**learner.stats, normalise.STATS: units})


def learn(
    algorithm: Algorithm, c: RolloutConfig, learner: Learner, given: dict, key: jax.Array, chunk: Chunk
) -> tuple[Learner, Metrics]:
    """Epochs of minibatches over decisions [T, E, ...]: (learner, sums of the metrics, and of "updates_done").

    A minibatch holds whole decisions with all their denoising steps; those left over when the decisions are dealt out sit
    out an epoch, others in each. Once ``algorithm.stop`` says so, the rest of the updates are counted but not made.
    """
    size = c.envs * c.decisions // c.minibatches
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chunk)

    @functools.partial(jax.jit, inline=True)  # asked for its shapes and for itself, traced once
    def make(learner: Learner, some: Chunk) -> tuple[Learner, Metrics]:
        return algorithm.update(learner, given, jax.random.fold_in(key, learner.step), some)

    def one_update(state: tuple, index: Array) -> tuple[tuple, Metrics]:
        learner, stopped = state
        some = divided(jax.tree.map(lambda x: x[index], flat), size)
        like = jax.eval_shape(make, learner, some)[1]
        idle = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        skip = lambda learner, some: (learner._replace(step=learner.step + 1), idle)  # noqa: E731
        learner, metrics = jax.lax.cond(stopped, skip, make, learner, some)
        now = stopped | algorithm.stop(metrics)
        return (learner, now), {**metrics, "updates_done": 1.0 - stopped}

    def epoch(state: tuple, key: jax.Array) -> tuple[tuple, Metrics]:
        order = jax.random.permutation(key, c.envs * c.decisions)[: size * c.minibatches]
        return jax.lax.scan(one_update, state, order.reshape(c.minibatches, size))

    keys = jax.random.split(stream(key, "epochs"), c.epochs)
    (learner, _), metrics = jax.lax.scan(epoch, (learner, jnp.asarray(False)), keys)
    return learner, jax.tree.map(jnp.sum, metrics)


def run(
    program: Program,
    x: Inputs,
    settings: OnPolicySettings,
    learner: Learner | None = None,
    state: OnPolicy | None = None,
) -> Iterator[Event]:
    """Trains on what its own policy plays (2409.00588, algorithm 1, for any method with a ``rollout`` in its configuration).

    Args:
        learner, state: where to go on from; both are donated.

    Yields:
        See ``events.events``; ``step`` counts environment steps, and every event carries its ``state``.

    Raises:
        UserError: impossible settings.
    """
    s = settings
    check(program, x, s)
    plan = iterations(program.scheme(x, "explore").steps, x.c.rollout, s)
    learner = in_units(program, x, init(program, x)) if learner is None else learner
    normalise.check(learner, *program.units)
    state = start(program, x, learner) if state is None else state
    learner, state, given = spread(s.seeds, (learner, state, x.given), x.share)
    x = x._replace(given=given)

    def advance(learner: Learner, state: OnPolicy, sums: Metrics, done: int, goal: int):
        return iterate(program, learner, state, x, goal - done, sums)

    work = Work(
        advance,
        lambda learner, state: no_sums(s.seeds, x.share, functools.partial(iterate, program), learner, state, x, 0),
        lambda sums, n, seconds: figures(sums, n * plan.steps, s.seeds, seconds),
        *plan[1:],
        step=lambda done: done * plan.steps,
        counts=counting(plan.steps),
    )
    yield from events(work, program, x, s, learner, state, int(state.iterations))


def state_like(program: Program, x: Inputs, s: OnPolicySettings, learner: Learner) -> OnPolicy:
    """Shapes and types of the online part beside such a ``learner``, for restoring one."""
    del s
    return jax.eval_shape(lambda learner, x: start(program, x, learner), learner, x)


def amount(algorithm: Algorithm, c: Any, s: OnPolicySettings) -> Amount:
    """What a run will do."""
    steps = execution(s, c).scheme(algorithm.explore).steps
    plan, r = iterations(steps, c.rollout, s), c.rollout
    return Amount(plan.total * r.epochs * r.minibatches, plan.total * plan.steps, plan.total * plan.steps)


def whole(program: Program, x: Inputs, s: OnPolicySettings) -> Learner:
    """A run from its start to its end as one traceable function.

    Raises:
        UserError: units from scratch, which are looked at before they are fixed.
    """
    learner = init(program, x)
    if normalise.STATS in learner.stats and normalise.STATS not in x.given:
        raise UserError("units of what is played cannot be fixed inside of one program", "leave --normalise-obs out")
    plan = iterations(program.scheme(x, "explore").steps, x.c.rollout, s)
    return iterate(program, learner, start(program, x, learner), x, plan.total)[0]


def unit(program: Program, x: Inputs, s: OnPolicySettings) -> tuple[Callable, tuple, int]:
    """One iteration of every seed."""
    learner = learner_like(program, x)
    loop, done = state_like(program, x, s, learner), amount(program.build(x.c), x.c, s)
    per = iterations(program.scheme(x, "explore").steps, x.c.rollout, s).steps
    return functools.partial(iterate, program), (learner, loop, x, 1), done.env_steps // per


UNREAD = tuple((n, "no windows are cut of what is played on-policy") for n in ("backup", "padding", "starts"))
ON_POLICY = Driver("on_policy", OnPolicySettings, False, check, run, state_like, amount, whole, unit, unread=UNREAD)
