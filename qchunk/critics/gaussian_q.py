"""Q of a whole chunk as a Gaussian of the return: each member says its mean and its standard deviation (2310.05858, section III)."""

from __future__ import annotations

import jax

from qchunk import nets
from qchunk.config import CriticConfig
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import opinion
from qchunk.types import CLEAN, Array, Critic, ValueFn, Vars


def gaussian_q(c: CriticConfig, name: str = "critic") -> tuple[Critic, ValueFn]:
    """The critic of the means, and the standard deviations beside them: (vars, obs [*B, O], action [*B, H, A]) -> [members, *B], above 0."""
    net = nets.MLP(c.hidden, (2,), c.layer_norm, nets.ACTIVATIONS[c.activation], c.norm_first)
    both = chunk_q(c, name, net=net)

    def mean(vars: Vars, obs, action=None, level=CLEAN) -> Array:
        return both.values(vars, obs, action, level)[..., 0]

    def deviation(vars: Vars, obs, action=None, level=CLEAN) -> Array:
        return jax.nn.softplus(both.values(vars, obs, action, level)[..., 1])

    critic = both._replace(values=mean)
    return critic._replace(score=opinion(critic, critic.aggregate)), deviation
