"""A policy for many robots at once, over websockets, as openpi's clients speak.

Requests that wait together are answered by one call of the policy. A connection is a robot in an episode of its own: what it is
answered does not depend on the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import http
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from qchunk.deploy.standalone import SEEDS, DeployedPolicy, fitted, in_units, keys_of
from qchunk.deploy.wire import packed, unpacked
from qchunk.system import stopping
from qchunk.trees import named, unnamed

COMMANDS = ("reset", "seed", "period")  # what a request may hold besides the observation
KEPT = 10_000  # latencies that quantiles are of
SHOWN = 300  # letters of a line of the log
# how websockets end a connection over a frame: no websocket's, no text, too large
BROKEN = (1002, 1007, 1009)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may ask of a server."""

    clients: int = 64  # connections at a time
    batch: int = 16  # requests answered by one call
    frame: int = 2**20  # bytes of a request
    idle: float = 60.0  # seconds without a request, or with an answer that is not read, after which a connection ends
    key: str = ""  # what clients must send as "Authorization: Api-Key KEY"
    lines: int = 10  # of the log in a second


@dataclasses.dataclass
class Robot:
    """Where a connection stands in its episode."""

    name: str = ""  # its address
    seed: int = 0
    i: int = 0  # the step of its plan
    loop: list | None = None  # a row of ``Programs``' loop
    episodes: int = 1
    period: float = np.inf  # seconds within which it needs its answers, once it has said so

    def reset(self, seed: int | None) -> None:
        """Begins an episode."""
        self.seed, self.i, self.loop = self.episodes if seed is None else seed, 0, None
        self.episodes = (self.seed + 1) % SEEDS


@dataclasses.dataclass
class Job:
    """A request that waits."""

    robot: Robot
    obs: dict[str, np.ndarray]  # [n] each
    began: float
    answer: asyncio.Future


