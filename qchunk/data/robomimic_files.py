"""robomimic's data sets, one HDF5 file: ``data/demo_0/{actions, rewards, dones, states}``, ``obs/NAME`` and mostly ``next_obs/NAME`` beside
them, and the environment in ``data``'s attribute ``env_args``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.data import hdf5, recorded
from qchunk.data.adapting import Reading
from qchunk.data.formats import Reader, Survey
from qchunk.system.errors import UserError

NAMES = {"actions": "action", "rewards": "reward", "dones": "terminal"}


def is_one(path: Path) -> bool:
    """Whether a file is HDF5 with demonstrations. Raises UserError where h5py is missing."""
    if not hdf5.is_hdf5(path):
        return False
    with hdf5.opened(path) as f:
        return "data" in f and bool(hdf5.numbered(f["data"], "demo_"))


def survey(path: Path, reading: Reading) -> Survey:
    """What such a file holds."""
    found = recorded.nothing()
    with hdf5.opened(path) as f:
        data = f["data"]
        demos = hdf5.numbered(data, "demo_")
        columns = recorded.stacked({name: demonstration(data[name], reading) for name in demos}, str(path), found)
        about: dict[str, Any] = {}
        with contextlib.suppress(KeyError, ValueError, TypeError):
            about["recorded_in"] = json.loads(data.attrs["env_args"])["env_name"]
        told, count = data.attrs.get("total"), len(columns.get("action", ()))
        if told is not None and np.any(told != count) and not found.faults:
            found.faults.append(
                UserError(f"{path} says that it holds {told} steps, and holds {count}", "download it again")
            )
        if not any("obs" in data[name] for name in demos):
            fix = "make them by robomimic's dataset_states_to_obs.py, or take the simulator's: --obs-keys states"
            found.doubts.append(UserError(f"{path} holds states of the simulator, and no observations", fix))
    return recorded.survey(columns, reading, about, str(path), found)


def demonstration(group: Any, reading: Reading) -> dict[str, Any]:
    """The columns of one demonstration; images only where they are asked for."""
    columns = {ours: hdf5.array(group[theirs]) for theirs, ours in NAMES.items() if theirs in group}
    for kind, theirs in (("obs", "obs"), ("next", "next_obs")):
        parts = hdf5.leaves(group[theirs]) if theirs in group else {}
        columns |= {
            f"{kind}/{n}": hdf5.array(x) for n, x in parts.items() if not hdf5.is_image(x) or n in reading.obs_keys
        }
    if "states" in group and ("states" in reading.obs_keys or "obs" not in group):
        columns["obs/states"] = hdf5.array(group["states"])
    return columns


READER = Reader(is_one, survey)
