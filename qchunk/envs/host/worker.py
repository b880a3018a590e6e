"""A process that steps host environments for ``host.Pool``: ``python -m qchunk.envs.host.worker FD DESCRIPTION``.

A fresh interpreter without jax; it may be another one, which has numpy and the simulator only. Messages are an operation byte
and a float64 matrix; nothing is pickled. A reply is ``b"+"`` and, to the first three, a row ``[obs (O), reward, terminal,
truncation, success]`` for each slot asked for (``S``: for each of its k steps, one slot after the other), or ``b"-"`` and JSON
(``failures.of``): the environment itself raised. The leaves of a dictionary of observations follow one another in a row
(``trees.named``); float64 holds every one of theirs exactly.

==  ============================================  ==================================================
op  matrix                                        does
==  ============================================  ==================================================
R   [n, 2] slot, seed                             starts episodes
S   [n, 1 + k A] slot, k actions in [-1, 1]       steps; after an episode's end its last row again
P   [n, 1 + A]; the first row is slot, seed       starts an episode and plays n - 1 actions
E   [n, 1] slot                                   says what the environment's expert would do, [n, A]
D   [0, 0]                                        says what environment it is, as JSON (``described``)
V   [n, 1 + A]; the first row's second is a seed  draws an episode; a row's first: whether it is drawn
==  ============================================  ==================================================
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import math
import os
import platform
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from qchunk import trees
from qchunk.envs.host import failures
from qchunk.system import processes
from qchunk.system.errors import unknown
from qchunk.system.stopping import SIGNALS

DEFAULT_LIMIT = 1000  # steps of an episode, where the environment is registered without a limit
EXTRA = 4  # reward, terminal, truncation, success
ENDED = slice(-3, -1)  # where a row says whether the episode has
SUCCESS = ("success", "is_success")  # the keys of ``info`` that speak of success, the first one first
UNKNOWN = -1.0  # a step that does not
REGISTER = ("gymnasium_robotics",)  # packages whose environments are known by their ids alone, where they are installed
NUMBERS = frozenset((bool, int, float, np.bool_, np.float32, np.float64))
PACKAGES = ("numpy", "gymnasium", "mujoco", "metaworld", "robosuite", "gymnasium-robotics")  # whose versions matter


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps warnings, such as on the precision of a space's bounds, from users, who can do nothing about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_number(x: Any, what: str) -> float:
    """A number, or the only one of an array such as [-1.0].

    Raises:
        ValueError: it is none.
    """
    if type(x) in NUMBERS:  # nearly always
        return float(x)
    found = np.asarray(x)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise ValueError(f"its {what} is {x!r}, which is not one number")
    return float(found.reshape(()))


def holds_bytes(x: Any) -> bool:
    """Whether all is whole and in 0 ... 255, whatever type it comes in: what is not would become some other byte."""
    x = np.asarray(x)
    return x.dtype == np.uint8 or bool(((x >= 0) & (x <= 255) & (x == np.trunc(x))).all())  # False for NaN


def flag(x: Any, what: str) -> bool:
    """Whether something is so. Raises ValueError where it is not one number, or none at all."""
    found = one_number(x, what)
    if math.isnan(found):
        raise ValueError(f"its {what} is not a number")
    return bool(found)


class One:
    """One gymnasium environment with actions in [-1, 1] and flat observations, or dictionaries of them.

    Where the description says how many ``goals`` there are, they are OGBench's: the episode of a seed has the one of this number
    modulo theirs, and observations are {"state": ..., "goal": ...}.

    ``like``, from the first reset on: zeros in the place of an observation, boxes of uint8 in uint8, all else in float32.

    Raises:
        ValueError: its actions are no bounded box, or its observations cannot be flattened.
        UserError: no such id is registered; the nearest ones are offered.
    """

    def __init__(self, description: dict[str, Any]):
        import gymnasium

        for module in description["modules"]:
            importlib.import_module(module)
        with hushed():
            check_id(description["id"])
            self.env = gymnasium.make(description["id"], disable_env_checker=True, **description["kwargs"])
            box, space = self.env.action_space, self.env.observation_space
        processes.hush_mujoco()
        if not isinstance(box, gymnasium.spaces.Box):
            raise ValueError(f"{description['id']} has the actions {box}, no continuous ones")
        if not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
            raise ValueError(f"{description['id']} has unbounded actions")
        self.shape, self.type = box.shape, np.dtype(box.dtype)
        low, high = box.low.astype(np.float64).ravel() / 2, box.high.astype(np.float64).ravel() / 2
        self.centre, self.half = low + high, high - low  # halved before: the sum of huge bounds is infinite
        if not space.is_np_flattenable:
            raise ValueError(f"{description['id']} has the observations {space}, which do not flatten to a vector")
        self._is_tree = isinstance(space, gymnasium.spaces.Dict)
        self._spaces = trees.named(trees.unnamed(trees.named(space)))  # twice: a name may hold a slash
        self._flatten, self._box = gymnasium.spaces.flatten, gymnasium.spaces.Box
        flat = gymnasium.spaces.Box, gymnasium.spaces.MultiBinary  # of these, what has one axis is flat
        self._leaves = [
            (n, s, isinstance(s, flat) and len(s.shape) == 1, (gymnasium.spaces.flatdim(s),))
            for n, s in self._spaces.items()
        ]
        self.like: Any = None
        spec = self.env.spec
        own = (spec.max_episode_steps if spec else None) or DEFAULT_LIMIT
        self.limit = min(own, description.get("limit", own))
        self.sparse, self.goals = bool(description["sparse"]), description.get("goals", 0)
        self.goal: Any = None
        self.steps, self.ended = 0, False

    def reset(self, seed: int) -> np.ndarray:
        """Row of an episode's start; the same seed gives the same start."""
        more = {"options": {"task_id": 1 + seed % self.goals}} if self.goals else {}
        with hushed():
            obs, info = self.env.reset(seed=seed, **more)
        self.steps, self.goal = 0, info.get("goal")
        return self._row(obs, 0.0, False, False, info)

    def step(self, action: np.ndarray) -> np.ndarray:
        """Row of the step taken by an action [A] in [-1, 1]."""
        return self.play(action[None])[0]

    def play(self, actions: np.ndarray) -> list[np.ndarray]:
        """A row for each of the actions [k, A], taken until the episode ends; then its last row again.

        The limit, if the environment has none, is ours.
        """
        near = np.minimum(np.maximum(actions, -1.0), 1.0)  # np.clip takes twice as long
        units = self.centre + self.half * near
        units = np.rint(units) if self.type.kind in "iu" else units
        rows: list[np.ndarray] = []
        for own in units.reshape(-1, *self.shape).astype(self.type):
            if rows and self.ended:
                rows.append(rows[-1])
                continue
            self.steps += 1
            obs, reward, terminal, truncation, info = self.env.step(own)
            if self.sparse:
                reward = -1.0 if one_number(reward, "reward") != 0 else 0.0
            rows.append(self._row(obs, reward, terminal, truncation or self.steps >= self.limit, info))
        return rows

    def expert(self) -> np.ndarray:
        """The action [A] in [-1, 1] that the environment's own expert (its method ``expert``) takes now."""
        own = np.asarray(self.env.unwrapped.expert(), np.float64).ravel()
        half = np.where(self.half > 0, self.half, 1.0)  # an action without a range is its centre
        return np.clip((own - self.centre) / half, -1.0, 1.0)

    def _row(self, obs: Any, reward: Any, terminal: Any, truncation: Any, info: dict) -> np.ndarray:
        parts = trees.named(obs) if self._is_tree else {"obs": obs}
        found = [self._flat(parts[name], *leaf) for name, *leaf in self._leaves]
        if self.goals:
            found = [np.asarray(self.goal, np.float64).ravel(), *found]
        if self.like is None:
            images = {n for n, s in self._spaces.items() if s.dtype == np.uint8}
            leaves = ("obs/goal", "obs/state") if self.goals else tuple(self._spaces)
            types = [np.uint8 if n in images else np.float32 for n in leaves]
            self.like = trees.unnamed({n: np.zeros(x.shape, t) for n, x, t in zip(leaves, found, types, strict=True)})
        terminal, truncation = (flag(x, n) for x, n in ((terminal, "terminated"), (truncation, "truncated")))
        self.ended = terminal or truncation
        told = (one_number(reward, "reward"), terminal, self.ended and not terminal, _success(info))
        return np.concatenate((*found, told))

    def _flat(self, x: Any, space: Any, is_flat: bool, shape: tuple[int]) -> np.ndarray:
        if space.dtype == np.uint8 and not holds_bytes(x):
            raise ValueError(f"an observation holds what is no byte, and its space {space} says uint8")
        if not is_flat:  # gymnasium would cast what lies in a box: NaN would become a number
            x = np.ravel(x) if isinstance(space, self._box) else self._flatten(space, x)
        flat = np.asarray(x, np.float64)
        if flat.shape != shape:
            raise ValueError(
                f"an observation has the shape {np.shape(x)}, and its space {space} says {shape[0]} numbers"
            )
        return flat

    def close(self) -> None:
        """Ends the environment."""
        self.env.close()


