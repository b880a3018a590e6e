"""A policy as a robot runs it. This file needs numpy and jax alone: ``qchunk export`` puts it into every file that it writes.

From Python, without qchunk::

    import sys
    sys.path.insert(0, "qc.zip")
    from policy import load

    policy = load("qc.zip")
    action = policy(obs)  # once per step of the control loop; policy.reset() before every episode

``python qc.zip`` says what the file holds and how long a decision takes on this machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import operator
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

FORMAT, VERSION = "qchunk-policy", 1
IMPL = "threefry2x32"  # how noise is drawn
SEEDS = 2**32  # how many there are
ABOUT, WEIGHTS, PROGRAMS = "about.json", "weights.npz", ("begin", "decide", "act")
BROUGHT = "lib"  # the folder, beside this file in an exported one, of the package that jax reads programs with


class Programs(NamedTuple):
    """The control loops of B robots as pure functions; ``loop`` is a list of arrays [B, ...], a row for each robot."""

    begin: Callable  # (weights, keys [B, 2] uint32, obs) -> loop, at an episode's start
    decide: Callable  # (weights, loop, obs) -> loop with a new plan
    act: Callable  # (weights, loop, i [B] int32, obs) -> action [B, A]: step i of the newest plan


class DeployedPolicy:
    """Acts step by step, as the run was evaluated: the scheme, the units and the delay are its own.

    Args:
        programs: see ``Programs``.
        weights: what they read, a list of arrays.
        about: what is known of the policy: "obs" {name: [size, type]}, "action" A, "steps" from one decision to the next,
            "length" of a plan, "delay", "bounds" of actions ({"low": [A], "high": [A]}, or None: in [-1, 1]), and whatever
            else is to be told.
        background: a delayed plan is made in a thread while the old one plays. Actions are the same; ``missed`` counts the
            plans that were not ready in time, and were waited for: by their first action, or by the next decision, which goes
            on from them.
    """

    def __init__(self, programs: Programs, weights: list, about: dict[str, Any], background: bool = False):
        if background and not about["delay"]:
            raise ValueError("a plan without a delay cannot be made in the background: load with a delay of 1 or more")
        self.programs, self.weights, self.about = programs, weights, about
        self.missed, self._episode = 0, 0
        self._pool = ThreadPoolExecutor(1) if background else None
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begins an episode: the plan and what the scheme remembers are forgotten.

        Args:
            seed: of the noise; equal seeds and observations give equal actions. By default the number of the episode.
        """
        seed = self._episode if seed is None else operator.index(seed)
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seed is {seed}: give 0 to {SEEDS - 1}")
        self._episode, self._seed, self._i = (seed + 1) % SEEDS, seed, 0
        self._loop: list | None = None
        self._pending: Future | None = None

    def __call__(self, obs: Any) -> np.ndarray:
        """The next action [A] for an observation [O], or [B, A] for those of B robots in step with each other [B, O].

        Raises:
            ValueError: an observation of other sizes, or that is not finite; another number of robots than before ``reset``.
            FloatingPointError: the policy's action is not finite.
        """
        rows, alone = self._rows(obs)
        i, steps = self._i, self.about["steps"]
        if i == 0:
            self._settle()  # where the delay is no shorter than the steps, the last plan is still under way
            self._decide(rows)
        if i == self.about["delay"]:
            self._settle()
        # while the new plan is made, the old one is played past the step at which it would have been replaced
        at = i + steps if self._pending is not None else i
        action = self._act(at, rows)
        self._i = (i + 1) % steps
        return action[0] if alone else action

    def plan(self, obs: Any) -> np.ndarray:
        """A new decision at this observation: all actions of its plan, [n, A] or [B, n, A], for a robot that plays them itself.

        Raises:
            ValueError, FloatingPointError: as in a call; also a policy with a delay, whose plans overlap.
        """
        if self.about["delay"]:
            raise ValueError("plans with a delay overlap: call the policy at every step instead")
        rows, alone = self._rows(obs)
        self._i, self._pending = 0, None
        self._loop = self.programs.decide(self.weights, self._begun(rows), rows)
        actions = np.stack([self._act(i, rows) for i in range(self.about["length"])], axis=1)
        return actions[0] if alone else actions

    def benchmark(self, batch: int = 1, repeats: int = 200) -> dict[str, float]:
        """Milliseconds of a call at which a plan is made, and of those between, for ``batch`` robots: medians and 99th percentiles.

        The policy is reset before and after.
        """
        zeros = {name: np.zeros((batch, size), kind) for name, (size, kind) in self.about["obs"].items()}
        obs = _unnamed(zeros)
        times: dict[str, list[float]] = {"decide": [], "act": []}
        self.reset()
        for n in range(10 + repeats):
            for i in range(self.about["steps"]):
                began = time.perf_counter()
                self(obs)
                if n >= 10:
                    times["act" if i else "decide"].append(1e3 * (time.perf_counter() - began))
        self.reset()
        return {
            f"{name}_{p}": float(np.percentile(found, q))
            for name, found in times.items()
            if found
            for p, q in (("p50", 50), ("p99", 99))
        }

    def _begun(self, rows: Any) -> list:
        batch = len(jax.tree.leaves(rows)[0])
        if self._loop is None:
            self._loop = self.programs.begin(self.weights, keys_of(self._seed, batch), rows)
            self._batch = batch
        if batch != self._batch:
            began = f"this episode began with {self._batch}"
            fix = "call policy.reset() to begin one with another number, or keep to that number"
            raise ValueError(f"the observation is of {batch} robot{'s' * (batch != 1)}, and {began}: {fix}")
        return self._loop

    def _decide(self, rows: Any) -> None:
        first = self._loop is None
        before = self._begun(rows)
        if self._pool is None or first:  # at an episode's start the robot waits for its first plan
            self._loop = self.programs.decide(self.weights, before, rows)
            return
        self._pending = self._pool.submit(
            lambda: jax.block_until_ready(self.programs.decide(self.weights, before, rows))
        )

    def _settle(self) -> None:
        """The plan that is being made becomes the newest."""
        if self._pending is not None:
            self.missed += not self._pending.done()
            self._loop, self._pending = self._pending.result(), None

    def _act(self, i: int, rows: Any) -> np.ndarray:
        action = self.programs.act(self.weights, self._begun(rows), np.full(self._batch, i, np.int32), rows)
        return in_units(np.asarray(action), self.about.get("bounds"))

    def _rows(self, obs: Any) -> tuple[Any, bool]:
        """The observation as leaves [B, n], and whether it was that of one robot."""
        found = fitted(obs, self.about["obs"])
        alone = next(iter(found.values())).ndim == 1
        return _unnamed({name: x[None] if alone else x for name, x in found.items()}), alone


