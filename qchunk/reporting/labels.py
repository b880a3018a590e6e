"""What runs are called where several stand beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path


def plain(text: str) -> str:
    """A label as every place can show it, pictures among them: what is not printable is spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def told_apart(folders: Sequence[Path]) -> list[str]:
    """A name for each of several folders: its last two names, or where these are alike in any two, the names in which all differ.

    So the runs of two comparisons are told by what these are called, alike in every environment that both have: A/runs/pole/bc and B/runs/pole/bc by A and B.
    """
    parts = [f.resolve().parts for f in folders]
    found = [p[-2:] for p in parts]
    if len(set(found)) < len(found):
        before, after = _alike(parts), _alike([p[::-1] for p in parts])
        first = min(before, min(map(len, parts)) - after - 1)  # where one has nothing of its own, a name more of each
        found = [p[first : len(p) - after] for p in parts]
    return [plain("/".join(names)) for names in found]


def _alike(parts: Sequence[Sequence[str]]) -> int:
    """How many names they have alike from the first one on."""
    return sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False)))
