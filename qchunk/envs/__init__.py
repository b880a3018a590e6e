"""Environments by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from qchunk import names

if TYPE_CHECKING:
    from qchunk.envs.base import Env
    from qchunk.envs.host import HostEnv

FAMILIES = {
    "tabletop": "qchunk.envs.tabletop",
    "brax": "qchunk.envs.brax",
    "gymnax": "qchunk.envs.gymnax",
    "ogbench": "qchunk.envs.ogbench",
    "gymnasium": "qchunk.envs.gymnasium",
    "probe": "qchunk.envs.probes",
}


def make(name: str) -> Env | HostEnv:
    """The environment ``family/name``: ONE environment, without wrappers, or a host environment (host.py).

    Besides brax's interface it has ``episode_length`` (steps), ``data_name`` (what a data set for it is called) and,
    where a data set serves several tasks, ``relabel(obs, action, next_obs) -> (reward, terminal)``.

    Raises:
        UserError: unknown name; the nearest ones are offered.
    """
    family, _, rest = names.check_env(name, scene_too=True).partition("/")
    return importlib.import_module(FAMILIES[family]).make(rest)
