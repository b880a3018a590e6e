"""Figures of a policy where there is nothing to play in: on windows of held-out episodes (``envs.held_out``).

None of them says how well a robot would do: a policy may be near to the data at every step and drift off them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from qchunk import sampling
from qchunk.config import ChunkConfig
from qchunk.data import buffer, chunks
from qchunk.data.chunks import Dataset
from qchunk.play.program import Inputs, Program, each_seed, reads
from qchunk.seeds import mapped
from qchunk.system.errors import UserError
from qchunk.types import Algorithm, Array, Chunk, Learner

WINDOWS = 256
TO_GO = "return_to_go"  # of ``extras`` while windows are judged: that of their first step


def evaluate(program: Program, count: int, learner: Learner, x: Inputs) -> dict[str, Array]:
    """Every seed's acting policy on ``WINDOWS`` held-out windows, one chunk drawn for each: means [S].

    Returns:
        - ``explained``: the share of the actions' variance that the chunks explain, 1 less their mean squared distance over the
            variance; below 0 for a policy that is further from the data than their mean action, as one sample of many modes may be;
        - ``error``: mean absolute distance of the actions, in their units; ``error_1``, ``error_2`` ... at each step of the chunk;
        - ``energy_distance``: of the drawn chunks to the data's, 0 for the same distribution (Székely and Rizzo 2013);
        - ``loss``: the method's own, on these data;
        - ``q_bias``, of a method that learns values by temporal differences: the mean value of held-out chunks less their mean discounted
            return to the episode's end;
        - ``q_correlation`` and ``q_rank``, of these, too: how the values of held-out windows go with their discounted returns to the
            episode's end, by Pearson's correlation and by Spearman's of their ranks.

    Raises:
        UserError: see ``judging``.
    """
    del count
    return _evaluate(program, learner, x._replace(data=judging(program, x.c.chunk)))


def judging(program: Program, c: ChunkConfig) -> Dataset:
    """The episodes that are held out.

    Raises:
        UserError: there are none, as the run's data have not been read; or all of them are shorter than a chunk.
    """
    if (held := program.env.held) is None:
        raise UserError("no episodes are held out to judge by", "open the run with its data")
    chunks.check_fits(held, c, "that is held out")
    return held


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(program: Program, learner: Learner, x: Inputs) -> dict[str, Array]:
    def one_seed(learner: Learner, x: Inputs) -> dict[str, Array]:
        start_key, plan_key, *update_keys = jax.random.split(x.keys, 6)
        found, algorithm = drawn(program, learner, x, [start_key, plan_key]), program.algorithm(x.c)
        return {**found, **judged(algorithm, learner, x, program, update_keys)}

    return each_seed(one_seed, learner, x)


@functools.partial(jax.jit, static_argnums=0)
def from_data(program: Program, learner: Learner, x: Inputs) -> dict[str, Array]:
    """How far every seed's acting policy is from the data that it has (``x.data``), at ``WINDOWS`` of their windows [S]: what
    ``distances`` says of one drawn chunk for each."""
    one_seed = lambda learner, x: drawn(program, learner, x, list(jax.random.split(x.keys)))  # noqa: E731
    return each_seed(one_seed, learner, x)


def drawn(program: Program, learner: Learner, x: Inputs, keys: list[Array]) -> dict[str, Array]:
    """The ``distances`` of one seed's chunks from those of its data, at windows drawn from them."""
    algorithm, vars = program.algorithm(x.c), reads(learner, x)
    start = chunks.draw_starts(keys[0], x.data, x.c.chunk, WINDOWS)
    chunk = chunks.windows(x.data, start, x.c.chunk)
    plan = sampling.act(algorithm.act, vars, keys[1], chunk.obs)
    steps = min(x.c.chunk.horizon, algorithm.act.length or x.c.chunk.horizon)
    guess = jnp.stack([algorithm.act.emit(vars, plan, i, chunk.obs) for i in range(steps)], axis=1)
    return distances(guess, chunk.action[:, :steps], chunk.mask[:, :steps])


