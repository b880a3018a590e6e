"""``qchunk serve``."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from pathlib import Path
from typing import Annotated

from qchunk.commands import flags
from qchunk.commands.export import ActingFlags
from qchunk.commands.shared import positional
from qchunk.ranges import PositiveFloat, PositiveInt, Range
from qchunk.system import stopping
from qchunk.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class ServeFlags:
    """Where robots ask, and what one of them may."""

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every network that this machine is in."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """The port to listen on; 0: any that is free."""
    by_step: bool = False
    """Answer with the next action, by any scheme, to a robot that asks at every step; by default with a whole new plan."""
    clients: PositiveInt = 64
    """Most connections at a time."""
    batch: PositiveInt = 16
    """Most requests that one call of the policy answers together."""
    max_bytes: PositiveInt = 2**20
    """Most bytes of a request; a larger one ends its connection."""
    idle: PositiveFloat = 60.0
    """Seconds without a request after which a connection ends."""
    key_file: Path | None = None
    """A file with the key that clients must send (openpi's api_key)."""


def serve(argv: list[str]) -> None:
    """``qchunk serve RUN|FILE.zip [--port 8000]``."""
    folder, rest = positional("serve", argv, "a run folder or an exported file")
    text = "qchunk serve RUN|FILE.zip [flags]: actions for robots over websockets, as openpi's clients speak; /metrics has latencies."
    acting, f = flags.parse("serve", rest, ActingFlags, ServeFlags, text=text)
    key = key_of(f)
    try:
        from qchunk.deploy.server import Limits, PolicyServer
    except ImportError as e:
        raise UserError(f"serving needs {e.name}", "pip install 'qchunk[deploy]'") from e
    from qchunk.deploy.policy import load

    policy = load(Path(folder), **vars(acting))
    if policy.about["delay"] and not f.by_step:
        raise UserError("plans with a delay overlap", "give --by-step, or --delay 0")
    server = PolicyServer(policy, f.by_step, Limits(f.clients, f.batch, f.max_bytes, f.idle, key))
    server.warm()
    asyncio.run(until_stopped(server, f.host, f.port))
    print(server.metrics(), end="")


def key_of(f: ServeFlags) -> str:
    """The key in the file, "" without one. Raises UserError where there is none in it."""
    if f.key_file is None:
        return ""
    try:
        key = f.key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(
            f"{f.key_file} cannot be read ({type(e).__name__})", "give --key-file a file of one line"
        ) from e
    if not key or not key.isascii() or len(key.split()) > 1:
        raise UserError(f"{f.key_file} holds no key", "write one word into it")
    return key


async def until_stopped(server, host: str, port: int) -> None:
    """Serves until a signal asks to stop, which is how a server ends."""
    try:
        async with server.running(host, port) as listening:
            address, port = listening.sockets[0].getsockname()[:2]
            at = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"  # an address of IPv6
            print(f"serving on ws://{at} (metrics: http://{at}/metrics)", flush=True)
            with stopping.saving():
                while not stopping.asked():
                    await asyncio.sleep(0.1)
    except (OSError, UnicodeError) as e:
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else str(e)
        if isinstance(e, (socket.gaierror, UnicodeError)):
            why = "there is no such host"
        raise UserError(f"cannot listen on {host}:{port}: {why}", "give another --port or --host") from e
