"""Q of a whole chunk as a Gaussian of the return: each member says its mean and its standard deviation (2310.05858, section III)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import opinion
from qchunk.types import CLEAN, Array, Critic, Vars

Outlook: TypeAlias = Callable[[Vars, Any, Array], tuple[Array, Array]]
"""(vars, obs [*B, O], action [*B, H, A]) -> (means, standard deviations above 0) of the return, [members, *B] each."""


def gaussian_q(c: CriticConfig, name: str = "critic") -> tuple[Critic, Outlook]:
    """The critic of the means, and both figures from one forward pass."""
    net = nets.MLP(c.hidden, (2,), c.layer_norm, nets.ACTIVATIONS[c.activation], c.norm_first)
    both = chunk_q(c, name, net=net)

    def outlook(vars: Vars, obs, action: Any) -> tuple[Array, Array]:
        out = both.values(vars, obs, action)
        return out[..., 0], jax.nn.softplus(out[..., 1])

    def mean(vars: Vars, obs, action=None, level=CLEAN) -> Array:
        del level
        return outlook(vars, obs, action)[0]

    critic = both._replace(values=mean)
    return critic._replace(score=opinion(critic, critic.aggregate)), outlook
