"""Checkpoints: ``folder/<step>/`` holds the arrays (orbax) and a manifest that proves them whole.

A checkpoint is written under a temporary name, flushed to the disk and renamed: a process killed at any
moment leaves the old set of checkpoints or the new one. The manifest names every file with its size and
sha256, and every leaf of the tree with its kind, shape and dtype; Python scalars stand in the manifest
itself. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qchunk.runs.run_folder import CHECKPOINTS
from qchunk.runs.schemas import Manifest
from qchunk.system import hosts, schema
from qchunk.system.errors import UserError, typed
from qchunk.system.files import explain_oserror, oserror_in, remove, remove_busy, sha256, sync, write_synced

FORMAT, VERSION = "qchunk", 1
MANIFEST, ARRAYS = "manifest.json", "arrays"
_SCALARS = ("bool", "int", "float", "str")


# --------------------------------------------------------------------------------------------------- saving


def save(folder: Path, step: int, tree: Any, about: dict, keep: int = 2, spare: Collection[int | None] = ()) -> Path:
    """Writes ``folder/<step>/``; on return it is on the disk.

    Args:
        folder: the run's folder of checkpoints, made if missing. One process writes to it at a time.
        step: not negative. A checkpoint of this step is replaced; later ones, left behind by a run that was
            resumed from an earlier step, are removed.
        tree: leaves are arrays (JAX, numpy), typed keys, or Python's bool, int, float and str.
        about: anything JSON can hold (tuples come back as lists): algorithm, environment, versions.
        keep: how many checkpoints stay, the new one included; at least 1.
        spare: steps whose checkpoints stay besides, if they are there.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or refuses. Earlier checkpoints are intact, the partial one is removed.
        TypeError: a leaf is of no kind named above, or ``about`` is not JSON.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"expected step >= 0 and keep >= 1, got {step} and {keep}")
    folder = Path(folder)
    leaves, arrays = _encode(tree)
    temp = folder / f".tmp-{step}-{os.getpid()}"
    captured = io.StringIO()
    try:
        with _hushed(captured):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                remove(temp)
                temp.mkdir()
                _write_arrays(temp, arrays)
                _write_manifest(temp, {"step": step, "about": about, "leaves": leaves})
                _publish(temp, folder, step)
            except BaseException:
                remove_busy(temp)
                raise
        _prune(folder, step, keep, spare)
    except Exception as err:
        if os_err := oserror_in(err):
            raise explain_oserror(os_err, folder) from err
        sys.stderr.write(captured.getvalue())
        raise
    return folder / str(step)


def _encode(tree: Any) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Splits a tree into the manifest's list of leaves and the arrays by name; keys become their data."""
    leaves, arrays = [], {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        entry: dict[str, Any] = {"path": jax.tree_util.keystr(path), **_describe(leaf, path)}
        if entry["kind"] in _SCALARS:
            entry["value"] = leaf.hex() if entry["kind"] == "float" else leaf
        else:
            if entry["kind"] == "key":
                entry["impl"] = str(jax.random.key_impl(leaf))
                leaf = jax.random.key_data(leaf)
            value = np.asarray(jax.device_get(leaf), order="C")
            if value.size:  # orbax refuses empty arrays; shape and dtype say all there is to know of one
                arrays[f"{i:05d}"] = value
        leaves.append(entry)
    return leaves, arrays


def _describe(leaf: Any, path: tuple[Any, ...]) -> dict[str, Any]:
    """What has to agree between a saved leaf and the one it is restored into: kind, dtype, shape."""
    if type(leaf) in (bool, int, float, str):
        return {"kind": type(leaf).__name__}
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        raise TypeError(f"cannot save {jax.tree_util.keystr(path)}, a {type(leaf).__name__}: no array, key or scalar")
    shape = list(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return {"kind": "key", "dtype": str(leaf.dtype), "shape": shape}
    dtype = np.dtype(leaf.dtype)
    if dtype.kind in "OUSMm" or dtype.names or not dtype.isnative:
        raise TypeError(f"cannot save {jax.tree_util.keystr(path)}, an array of {dtype.str}: only native numbers")
    return {"kind": "array", "dtype": dtype.name, "shape": shape}


def _write_arrays(temp: Path, arrays: dict[str, np.ndarray]) -> None:
    if not arrays:
        return
    with hosts.checkpointer() as checkpointer:
        checkpointer.save((temp / ARRAYS).absolute(), arrays)


def _write_manifest(temp: Path, fields: dict) -> None:
    """Hashes and flushes everything under ``temp``, then writes the manifest, then flushes the folders."""
    inside = sorted(temp.rglob("*"))
    files = {}
    for path in inside:
        if path.is_file():
            sync(path)
            files[path.relative_to(temp).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    # through JSON once, so that the seal is over what a reader will see (a key 1 comes back as "1")
    body = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **fields, "files": files}))
    body["sha256"] = _seal(body)
    write_synced(temp / MANIFEST, json.dumps(body, indent=1).encode())
    for path in [*inside, temp]:
        if path.is_dir():
            sync(path)


