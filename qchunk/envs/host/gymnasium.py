"""Any gymnasium environment with continuous actions, by its id."""

from __future__ import annotations

from qchunk.envs.host.pool import HostEnv
from qchunk.system.errors import UserError, unknown


def make(name: str) -> HostEnv:
    """``Pendulum-v1``, or ``my_module:Mine-v0``, whose module registers it.

    Raises:
        UserError: gymnasium is missing, or no such id is registered; the nearest ones are offered.
    """
    try:
        import gymnasium
    except ImportError as e:
        raise UserError(
            "gymnasium/ environments need gymnasium, which is missing", "pip install 'qchunk[ogbench]'"
        ) from e
    if ":" not in name and name not in gymnasium.registry:
        raise unknown("environment", f"gymnasium/{name}", [f"gymnasium/{k}" for k in gymnasium.registry])
    return HostEnv(f"gymnasium/{name}", {"id": name})
