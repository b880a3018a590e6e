"""A run's policy as one file that needs numpy and jax alone: programs by ``jax.export``, weights, what is known of it, and its loader."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from qchunk.deploy import standalone
from qchunk.deploy.control import described, programs_of
from qchunk.deploy.policy import acting
from qchunk.deploy.standalone import ABOUT, FORMAT, PROGRAMS, VERSION, WEIGHTS, Programs
from qchunk.envs.base import obs_like
from qchunk.runs import run_folder
from qchunk.runs.opened import Opened
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
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes a run's acting policy to ``out``, whole or not at all, and returns what is known of it.

    The programs take any number of robots. Only weights that acting reads are in it.

    Args:
        folder, seed, checkpoint, execute, delay: see ``deploy.policy.load``.
        platforms: what it is compiled for where it is loaded: cpu, cuda, tpu.

    Raises:
        UserError: as ``load``; the file exists, or the policy cannot be exported.
    """
    check_new(out)
    p, scheme, vars, step = acting(folder, seed, checkpoint, execute, delay)
    like = obs_like(p.program.env)
    made = programs_of(scheme, vars, like)
    leaves, tree = jax.tree.flatten(vars)
    used, programs = serialised(made, leaves, tree, like, platforms)
    files = {f"{name}": data for name, data in zip(PROGRAMS, programs, strict=True)}
    arrays = io.BytesIO()
    np.savez(arrays, **{f"{n:05d}": np.asarray(leaves[i]) for n, i in enumerate(used)})
    files[WEIGHTS] = arrays.getvalue()
    files[LOADER] = Path(standalone.__file__).read_bytes()
    files[START] = f"from {Path(LOADER).stem} import main\n\nmain()\n".encode()
    about = {
        "format": FORMAT,
        "version": VERSION,
        **described(p, scheme),
        **told(p, Path(folder), seed, step),
        "platforms": list(platforms),
        "fingerprint": standalone.fingerprint(files),
    }
    files[ABOUT] = json.dumps(about, indent=1).encode()
    atomic_write(out, zipped(files))
    return about


def serialised(
    made: Programs, leaves: list, tree: Any, like: Any, platforms: Sequence[str]
) -> tuple[list[int], list[bytes]]:
    """(which of the leaves of ``Vars`` are read by any of the programs, the programs over those alone, serialised)."""
    rows = jax_export.symbolic_shape("b")
    spec = lambda x: jax.ShapeDtypeStruct((*rows, *np.shape(x)), x.dtype)  # noqa: E731
    obs, keys = jax.tree.map(spec, like), jax.ShapeDtypeStruct((*rows, 2), jnp.uint32)
    shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in leaves]
    loop = jax.eval_shape(made.begin, tree.unflatten(shapes), keys, obs)
    step = jax.ShapeDtypeStruct(rows, jnp.int32)
    calls = ((made.begin, (keys, obs)), (made.decide, (loop, obs)), (made.act, (loop, step, obs)))
    reads: set[int] = set()
    for fn, args in calls:
        whole = lambda leaves, *args, fn=fn: fn(tree.unflatten(leaves), *args)  # noqa: E731
        jaxpr = jax.make_jaxpr(whole)(shapes, *args).jaxpr
        inside = {id(v) for eqn in jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.outvars}
        reads |= {i for i, v in enumerate(jaxpr.invars[: len(leaves)]) if id(v) in inside}
    used = sorted(reads)

    def narrow(fn: Any) -> Any:
        def call(weights: list, *args: Any) -> Any:
            filled = [jnp.zeros(s.shape, s.dtype) for s in shapes]  # nobody reads them
            for i, x in zip(used, weights, strict=True):
                filled[i] = x
            return fn(tree.unflatten(filled), *args)

        return jax.jit(call)

    weights = [shapes[i] for i in used]
    try:
        found = [jax_export.export(narrow(fn), platforms=platforms)(weights, *args) for fn, args in calls]
    except NotImplementedError as e:
        raise UserError(
            f"this policy cannot be exported for {', '.join(platforms)}: {e}", "give fewer --platforms"
        ) from e
    try:
        return used, [bytes(x.serialize()) for x in found]
    except ImportError as e:  # jax writes with flatbuffers, and does not ask for it
        raise UserError(str(e), "pip install 'qchunk[deploy]'") from e


def told(p: Opened, folder: Path, seed: int, step: int) -> dict[str, Any]:
    """Where a policy comes from, in words and numbers."""
    kept = run_folder.read_config(folder)["config"]
    return {
        "algorithm": kept["algorithm"],
        "environment": kept["env"],
        "seed": seed,
        "step": step,
        "units": dict(zip(("obs", "action"), p.program.units, strict=True)),
        "actions": "in [-1, 1], the environment's range",
        "versions": {name: version(name) for name in ("qchunk", "jax", "numpy")},
    }


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()
