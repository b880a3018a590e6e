"""``qchunk render``: an episode of a run as a gif."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qchunk.commands import flags
from qchunk.commands.shared import positional
from qchunk.comparison.afterwards import draw
from qchunk.ranges import NonNegativeInt
from qchunk.reporting import page
from qchunk.runs.opened import SEED
from qchunk.runs.play_flags import CheckpointFlags
from qchunk.system.errors import UserError
from qchunk.system.files import check_new


@dataclasses.dataclass(frozen=True)
class RenderFlags(CheckpointFlags):
    """An episode to draw."""

    out: Path | None = None
    """File to write (.gif); by default RUN/episode.gif, which reports show."""
    seed: NonNegativeInt = SEED
    """Seed of the start state and of the noise."""


def render(argv: list[str]) -> None:
    """``qchunk render RUN [--out FILE.gif]``."""
    folder, rest = positional("render", argv, "a run folder")
    (f,) = flags.parse("render", rest, RenderFlags, text="qchunk render RUN [flags]: RUN is the folder of a run.")
    if f.out and f.out.suffix != ".gif":
        raise UserError(f"{f.out} is no gif", "give --out a name that ends in .gif")
    if f.out:
        check_new(f.out)
    if not f.out and (f.seed, f.checkpoint) != (RenderFlags.seed, RenderFlags.checkpoint):
        raise UserError("reports show the episode of the default --seed and --checkpoint", "give --out for another")
    out = f.out or Path(folder) / page.EPISODE
    frames = draw(Path(folder), out, f.seed, f.checkpoint)
    print(f"{frames} frames -> {out}")