class PolicyServer:
    """Answers observations with actions.

    Args:
        policy: whose programs are called; its own episode is not touched.
        by_step: an answer is the next action [1, A] of a robot that asks at every step, by any scheme; else all the
            actions [n, A] of a new plan, which the robot plays itself.
    """

    def __init__(self, policy: DeployedPolicy, by_step: bool = False, limits: Limits = Limits()):
        if policy.about["delay"] and not by_step:
            raise ValueError("plans with a delay overlap: answer step by step")
        self.policy, self.by_step, self.limits = policy, by_step, limits
        self.waiting: asyncio.Queue[Job] = asyncio.Queue()
        self.latencies: deque[float] = deque(maxlen=KEPT)
        self.counts = {"requests": 0, "refused": 0, "missed_deadlines": 0, "clients": 0, "batches": 0}
        self.logged: deque[float] = deque(maxlen=limits.lines)  # when the last lines were
        self._thread = ThreadPoolExecutor(1)

    def warm(self) -> None:
        """Compiles for every size of a batch, so that no robot waits for that."""
        zeros = {name: np.zeros(size, kind) for name, (size, kind) in self.policy.about["obs"].items()}
        size = 1
        while size < 2 * self.limits.batch:  # rows are padded to the next power of 2
            self.answers([(Robot(), zeros) for _ in range(size)])
            size *= 2

    def answers(self, asked: list[tuple[Robot, dict[str, np.ndarray]]]) -> list[np.ndarray | FloatingPointError]:
        """The actions [n, A] for each robot and its observation, or what is wrong with them; the robots go on."""
        about, robots = self.policy.about, [robot for robot, _ in asked]
        obs = {name: padded([one[name] for _, one in asked]) for name in about["obs"]}
        fresh = [n for n, robot in enumerate(robots) if robot.loop is None]
        if fresh:
            keys = padded([keys_of(robots[n].seed, 1)[0] for n in fresh])
            loops = self.policy.programs.begin(self.policy.weights, keys, picked(obs, fresh))
            hand_out(robots, fresh, loops)
        due = [n for n, robot in enumerate(robots) if robot.i == 0 or not self.by_step]
        if due:
            loops = self.policy.programs.decide(self.policy.weights, stacked(robots, due), picked(obs, due))
            hand_out(robots, due, loops)
        loop, rows = stacked(robots, range(len(robots))), unnamed(obs)
        count = 1 if self.by_step else about["length"]
        steps = [padded([np.int32(robot.i if self.by_step else i) for robot in robots]) for i in range(count)]
        actions = [np.asarray(self.policy.programs.act(self.policy.weights, loop, i, rows)) for i in steps]
        for robot in robots:
            robot.i = (robot.i + 1) % about["steps"] if self.by_step else 0
        return [self.judged(action) for action in np.stack(actions, axis=1)[: len(robots)]]

    def judged(self, action: np.ndarray) -> np.ndarray | FloatingPointError:
        """The action in the policy's units, or why it must not be played."""
        try:
            return in_units(action, self.policy.about.get("bounds"))
        except FloatingPointError as e:
            return e

    async def work(self) -> None:
        """Answers what waits, for ever."""
        running = asyncio.get_running_loop()
        while True:
            jobs = [await self.waiting.get()]
            while len(jobs) < self.limits.batch and not self.waiting.empty():
                jobs.append(self.waiting.get_nowait())
            self.counts["batches"] += 1
            try:
                asked = [(job.robot, job.obs) for job in jobs]
                found: list[Any] = await running.run_in_executor(self._thread, self.answers, asked)
            except Exception as e:  # one line to those who asked; the server lives on
                found = [e] * len(jobs)
            for job, answer in zip(jobs, found, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)

    async def ask(self, robot: Robot, message: Any) -> bytes | str:
        """The answer to one message: bytes, or a line of text that says what is wrong with it."""
        began = time.perf_counter()
        self.counts["requests"] += 1
        try:
            obs, commands = understood(message, self.policy.about["obs"])
            if commands.get("reset") or "seed" in commands:
                robot.reset(commands.get("seed"))
            robot.period = commands.get("period", robot.period)
            job = Job(robot, obs, began, asyncio.get_running_loop().create_future())
            self.waiting.put_nowait(job)
            answer = await job.answer
            if isinstance(answer, Exception):
                raise answer
        except Exception as e:
            return self.refuse(robot, str(e))
        seconds = time.perf_counter() - began
        self.latencies.append(seconds)
        self.counts["missed_deadlines"] += seconds > robot.period
        return packed({"actions": answer, "server_timing": {"infer_ms": 1e3 * seconds}})

    def refuse(self, robot: Robot, why: str) -> str:
        """Counts and logs a request that is not answered, and returns the line that says why.

        The log is a line on stderr, of what can be printed and not for ever: it may hold what the client has sent. No more than
        ``Limits.lines`` are written in a second, so that nobody can fill a disk; ``counts`` has all.
        """
        self.counts["refused"] += 1
        line, now = f"refused: {' '.join(why.split())}", time.monotonic()
        if len(self.logged) < self.limits.lines or now - self.logged[0] > 1.0:
            self.logged.append(now)
            shown = "".join(x if x.isprintable() else "?" for x in line[:SHOWN])
            stopping.say(f"{robot.name} {shown}")
        return line

    async def talk(self, connection: ServerConnection) -> None:
        """One connection, to its end."""
        robot = Robot(":".join(map(str, (connection.remote_address or ())[:2])))
        self.counts["clients"] += 1
        try:
            await self.hand(connection, packed(self.policy.about))
            while True:
                async with asyncio.timeout(self.limits.idle):
                    data = await connection.recv()
                await self.hand(connection, await self.ask(robot, data))
        except TimeoutError:
            await connection.close(1001, "no request for too long")
        except ConnectionClosed as e:
            if e.sent and e.sent.code in BROKEN and not e.rcvd_then_sent:
                self.refuse(robot, e.sent.reason or f"a frame that ends the connection (code {e.sent.code})")
        finally:
            self.counts["clients"] -= 1

    async def hand(self, connection: ServerConnection, answer: bytes | str) -> None:
        """Sends an answer. Who does not read for too long is cut off: to say goodbye would wait for them, too."""
        try:
            async with asyncio.timeout(self.limits.idle):
                await connection.send(answer)
        except TimeoutError:
            connection.transport.abort()

    def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers /metrics and /healthz, and refuses those who may not, or are too many."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "ok\n")
        key = f"Api-Key {self.limits.key}".encode()
        given = [x.encode() for x in request.headers.get_all("Authorization")]
        if self.limits.key and not (len(given) == 1 and hmac.compare_digest(given[0], key)):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "give the key as Authorization: Api-Key KEY\n")
        if request.path == "/metrics":
            return connection.respond(http.HTTPStatus.OK, self.metrics())
        if self.counts["clients"] >= self.limits.clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    def metrics(self) -> str:
        """Counts and latencies, as Prometheus reads them."""
        lines = [f"qchunk_{name} {count}" for name, count in self.counts.items()]
        seconds = list(self.latencies)
        for q in (0.5, 0.99, 1.0) if seconds else ():
            lines.append(f'qchunk_latency_seconds{{quantile="{q}"}} {np.quantile(seconds, q):.6f}')
        return "\n".join(lines) + "\n"

    @contextlib.asynccontextmanager
    async def running(self, host: str, port: int) -> AsyncIterator[Server]:
        """Listens until the context ends. Port 0 is any that is free."""
        worker = asyncio.create_task(self.work())
        options: dict[str, Any] = {"max_size": self.limits.frame, "compression": None, "server_header": None}
        try:
            async with serve(self.talk, host, port, process_request=self.greet, **options) as server:
                yield server
        finally:
            worker.cancel()