def _success(info: dict) -> float:
    """1 or 0 where a step speaks of success, else UNKNOWN, as where it says NaN or None."""
    for name in SUCCESS:
        if info.get(name) is not None and not math.isnan(value := one_number(info[name], f"info[{name!r}]")):
            return float(value > 0)
    return UNKNOWN


def check_id(name: str) -> None:
    """Refuses an id that no package here registers. ``module:ID`` is left to gymnasium, which imports the module.

    Raises:
        UserError: offers the nearest ids.
    """
    import gymnasium

    if ":" in name:
        return
    for module in REGISTER:
        if name not in gymnasium.registry:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    if name not in gymnasium.registry:
        raise unknown("environment", f"gymnasium/{name}", [f"gymnasium/{k}" for k in gymnasium.registry])


def started(one: One, seed: int) -> np.ndarray:
    """Starts an episode; environments that draw from Python's or numpy's global generator are seeded too, in this process only."""
    random.seed(seed)
    np.random.seed(seed)
    return one.reset(seed)


def described(description: dict[str, Any]) -> dict[str, Any]:
    """What environment it is, as JSON holds it.

    ``obs``: size and type of every leaf; ``action``: A; ``limit`` in steps; ``success`` and ``expert``: whether a step was heard to
    speak of success, and whether it has an expert of its own; ``versions`` of Python and of the packages that decide what it does.

    Raises:
        Failed: it cannot be made, or stepped.
    """
    with failures.at("made"), contextlib.redirect_stdout(io.StringIO()):
        one = One(description)
    with contextlib.closing(one), failures.at("stepped"):
        one.reset(0)
        success = one.step(np.zeros(len(one.half)))[-1] != UNKNOWN
        leaves = {name: (leaf.size, str(leaf.dtype)) for name, leaf in trees.named(one.like).items()}
        found = {"obs": leaves, "action": len(one.half), "limit": one.limit, "success": bool(success)}
        return {**found, "expert": callable(getattr(one.env.unwrapped, "expert", None)), "versions": versions()}


