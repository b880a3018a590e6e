"""Movement primitives: trajectories as linear maps of a few weights, and algorithms whose chunks are such weights.

ProDMP (2210.01531): the response of a damped spring to weighted forces, solved in closed form, so that position and velocity can
be prescribed at any time and the trajectory goes on smoothly from there. ProMP: weighted bumps. Everything that depends on times
alone is worked out once, in float64 on the host; what is traced are small products.

Letters: T times, W weights of each number (ProDMP: N forces, then the goal), A numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qchunk.compose import shown
from qchunk.config import ChunkConfig
from qchunk.recode import recoded
from qchunk.system.errors import UserError
from qchunk.types import EDGE, Algorithm, Array, Chunk, Old, Plan, Policy, Vars

LONG = 6  # durations in which the largest response is looked for, as published


class Trajectory(NamedTuple):
    """A linear map: ``weights @ w + position * y + velocity * v`` for a boundary (y, v)."""

    weights: np.ndarray  # [T, W]
    position: np.ndarray  # [T]
    velocity: np.ndarray  # [T]

    def __call__(self, w: Array, y: Array, v: Array) -> Array:
        """[*B, T, A] of weights [*B, W, A] and a boundary [*B, A]."""
        across = lambda m, x: jnp.asarray(m, jnp.float32)[:, None] * x[..., None, :]  # noqa: E731
        return (
            jnp.einsum("tw,...wa->...ta", jnp.asarray(self.weights, jnp.float32), w)
            + across(self.position, y)
            + across(self.velocity, v)
        )


class ProDMP(NamedTuple):
    """Constants of a dynamic movement primitive.

    Attributes:
        forces: N, weights beside the goal.
        duration: tau, in the units of ``times``.
        bandwidth: of the forces: larger is narrower.
        spring: alpha of y'' = alpha (alpha / 4 (goal - y) - y') + x f(x), in units of 1 / tau; critically damped.
        decay: the phase is x = exp(-decay t / tau).
        scale: of the weights and of the goal; with ``auto`` over the largest response to each.
        relative: the goal is given relative to the boundary's position.
        table: steps per duration in which the responses are integrated (trapezoids).
    """

    forces: int
    duration: float = 1.0
    bandwidth: float = 3.0
    spring: float = 10.0
    decay: float = 3.0
    scale: tuple[float, float] = (1.0, 1.0)
    auto: bool = False
    relative: bool = False
    table: int = 4000

    def columns(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(responses [T, 2 + W], their slopes in s = t / tau, scales [W]) to a unit of each thing: two homogeneous solutions, N forces, the goal."""
        s, a = np.asarray(times, np.float64) / self.duration, self.spring
        end = LONG if self.auto else max(1.0, s.max())
        grid = np.union1d(np.arange(np.ceil(end * self.table) + 1) / self.table, s)
        centres = np.exp(-self.decay * np.arange(self.forces + 1) / max(self.forces - 1, 1))
        x = np.exp(-self.decay * grid)[:, None]
        bumps = np.exp(-0.5 * self.bandwidth * ((x - centres[:-1]) / np.diff(centres)) ** 2)
        force = x * bumps / np.sum(bumps, axis=1, keepdims=True)
        grow = np.exp(a * grid / 2)
        p1, p2 = (_integral(m[:, None] * force, grid) for m in (grid * grow, grow))
        p1, p2 = np.column_stack([p1, (a * grid / 2 - 1) * grow + 1]), np.column_stack([p2, a / 2 * (grow - 1)])
        y1, y2 = 1 / grow, grid / grow
        d1, d2 = -a / 2 * y1, y1 - a / 2 * y2
        found = np.column_stack([y1, y2, p2 * y2[:, None] - p1 * y1[:, None]])
        slope = np.column_stack([d1, d2, p2 * d2[:, None] - p1 * d1[:, None]])
        largest = np.max(found[:, 2:], axis=0) if self.auto else 1.0
        at = np.searchsorted(grid, s)
        return found[at], slope[at], np.append(np.full(self.forces, self.scale[0]), self.scale[1]) / largest

    def trajectory(self, times: np.ndarray, boundary: float = 0.0) -> tuple[Trajectory, Trajectory]:
        """Positions and velocities (d/dt) at ``times`` [T] in [0, tau], whose position and velocity at ``boundary`` are given exactly.

        Weights are [*B, N + 1, A]: the forces', then the goal.
        """
        *both, scale = self.columns(np.append(times, boundary))
        there = np.stack([m[-1] for m in both])  # [2, 2 + W]: position and slope at the boundary
        inverse = np.linalg.inv(there[:, :2])  # boundary -> how much of the homogeneous solutions

        def mapped(m: np.ndarray, per: float) -> Trajectory:
            homogeneous = m[:-1, :2] @ inverse
            weights = m[:-1, 2:] - homogeneous @ there[:, 2:]
            position = homogeneous[:, 0] + (weights[:, -1] if self.relative else 0.0)
            return Trajectory(weights * scale / per, position / per, homogeneous[:, 1] * self.duration / per)

        return mapped(both[0], 1.0), mapped(both[1], self.duration)


class ProMP(NamedTuple):
    """Constants of a probabilistic movement primitive (NIPS 2013): normalised Gaussian bumps along t / tau.

    Attributes:
        bumps: W, weights; ``outside`` of them lie before the beginning and as many behind the end.
        duration: tau, in the units of ``times``.
        bandwidth: larger is narrower.
    """

    bumps: int
    duration: float = 1.0
    bandwidth: float = 3.0
    outside: int = 0

    def columns(self, times: np.ndarray) -> np.ndarray:
        """The bumps [T, W]; they sum up to 1 at each time."""
        s, inner = np.asarray(times, np.float64) / self.duration, self.bumps - 2 * self.outside
        apart = 1.0 / max(inner - 1, 1)
        centres = (np.arange(self.bumps) - self.outside) * apart
        bumps = np.exp(-0.5 * self.bandwidth / apart**2 * (s[:, None] - centres) ** 2)
        return bumps / np.sum(bumps, axis=1, keepdims=True)


def _integral(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The running integral of y [T, N] over x [T], 0 at first."""
    steps = (y[1:] + y[:-1]) / 2 * np.diff(x)[:, None]
    return np.concatenate([np.zeros((1, y.shape[1])), np.cumsum(steps, axis=0)])


class Codec(NamedTuple):
    """A family of smooth chunks, by the values that they have at W of their H steps."""

    decode: np.ndarray  # [H, W] values at the knots -> chunk
    encode: np.ndarray  # [W, H] chunk -> those values of the nearest smooth one
    knots: np.ndarray  # [W] int, steps
    shift: np.ndarray  # [H, 2] what moves the first two actions to given ones, and the others smoothly with them


@functools.cache
def codec(kind: str, horizon: int, size: int) -> Codec:
    """The chunks that a primitive of ``size`` weights can make, its boundary's position and velocity among them (ProDMP).

    Raises:
        UserError: too few weights for the kind, or more than actions.
    """
    least = {"prodmp": 4, "promp": 2}[kind]
    if not least <= size <= horizon:
        fix = f"give {least} to --chunk.horizon {horizon}"
        raise UserError(f"--chunk.basis {size} does not fit chunks of {horizon} actions by {kind}", fix)
    m, free = _columns(kind, horizon, size)
    knots = np.rint(np.linspace(0, horizon - 1, size)).astype(int)
    decode = m @ np.linalg.inv(m[knots])
    shift = m[:, :free] @ np.linalg.pinv(m[:2, :free])
    return Codec(decode, np.linalg.pinv(decode), knots, shift)


def _columns(kind: str, horizon: int, size: int) -> tuple[np.ndarray, int]:
    """(responses [H, W] to each weight, by how many of them actions are moved to given ones): the homogeneous solutions, or all bumps, by the least weights."""
    times = np.linspace(0.0, 1.0, horizon)
    return (ProDMP(size - 3).columns(times)[0], 2) if kind == "prodmp" else (ProMP(size).columns(times), size)


def weights_of(c: ChunkConfig) -> int:
    """How many actions or weights a chunk has inside of the algorithm."""
    return c.horizon if c.codec == "none" else c.basis


def in_primitives(algorithm: Algorithm, c: ChunkConfig) -> Algorithm:
    """The same algorithm, whose chunks [*B, H, A] are W weights each [*B, W, A]: actors and critics see nothing else.

    The weights are the chunk's values at W of its steps, so they are actions, and in [-1, 1] like these. Chunks of data become
    the nearest smooth ones. With ``c.replan`` "smooth" a plan that is made while an old one has two actions left goes on from these.

    Raises:
        UserError: the codec does not fit the chunk, or the method looks into chunks, of which it would see weights.
    """
    codec(c.codec, c.horizon, c.basis)  # refuses what does not fit
    for policy in (algorithm.act, algorithm.explore):
        if policy.choice is not None or policy.ends or policy.length is not None:
            problem = (
                f"--chunk.codec {c.codec}: this method values or plays the beginnings of chunks, which weights have not"
            )
            raise UserError(problem, "leave --chunk.codec out")

    return recoded(
        algorithm,
        lambda spec: spec._replace(horizon=c.basis),
        lambda vars, chunk: encoded(chunk, c),
        lambda policy: decoded(policy, c),
    )


def in_weights(part: Any, c: ChunkConfig) -> Any:
    """The same Kernel for weights [*B, W, A], and built for so many; its losses see those of the data's chunks.

    For methods that look at actions, too, where only the actor speaks weights (``Algorithm.primitives``): the policy is
    ``decoded(sample(in_weights(pi, c)), c)``. Without a codec it is the Kernel itself.
    """
    if c.codec == "none":
        return part
    return shown(part, lambda spec: spec._replace(horizon=c.basis), lambda chunk: encoded(chunk, c))


def encoded(chunk: Chunk, c: ChunkConfig) -> Chunk:
    """The weights [*B, W, A] of the smooth chunk nearest to each."""
    made = codec(c.codec, c.horizon, c.basis)
    action = jnp.clip(_times(made.encode, chunk.action), -EDGE, EDGE)
    return chunk._replace(action=action, mask=chunk.mask[..., made.knots])


def decoded(policy: Policy, c: ChunkConfig) -> Policy:
    """The same policy, speaking actions [*B, H, A] where it spoke weights; see ``in_primitives`` for old plans."""
    if c.codec == "none":
        return policy
    smooth = codec(c.codec, c.horizon, c.basis)

    def plan(vars: Vars, noise, obs, old: Old | None) -> Plan:
        made = policy.plan(vars, noise, obs, None)
        action = _times(smooth.decode, made.action)
        if old is not None and c.replan == "smooth":
            apart = (old.plan.action - action)[..., :2, :] * old.left[..., 1, None, None]
            action = action + _times(smooth.shift, apart)
        return made._replace(action=jnp.clip(action, -1.0, 1.0))

    weights = f"weights of trajectories (--chunk.codec {c.codec})"
    return policy._replace(plan=plan, pulled=False, committed=0, speaks=weights)


def going_on(c: ChunkConfig) -> Callable[[Array, Array, Array], Array]:
    """(plan [*B, H, A], played [*B, H, A], k [*B]) -> the plan, moved smoothly so that it goes on at step k from the two actions played before.

    At k = 1 it goes on from one action, at 0, or without a codec, it is the plan itself. What stands before k is of no use.
    """
    if c.codec == "none":
        return lambda plan, played, k: plan
    shifts = _shifts(c.codec, c.horizon, c.basis)

    def moved(plan: Array, played: Array, k: Array) -> Array:
        before = jnp.clip(k[..., None] + jnp.asarray([-2, -1]), 0)[..., None]  # [*B, 2, 1]
        apart = jnp.take_along_axis(played - plan, before, axis=-2)  # [*B, 2, A]
        whole = plan + jnp.einsum("...hn,...na->...ha", jnp.asarray(shifts, jnp.float32)[k], apart)
        return jnp.clip(whole, -1.0, 1.0)

    return moved


@functools.cache
def _shifts(kind: str, horizon: int, size: int) -> np.ndarray:
    """[H, H, 2]: what moves the actions k - 2 and k - 1 by given numbers, and those from k on smoothly with them; 0 before."""
    m, free = _columns(kind, horizon, size)
    found = np.zeros((horizon, horizon, 2))
    for k in range(1, horizon):
        first = max(k - 2, 0)
        found[k, k:, 2 - (k - first) :] = m[k:, :free] @ np.linalg.pinv(m[first:k, :free])
    return found


def _times(m: np.ndarray, x: Array) -> Array:
    """m [n, k] times x [*B, k, A]."""
    return jnp.einsum("nk,...ka->...na", jnp.asarray(m, jnp.float32), x)
