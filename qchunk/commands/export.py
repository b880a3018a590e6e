"""``qchunk export``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.ranges import NonNegativeInt
from qchunk.runs.play_flags import CheckpointFlags, PlayFlags
from qchunk.system import answers
from qchunk.system.errors import UserError, typed


@dataclasses.dataclass(frozen=True)
class ActingFlags(PlayFlags, CheckpointFlags):
    """Which policy of a run, and how it is played."""

    seed: NonNegativeInt = 0
    """Which of the run's seeds, counted from 0."""
    recorded: bool = False
    """Actions in the units that the data were recorded in (qchunk data convert --scale-actions), not in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """One file."""

    out: Path | None = None
    """File to write: .zip, which acts; or .safetensors, all weights by their names, for programs of your own. Required."""
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = ("cpu", "cuda", "tpu")
    """Kinds of devices that the .zip can run on."""
    json: bool = False
    """Print what was exported (sizes, scheme, versions, fingerprint) as JSON to stdout."""


def export(argv: list[str]) -> None:
    """``qchunk export RUN --out FILE.zip``."""
    folder, rest = positional("export", argv, "a run folder")
    text = "qchunk export RUN --out FILE.zip [flags]: the acting policy of a run as one file that needs jax and numpy, not qchunk."
    acting, f = flags.parse("export", rest, ActingFlags, ExportFlags, text=text)
    if f.out is None or f.out.suffix not in (".zip", ".safetensors"):
        raise UserError("export needs a file to write", "give --out a name that ends in .zip, or .safetensors for the weights")  # fmt: skip
    if not f.platforms:
        raise UserError("--platforms names none", "give cpu, cuda or tpu")
    from qchunk.deploy import artefact

    if f.out.suffix == ".safetensors":
        if acting != ActingFlags(seed=acting.seed, checkpoint=acting.checkpoint):
            raise UserError(
                "weights have no scheme, delay or units to act with", "leave out all but --seed and --checkpoint"
            )
        about = artefact.export_weights(Path(folder), f.out, acting.seed, acting.checkpoint)
    else:
        about = artefact.export(Path(folder), f.out, **vars(acting), platforms=f.platforms)
    if f.json:
        answers.answer(about)
    elif f.out.suffix == ".safetensors":
        print(f"{about['weights']} arrays of step {about['step']} of {folder}, seed {about['seed']} -> {f.out}")
    else:
        said = f"step {about['step']} of {folder}, seed {about['seed']}, {about['scheme']}"
        print(f"{said} -> {f.out} (fingerprint {about['fingerprint']})")
        print(f"try it: {Path(sys.executable).name} {typed(f.out)}")
