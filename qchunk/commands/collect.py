"""``qchunk collect``."""

from __future__ import annotations

from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.runs.recording import CollectFlags, collect_to


def collect(argv: list[str]) -> None:
    """``qchunk collect ENV --out DATA [--policy play|noisy|expert|random|RUN ...]``."""
    name, rest = positional("collect", argv, "an environment")
    (f,) = flags.parse(
        "collect", rest, CollectFlags, text="qchunk collect ENV --out DATA [flags]: ENV is one of qchunk list envs."
    )
    collect_to(name, f, keep=True)
