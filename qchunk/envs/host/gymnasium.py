"""Any gymnasium environment with continuous actions, by its id."""

from __future__ import annotations

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
    return HostEnv(
        f"gymnasium/{name}", {"id": bare, "kwargs": kwargs}, f"gymnasium/{env_names.sorted_arguments(name)}", python
    )
