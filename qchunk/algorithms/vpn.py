"""Value prediction network (1707.03497) on chunks: every option is followed to a depth in a model of latent states.

Options are chunks of a cloned flow, below the first ones of a one-step student of it. ``--depth 1`` is best of N by reward and next value.
It explores by the chance of its options alone (the paper: also random ones, at first all). The paper's durations are here the chance that the episode goes on, and its returns of up to 10 steps are ``--lam 1``.
"""

from __future__ import annotations

from qchunk.algorithms.in_latents import InLatents, in_latents
from qchunk.config import config
from qchunk.planning import predicted
from qchunk.ranges import PositiveInt
from qchunk.types import Algorithm
from qchunk.world_model import LatentConfig


@config
class VPN(InLatents):
    """Value prediction network."""

    model: LatentConfig = LatentConfig(atoms=1)
    keep: PositiveInt = 2
    """b, options at each state that are followed further."""


def vpn(c: VPN) -> Algorithm:
    """VPN: the option of the highest planned value is played, and that value is the target."""
    return in_latents(c, lambda model, options, discount: (predicted(model, options, discount, c.keep),) * 2)
