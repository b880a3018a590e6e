"""Which cases of a test ``make test`` leaves out (they are marked ``slow``, and CI runs them), and what is compiled as users do."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import jax
import pytest


def slow_but(quick: Iterable[Any], cases: Iterable[Any], long: Iterable[Any] = ()) -> list[Any]:
    """Cases for ``parametrize``, all slow but for those that equal one of ``quick``; those of ``long`` are marked ``learns``, too.

    Raises:
        ValueError: ``quick`` or ``long`` holds what is no case.
    """
    quick, cases, long = list(quick), list(cases), list(long)
    if odd := [q for q in (*quick, *long) if q not in cases]:
        raise ValueError(f"no such cases: {odd}")
    values = lambda case: case if isinstance(case, tuple) else (case,)  # noqa: E731
    marks = lambda case: [pytest.mark.slow, *[pytest.mark.learns] * (case in long)]  # noqa: E731
    return [case if case in quick else pytest.param(*values(case), marks=marks(case)) for case in cases]


def as_users_compile(f: Any, **options: Any) -> Any:
    """``jax.jit`` with XLA's own defaults in place of the quick compiling of conftest.py.

    For programs that differ and shall agree to the bit: how XLA fuses them decides whether they do.
    """
    emitters = {"xla_cpu_use_fusion_emitters": True} if version("jaxlib").startswith("0.10.") else {}
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 3, **emitters}, **options)
