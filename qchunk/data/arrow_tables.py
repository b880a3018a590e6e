"""Tables of Arrow and Parquet by pyarrow, an optional package: their columns of numbers and of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qchunk.system.errors import UserError


def package(where: Path) -> Any:
    """pyarrow. Raises UserError where it is missing."""
    try:
        import pyarrow
        import pyarrow.dataset
        import pyarrow.parquet
    except ImportError as e:
        raise UserError(f"{where} is kept as tables of Arrow, which need pyarrow", "pip install 'qchunk[arrow]'") from e
    return pyarrow


def table(file: Path, kind: str = "parquet", numeric: bool = True) -> Any:
    """The table of one file, or of a folder of them; only its columns of numbers and vectors, or all.

    Args:
        kind: "parquet" or "arrow".

    Raises:
        UserError: pyarrow is missing, or the file is damaged.
    """
    pyarrow = package(file)
    try:
        found = pyarrow.dataset.dataset(str(file), format=kind, exclude_invalid_files=False, ignore_prefixes=IGNORED)
        return found.to_table(columns=[f.name for f in found.schema if not numeric or is_numeric(f.type)])
    except (OSError, pyarrow.ArrowException) as e:
        raise UserError(f"{file} is truncated or damaged ({e})", "download or record it again") from e


IGNORED = ["_", ".", "metadata.json"]


def is_numeric(kind: Any) -> bool:
    """Whether a column of this type holds numbers, or vectors of them."""
    from pyarrow import types as t

    inner = kind.value_type if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind) else kind
    return t.is_floating(inner) or t.is_integer(inner) or t.is_boolean(inner)


def column(found: Any) -> np.ndarray:
    """A column of numbers [N], or of vectors [N, O]. Raises ValueError where vectors differ in length, or one is missing."""
    parts = [_values(chunk) for chunk in found.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def leaves(name: str, chunk: Any) -> dict[str, np.ndarray]:
    """The numbers and vectors of a column of structures, by their path below ``name``; other things, such as images, are left out."""
    if hasattr(chunk.type, "fields"):
        parts = {f.name: chunk.field(i) for i, f in enumerate(chunk.type.fields)}
        return {n: x for key, part in parts.items() for n, x in leaves(f"{name}/{key}", part).items()}
    return {name: _values(chunk)} if is_numeric(chunk.type) else {}


def _values(chunk: Any) -> np.ndarray:
    if not hasattr(chunk.type, "value_type"):
        return chunk.to_numpy(zero_copy_only=False)
    flat = chunk.flatten().to_numpy(zero_copy_only=False)
    size = len(flat) // max(1, len(chunk))
    lengths = np.diff(chunk.offsets.to_numpy()) if hasattr(chunk, "offsets") else np.asarray([size])
    if chunk.null_count or len(flat) != size * len(chunk) or (lengths != size).any():
        raise ValueError("vectors of several lengths")
    return flat.reshape(len(chunk), size)
