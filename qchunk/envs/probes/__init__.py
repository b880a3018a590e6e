"""Small environments whose answers are known."""

from __future__ import annotations

from qchunk.envs.base import Env
from qchunk.envs.probes.averaging import Fork, Pole
from qchunk.envs.probes.exact import Probe

MODES = {"pole": Pole, "fork": Fork}


def make(name: str) -> Env:
    """The probe of that name."""
    return MODES[name]() if name in MODES else Probe(name)
