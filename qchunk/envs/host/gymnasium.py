"""Environments that gymnasium makes by an id, and those whose packages know nothing of ids: a module in the worker registers them."""

from __future__ import annotations

from typing import Any

from qchunk import env_names
from qchunk.envs.host.pool import HostEnv


def make(name: str, python: str = "") -> HostEnv:
    """``Pendulum-v1``, or ``my_module:Mine-v0``, whose module registers it; ``HalfCheetah-v5?ctrl_cost_weight=0.5`` with arguments.

    Args:
        python: the interpreter of its workers; "" is the one that runs this.

    Raises:
        UserError: gymnasium is missing, or no such id is registered; the nearest ones are offered.
    """
    bare, kwargs = env_names.arguments(name)
    return _made("gymnasium", name, {"id": bare, "kwargs": kwargs}, python)


def metaworld(name: str, python: str = "") -> HostEnv:
    """Meta-World's ``reach-v3``, see ``metaworld_tasks``; ``python`` as in ``make``. Raises UserError where metaworld is missing."""
    task, kwargs = env_names.arguments(name)
    module = "qchunk.envs.host.metaworld_tasks"
    made = {"id": "qchunk/metaworld-v0", "modules": [module], "kwargs": {"task": task, **kwargs}}
    return _made("metaworld", name, made, python)


def robosuite(name: str, python: str = "") -> HostEnv:
    """robosuite's ``Lift``, see ``robosuite_tasks``; ``python`` as in ``make``. Raises UserError where robosuite is missing."""
    task, kwargs = env_names.arguments(name)
    module = "qchunk.envs.host.robosuite_tasks"
    made = {"id": "qchunk/robosuite-v0", "modules": [module], "kwargs": {"task": task, **kwargs}}
    return _made("robosuite", name, made, python)


def _made(family: str, name: str, description: dict[str, Any], python: str) -> HostEnv:
    return HostEnv(f"{family}/{name}", description, f"{family}/{env_names.sorted_arguments(name)}", python)