def versions() -> dict[str, str]:
    """Of Python, and of those ``PACKAGES`` that are here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def drawn(description: dict[str, Any], m: np.ndarray) -> np.ndarray:
    """Pictures [n, height, width, 3] uint8 of the moments of an episode that are to be drawn; [0, 0, 0, 0] where it draws none.

    Args:
        m: see the table above.

    Raises:
        Failed: it cannot be made, or drawn.
    """
    with failures.at("made"):
        one = One(description)
    with contextlib.closing(one), failures.at("drawn"):
        started(one, int(m[0, 1]))
        frames = [one.env.render()] if m[0, 0] else []
        for row in m[1:]:
            one.step(row[1:])
            frames += [one.env.render()] if row[0] else []
        return np.asarray(frames, np.uint8) if np.ndim(frames[0]) == 3 else np.zeros((0, 0, 0, 0), np.uint8)


def answer(slots: dict[int, One], op: bytes, m: np.ndarray, description: dict) -> bytes:
    """What a message asks for. Environments are made when first needed."""
    if op == b"D":
        return json.dumps(described(description)).encode()
    if op == b"V":
        pictures = drawn(description, m)
        return np.asarray(pictures.shape, np.int64).tobytes() + pictures.tobytes()
    return np.ascontiguousarray(rows_of(slots, op, m, description)).tobytes()


def rows_of(slots: dict[int, One], op: bytes, m: np.ndarray, description: dict) -> np.ndarray:
    """The rows of the operations on slots."""
    for slot in {int(s) for s in (m[:1] if op == b"P" else m)[:, 0]} - slots.keys():
        slots[slot] = One(description)
    if op == b"R":
        return np.stack([started(slots[int(slot)], int(seed)) for slot, seed in m])
    if op == b"S":
        asked = ((slots[int(x[0])], x[1:]) for x in m)
        return np.stack([row for one, x in asked for row in one.play(x.reshape(-1, len(one.half)))])
    if op == b"E":
        return np.stack([slots[int(x[0])].expert() for x in m])
    one = slots[int(m[0, 0])]
    row = started(one, int(m[0, 1]))
    for action in m[1:, 1:]:
        row = one.step(action)
    return row[None]


def serve(pipe: Connection, description: dict[str, Any]) -> None:
    """Answers until the other end is closed."""
    slots: dict[int, One] = {}
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            message = pipe.recv_bytes()
            op, shape = message[:1], np.frombuffer(message, np.int64, 2, offset=8)
            m = np.frombuffer(message, np.float64, offset=24).reshape(shape)
            try:
                reply = b"+" + answer(slots, op, m, description)
            except Exception as e:  # the environment's own error: told, and the parent decides
                reply = b"-" + json.dumps(failures.of(e)).encode()
            pipe.send_bytes(reply)


def main() -> None:
    """Signals to stop are the parent's business: it closes the pipe. What environments print, from C too, goes to stderr."""
    for number in SIGNALS:  # a terminal and Slurm send them to every process
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr
    serve(Connection(int(sys.argv[1])), json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
