"""Meta-World's 50 tasks by their names, ``metaworld/reach-v3``; the package is asked in the worker (``metaworld_tasks``)."""

from __future__ import annotations

from qchunk import env_names
from qchunk.envs.host.pool import HostEnv


def make(name: str, python: str = "") -> HostEnv:
    """``reach-v3``, or ``reach-v3?reward_function_version=v1`` with arguments.

    Args:
        python: the interpreter of its workers; "" is the one that runs this.

    Raises:
        UserError: metaworld is missing there.
    """
    task, kwargs = env_names.arguments(name)
    made = {"id": "qchunk/metaworld-v0", "modules": ["qchunk.envs.host.metaworld_tasks"], "kwargs": {"task": task, **kwargs}}
    return HostEnv(f"metaworld/{name}", made, f"metaworld/{env_names.sorted_arguments(name)}", python)
