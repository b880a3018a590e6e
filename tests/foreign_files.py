"""Tiny data sets in the layouts that other packages write, by h5py and pyarrow; each may be spoilt before it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (5, 7, 6, 8)  # the first and the third end at a success, the others are cut


def episodes(seed: int = 0, lengths=LENGTHS, actions: int = 2) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for number, length in enumerate(lengths):
        ended = number % 2 == 0
        obs = {"pos": rng.normal(size=(length + 1, 1)), "vel": rng.normal(size=(length + 1, 1))}
        at_end = np.arange(length) == length - 1
        made.append(
            {
                "obs": {n: x.astype(np.float32) for n, x in obs.items()},
                "action": rng.uniform(-0.9, 0.9, (length, actions)).astype(np.float32),
                "reward": (at_end & ended).astype(np.float64),
                "terminal": at_end & ended,
                "timeout": at_end & (not ended),
            }
        )
    return made


def joined(episode: dict) -> np.ndarray:
    return np.concatenate([episode["obs"]["pos"], episode["obs"]["vel"]], axis=1)


def minari(path: Path, made: list[dict], spoil=lambda f: None, box=(-1.0, 1.0), kind="hdf5", **said: Any) -> Path:
    """By HDF5, or as a folder of Arrow or Parquet for each episode."""
    (path / "data").mkdir(parents=True)
    if kind == "hdf5":
        minari_hdf5(path, made, spoil)
    else:
        minari_tables(path, made, kind)
    low, high = ([float(x)] * made[0]["action"].shape[1] for x in box)
    space = {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}
    about = {
        "total_episodes": len(made),
        "total_steps": sum(len(one["reward"]) for one in made),
        "data_format": kind,
        "action_space": json.dumps(space),
        "env_spec": json.dumps({"id": "Own/Reach-v0", "entry_point": "own:Reach"}),
        "dataset_id": "own/reach-v0",
        **said,
    }
    (path / "data/metadata.json").write_text(json.dumps(about))
    return path


def minari_tables(path: Path, made: list[dict], kind: str) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds

    def vectors(x, more=0):
        x = np.concatenate([x, np.zeros((more, x.shape[1]), x.dtype)])
        return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])

    for number, one in enumerate(made):
        pad = lambda x: np.append(x, np.zeros(1, x.dtype))  # noqa: E731
        batch = {
            "episode_id": np.full(len(one["reward"]) + 1, number, np.int32),
            "observations": pa.StructArray.from_arrays([vectors(x) for x in one["obs"].values()], names=[*one["obs"]]),
            "actions": vectors(one["action"], 1),
            "rewards": pad(one["reward"]),
            "terminations": pad(one["terminal"]),
            "truncations": pad(one["timeout"]),
        }
        more = {"format": kind, "partitioning": ["episode_id"], "existing_data_behavior": "overwrite_or_ignore"}
        ds.write_dataset(pa.RecordBatch.from_pydict(batch), path / "data", **more)
        (path / f"data/{number}/metadata.json").write_text(json.dumps({"id": number}))


def minari_hdf5(path: Path, made: list[dict], spoil) -> None:
    import h5py

    with h5py.File(path / "data/main_data.hdf5", "w", track_order=True) as f:
        for number, one in enumerate(made):
            group = f.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "total_steps": len(one["reward"]), "seed": number})
            for name, x in one["obs"].items():
                group.create_dataset(f"observations/{name}", data=x, chunks=True, maxshape=(None, *x.shape[1:]))
            theirs = {"action": "actions", "reward": "rewards", "terminal": "terminations", "timeout": "truncations"}
            for ours, name in theirs.items():
                group.create_dataset(name, data=one[ours], chunks=True, maxshape=(None, *one[ours].shape[1:]))
            group.create_group("infos")
        spoil(f)


def robomimic(path: Path, made: list[dict], spoil=lambda f: None, following: bool = True, image: bool = False) -> Path:
    import h5py

    with h5py.File(path, "w") as f:
        data = f.create_group("data")
        for number in (*range(0, len(made), 2), *range(1, len(made), 2)):  # out of order, as filter keys leave them
            one, group = made[number], data.create_group(f"demo_{number}")
            steps = len(one["reward"])
            group.create_dataset("actions", data=one["action"].astype(np.float64))
            group.create_dataset("states", data=np.random.default_rng(number).normal(size=(steps, 6)))
            group.create_dataset("rewards", data=one["reward"])
            group.create_dataset("dones", data=one["terminal"].astype(np.int64))
            seen = {**one["obs"], **({"camera": np.full((steps + 1, 4, 4, 3), number, np.uint8)} if image else {})}
            for name, x in seen.items():
                group.create_dataset(f"obs/{name}", data=x[:-1])
                if following:
                    group.create_dataset(f"next_obs/{name}", data=x[1:])
            group.attrs["num_samples"] = steps
        data.attrs["total"] = sum(len(one["reward"]) for one in made)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        spoil(f)
    return path


def flat(made: list[dict], following: bool = False) -> dict[str, np.ndarray]:
    """The arrays of D4RL."""
    names = {"actions": "action", "rewards": "reward", "terminals": "terminal", "timeouts": "timeout"}
    found = {theirs: np.concatenate([one[ours] for one in made]) for theirs, ours in names.items()}
    found["observations"] = np.concatenate([joined(one)[:-1] for one in made])
    if following:
        found["next_observations"] = np.concatenate([joined(one)[1:] for one in made])
    return found


def d4rl(path: Path, arrays: dict[str, Any]) -> Path:
    import h5py

    with h5py.File(path, "w") as f:
        for name, x in arrays.items():
            if x is not None:
                f.create_dataset(name, data=x, compression="gzip" if np.ndim(x) else None)
    return path


def frames(made: list[dict], fps: int = 10) -> dict[str, np.ndarray]:
    """The columns of LeRobot."""
    steps = [len(one["reward"]) for one in made]
    ended = np.concatenate([one["terminal"] for one in made])
    count = np.concatenate([np.arange(n) for n in steps])
    return {
        "observation.state": np.concatenate([joined(one)[:-1] for one in made]),
        "action": np.concatenate([one["action"] for one in made]),
        "next.reward": np.concatenate([one["reward"] for one in made]).astype(np.float32),
        "next.done": np.concatenate([one["terminal"] | one["timeout"] for one in made]),
        "next.success": ended,
        "timestamp": (count / fps).astype(np.float32),
        "frame_index": count,
        "episode_index": np.repeat(np.arange(len(made)), steps),
        "index": np.arange(sum(steps)),
        "task_index": np.zeros(sum(steps), np.int64),
    }


def lerobot(path: Path, columns: dict[str, Any], version: str = "v3.0", **said: Any) -> Path:
    """Version 2.1 has a file for each episode, version 3 many episodes in one; here two files."""
    import pyarrow as pa
    from pyarrow import parquet

    (path / "meta").mkdir(parents=True)
    episode = np.asarray(columns["episode_index"])
    many = version.startswith("v3")
    for number in sorted(set(episode // 3 if many else episode)):
        rows = np.flatnonzero((episode // 3 if many else episode) == number)
        place = f"data/chunk-000/file-{number:03d}.parquet" if many else f"data/chunk-000/episode_{number:06d}.parquet"
        (path / place).parent.mkdir(parents=True, exist_ok=True)
        table = {}
        for name, x in columns.items():
            part = [x[i] for i in rows]
            ragged = isinstance(x, list)
            size = None if ragged or x.ndim == 1 else x.shape[1]
            kind = pa.list_(pa.float32()) if ragged else size and pa.list_(pa.float32(), size)
            table[name] = pa.array([list(v) for v in part], type=kind) if kind else pa.array(x[rows])
        writer = parquet.ParquetWriter(path / place, schema=pa.table(table).schema, compression="snappy")
        writer.write_table(pa.table(table))
        writer.close()
    names = {"motors": ["shoulder", "gripper"]}
    about = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(set(episode)),
        "total_frames": len(episode),
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": {"action": {"dtype": "float32", "shape": [2], "names": names}},
        **said,
    }
    (path / "meta/info.json").write_text(json.dumps(about))
    return path