def _publish(temp: Path, folder: Path, step: int) -> None:
    """Gives a complete checkpoint its name.

    A folder cannot be renamed onto a full one, so an earlier checkpoint of the same step moves aside first;
    ``_found`` still sees it there should the process die between the two.
    """
    final, aside = folder / str(step), folder / f".old-{step}"
    if final.exists():
        _retire(aside)
        os.rename(final, aside)
    os.rename(temp, final)
    sync(folder)


def _prune(folder: Path, step: int, keep: int, spare: Collection[int | None]) -> None:
    """Removes what the new checkpoint replaces: older and abandoned ones, left-over temporaries."""
    found = _found(folder)
    before = sorted(n for n in found if n <= step)
    kept = {found[n] for n in {*before[-keep:], *spare} if n in before}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".tmp-", ".gone-")):
            remove(path)
        elif (path in found.values() or path.name.startswith(".old-")) and path not in kept:
            _retire(path)


def _retire(path: Path) -> None:
    """Removes one of our checkpoints; what may not be ours is only moved aside.

    A name that readers skip comes first: a removal cut short must not look like a damaged checkpoint.
    """
    if not path.exists():
        return
    try:
        _manifest(path)
        gone = path.with_name(f".gone-{path.name}-{os.getpid()}")
        remove(gone)
        os.rename(path, gone)
        remove(gone)
    except UserError:
        free = (path.with_name(f"unreadable-{path.name.lstrip('.')}-{i}") for i in range(10**6))
        os.rename(path, next(p for p in free if not p.exists()))


@contextlib.contextmanager
def _hushed(into: io.StringIO) -> Iterator[None]:
    """Keeps orbax's own tracebacks from the terminal: on a full disk each of its threads prints one."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stderr(into):
            yield
    finally:
        logger.disabled = before


# --------------------------------------------------------------------------------------------------- reading


def restore(folder: Path, like: Any, step: int | None = None) -> tuple[Any, dict]:
    """Reads a checkpoint back, bit for bit, after checking every byte of it against the manifest.

    Args:
        folder: the run's folder of checkpoints.
        like: a tree with the structure, shapes and dtypes that are expected, or a function of ``about`` that gives one; leaves
            are arrays, typed keys, ``jax.ShapeDtypeStruct`` (of arrays or keys) or Python scalars. Where a leaf is a numpy array
            the result is one too; a committed JAX array, or a struct with a sharding, hands it to the result.
        step: which checkpoint; the newest by default.

    Returns:
        The tree, and the ``about`` that was saved with it.

    Raises:
        UserError: no checkpoint there; or it is damaged, not qchunk's, of another format version, or of
            another tree than ``like``. The line names the newest good one, never taken silently instead.
    """
    folder = Path(folder)
    path = _pick(folder, step)
    try:
        return _read(path, like)
    except UserError as err:
        if (good := newest(folder, lambda other: bool(_read(_pick(folder, other), like)))) is None:
            raise
        run = folder.parent if folder.name == CHECKPOINTS else folder
        fix = f"pass --resume {typed(run)} --step {good} to go on from the newest good one"
        raise UserError(err.problem, fix) from err


def about(folder: Path, step: int | None = None) -> dict:
    """The ``about`` of a checkpoint (the newest by default), from the manifest alone. Raises UserError."""
    return _manifest(_pick(Path(folder), step))["about"]


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints that have a manifest, ascending; empty where there is no folder."""
    return sorted(n for n, path in _found(Path(folder)).items() if (path / MANIFEST).is_file())


def newest(folder: Path, good: Callable[[int], bool]) -> int | None:
    """The newest step that is ``good``, None where there is none; one of which that raises UserError is damaged, and is not."""
    for step in reversed(steps(folder)):
        with contextlib.suppress(UserError):
            if good(step):
                return step
    return None


def verify(path: Path) -> dict:
    """Checks every byte of one checkpoint's folder; returns its manifest.

    Raises:
        UserError: it is damaged, not qchunk's, or of another format version.
    """
    path = Path(path)
    manifest = _manifest(path)
    for name, want in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if (size := file.stat().st_size) != want["bytes"]:
            raise _damaged(path, f"{name} has {size} bytes, expected {want['bytes']}")
        if sha256(file) != want["sha256"]:
            raise _damaged(path, f"the contents of {name} have changed since it was written")
    return manifest


def _found(folder: Path) -> dict[int, Path]:
    """Everything that bears a checkpoint's name, whole or not, by step."""
    if not folder.is_dir():
        return {}
    named = {path.name: path for path in folder.iterdir()}
    aside = {name.removeprefix(".old-"): path for name, path in named.items() if name.startswith(".old-")}
    return {int(n): path for n, path in {**aside, **named}.items() if re.fullmatch("0|[1-9][0-9]*", n)}


def _pick(folder: Path, step: int | None) -> Path:
    found = _found(folder)
    if not found:
        raise UserError(f"no checkpoint in {folder}", "Check the path, or start a new run with --out")
    if step is None:
        return found[max(found)]
    if step not in found:
        raise UserError(
            f"there is no checkpoint of step {step} in {folder}",
            f"Take one of {', '.join(map(str, sorted(found)))}",
        )
    return found[step]


