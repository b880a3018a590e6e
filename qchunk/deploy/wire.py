"""What travels between robots and ``qchunk serve``: msgpack, with numpy arrays as openpi's clients write them.

An array is a map of ``__ndarray__``, ``data``, ``dtype`` and ``shape``, a scalar one of ``__npgeneric__``, ``data`` and ``dtype``
(openpi-client 0.1.2). Plain numbers only: nothing that is read here is ever run.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack
import numpy as np

NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")


def packed(message: Any) -> bytes:
    """A message of dictionaries, lists, numbers, texts and arrays."""
    return msgpack.packb(message, default=_of_array)


def unpacked(data: bytes) -> Any:
    """The message.

    Raises:
        ValueError: it is none, or holds what is no array of numbers.
    """
    try:
        return msgpack.unpackb(data, object_hook=_to_array)
    except (msgpack.UnpackException, ValueError, TypeError, LookupError, OverflowError, RecursionError) as e:
        raise ValueError(f"this is no message of msgpack and numbers ({e or type(e).__name__})") from e


def _of_array(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return {b"__ndarray__": True, b"data": x.tobytes(), b"dtype": x.dtype.str, b"shape": x.shape}
    if isinstance(x, np.generic):
        return {b"__npgeneric__": True, b"data": x.item(), b"dtype": x.dtype.str}
    raise TypeError(f"a {type(x).__name__} does not travel")


def _to_array(x: dict) -> Any:
    if b"__npgeneric__" in x:
        return np.asarray(x[b"data"], _dtype(x))[()]
    if b"__ndarray__" not in x:
        return x
    data, shape, dtype = x[b"data"], x[b"shape"], _dtype(x)
    whole = isinstance(shape, (list, tuple)) and len(shape) <= 8 and all(type(n) is int and n >= 0 for n in shape)
    if not whole or not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("the shape of an array does not fit its bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _dtype(x: dict) -> np.dtype:
    name = x.get(b"dtype")
    if not isinstance(name, (str, bytes)):
        raise ValueError("an array without a type")
    text = name if isinstance(name, str) else name.decode("ascii", "replace")
    if not NUMBERS.fullmatch(text):
        raise ValueError(f"an array of type {text[:20]!r}")
    return np.dtype(text)
