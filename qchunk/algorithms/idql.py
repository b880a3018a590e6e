"""IDQL (2304.10573): ``ifql`` with a diffusion, that explores by drawing among its candidates as implicit Q-learning weighs them.

From data alone, and evaluated, it is ``ifql --actor.kind diffusion``. DPPO's code has the expectile 0.8 beside weights of 0.7 and 0.3; here one number is both.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp

from qchunk.actor_configs import DiffusionConfig
from qchunk.actors import actor
from qchunk.algorithms.ifql import IFQL, ifql
from qchunk.compose import acting, lagging
from qchunk.config import ActorConfig, CriticConfig, Stands, config
from qchunk.critics.chunk_q import chunk_q
from qchunk.critics.ensemble import minimum, opinion
from qchunk.critics.state_v import state_v
from qchunk.improve import best_of_n
from qchunk.ranges import Range
from qchunk.sampling import sample
from qchunk.types import CLEAN, Algorithm, Array


@config
class IDQL(IFQL):
    """Implicit diffusion Q-learning."""

    actor: Annotated[ActorConfig, Stands.CLONED] = DiffusionConfig()
    """By behaviour cloning, or the prior's."""
    critic: CriticConfig = CriticConfig(aggregate="min")
    expectile: Annotated[float, Range(0.5, below=1)] = 0.7
    """Of the value of a state, in [0.5, 1); and, while exploring, the weight of a candidate above that value, against 1 - it below."""


def idql(c: IDQL) -> Algorithm:
    """IDQL: exploring takes a candidate with probability in proportion to |expectile - 1(Q < V)|, acting the best."""
    pi, q, v = actor(c.actor), opinion(lagging(chunk_q(c.critic)), minimum), state_v(c.critic)

    def log_weight(vars, obs, action=None, level=CLEAN) -> Array:
        del level
        return jnp.log(jnp.where(q(vars, obs, action) > v.score(vars, obs), c.expectile, 1.0 - c.expectile))

    return ifql(c)._replace(explore=best_of_n(sample(acting(pi)), log_weight, c.n, c.slice_rows, temperature=1.0))
