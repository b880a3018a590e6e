"""Critics whose values are probabilities, kept as logits: a discounted chance to reach a goal lies in [0, 1] (2512.10926)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qchunk.types import CLEAN, Array, Critic

MARGIN = 1e-5  # from 0 and 1, of probabilities whose logit is taken; the published code clips some of them only


def logit(p: Array) -> Array:
    """log(p / (1 - p)) of probabilities clipped to [1e-5, 1 - 1e-5]: within +-11.5."""
    p = jnp.clip(p, MARGIN, 1.0 - MARGIN)
    return jnp.log(p) - jnp.log1p(-p)


def chance(critic: Critic) -> Critic:
    """The probabilities of a critic of logits: ``values`` are sigma(logit) of each member, ``score`` their aggregate.

    Members are aggregated here, as probabilities, in targets and in acting alike. The published code aggregates probabilities
    in targets and logits in acting; the two differ where they are averaged.
    """

    def values(vars, obs, action=None, level=CLEAN) -> Array:
        return jax.nn.sigmoid(critic.values(vars, obs, action, level))

    def score(vars, obs, action=None, level=CLEAN) -> Array:
        return critic.aggregate(values(vars, obs, action, level))

    return critic._replace(values=values, score=score)
