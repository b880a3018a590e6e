"""MuZero (1911.08265) on chunks: Gumbel search (Danihelka et al. 2022) over sampled ones (2104.06303), in a model of latent states.

Options and model are those of ``vpn``, values and rewards categorical. Proposals are cloned and not improved themselves: ``--search.policy
learned`` learns which of them the search chooses, which is what sampled MuZero's policy has beside its samples. Published ports have 25 looks at
8 samples, returns of 5 steps and gradients bounded to a norm of 0.5 (ours are not: ``--optim.kind clipped-adam:max_norm=0.5``).
"""

from __future__ import annotations

from typing import Any

from qchunk.algorithms.in_latents import InLatents, in_latents
from qchunk.config import config
from qchunk.planning import Options, Planner, SearchConfig, searched
from qchunk.ranges import NonNegativeFloat, PositiveInt
from qchunk.types import Algorithm
from qchunk.world_model import LatentModel


@config
class MuZero(InLatents):
    """MuZero."""

    unroll: PositiveInt = 5
    """U, consecutive chunks that the model learns along; more than the depth, so that planning meets no states that it has not learned."""
    search: SearchConfig = SearchConfig()
    gumbel: NonNegativeFloat = 1.0
    """Scale of the noise by which options are tried when collecting, and in targets; evaluation has none."""
    value: NonNegativeFloat = 0.25
    """Weight of the values' loss."""


def muzero(c: MuZero) -> Algorithm:
    """MuZero: what the search chooses is played, and its value is the target; half of the gradient goes through each chunk."""

    def planners(model: LatentModel, options: Options, discount: Any) -> tuple[Planner, Planner]:
        search = lambda gumbel: searched(model, options, discount, c.search, gumbel)  # noqa: E731
        return search(0.0), search(c.gumbel)

    return in_latents(c, planners, c.search.policy == "learned", share=0.5, value=c.value)