def distances(guess: Array, action: Array, mask: Array) -> dict[str, Array]:
    """How far chunks [B, H, A] are from the data's where these have an action (``mask`` [B, H])."""
    count, there = jnp.maximum(jnp.sum(mask), 1.0), mask[..., None]
    mean = jnp.sum(action * there, axis=(0, 1)) / count
    apart, variance = (jnp.sum(jnp.square(action - x) * there) for x in (guess, mean))
    each = jnp.mean(jnp.abs(guess - action), axis=-1) * mask  # [B, H]
    by_step = jnp.sum(each, axis=0) / jnp.maximum(jnp.sum(mask, axis=0), 1.0)
    return {
        "explained": 1.0 - apart / jnp.maximum(variance, 1e-12),
        "error": jnp.sum(each) / count,
        **{f"error_{i + 1}": by_step[i] for i in range(guess.shape[1])},
        "energy_distance": energy_distance(*((x * there).reshape(len(x), -1) for x in (guess, action))),
    }


def energy_distance(x: Array, y: Array) -> Array:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples [B, n]; pairs of one point with itself do not count."""

    def mean(a: Array, b: Array, pairs: int) -> Array:
        square = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        return jnp.sum(jnp.sqrt(square)) / pairs

    b = len(x)
    return 2 * mean(x, y, b * b) - mean(x, x, b * (b - 1)) - mean(y, y, b * (b - 1))


def to_go(data: Dataset, c: ChunkConfig) -> Array:
    """The return from each row to its episode's end [R], discounted as a critic's; what follows a success does not count."""

    def back(after: Array, row: tuple) -> tuple[Array, Array]:
        reward, terminal, left = row
        ahead = jnp.concatenate([c.gamma * after[-1:], after[:-1]])
        total = jnp.where(left > 0, reward + (1.0 - terminal) * (left > 1) * ahead, 0.0)
        return total, total[-1]

    # [n], where 1 to n steps are left of what gamma counts once: a step, or a decision
    after = jnp.zeros(1 if c.discount == "step" else c.horizon)
    return jax.lax.scan(back, after, (data.reward, data.terminal, data.left), reverse=True)[1]


def judged(algorithm: Algorithm, learner: Learner, x: Inputs, program: Program, keys: list[Array]) -> dict[str, Array]:
    """What the method says of held-out windows, in an update that is thrown away."""
    draw_key, prepare_key, update_key, each_key = keys
    returns = to_go(x.data, x.c.chunk)
    source = program.source(x._replace(data=x.data._replace(extras={**x.data.extras, TO_GO: returns})))
    chunk = (algorithm.draw or buffer.draw)(draw_key, source, x.c.chunk, WINDOWS)
    ready, chunk = algorithm.prepare(learner, x.given, prepare_key, chunk)
    metrics = algorithm.update(ready, x.given, update_key, chunk)[1]
    found, q = {"loss": metrics["loss"]}, metrics.get("td/q")
    if q is None:
        return found
    rows, may = chunks.starts_of(x.data, x.c.chunk), chunks.may_start(x.data, x.c.chunk)
    found["q_bias"] = q - jnp.mean(returns[rows], where=may)
    if TO_GO not in chunk.extras:
        return found

    def alone(key: Array, window: Chunk) -> Array:
        """The value of one window: the update's mean over a batch of that alone, whatever its weight in learning."""
        window = jax.tree.map(lambda leaf: leaf[None], window)
        return algorithm.update(ready, x.given, key, window._replace(weight=jnp.ones_like(window.weight)))[1]["td/q"]

    values = mapped(alone, (jax.random.split(each_key, WINDOWS), chunk))
    earned = chunk.extras[TO_GO].reshape(WINDOWS, -1).mean(axis=1)
    return {**found, "q_correlation": correlation(values, earned), "q_rank": correlation(ranks(values), ranks(earned))}


def correlation(x: Array, y: Array) -> Array:
    """Pearson's correlation of two samples [B]; 0 where one of them never changes."""
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    spread = jnp.sqrt(jnp.sum(jnp.square(x)) * jnp.sum(jnp.square(y)))
    return jnp.where(spread > 0, jnp.sum(x * y) / jnp.where(spread > 0, spread, 1.0), 0.0)


def ranks(x: Array) -> Array:
    """The place of each number of a sample [B] in its order, from 1; equal ones share their mean (Spearman 1904)."""
    less, same = (jnp.sum(compared, axis=1) for compared in (x[None] < x[:, None], x[None] == x[:, None]))
    return less + (same + 1) / 2
