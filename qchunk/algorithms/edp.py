"""EDP (2305.20081): Diffusion-QL whose critic moves the actor through ONE step, the clean estimate of a noised chunk of the data.

An update then costs the same for any number of denoising steps. Published: 1000 levels and DPM-Solver's 15 steps; DDIM is its first
order: ``--actor.steps 1000 --actor.ddim 15``. Its code has 2 where ours has an eta of 1. Noised chunks lie on the levels that the sampler walks.
"""

from __future__ import annotations

from qchunk.actor_configs import DiffusionConfig
from qchunk.algorithms.dql import DQL, dql
from qchunk.config import ActorConfig, config
from qchunk.losses.noised import estimating
from qchunk.types import Algorithm


@config
class EDP(DQL):
    """Efficient diffusion policies."""

    actor: ActorConfig = DiffusionConfig(residual=False, schedule="vp", ema=True)


def edp(c: EDP) -> Algorithm:
    """EDP: ``dql`` without the chain in the gradient."""
    return dql(c, estimating)
