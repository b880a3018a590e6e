"""Small environments whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qchunk.envs.base import Env
from qchunk.envs.probes.averaging import Fork, Pole
from qchunk.envs.probes.drifting import Drift
from qchunk.envs.probes.exact import Probe
from qchunk.envs.probes.looking import Catch, FogGust, Pursuit
from qchunk.envs.probes.pausing import Pause
from qchunk.envs.probes.switches import STEPS, Switch

MODES: dict[str, Callable[[], Env]] = {
    "pole": Pole,
    "fork": Fork,
    "fog-gust": FogGust,
    "fog-gust-0.02": partial(FogGust, 0.02, "fog-gust-0.02"),
    "pursuit": Pursuit,
    "pursuit-0": partial(Pursuit, 0.0, "pursuit-0"),
    "pursuit-0.1": partial(Pursuit, 0.1, "pursuit-0.1"),
    **{f"switch-{n}": partial(Switch, n) for n in STEPS},
    "catch": Catch,
    "pause": Pause,
    "drift": Drift,
}


def make(name: str) -> Env:
    """The probe of that name."""
    return MODES[name]() if name in MODES else Probe(name)