def _manifest(path: Path) -> dict:
    """Reads and checks a manifest, not the files it names."""
    try:
        body = schema.read(path / MANIFEST, Any, "")
    except FileNotFoundError as err:
        raise _damaged(path, f"it has no {MANIFEST}, so it is damaged or not qchunk's") from err
    except (UserError, OSError) as err:
        raise _damaged(path, f"its {MANIFEST} cannot be read") from err
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of qchunk", "Check the path of the run")
    if (version := body.get("version")) != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise UserError(
            f"checkpoint {path} has format version {version}, this qchunk reads {VERSION}",
            "Install a newer qchunk" if newer else "Install the version of qchunk that wrote it",
        )
    if body.get("sha256") != _seal(body):
        raise _damaged(path, f"the contents of {MANIFEST} have changed since it was written")
    if why := schema.mismatch(body, Manifest):
        raise _damaged(path, f"its {MANIFEST} is not whole: {why}")
    name = path.name.removeprefix(".old-")
    if name.isdigit() and int(name) != body["step"]:
        raise _damaged(path, f"it holds step {body['step']}; the folder was renamed")
    return body


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"checkpoint {path} cannot be used: {how}", "Start a new run with --out")


def _compare(path: Path, saved: list[dict], like: Any) -> None:
    """Raises UserError at the first leaf that differs between the manifest and ``like``."""
    want = [(jax.tree_util.keystr(p), _describe(x, p)) for p, x in jax.tree_util.tree_leaves_with_path(like)]
    have = [(e["path"], {k: e[k] for k in ("kind", "dtype", "shape") if k in e}) for e in saved]
    for i in range(max(len(want), len(have))):
        w, h = (want[i] if i < len(want) else None), (have[i] if i < len(have) else None)
        if w == h:
            continue
        raise UserError(
            f"checkpoint {path} is of another configuration: expected {_show(w)}, got {_show(h)}",
            "Use the algorithm, the configuration and the version of qchunk that the run was started with",
        )


def _show(leaf: tuple[str, dict] | None) -> str:
    if leaf is None:
        return "no further leaf"
    name, d = leaf
    return f"{name or 'the root'}: {d.get('dtype', d['kind'])}{list(d['shape']) if 'shape' in d else ''}"


def _read(path: Path, like: Any) -> tuple[Any, dict]:
    """``restore`` of one checkpoint's folder."""
    manifest = verify(path)
    saved, about = manifest["leaves"], manifest["about"]
    like = like(about) if callable(like) else like
    _compare(path, saved, like)
    flat, treedef = jax.tree_util.tree_flatten(like)
    names = [f"{i:05d}" for i, e in enumerate(saved) if e["kind"] not in _SCALARS and 0 not in e["shape"]]
    pairs = enumerate(zip(saved, flat, strict=True))
    try:
        arrays = _read_arrays(path, names)
        return treedef.unflatten(_leaf(entry, arrays.get(f"{i:05d}"), old) for i, (entry, old) in pairs), about
    except (KeyError, TypeError, ValueError, OSError) as err:  # a manifest sealed again, without all that it stands for
        raise _damaged(path, f"its arrays cannot be read ({type(err).__name__})") from err


def _read_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    import orbax.checkpoint as ocp

    how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    with hosts.checkpointer() as checkpointer:
        return checkpointer.restore((path / ARRAYS).absolute(), args=ocp.args.PyTreeRestore(restore_args=how))


def _leaf(entry: dict, value: np.ndarray | None, like: Any) -> Any:
    if entry["kind"] in _SCALARS:
        return float.fromhex(entry["value"]) if entry["kind"] == "float" else entry["value"]
    if entry["kind"] == "key":
        if value is None:
            return jax.random.split(jax.random.key(0, impl=entry["impl"]), tuple(entry["shape"]))
        return _place(jax.random.wrap_key_data(jnp.array(value), impl=entry["impl"]), like)
    value = np.zeros(entry["shape"], np.dtype(entry["dtype"])) if value is None else value
    if isinstance(like, np.generic):
        return value[()]
    # float64 has no place on the device unless x64 is enabled: bit for bit comes first
    if isinstance(like, np.ndarray) or jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
        return value
    if value.ndim == 0 and getattr(like, "weak_type", False):
        # a weak type decides what later arithmetic promotes to
        return _place(jnp.asarray(value.item()), like)
    return _place(jnp.array(value), like)


def _place(value: jax.Array, like: Any) -> jax.Array:
    """Puts a leaf where ``like`` was pinned to; otherwise leaves it uncommitted, as a fresh one would be."""
    sharding = getattr(like, "sharding", None)
    pinned = sharding is not None and (not isinstance(like, jax.Array) or like.committed)
    return jax.device_put(value, sharding) if pinned else value


def _seal(body: dict) -> str:
    """The hash of a manifest's contents, however they are laid out in the file."""
    text = json.dumps({k: v for k, v in body.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
