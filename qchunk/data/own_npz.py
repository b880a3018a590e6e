"""An npz of one's own: plain arrays of N transitions, under names that others use or that ``--names`` gives."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

from qchunk.data import adapting, npz, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey


def is_one(path: Path) -> bool:
    """Whether a file has observations, actions and rewards or episodes by their usual names, and is not of our own format; never raises."""
    with contextlib.suppress(*npz.BROKEN), zipfile.ZipFile(path) as z:
        found = {n.removesuffix(".npy") for n in z.namelist()}
        has = {ours for ours, theirs in recorded.NAMES.items() if found & set(theirs)}
        return {"obs", "action"} <= has and bool(has & {"reward", "episode", "ends"}) and not found & {"about", "end"}
    return False


def survey(path: Path, reading: Reading) -> Survey:
    """What such a file holds."""
    with npz.opened(Path(path), "save it again by numpy.savez") as z:
        if {"about", "end"} <= set(z):
            adapting.check_own(reading, path)
        names = recorded.renamed(z, reading, str(path))
        columns = {ours: z[theirs] for ours, theirs in names.items()}
    return recorded.survey(columns, reading, {}, str(path))


READER = Reader(is_one, survey)
