"""Host environments: gymnasium simulators stepped by worker processes, many at a time.

A pool is a set of slots, each with one environment. Its state is data: observations, and the open episodes' seeds and
actions, from which any slot is rebuilt to the same bits. That is how a dead or hanging worker is replaced, and how a run
resumes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

import jax
import numpy as np

from qchunk import trees
from qchunk.envs.host import failures, link, worker
from qchunk.envs.host.link import START_SECONDS, Worker
from qchunk.system import processes
from qchunk.system.errors import UserError
from qchunk.types import PyTree

STEP_SECONDS = 60.0  # a step that takes longer hangs; of several that were asked for at once each may take so long
AT_ONCE = 8  # actions that a worker is asked for at once: more gain little, and a hang is noticed the later
LEARNED_FROM = ("train", "collect")  # pools whose experience is kept
TRIES = 3  # replacements of one worker for one request, before the run stops


class HostState(NamedTuple):
    """E slots, as numpy arrays. ``actions`` is a log: rows from ``steps`` on mean nothing."""

    obs: PyTree  # [E, O] float32; images uint8
    reward: np.ndarray  # [E]
    terminal: np.ndarray  # [E] 1.0 where the environment ended by itself
    truncation: np.ndarray  # [E] 1.0 where only a limit ended it
    success: np.ndarray  # [E] 1 or 0; worker.UNKNOWN where the step does not speak of it
    done: np.ndarray  # [E] 1.0 where the episode has ended
    seed: np.ndarray  # [E] int32, of the open episode
    steps: np.ndarray  # [E] int32, taken in it
    actions: np.ndarray  # [E, limit, A] float32, taken in it


def nothing(envs: int, obs: PyTree, action: int, limit: int) -> HostState:
    """A state in which every slot has ended.

    Args:
        obs: a tree of sizes, or of observations' leaves [O].
    """
    zero, one, whole = np.zeros(envs, np.float32), np.ones(envs, np.float32), np.zeros(envs, np.int32)
    log = np.zeros((envs, limit, action), np.float32)
    like = jax.tree.map(lambda x: np.zeros(x, np.float32) if isinstance(x, int) else x, obs)
    blank = jax.tree.map(lambda x: np.zeros((envs, *x.shape), x.dtype), like)
    return HostState(blank, zero, zero, zero, zero, one, whole, whole, log)


class HostEnv:
    """A gymnasium environment by its id: sizes, and pools that step it.

    Args:
        name: ours, such as ``gymnasium/Pendulum-v1``.
        description: ``id``, ``kwargs`` of gymnasium.make, ``modules`` to import first, ``sparse`` (reward -1 unless 0),
            ``limit`` in steps.
        data_name: what a data set for it is called.
        python: another interpreter that it is in: a worker there is asked what environment it is, and nothing is made here.

    Raises:
        UserError: gymnasium is missing or cannot make it, or its actions are no bounded box.
    """

    def __init__(self, name: str, description: dict[str, Any], data_name: str | None = None, python: str = ""):
        self.name, self.data_name, self.python = name, data_name or name, python
        self.description = {"kwargs": {}, "modules": [], "sparse": False, **description}
        found = self._described()
        like = {leaf: np.zeros(size, kind) for leaf, (size, kind) in found["obs"].items()}
        self.no_obs = trees.unnamed(like)  # zeros in the place of an observation
        self.action_size = int(found["action"])
        self.observation_size = trees.sizes(self.no_obs)
        self.episode_length = int(found["limit"])
        # whether it was ever heard to speak of success; pools listen on, for some only do where it is reached
        self.has_success, self.has_expert = bool(found["success"]), bool(found["expert"])
        self.versions: dict[str, str] = found["versions"] if python else {}  # of the other interpreter
        self._pools: dict[str, Pool] = {}

    def _described(self) -> dict[str, Any]:
        if self.python:
            return json.loads(link.asked(self.name, self.description, self.python, b"D", np.zeros((0, 0))))
        with self._told():
            return worker.described(self.description)

    def instance(self) -> worker.One:
        """The environment in this process."""
        with self._told(), failures.at("made"), contextlib.redirect_stdout(io.StringIO()):
            return worker.One(self.description)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever the environment raises inside, as a UserError of one line."""
        try:
            yield
        except failures.Failed as e:
            raise failures.error(failures.of(e), self.name) from e

    def drawn(self, kwargs: dict[str, Any], seed: int, actions: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Pictures [n, height, width, 3] uint8 of an episode played again, drawn by a worker process.

        Args:
            kwargs: of gymnasium.make, besides its own.
            seed: of its start.
            actions: [L, A] that it is played by.
            shown: [L + 1] whether each moment, the start first, is drawn; the start is.

        Raises:
            UserError: it cannot be drawn.
        """
        m = np.zeros((1 + len(actions), 1 + self.action_size))
        m[:, 0], m[0, 1], m[1:, 1:] = shown, seed, actions
        described = {**self.description, "kwargs": {**self.description["kwargs"], **kwargs}}
        answer = link.asked(self.name, described, self.python, b"V", m)
        frames = np.frombuffer(answer, np.uint8, offset=32).reshape(np.frombuffer(answer, np.int64, 4))
        if not len(frames):
            raise UserError(
                f"{self.name} draws no pictures", "render an environment that has the render mode rgb_array"
            )
        return frames

    def nothing(self, envs: int) -> HostState:
        """The state of ``envs`` slots before their first episode."""
        return nothing(envs, self.no_obs, self.action_size, self.episode_length)

    def split(self, rows: np.ndarray) -> tuple[PyTree, np.ndarray]:
        """The workers' rows [n, O + 4] as observations [n, O] and the rest [n, 4]."""
        leaves, at = {}, 0
        for name, like in trees.named(self.no_obs).items():
            leaves[name] = rows[:, at : at + like.size].astype(like.dtype)
            at += like.size
        return trees.unnamed(leaves), rows[:, at:]

    def pool(self, use: str, envs: int) -> Pool:
        """The pool for a use ("train", "evaluate"), kept between calls; with ``envs`` slots."""
        if use in self._pools and (self._pools[use].envs != envs or not self._pools[use].workers):
            self._pools.pop(use).close()
        if use not in self._pools:
            self._pools[use] = Pool(self, envs, strict=use in LEARNED_FROM)
        return self._pools[use]

    def limited(self, limit: int) -> HostEnv:
        """The same environment with episodes of at most ``limit`` steps."""
        other = copy.copy(self)
        other.description = {**self.description, "limit": limit}
        other.episode_length, other._pools = min(limit, self.episode_length), {}
        return other

    def close(self) -> None:
        """Ends every process."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


class Pool:
    """E slots of one environment in W processes; slot e is worker e % W's.

    Every method takes and returns a HostState, the newest one: the simulators have moved on from older ones. A worker that
    dies, or does not answer in time, is reported on stderr by name and replaced; its open episodes are replayed.

    Args:
        workers: W; by default one per processor.
        strict: whether observations and rewards that are not finite in float32 end the run. Where nothing is learned
            from them they are handed on, and so are seen in the figures.

    Raises:
        UserError: the environment itself raised, or a worker failed again and again.
    """

    def __init__(
        self,
        env: HostEnv,
        envs: int,
        workers: int | None = None,
        seconds: float = STEP_SECONDS,
        strict: bool = False,
    ):
        self.env, self.envs, self.seconds, self.strict = env, envs, seconds, strict
        self.width = trees.total(env.observation_size) + worker.EXTRA
        self.workers = [self._start(w) for w in range(min(envs, workers or processes.cores()))]

    def _start(self, w: int) -> Worker:
        return Worker(f"worker {w} of {self.env.name}", self.env.description, self.env.python)

    def nothing(self) -> HostState:
        """The state before the first episode: every slot has ended."""
        return self.env.nothing(self.envs)

    def begin(self, state: HostState, which: np.ndarray, seeds: np.ndarray) -> HostState:
        """Starts an episode with ``seeds`` [E] in the slots where ``which`` [E] is set."""
        slots = np.flatnonzero(which)
        if not len(slots):
            return state
        asked = np.stack([slots, seeds[slots]], axis=1)
        state = state._replace(done=np.where(which, np.float32(1), state.done))  # not to be replayed
        rows = self._ask(b"R", asked, state)
        seed = state.seed.copy()
        seed[slots] = seeds[slots]
        return self._written(state._replace(seed=seed), slots, rows[None], np.zeros((1, len(slots)), int))[0]

    def step(self, state: HostState, action: np.ndarray, which: np.ndarray) -> HostState:
        """``play`` of one ``action`` [E, A]."""
        return self.play(state, np.asarray(action)[None], which)[0]

    def play(self, state: HostState, actions: np.ndarray, which: np.ndarray) -> list[HostState]:
        """``actions`` [k, E, A], one after the other, in the slots where ``which`` [E] is set; one that ends rests from there on.

        A worker is asked once for up to ``AT_ONCE`` of them. An action that is not finite never reaches a simulator, which takes a step of zeros;
        the step's reward is NaN.

        Returns:
            the states after each of the k steps.
        """
        slots, k = np.flatnonzero(which), len(actions)
        if not len(slots):
            return [state] * k
        if k > AT_ONCE:
            first = self.play(state, actions[:AT_ONCE], which)
            return first + self.play(first[-1], actions[AT_ONCE:], which & (first[-1].done == 0))
        actions = np.asarray(actions, np.float32)[:, slots]
        sound = np.logical_and.reduce(np.isfinite(actions), axis=2)
        actions = np.where(sound[..., None], np.clip(actions, -1.0, 1.0), np.float32(0))
        asked = [slots[:, None], np.moveaxis(actions, 0, 1).reshape(len(slots), -1)]
        rows = self._ask(b"S", np.concatenate(asked, axis=1), state, times=k).reshape(len(slots), k, -1)
        rows = np.moveaxis(rows, 1, 0)
        taken = np.ones(sound.shape, bool)  # [k, n] no more once the episode has ended
        taken[1:] = np.logical_and.accumulate((rows[:-1, :, worker.ENDED] == 0).all(axis=2), axis=0)
        made = np.cumsum(taken, axis=0)
        before, (i, j) = state.steps[slots], np.nonzero(taken)
        state.actions[slots[j], before[j] + i] = actions[i, j]
        found = self._written(state, slots, rows, before + made)
        if not sound.all():  # no fault of the environment's: after its rewards were checked
            for now, fine in zip(found, np.take_along_axis(sound, made - 1, axis=0), strict=True):
                now.reward[slots[~fine]] = np.nan
        return found

    def expert(self, state: HostState) -> np.ndarray:
        """What the environment's own expert would do in each open episode: actions [E, A] in [-1, 1], zeros elsewhere."""
        actions, slots = np.zeros((self.envs, self.env.action_size), np.float32), np.flatnonzero(state.done == 0)
        if len(slots):
            actions[slots] = self._ask(b"E", slots[:, None], state, self.env.action_size)
        return actions

    def restore(self, state: HostState) -> None:
        """Brings the simulators to ``state`` by replaying its open episodes.

        Raises:
            UserError: they come out elsewhere, as under another version of the simulator.
        """
        for slot in np.flatnonzero(state.done == 0):
            w = self.workers[slot % len(self.workers)]
            with self._whole():
                row = self._replay(w, state, slot)
            again, kept = self.env.split(row[None])[0], jax.tree.map(lambda x: x[slot], state.obs)
            if not all(jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(a[0], b), again, kept))):
                raise UserError(
                    f"an open episode of {self.env.name} does not replay to the same state",
                    "resume with the versions that the run's config.json names",
                )

    def _replay(self, w: Worker, state: HostState, slot: int) -> np.ndarray:
        taken = state.actions[slot, : state.steps[slot]]
        m = np.zeros((1 + len(taken), 1 + self.env.action_size))
        m[0, :2], m[1:, 1:] = (slot, state.seed[slot]), taken
        w.send(b"P", m)
        return self._answers([w], START_SECONDS, self._fail)[w]

    def _ask(self, op: bytes, m: np.ndarray, state: HostState, width: int | None = None, times: int = 1) -> np.ndarray:
        """The answers [n, times (O + 4)], or [n, width], to the rows of ``m``, whose first column is the slot."""
        owner = m[:, 0].astype(int) % len(self.workers)
        rows = np.empty((len(m), width or self.width * times))
        waiting = {self.workers[w]: owner == w for w in np.unique(owner)}
        for w, mine in waiting.items():
            w.send(op, m[mine])

        def again(w: Worker, why: str) -> Worker:
            new = self._replace(w, why, state)
            waiting[new] = waiting.pop(w)
            new.send(op, m[waiting[new]])
            return new

        seconds = self.seconds * times if op == b"S" else START_SECONDS
        with self._whole():
            for w, answer in self._answers(list(waiting), seconds, again).items():
                rows[waiting[w]] = answer.reshape(-1, rows.shape[1])
        return rows

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """A request that is not answered to the end (Ctrl-C, an error) ends the pool: the next one would read its answers."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _answers(
        self, waiting: list[Worker], seconds: float, failed: Callable[[Worker, str], Worker]
    ) -> dict[Worker, np.ndarray]:
        """One answer of each worker, flat; ``failed`` gives the replacement, which has been asked again, of a lost one."""
        found: dict[Worker, np.ndarray] = {}
        tries: Counter[str] = Counter()
        until = time.monotonic() + seconds
        while waiting:
            ready = connection.wait([w.pipe for w in waiting], max(0.0, until - time.monotonic()))
            for w in [w for w in waiting if w.pipe in ready or not ready]:
                waiting.remove(w)
                try:
                    if not ready:
                        raise TimeoutError(f"did not answer in {seconds:g} s")
                    found[w] = self._read(w)
                except (EOFError, OSError) as e:
                    late = isinstance(e, TimeoutError)
                    tries[w.name] += 1
                    why = str(e) if late else f"died{w.last_words()}"
                    if tries[w.name] > TRIES:
                        self._fail(w, why)
                    waiting.append(failed(w, why))
                    until = time.monotonic() + seconds
        return found

    def _read(self, w: Worker) -> np.ndarray:
        answer = w.pipe.recv_bytes()
        if answer[:1] == b"-":
            told = json.loads(answer[1:])["told"]
            raise UserError(f"{w.name}: the environment raised {told}", "fix the environment")
        return np.frombuffer(answer[1:], np.float64)

    def _fail(self, w: Worker, why: str) -> Worker:
        self.close()
        raise UserError(f"{w.name} {why}, again and again", "fix the environment, then go on with --resume")

    def _replace(self, w: Worker, why: str, state: HostState) -> Worker:
        """A new worker with the lost one's open episodes."""
        print(f"{w.name} {why}; it is replaced and its open episodes are replayed", file=sys.stderr, flush=True)
        w.end()
        i = self.workers.index(w)
        self.workers[i] = self._start(i)
        for slot in range(i, self.envs, len(self.workers)):
            if state.done[slot] == 0:
                self._replay(self.workers[i], state, slot)
        return self.workers[i]

    def _written(self, state: HostState, slots: np.ndarray, rows: np.ndarray, steps: np.ndarray) -> list[HostState]:
        """The k states in which ``slots`` [n] show the workers' rows [k, n, O + 4] at these ``steps`` [k, n] of their episodes."""
        k, n = steps.shape
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            obs, rest = self.env.split(rows.reshape(k * n, -1))
            rest = rest.astype(np.float32)
        if self.strict:
            self._check(state.seed[slots], steps, {**trees.named(obs), "reward": rest[:, 0]})
        self.env.has_success |= bool((rest[:, -1] != worker.UNKNOWN).any())

        def put(old: np.ndarray, values: np.ndarray) -> np.ndarray:
            out = np.repeat(old[None], k, axis=0)
            out[:, slots] = values.reshape(k, n, *values.shape[1:])
            return out

        seen = jax.tree.map(put, state.obs, obs)
        told = dict(zip(("reward", "terminal", "truncation", "success"), rest.T, strict=True))
        now = {name: put(getattr(state, name), x) for name, x in told.items()}
        now |= {"done": put(state.done, np.maximum(rest[:, 1], rest[:, 2])), "steps": put(state.steps, steps.ravel())}
        at = lambda i: {"obs": jax.tree.map(lambda x: x[i], seen), **{name: x[i] for name, x in now.items()}}  # noqa: E731
        return [state._replace(**at(i)) for i in range(k)]

    def _check(self, seeds: np.ndarray, steps: np.ndarray, shown: dict[str, np.ndarray]) -> None:
        """Refuses what no policy can learn from.

        ``seeds`` [n] and ``steps`` [k, n] are the episodes', the leaves of ``shown`` are [k * n, ...].

        Raises:
            UserError: names the environment, what is not finite and the step.
        """
        bad = {name: ~np.isfinite(x.reshape(steps.size, -1)).all(axis=1) for name, x in shown.items()}
        if np.any(list(bad.values())):
            first, name = min((int(x.argmax()), name) for name, x in bad.items() if x.any())
            i, j = divmod(first, len(seeds))
            self.close()
            where = f"step {steps[i, j]} of the episode from seed {seeds[j]}"
            fix = "fix the environment: training needs finite numbers"
            raise UserError(f"{self.env.name}: its {name} is not finite in float32 at {where}", fix)

    def close(self) -> None:
        """Ends every process. A parent that is killed takes them along: their pipes close."""
        for w in self.workers:
            w.end()
        self.workers = []
