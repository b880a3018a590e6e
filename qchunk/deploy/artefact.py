"""A run's policy as one file that needs numpy and jax alone: programs by ``jax.export``, weights, what is known of it, and its loader."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from qchunk.deploy import standalone
from qchunk.deploy.control import arguments, narrowed, programs_of
from qchunk.deploy.policy import acting
from qchunk.deploy.standalone import ABOUT, BROUGHT, FORMAT, PROGRAMS, VERSION, WEIGHTS, Programs
from qchunk.envs.base import obs_like
from qchunk.system.errors import UserError
from qchunk.system.files import atomic_write, check_new

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER, START = "policy.py", "__main__.py"


def export(
    folder: Path,
    out: Path,
    seed: int = 0,
    checkpoint: str | int = "newest",
    execute: str = "",
    delay: int | None = None,
    recorded: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes a run's acting policy to ``out``, whole or not at all, and returns what is known of it.

    The programs take any number of robots. Only weights that acting reads are in it.

    Args:
        folder, seed, checkpoint, execute, delay, recorded: see ``deploy.policy.load``.
        platforms: what it is compiled for where it is loaded: cpu, cuda, tpu.

    Raises:
        UserError: as ``load``; the file exists, or the policy cannot be exported.
    """
    check_new(out)
    p, scheme, vars, known = acting(folder, seed, checkpoint, execute, delay, recorded)
    like = obs_like(p.program.env)
    made, weights = narrowed(programs_of(scheme, vars, like), vars, like)
    files = dict(zip(PROGRAMS, serialised(made, weights, like, platforms), strict=True))
    arrays = io.BytesIO()
    np.savez(arrays, **{f"{i:05d}": np.asarray(x) for i, x in enumerate(weights)})
    files[WEIGHTS] = arrays.getvalue()
    files[LOADER] = Path(standalone.__file__).read_bytes()
    files[START] = f"from {Path(LOADER).stem} import main\n\nmain()\n".encode()
    files |= flatbuffers_files()
    about = {
        "format": FORMAT,
        "version": VERSION,
        **known,
        "units": dict(zip(("obs", "action"), p.program.units, strict=True)),
        "versions": {name: version(name) for name in ("qchunk", "jax", "numpy")},
        "platforms": list(platforms),
        "fingerprint": standalone.fingerprint(files),
    }
    about["seal"] = standalone.seal(about)
    files[ABOUT] = json.dumps(about, indent=1).encode()
    atomic_write(out, zipped(files))
    return about


def export_weights(folder: Path, out: Path, seed: int = 0, checkpoint: str | int = "newest") -> dict[str, Any]:
    """Writes all weights of one seed of a run as safetensors, for tools that bring programs of their own; returns what is known of them.

    Names are paths: ``params.actor.net.dense_0.kernel``, ``targets.NAME...``, ``stats.NAME...`` (units), ``given.NAME...`` (an earlier stage's).

    Raises:
        UserError: as ``load``; the file exists, or safetensors is not installed.
    """
    check_new(out)
    try:
        from safetensors.numpy import save
    except ImportError as e:
        raise UserError("safetensors is not installed", "pip install 'qchunk[deploy]'") from e
    p, _, vars, known = acting(folder, seed, checkpoint, "", None, False)
    named = jax.tree_util.tree_leaves_with_path(vars)
    weights = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in named}
    about = {name: known[name] for name in ("algorithm", "environment", "seed", "step")}
    told = {**about, "config": dataclasses.asdict(p.config), "qchunk": version("qchunk")}
    atomic_write(out, save(weights, {name: json.dumps(value) for name, value in told.items()}))
    return {**about, "weights": len(weights), "numbers": sum(x.size for x in weights.values())}


def serialised(made: Programs, weights: list, like: Any, platforms: Sequence[str]) -> list[bytes]:
    """The programs of ``narrowed``, for any number of robots.

    Raises:
        UserError: one cannot be compiled for all platforms, or jax cannot write it.
    """
    shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in weights]
    calls = zip(made, arguments(made, shapes, like, jax_export.symbolic_shape("b")), strict=True)
    try:
        return [
            bytes(jax_export.export(jax.jit(fn), platforms=platforms)(shapes, *args).serialize()) for fn, args in calls
        ]
    except NotImplementedError as e:
        raise UserError(
            f"this policy cannot be exported for {', '.join(platforms)}: {e}", "give fewer --platforms"
        ) from e
    except ImportError as e:  # jax writes with flatbuffers, and does not ask for it
        raise UserError(str(e), "pip install 'qchunk[deploy]'") from e


def flatbuffers_files() -> dict[str, bytes]:
    """The package that jax reads programs with, for robots that have jax and numpy alone: its modules, which are small and plain Python."""
    import flatbuffers  # there, where programs have just been written

    folder = Path(flatbuffers.__file__).parent
    modules = sorted(folder.rglob("*.py"))
    return {f"{BROUGHT}/{path.relative_to(folder.parent).as_posix()}": path.read_bytes() for path in modules}


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, data in files.items():
            z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
