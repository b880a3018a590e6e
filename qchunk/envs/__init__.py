"""Environments by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qchunk import env_names, registry
from qchunk.system import interpreters, loading
from qchunk.system.errors import UserError

if TYPE_CHECKING:
    from qchunk.envs.base import Env
    from qchunk.envs.host.pool import HostEnv

FAMILIES = {  # module, or module:function, by default its ``make``
    "tabletop": "qchunk.envs.tabletop",
    "brax": "qchunk.envs.brax",
    "gymnax": "qchunk.envs.gymnax",
    "playground": "qchunk.envs.playground",
    "kinetix": "qchunk.envs.kinetix",
    "ogbench": "qchunk.envs.host.ogbench",
    "gymnasium": "qchunk.envs.host.gymnasium",
    "metaworld": "qchunk.envs.host.gymnasium:metaworld",
    "robosuite": "qchunk.envs.host.gymnasium:robosuite",
    "probe": "qchunk.envs.probes",
    "none": "qchunk.envs.held_out",
}
ELSEWHERE = (
    "gymnasium",
    "metaworld",
    "robosuite",
)  # may run in another interpreter; OGBench's judge their data in this one
ON_THE_HOST = ("ogbench", *ELSEWHERE)


def on_host(name: str) -> bool:
    """Whether environments of this name run in worker processes."""
    return name.partition("/")[0] in ON_THE_HOST


@functools.cache
def has_goals(name: str) -> bool:
    """Whether the environment of this name shows goals. The name says it; only one of the user's own is made to see.

    Raises:
        UserError: unknown name; the nearest ones are offered.
    """
    if loading.is_own(env_names.check_env(name)):
        return hasattr(own(name), "goal_of")
    found = env_names.ogbench(name)
    return bool(found["goals"]) if found else name.startswith("tabletop/") and name.endswith("-goal")


def own(target: str) -> Env:
    """The environment that a function of the user's own returns, ``file.py:function``.

    Raises:
        UserError: no such function, or what it returns is no environment that a run could use (see checked.py).
    """
    from qchunk.envs.base import Env
    from qchunk.envs.checked import check

    env = registry.function({}, target, "environment")()
    if not isinstance(env, Env):
        fix = "return a brax Env: class Mine(qchunk.envs.base.Env)"
        if hasattr(env, "action_space"):
            fix = "a gymnasium environment is registered by a module and named --env gymnasium/MODULE:ID"
        raise UserError(f"{target} returns a {type(env).__name__}", fix)
    check(env, target)
    if not hasattr(env, "data_name"):
        env.data_name = f"own/{loading.short(target)}"  # data sets are called so
    return env


def _maker(family: str) -> Callable:
    module, _, function = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), function or "make")


def python_of(name: str, given: str = "", kept: str = "") -> str:
    """The interpreter for the workers of an environment (``interpreters.chosen``); "" is the one that runs this.

    Raises:
        UserError: it cannot be used, or the environment has no workers that could run there.
    """
    if name.partition("/")[0] in ELSEWHERE:
        return interpreters.chosen(name, given, kept)
    if given:
        families = ", ".join(f"{family}/" for family in ELSEWHERE)
        raise UserError(f"--env-python is for environments of {families}, and {name} is none", "leave it out")
    return ""


def make(
    name: str, history: int = 1, objective: Mapping[str, float] | None = None, python: str = "", kept: str = ""
) -> Env | HostEnv:
    """The environment ``family/name``: ONE environment, without wrappers, or a host environment (host.py).

    With ``history`` > 1 its observations are the last so many ones (data: ``chunks.with_history``). With ``objective`` its
    reward is that sum of terms, by their names (objective.py).

    ``python`` is another interpreter for the workers of a host environment, ``kept`` the one that a run was made with; by default
    what the user's file of lines says (``interpreters``), and else the one that runs this.

    Besides brax's interface it has ``episode_length`` (steps), ``data_name`` (what a data set for it is called) and,
    where a data set serves several tasks, ``relabel(obs, action, next_obs) -> (reward, terminal)``.

    Raises:
        UserError: unknown name; the nearest ones are offered. Or a history or an objective of a host environment, or of none.
    """
    if not isinstance(name, str):
        raise UserError(f"the environment is {repr(name)[:60]}", "give its name: qchunk list envs")
    if type(history) is not int or history < 1:
        raise UserError(f"history is {history}", "give 1 or more observations")
    if odd := [n for n, w in (objective or {}).items() if isinstance(w, str) or (isinstance(w, float) and w != w)]:
        raise UserError(f"the weight of {odd[0]} is {objective[odd[0]]!r}", "give a number")  # type: ignore[index]
    family, _, rest = env_names.check_env(name, scene_too=True).partition("/")
    where = {"python": found} if (found := python_of(name, python, kept)) else {}
    env = own(name) if loading.is_own(name) else _maker(family)(rest, **where)
    if on_host(name):
        if history > 1:
            fix = "leave --chunk.history out"
            raise UserError(f"{name} runs in worker processes, which show one observation at a time", fix)
        if objective:
            raise UserError(f"{name} runs in worker processes, which give its own reward", "leave --objective out")
        return env
    if family == "none" and (history > 1 or objective):
        raise UserError("--env none takes data as they are", "leave --chunk.history and --objective out")
    from qchunk.envs.base import History
    from qchunk.envs.objective import objective as weighted

    env = weighted(env, objective or {})
    return env if history == 1 else History(env, history)