def understood(data: Any, expected: Mapping[str, tuple[int, str]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(the leaves of one observation, what else is asked) of a message.

    A policy that sees one array takes the only one that is there, whatever it is called, as programs for other servers name
    it as they do; one that sees a dictionary takes its parts side by side, or all of them under "obs".

    Raises:
        ValueError: says what does not fit.
    """
    if isinstance(data, str):
        raise ValueError("a text, where a message of msgpack was expected")
    message = unpacked(data)
    if not isinstance(message, dict) or not all(isinstance(k, str) for k in message):
        raise ValueError("the message is no map from names to values")
    commands = {k: message[k] for k in COMMANDS if k in message}
    if not isinstance(commands.get("reset", False), (bool, np.bool_, int)):
        raise ValueError("reset is neither true nor false")
    seed = commands.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed is no whole number from 0 to {SEEDS - 1}")
    if "seed" in commands:
        commands["seed"] = int(seed)  # numpy's would overflow where the next episode's is counted
    period = commands.get("period", 1.0)
    if isinstance(period, bool) or not isinstance(period, (int, float, np.integer, np.floating)) or not period > 0:
        raise ValueError("period is no number of seconds above 0")
    obs: Any = {k: v for k, v in message.items() if k not in COMMANDS}
    if "obs" in expected and len(obs) != 1:
        told = ", ".join(sorted(obs)[:5]) or "no observation"
        raise ValueError(f'the message holds {told}: this policy sees one array, so give it as "obs"')
    if "obs" in expected or (obs.keys() == {"obs"} and named(obs).keys() != expected.keys()):
        obs = next(iter(obs.values()))
    found = fitted(obs, expected)
    if any(x.ndim != 1 for x in found.values()):
        raise ValueError("one robot asks for itself: give each part of the observation one axis")
    return found, commands


def padded(rows: list) -> np.ndarray:
    """Rows [n, ...] as [2^k, ...], the last one repeated, so that few sizes are compiled."""
    size = 1 << (len(rows) - 1).bit_length()
    return np.stack([*rows, *[rows[-1]] * (size - len(rows))])


def picked(obs: dict[str, np.ndarray], places: list[int]) -> Any:
    """The observations of some robots, as a tree of padded rows."""
    return unnamed({name: padded([x[n] for n in places]) for name, x in obs.items()})


def stacked(robots: list[Robot], places: Any) -> list[np.ndarray]:
    """The loops of some robots as padded rows."""
    rows = [robots[n].loop or [] for n in places]
    return [padded(list(leaf)) for leaf in zip(*rows, strict=True)]


def hand_out(robots: list[Robot], places: list[int], loops: list) -> None:
    """Gives robots their rows of new loops."""
    leaves = [np.asarray(x) for x in jax.device_get(loops)]
    for row, n in enumerate(places):
        robots[n].loop = [x[row] for x in leaves]