def fitted(obs: Any, expected: Mapping[str, tuple[int, str]]) -> dict[str, np.ndarray]:
    """The leaves of an observation by name, [n] or [B, n] each, in the types that the policy takes.

    Raises:
        ValueError: what does not fit, is not finite, or is no number of a type of whole numbers.
    """
    got = _named(obs)
    if got.keys() != expected.keys():
        raise ValueError(f"the observation has {_told(got)}, and this policy sees {_told(expected)}")
    found = {}
    for name, (size, kind) in expected.items():
        x = np.asarray(got[name])
        if x.dtype.kind not in "fiub":
            raise ValueError(f"{name} is of type {x.dtype}: give numbers")
        if x.ndim not in (1, 2) or x.shape[-1] != size:
            raise ValueError(f"{name} is of shape {list(x.shape)}: give [{size}], or [B, {size}] for B robots")
        found[name] = _cast(x, kind, name)
    if len({x.shape[:-1] for x in found.values()}) > 1:
        shapes = {name: list(x.shape) for name, x in found.items()}
        raise ValueError(f"the parts of the observation are of {shapes}: give the same number of robots")
    return found


def _cast(x: np.ndarray, kind: str, name: str) -> np.ndarray:
    """The numbers in another type, which holds all of them: floats alone are rounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = x.astype(kind)
    if not (np.isfinite(x).all() and np.isfinite(found).all()):  # a cast to whole numbers makes some of any
        raise ValueError(f"{name} holds NaN or infinite numbers: do not act on it")
    if found.dtype.kind != "f" and (odd := x[found != x]).size:
        low, high = (0, 1) if found.dtype.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        image = " (an image in [0, 1]: times 255, rounded)" if kind == "uint8" else ""
        raise ValueError(f"{name} holds {odd[0]}: give whole numbers from {low} to {high}{image}")
    return found


def in_units(action: np.ndarray, bounds: Mapping[str, list] | None) -> np.ndarray:
    """Actions [..., A] in [-1, 1] between these bounds, or as they are.

    Raises:
        FloatingPointError: one is not finite.
    """
    if not np.isfinite(action).all():
        raise FloatingPointError(
            "the policy's action is not finite: stop the robot, and look at the run's last checkpoint"
        )
    if bounds is None:
        return action
    low, high = (np.asarray(bounds[name]) for name in ("low", "high"))
    return (low + (action + 1.0) / 2.0 * (high - low)).astype(action.dtype)


def keys_of(seed: int, robots: int) -> np.ndarray:
    """The noise of an episode: [robots, 2] uint32, a row for each, the same however many there are."""
    key = jax.random.key(seed, impl=IMPL)
    rows = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(robots))
    return np.asarray(jax.random.key_data(rows))


def load(path: Any, background: bool = False) -> DeployedPolicy:
    """The policy of a file that ``qchunk export`` has written.

    Raises:
        ValueError: it is none, is damaged, or was made for other devices than this machine has.
    """
    about, files = opened(path)
    if importlib.util.find_spec("flatbuffers") is None:  # jax does not bring it along
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), BROUGHT))
    platform = jax.default_backend()
    name = {"gpu": "cuda"}.get(platform, platform)
    if name not in about["platforms"]:
        raise ValueError(f"{path} runs on {', '.join(about['platforms'])}, and here is {name}: export it for that, too")
    try:
        with np.load(io.BytesIO(files[WEIGHTS]), allow_pickle=False) as z:
            weights = [jax.numpy.asarray(z[f"{i:05d}"]) for i in range(len(z.files))]
        programs = Programs(*(jax.jit(jax.export.deserialize(bytearray(files[n])).call) for n in PROGRAMS))
    except ImportError:  # of flatbuffers
        raise
    except Exception as e:  # of numpy, zipfile and jax, by what is in the file
        raise ValueError(f"{path} is no whole file of qchunk export ({type(e).__name__})") from e
    return DeployedPolicy(programs, weights, about, background)


def opened(path: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(what is known of an exported policy, its files by name), every byte checked.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as z:
            files = {name: z.read(name) for name in z.namelist()}
        about = json.loads(files[ABOUT])
        if about["format"] != FORMAT or about["version"] != VERSION:
            raise ValueError(
                f"{path} is of format {about['format']} version {about['version']}, not {FORMAT} {VERSION}"
            )
        mark, kept = about["fingerprint"], about.get("seal")
    except (zipfile.BadZipFile, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is no whole file of qchunk export ({type(e).__name__})") from e
    if fingerprint(files) != mark:
        raise ValueError(f"{path} is damaged: it does not match its fingerprint {mark}")
    if kept not in (None, seal(about)):  # files of before have none
        raise ValueError(f"{path} is damaged: what {ABOUT} says has changed")
    if not _acts(about):
        raise ValueError(f"{path} is damaged: nobody can act by what {ABOUT} says")
    return about, files


def seal(about: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of what is said about an artefact: its units, sizes and scheme."""
    text = json.dumps({name: value for name, value in about.items() if name != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _acts(about: Mapping[str, Any]) -> bool:
    """Whether the sizes, the steps and the units are those of some policy."""
    try:
        least = {"action": 1, "steps": 1, "length": 1, "delay": 0}
        numbers = [(about[name], low) for name, low in least.items()]
        numbers += [(size, 0) for size, _ in about["obs"].values()]
        units = [about["bounds"][name] for name in ("low", "high")] if about["bounds"] else []
        return (
            all(type(n) is int and n >= low for n, low in numbers)
            and all(np.dtype(kind).kind in "fiub" for _, kind in about["obs"].values())
            and all(len(x) == about["action"] and np.isfinite(x).all() for x in units)
            and type(about["platforms"]) is list
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def fingerprint(files: Mapping[str, bytes]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an artefact's files, but for what is said about them."""
    h = hashlib.sha256()
    for name in sorted(set(files) - {ABOUT}):
        h.update(f"{name} {len(files[name])} ".encode())
        h.update(files[name])
    return h.hexdigest()[:16]


# as in qchunk.trees, which is not there where this file is alone
def _named(tree: Any, root: str = "obs") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {root: tree}
    return {name: leaf for key in sorted(tree) for name, leaf in _named(tree[key], f"{root}/{key}").items()}


def _unnamed(leaves: Mapping[str, Any], root: str = "obs") -> Any:
    if root in leaves:
        return leaves[root]
    below = [name[len(root) + 1 :].split("/")[0] for name in leaves if name.startswith(f"{root}/")]
    return {key: _unnamed(leaves, f"{root}/{key}") for key in dict.fromkeys(below)}


def _told(leaves: Mapping[str, Any]) -> str:
    few = sorted(leaves)[:20]
    return ", ".join([*few, "..."] if len(leaves) > len(few) else few) or "nothing"


def main() -> None:
    """Says what a file holds, and what a decision takes here."""
    policy = load(sys.argv[0])
    print(json.dumps(policy.about, indent=1))
    print(", ".join(f"{name} {ms:.2f} ms" for name, ms in policy.benchmark().items()))


if __name__ == "__main__":
    main()
