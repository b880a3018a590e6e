"""OGBench's manipulation tasks: their names, and what a data set of theirs looks like.

``ogbench/cube-single-play-singletask-task1-v0`` is task 1 of cube-single, to be learned from the play data. OGBench's own id
of the environment has no "play" in it; its data set is ``cube-single-play-v0``. ``@sparse`` after a name gives -1 for every
step before success, as the Q-chunking paper has it for scene and puzzle-3x3.

Since ogbench 1.2 the single-task environments judge the state BEFORE the action (``success_timing="pre"``), in agreement
with the relabelled data: an episode lasts one step longer than its success, and success on the last step is not seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qchunk import names
from qchunk.data import ogbench_files as data
from qchunk.data.formats import Rows
from qchunk.envs.host.pool import HostEnv
from qchunk.envs.host.worker import hushed


class OGBench(HostEnv):
    """A task of a scene, with the rewards of its own rule in data sets of OGBench's format."""

    def __init__(self, name: str, scene: str, kind: str, task: str, sparse: bool):
        self.scene, self.kind = scene, kind
        made = {"id": f"{scene}-singletask{task}-v0", "modules": ["ogbench"], "sparse": sparse}
        super().__init__(name, made, f"ogbench/{scene}-{kind}-v0")

    def read(self, path: Path) -> tuple[Rows, dict[str, Any]]:
        """A data set in OGBench's format, with the rewards and ends of this task."""
        with hushed():  # OGBench relabels by stepping its environment
            return data.read(path, self)


def make(name: str) -> OGBench:
    """``cube-single-play-singletask-task1-v0``, without a task OGBench's default one; ``...-v0@sparse``.

    Raises:
        UserError: unknown, or ogbench is missing.
    """
    found = names.ogbench(f"ogbench/{name}") or {}
    return OGBench(f"ogbench/{name}", found["scene"], found["kind"], found["task"], bool(found["sparse"]))
