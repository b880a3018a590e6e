"""D4RL's data sets, one HDF5 file of plain arrays: ``observations``, ``actions``, ``rewards``, ``terminals`` [N], mostly ``timeouts`` [N],
sometimes ``next_observations``, and ``infos/...``. Other HDF5 files of plain arrays are read the same way, by ``--names``."""

from __future__ import annotations

from pathlib import Path

from qchunk.data import hdf5, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey


def survey(path: Path, reading: Reading) -> Survey:
    """What such a file holds."""
    with hdf5.opened(path) as f:
        found = {n: x for n, x in hdf5.leaves(f).items() if x.shape}
        names = recorded.renamed(found, reading, str(path))
        columns = {ours: found[theirs][()] for ours, theirs in names.items()}
    return recorded.survey(columns, reading, {}, str(path))


READER = Reader(hdf5.is_hdf5, survey)
